//! Our checker of histories against a search through all orders: it takes what happened, and misses nothing that the search
//! finds.

mod orders;
mod support;

use orders::history::{self, Asked, If, Operation, Told, Value};
use orders::is_linearizable_by_search;
use support::Random;

/// A history that some clients could have had of two keys, on one true state.
fn true_history(random: &mut Random) -> Vec<Operation> {
    #[derive(Clone, Copy)]
    enum Client {
        Idle,
        Asks(usize),
        WasTold(usize, Told),
    }
    let (mut clock, mut seq, mut operations) = (0, 0, Vec::<Operation>::new());
    let mut states: [Option<(u64, Value)>; 2] = [None; 2];
    let mut clients = [Client::Idle; 4];
    let length = 20 + random.below(30) as usize;
    while operations.len() < length || clients.iter().any(|client| !matches!(client, Client::Idle)) {
        clock += 1;
        let who = random.below(4) as usize;
        clients[who] = match clients[who] {
            Client::Idle if operations.len() < length => {
                let (key, value) = (random.below(2), operations.len() as u64);
                let now = states[key as usize];
                let condition = match random.below(8) {
                    0 => If::Absent,
                    1 => If::Present,
                    2 | 3 => If::Version(now.map_or(1, |(version, _)| version)),
                    _ => If::Always,
                };
                let asked = match random.below(10) {
                    0..=3 => Asked::Put(value, condition),
                    4 | 5 => Asked::Delete(condition),
                    6..=7 => Asked::Read,
                    8 => Asked::Search(now.map_or(random.below(20), |(_, value)| value)),
                    _ => Asked::ReadSince(0),
                };
                operations.push(Operation { key, asked, told: Told::Unknown, began: clock, ended: u64::MAX });
                Client::Asks(operations.len() - 1)
            }
            Client::Idle => Client::Idle,
            Client::Asks(number) => {
                let (asked, key) = (operations[number].asked, operations[number].key as usize);
                let (value, condition) = match asked {
                    Asked::Put(value, condition) => (Some(value), condition),
                    Asked::Delete(condition) => (None, condition),
                    Asked::Read | Asked::ReadSince(_) => {
                        clients[who] = Client::WasTold(number, Told::Found(seq, states[key]));
                        continue;
                    }
                    Asked::Search(value) => {
                        let found = states[key].filter(|(_, there)| *there == value);
                        clients[who] = Client::WasTold(number, Told::Found(seq, found));
                        continue;
                    }
                };
                let holds = match (condition, states[key]) {
                    (If::Always, _) | (If::Absent, None) | (If::Present, Some(_)) => true,
                    (If::Version(version), Some((there, _))) => version == there,
                    _ => false,
                };
                // Our checker does not ask whether a version was ever there that a write of unknown outcome asks for.
                let may_be_unknown = !matches!(condition, If::Version(_));
                if random.below(8) == 0 {
                    // Lost on the way there, and told so or not.
                    let is_told = random.below(2) == 0 || !may_be_unknown;
                    let told = if is_told { Told::NotDone } else { Told::Unknown };
                    Client::WasTold(number, told)
                } else {
                    seq += 1;
                    let told = match (holds, value) {
                        (false, _) => Told::Refused(seq),
                        (true, None) if states[key].is_none() => Told::Nothing(seq),
                        (true, _) => Told::Done(seq),
                    };
                    if holds {
                        states[key] = value.map(|value| (seq, value));
                    }
                    // The answer may be lost on the way back.
                    let is_lost = random.below(8) == 0 && may_be_unknown;
                    Client::WasTold(number, if is_lost { Told::Unknown } else { told })
                }
            }
            Client::WasTold(number, told) => {
                operations[number].told = told;
                if told != Told::Unknown {
                    operations[number].ended = clock;
                }
                Client::Idle
            }
        };
    }
    operations
}

/// Makes one answer wrong, or later or earlier than it was.
fn falsify(operations: &mut [Operation], random: &mut Random) {
    let known: Vec<(u64, Value)> = operations
        .iter()
        .filter_map(|operation| match (operation.asked, operation.told) {
            (Asked::Put(value, _), Told::Done(seq)) => Some((seq, value)),
            _ => None,
        })
        .collect();
    let number = random.below(operations.len() as u64) as usize;
    let any = (!known.is_empty()).then(|| known[random.below(known.len() as u64) as usize]);
    let last = operations.iter().filter(|it| it.ended < u64::MAX).map(|it| it.ended).max().unwrap_or(0);
    let operation = &mut operations[number];
    match (operation.told, random.below(4)) {
        (Told::Found(seq, _), 0) => operation.told = Told::Found(seq, None),
        (Told::Found(seq, _), 1 | 2) => {
            // Of an older moment, honest about it or not.
            let at = if random.below(2) == 0 { any.map_or(seq, |(version, _)| version) } else { seq };
            operation.told = Told::Found(at, any);
        }
        (Told::Done(_), 0) => operation.told = Told::NotDone,
        (Told::Done(seq), 1) => operation.told = Told::Refused(seq),
        (Told::Refused(seq), 0 | 1) => operation.told = Told::Done(seq),
        (_, _) if operation.ended < u64::MAX => {
            // It was all over before others began, or began after they were over.
            if random.below(2) == 0 {
                operation.ended = operation.began;
            } else {
                operation.began = (operation.ended + random.below(20)).min(last);
                operation.ended = operation.ended.max(operation.began);
            }
        }
        _ => {}
    }
}

fn lines(operations: &[Operation]) -> String {
    operations.iter().map(|operation| format!("{operation:?}\n")).collect()
}

#[test]
fn the_checker_misses_nothing_that_a_search_through_all_orders_finds() {
    let (mut honest, mut refused, mut by_search) = (0, 0, 0);
    for seed in 0..30_000 {
        let mut random = Random(seed);
        let mut operations = true_history(&mut random);
        let told = history::check(&operations);
        assert!(told.is_ok(), "seed {seed}: {told:?}\n{}", lines(&operations));
        if seed < 3_000 {
            assert!(is_linearizable_by_search(&operations), "seed {seed}");
            honest += 1;
        }
        falsify(&mut operations, &mut random);
        let told = history::check(&operations);
        refused += u64::from(told.is_err());
        if !is_linearizable_by_search(&operations) {
            by_search += 1;
            assert!(told.is_err(), "seed {seed}: only the search found it\n{}", lines(&operations));
        }
    }
    println!(
        "{honest} honest histories passed both; of 30,000 false ones the search found {by_search}, the checker {refused}"
    );
    assert!(by_search > 3_000 && refused >= by_search);
}
