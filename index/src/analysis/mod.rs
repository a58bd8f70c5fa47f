//! Text into tokens with positions.

use crate::schema::Analyzer;

mod simple;
mod standard;

/// Calls `emit(token, position)` for every token of `text`; answers how many positions the text takes, dropped tokens
/// included.
pub(crate) fn tokens(analyzer: Analyzer, text: &str, emit: &mut impl FnMut(&[u8], u32)) -> u32 {
    match analyzer {
        Analyzer::Simple => simple::tokens(text, emit),
        Analyzer::Standard => standard::tokens(text, emit),
    }
}

/// The tokens of a query's text, as the field's documents were analysed: (position, token).
pub fn analyze(analyzer: Analyzer, text: &str) -> Vec<(u32, Vec<u8>)> {
    let mut out = Vec::new();
    tokens(analyzer, text, &mut |token, position| out.push((position, token.to_vec())));
    out
}

/// Lower-cases character by character, without regard to neighbours.
pub(crate) fn lowercase_into(word: &str, out: &mut Vec<u8>) {
    out.clear();
    if word.is_ascii() {
        out.extend(word.bytes().map(|byte| byte.to_ascii_lowercase()));
        return;
    }
    let mut buffer = [0; 4];
    for lower in word.chars().flat_map(char::to_lowercase) {
        out.extend_from_slice(lower.encode_utf8(&mut buffer).as_bytes());
    }
}
