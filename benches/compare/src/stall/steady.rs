//! What the ticks of a phase amount to.

use crate::stall::meter::Tick;
use crate::stores::MEMTABLE_BYTES;

/// How far the means of two quarters may lie apart where nothing changes any more: with a tenth, a rate that still fell was
/// taken for one that can be kept up.
const TOLERANCE: f64 = 0.05;

/// The last half of the time, where the beginning is to be forgotten.
pub(crate) fn last_half(ticks: &[Tick]) -> &[Tick] {
    &ticks[ticks.len() / 2..]
}

/// Mean writes a second over a stretch of ticks.
pub(crate) fn rate(ticks: &[Tick]) -> f64 {
    match ticks {
        [first, .., last] => (last.finished - first.finished) as f64 / (last.at - first.at),
        _ => 0.0,
    }
}

/// Whether rate and debt have come to rest: over the last two quarters of the time the rate is the same within a twentieth,
/// and the debt has not grown by more than that and a memtable. A rate at which the debt still grows is not sustained: some
/// of its work has only been put off.
pub(crate) fn is_steady(ticks: &[Tick]) -> bool {
    let half = last_half(ticks);
    let (third, fourth) = half.split_at(half.len() / 2);
    if third.len() < 2 || fourth.len() < 2 {
        return false;
    }
    let (rate3, rate4) = (rate(third), rate(fourth));
    let (debt3, debt4) =
        (mean(third, |tick| tick.debt.bytes as f64), mean(fourth, |tick| tick.debt.bytes as f64));
    (rate3 - rate4).abs() <= TOLERANCE * rate3.max(rate4)
        && debt4 <= debt3 * (1.0 + TOLERANCE) + MEMTABLE_BYTES as f64
}

/// Whether the backlog of an open loop grows without end: each quarter's mean is more than the one before, and in the end
/// more than a second's writes wait.
pub(crate) fn falls_behind(ticks: &[Tick], wanted: f64) -> bool {
    let quarter = (ticks.len() / 4).max(1);
    let means: Vec<f64> =
        ticks.chunks_exact(quarter).map(|ticks| mean(ticks, |tick| tick.backlog as f64)).collect();
    let grows = means.windows(2).all(|pair| pair[0] < pair[1]);
    grows && ticks.last().is_some_and(|tick| tick.backlog as f64 > wanted)
}

fn mean(ticks: &[Tick], value: impl Fn(&Tick) -> f64) -> f64 {
    ticks.iter().map(value).sum::<f64>() / ticks.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::Debt;

    fn ticks(count: u64, at: impl Fn(u64) -> (u64, u64, u64)) -> Vec<Tick> {
        let tick = |second| {
            let (finished, backlog, debt) = at(second);
            let debt = Debt { bytes: debt << 20, ..Debt::default() };
            Tick { at: second as f64, finished, backlog, debt, ..Tick::default() }
        };
        (1..=count).map(tick).collect()
    }

    #[test]
    fn a_constant_rate_without_debt_is_steady() {
        let ticks = ticks(100, |second| (second * 500, 0, 0));
        assert!(is_steady(&ticks));
        assert_eq!(rate(last_half(&ticks)), 500.0);
    }

    #[test]
    fn the_beginning_is_forgotten() {
        let ticks =
            ticks(100, |second| (if second < 50 { second * 900 } else { 45_000 + second * 500 }, 0, 0));
        assert!(is_steady(&ticks));
        assert_eq!(rate(last_half(&ticks)), 500.0);
    }

    #[test]
    fn a_rate_that_falls_or_debt_that_grows_is_not_steady() {
        assert!(!is_steady(&ticks(100, |second| (second * (2000 - second * 9), 0, 0))));
        assert!(!is_steady(&ticks(100, |second| (second * 500, 0, second * 100))));
        assert!(!is_steady(&ticks(3, |second| (second * 500, 0, 0))));
    }

    #[test]
    fn a_backlog_that_is_worked_off_is_no_falling_behind() {
        assert!(falls_behind(&ticks(100, |second| (second * 500, second * 20, 0)), 520.0));
        assert!(!falls_behind(&ticks(100, |second| (second * 500, 1000 * (second % 10), 0)), 520.0));
        assert!(!falls_behind(&ticks(100, |second| (second * 500, second, 0)), 520.0));
    }
}
