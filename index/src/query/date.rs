//! Dates as text: RFC 3339 in documents, also a bare day in queries.

/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;

/// Days from 1970-01-01 to a day of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", days_from_civil): years are counted from March, so that the leap day is a year's last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Reads digits and separators from the front of a text.
struct Reader<'t>(&'t [u8]);

impl Reader<'_> {
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (head, rest) = self.0.split_at_checked(digits)?;
        let mut value = 0;
        for &byte in head {
            value = value * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
        }
        self.0 = rest;
        Some(value)
    }

    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        bytes.contains(&first).then(|| self.0 = rest)?;
        Some(first)
    }

    /// A day, as microseconds since 1970.
    fn day(&mut self) -> Option<i64> {
        let year = self.number(4)?;
        self.one_of(b"-")?;
        let month = self.number(2)?;
        self.one_of(b"-")?;
        let day = self.number(2)?;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            1..=12 => 31,
            _ => return None,
        };
        (year >= 1 && (1..=days).contains(&day)).then(|| days_from_civil(year, month, day) * DAY)
    }

    /// A time of day with its offset, as microseconds of UTC from the start of the day.
    fn time(&mut self) -> Option<i64> {
        let hour = self.number(2)?;
        self.one_of(b":")?;
        let minute = self.number(2)?;
        self.one_of(b":")?;
        let second = self.number(2)?;
        let mut micros = 0;
        if self.one_of(b".").is_some() {
            let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            let fraction = self.number(digits)?;
            micros = fraction * 1_000_000_000 / 10i64.pow(digits as u32) / 1000;
        }
        let offset = match self.one_of(b"Zz+-")? {
            sign @ (b'+' | b'-') => {
                let hours = self.number(2)?;
                self.one_of(b":")?;
                let minutes = self.number(2)?;
                if hours > 23 || minutes > 59 {
                    return None;
                }
                (hours * 60 + minutes) * if sign == b'+' { 1 } else { -1 }
            }
            _ => 0,
        };
        // A leap second (60) is taken for the one before it, as POSIX time does.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        Some((((hour * 60 + minute - offset) * 60) + second.min(59)) * 1_000_000 + micros)
    }
}

/// RFC 3339 with its offset (`2026-01-31T12:30:00.5+01:00`), as microseconds since 1970; years 0001 to 9999. Digits of the
/// fraction beyond the sixth are cut.
pub fn parse_date(text: &str) -> Option<i64> {
    let mut reader = Reader(text.as_bytes());
    let day = reader.day()?;
    reader.one_of(b"Tt ")?;
    let time = reader.time()?;
    reader.0.is_empty().then_some(day + time)
}

/// As [`parse_date`], or a bare day (`2026-01-31`), taken as its first moment in UTC.
pub fn parse_query_date(text: &str) -> Option<i64> {
    let mut reader = Reader(text.as_bytes());
    match reader.day() {
        Some(day) if reader.0.is_empty() => Some(day),
        _ => parse_date(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_from_1970() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2000-03-01T00:00:00Z", 951_868_800_000_000),
            ("2026-11-21T12:34:56.789+01:00", 1_795_260_896_789_000),
            ("2016-12-31T23:59:60Z", 1_483_228_799_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
        ] {
            assert_eq!(parse_date(text), Some(micros), "{text}");
        }
        assert_eq!(parse_query_date("1970-01-02"), Some(DAY));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00Zx",
            "0000-01-01T00:00:00Z",
            "+2026-01-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00.1234567891Z",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
