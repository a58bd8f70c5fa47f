//! What the HTTP face must know of JSON text before the database parses it: how deep it nests, where an error stands,
//! and where the id of an imported line is. All of it in loops: no input makes this recurse.

use memchr::memchr2;
use serde::de::IgnoredAny;

use crate::error::{Failure, Kind, excerpt};

/// Objects and arrays within one another, at most. Parsers recurse; this bound is checked before any of them runs.
pub(crate) const DEPTH_MAX: usize = 64;

/// Refuses text that nests deeper than [`DEPTH_MAX`].
pub(crate) fn check_depth(text: &[u8]) -> Result<(), Failure> {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => match string_end(text, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                // An unfinished string hides nothing deeper; the parser will say what is wrong.
                None => return Ok(()),
            },
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let (line, column) = position(text, at);
                    let message = format!("JSON nests deeper than the limit of {DEPTH_MAX} levels");
                    return Err(Failure::new(Kind::Validation, message)
                        .with("limit", DEPTH_MAX)
                        .with("line", line)
                        .with("column", column));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Adds line and column to an error about JSON text, when the text cannot be parsed at all.
pub(crate) fn locate(failure: Failure, text: &[u8]) -> Failure {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Err(error) if error.line() > 0 => {
            failure.with("line", error.line()).with("column", error.column().max(1))
        }
        _ => failure,
    }
}

/// Line and column (in characters), both from 1, of a byte.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    let line_start = memchr::memrchr(b'\n', &text[..at]).map_or(0, |newline| newline + 1);
    let line = memchr::memchr_iter(b'\n', &text[..at]).count() + 1;
    let column = String::from_utf8_lossy(&text[line_start..at]).chars().count() + 1;
    (line, column)
}

