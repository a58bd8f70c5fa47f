//! Maximal runs of alphanumerics: what tantivy does by default.

use crate::analysis::lowercase_into;

/// Tokens of so many bytes, counted before lower-casing, are dropped; their position is kept.
const LIMIT_BYTES: usize = 40;
/// The one letter whose lower case holds a character that is no letter (i and a combining dot): a word ends there, so that
/// "İzmir" is found by what is left of it after lower-casing, `i` and `zmir`.
const DOTTED_I: char = '\u{130}';

/// 0 for bytes that end a word, the lower-case byte for ASCII alphanumerics, 0xff for bytes of longer characters.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'A'..=b'Z' => byte as u8 + 32,
            b'a'..=b'z' | b'0'..=b'9' => byte as u8,
            0x80.. => 0xff,
            _ => 0,
        };
        byte += 1;
    }
    class
};

pub(super) fn tokens(text: &str, emit: &mut impl FnMut(&[u8], u32)) -> u32 {
    let bytes = text.as_bytes();
    let mut lower = Vec::with_capacity(LIMIT_BYTES);
    let mut position = 0;
    let mut at = 0;
    while at < bytes.len() {
        if CLASS[usize::from(bytes[at])] == 0 {
            at += 1;
            continue;
        }
        let start = at;
        lower.clear();
        let mut class = 0;
        while at < bytes.len() {
            class = CLASS[usize::from(bytes[at])];
            if class == 0 || class == 0xff {
                break;
            }
            if lower.len() < LIMIT_BYTES {
                lower.push(class);
            }
            at += 1;
        }
        if class != 0xff {
            if at - start < LIMIT_BYTES {
                emit(&lower, position);
            }
            position += 1;
            continue;
        }
        // A longer character: the whole word the slow way.
        let rest = &text[start..];
        let len = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        at = start + len;
        if len > 0 && len < LIMIT_BYTES && rest[..len].contains(DOTTED_I) {
            let lower: String = rest[..len].chars().flat_map(char::to_lowercase).collect();
            for piece in lower.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty()) {
                emit(piece.as_bytes(), position);
                position += 1;
            }
        } else if len > 0 {
            if len < LIMIT_BYTES {
                lowercase_into(&rest[..len], &mut lower);
                emit(&lower, position);
            }
            position += 1;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    position
}

#[cfg(test)]
mod tests {
    use crate::analysis::analyze;
    use crate::schema::Analyzer;
    use proptest::prelude::*;

    fn naive(text: &str) -> Vec<(u32, Vec<u8>)> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).enumerate();
        let kept = words.filter(|(_, word)| word.len() < 40);
        kept.map(|(at, word)| {
            (at as u32, word.chars().flat_map(char::to_lowercase).collect::<String>().into_bytes())
        })
        .collect()
    }

    proptest! {
        #[test]
        fn any_text_is_split_as_the_naive_way_does(text in "[^İ]*", words in "[ a-cÄß_0-9.Ⅷ²]{0,80}") {
            prop_assert_eq!(analyze(Analyzer::Simple, &text), naive(&text));
            prop_assert_eq!(analyze(Analyzer::Simple, &words), naive(&words));
        }
    }

    #[test]
    fn a_dotted_capital_i_ends_a_word_when_it_is_lowered() {
        let tokens = analyze(Analyzer::Simple, "İzmir aİb");
        let tokens: Vec<_> =
            tokens.iter().map(|(at, bytes)| (*at, std::str::from_utf8(bytes).unwrap())).collect();
        assert_eq!(tokens, [(0, "i"), (1, "zmir"), (2, "ai"), (3, "b")]);
    }

    #[test]
    fn only_the_dotted_capital_i_lowers_to_something_that_is_no_letter() {
        let odd = (char::MIN..=char::MAX)
            .filter(|c| c.is_alphanumeric() && !c.to_lowercase().all(char::is_alphanumeric));
        assert_eq!(odd.collect::<Vec<_>>(), [super::DOTTED_I]);
    }

    #[test]
    fn long_words_keep_their_position() {
        let text = format!("a {} {} c", "x".repeat(39), "y".repeat(40));
        let positions: Vec<u32> =
            analyze(Analyzer::Simple, &text).into_iter().map(|(position, _)| position).collect();
        assert_eq!(positions, [0, 1, 3]);
    }
}
