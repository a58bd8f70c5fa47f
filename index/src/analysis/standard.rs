//! UAX #29 words, lower-cased. Chunks between spaces are ASCII almost always, and those take a short way of their own.

use crate::analysis::lowercase_into;
use unicode_segmentation::UnicodeSegmentation;

/// Longer tokens are dropped; their position is kept.
const LIMIT_BYTES: usize = 255;

pub(super) fn tokens(text: &str, emit: &mut impl FnMut(&[u8], u32)) -> u32 {
    let mut lower = Vec::new();
    let mut position = 0;
    // No word contains a space and no rule looks across one, so the chunks can be cut apart first.
    for chunk in text.split(' ') {
        if chunk.is_ascii() {
            ascii_words(chunk.as_bytes(), &mut |word| {
                if word.len() <= LIMIT_BYTES {
                    lower.clear();
                    lower.extend(word.iter().map(|byte| byte.to_ascii_lowercase()));
                    emit(&lower, position);
                }
                position += 1;
            });
        } else {
            for word in chunk.unicode_words() {
                if word.len() <= LIMIT_BYTES {
                    lowercase_into(word, &mut lower);
                    emit(&lower, position);
                }
                position += 1;
            }
        }
    }
    position
}

/// Rules WB5 to WB13b for ASCII: letters, digits and underscores stick together; `: . '` stand between letters and
/// `, ; . '` between digits.
fn ascii_words(bytes: &[u8], found: &mut impl FnMut(&[u8])) {
    let mut at = 0;
    while at < bytes.len() {
        if !(bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
            at += 1;
            continue;
        }
        let start = at;
        let mut real = false;
        while at < bytes.len() {
            let byte = bytes[at];
            if byte.is_ascii_alphanumeric() {
                real = true;
            } else if byte != b'_' {
                let (before, after) = (bytes[at - 1], bytes.get(at + 1).copied().unwrap_or(b' '));
                let letters = matches!(byte, b':' | b'.' | b'\'')
                    && before.is_ascii_alphabetic()
                    && after.is_ascii_alphabetic();
                let digits = matches!(byte, b',' | b';' | b'.' | b'\'')
                    && before.is_ascii_digit()
                    && after.is_ascii_digit();
                if !letters && !digits {
                    break;
                }
            }
            at += 1;
        }
        if real {
            found(&bytes[start..at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::analysis::analyze;
    use crate::schema::Analyzer;
    use proptest::prelude::*;
    use unicode_segmentation::UnicodeSegmentation;

    fn naive(text: &str) -> Vec<(u32, Vec<u8>)> {
        let words = text.unicode_words().enumerate().filter(|(_, word)| word.len() <= 255);
        words
            .map(|(at, word)| {
                (at as u32, word.chars().flat_map(char::to_lowercase).collect::<String>().into_bytes())
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_text_is_split_as_the_library_does(
            text in ".*", ascii in "[ -~\r\n\t]{0,40}", dense in "[aB1_.:,;' ]{0,20}", mixed in "[aB1_.:,;' é\u{301}א\u{200d}カ]{0,20}",
        ) {
            for text in [text, ascii, dense, mixed] {
                prop_assert_eq!(analyze(Analyzer::Standard, &text), naive(&text), "{:?}", text);
            }
        }
    }
}