/// The byte after a string that begins at `at`.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut from = at + 1;
    loop {
        let found = from + memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[found] == b'"' {
            return Some(found + 1);
        }
        from = found + 2;
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The byte after a value that begins at `at`: the `,` or `}` of the object around it, or space before one.
fn value_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *text.get(at)? {
            b'"' => {
                at = string_end(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b',' | b'}' if depth == 0 => return Some(at),
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
}

/// Where the member that holds the id stands in the text of an object.
struct Member {
    /// First byte of its key.
    start: usize,
    value: std::ops::Range<usize>,
    /// Whether a member stands before it.
    is_first: bool,
    /// The `,` or `}` after it.
    end: usize,
}

/// Finds the first member named `field` of the object that `text` is. What is behind it is not looked at.
fn find_member(text: &str, field: &str) -> Result<Option<Member>, Failure> {
    let bytes = text.as_bytes();
    let broken = |at: usize, wanted: &str| {
        let column = text.get(..at).map_or(at, |before| before.chars().count()) + 1;
        let message = format!("not a JSON object: {wanted} expected");
        Failure::new(Kind::Validation, message).with("column", column)
    };
    let mut at = skip_space(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return Err(broken(at, "\"{\""));
    }
    at = skip_space(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Ok(None);
    }
    let mut is_first = true;
    loop {
        if bytes.get(at) != Some(&b'"') {
            return Err(broken(at, "a key in quotes"));
        }
        let start = at;
        let key_end = string_end(bytes, at).ok_or_else(|| broken(bytes.len(), "the end of a string"))?;
        let key = &text[start + 1..key_end - 1];
        at = skip_space(bytes, key_end);
        if bytes.get(at) != Some(&b':') {
            return Err(broken(at, "\":\""));
        }
        let value_start = skip_space(bytes, at + 1);
        let end = value_end(bytes, value_start).ok_or_else(|| broken(bytes.len(), "\"}\""))?;
        let is_id = if key.contains('\\') {
            serde_json::from_str::<String>(&text[start..key_end]).is_ok_and(|key| key == field)
        } else {
            key == field
        };
        if is_id {
            return Ok(Some(Member { start, value: value_start..end, is_first, end }));
        }
        if bytes[end] == b'}' {
            return Ok(None);
        }
        at = skip_space(bytes, end + 1);
        is_first = false;
    }
}

/// The id of an imported document, and its text; the text is without the id if `take_out` says so.
///
/// The member is cut out of the text; the rest is not parsed here and stays byte for byte as it was sent.
pub(crate) fn split_id(
    text: &str,
    field: &str,
    take_out: bool,
) -> Result<(Option<String>, Vec<u8>), Failure> {
    let Some(member) = find_member(text, field)? else {
        return Ok((None, text.as_bytes().to_vec()));
    };
    let value = text[member.value.clone()].trim_end();
    let id = if value.starts_with('"') {
        serde_json::from_str::<String>(value).map_err(|error| {
            Failure::new(Kind::Validation, format!("the id is not a JSON string: {error}"))
                .with("field", field)
        })?
    } else if is_integer(value) {
        value.to_string()
    } else {
        let found = match value.as_bytes() {
            b"null" | b"true" | b"false" => value.to_string(),
            [b'{', ..] => "an object".to_string(),
            [b'[', ..] => "an array".to_string(),
            _ => excerpt(value),
        };
        let message = format!("the id has to be a string or an integer, not {found}");
        return Err(Failure::new(Kind::Validation, message).with("field", field));
    };
    if !take_out {
        return Ok((Some(id), text.as_bytes().to_vec()));
    }
    let bytes = text.as_bytes();
    let (cut_start, cut_end) = if bytes[member.end] == b',' {
        let next = skip_space(bytes, member.end + 1);
        if bytes.get(next) != Some(&b'"') {
            let message = "not a JSON object: a key in quotes expected behind the id";
            return Err(Failure::new(Kind::Validation, message).with("field", field));
        }
        (member.start, next)
    } else if member.is_first {
        (member.start, member.end)
    } else {
        let comma = memchr::memrchr(b',', &bytes[..member.start]).unwrap_or(member.start);
        (comma, member.end)
    };
    let mut rest = Vec::with_capacity(bytes.len() - (cut_end - cut_start));
    rest.extend_from_slice(&bytes[..cut_start]);
    rest.extend_from_slice(&bytes[cut_end..]);
    Ok((Some(id), rest))
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    (1..=20).contains(&digits.len()) && !leading_zero && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<(Option<String>, String), String> {
        split_id(text, "id", true)
            .map(|(id, rest)| (id, String::from_utf8(rest).unwrap()))
            .map_err(|failure| failure.message)
    }

    #[test]
    fn the_id_is_cut_out_wherever_it_stands() {
        for (text, id, rest) in [
            (r#"{"id":"a","t":1}"#, "a", r#"{"t":1}"#),
            (r#"{"t":1,"id":"a"}"#, "a", r#"{"t":1}"#),
            (r#"{"t":1, "id" : 7 , "u":[{"id":"no"}]}"#, "7", r#"{"t":1, "u":[{"id":"no"}]}"#),
            (r#" {"id":"a"} "#, "a", r#" {} "#),
            (r#"{"t":",\"id\":1}","\u0069d":"\u00e4"}"#, "ä", r#"{"t":",\"id\":1}"}"#),
            (r#"{"id":-12}"#, "-12", "{}"),
        ] {
            assert_eq!(split(text), Ok((Some(id.to_string()), rest.to_string())), "{text}");
        }
        assert_eq!(split(r#"{"t":{"id":"a"}}"#), Ok((None, r#"{"t":{"id":"a"}}"#.to_string())));
        assert_eq!(split("{}"), Ok((None, "{}".to_string())));
    }

    #[test]
    fn an_id_of_another_type_is_refused_and_so_is_broken_text() {
        for text in [
            r#"{"id":1.5}"#,
            r#"{"id":null}"#,
            r#"{"id":["a"]}"#,
            r#"{"id":007}"#,
            r#"{"id":"a",}"#,
            r#"{"id":"a",,"t":1}"#,
            r#"{"id":"a" "b"}"#,
            r#"{"id":"a"#,
            r#"{"id"#,
            r#"{"id":"#,
            r#"{,}"#,
            r#"{"t":1,}"#,
            "[]",
            "",
            "7",
            r#"{"id":"a\"#,
        ] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(check_depth(deep(DEPTH_MAX).as_bytes()).is_ok());
        let failure = check_depth(deep(DEPTH_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!(failure.details["column"], 65);
        assert!(check_depth(format!("\"{}\\\"[\"", "[".repeat(1000)).as_bytes()).is_ok());
        assert!(check_depth("[".repeat(10_000_000).as_bytes()).is_err());
        assert!(check_depth(b"\"\\").is_ok());
    }
}
