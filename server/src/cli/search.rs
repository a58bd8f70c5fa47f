//! `lumen search` and `lumen health`.

use std::io::{BufWriter, IsTerminal, Write};

use bytes::Bytes;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Client, Server, encode};
use super::members::Members;
use super::printable;
use crate::error::{Failure, Kind};

/// Characters of a field that a table shows.
const SNIPPET_CHARS: usize = 160;

/// `lumen search`
#[derive(Args)]
pub(crate) struct Search {
    /// Where to search
    collection: String,
    /// What to search for, as in: hobbit  title:hobbit  "in a hole"  year:[1930 TO 1940]  +a -b
    query: String,
    /// Hits to show
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: u64,
    /// Hits to pass over
    #[arg(long, default_value_t = 0, value_name = "N")]
    offset: u64,
    #[command(flatten)]
    server: Server,
}

/// `lumen health`
#[derive(Args)]
pub(crate) struct Health {
    #[command(flatten)]
    server: Server,
}

/// An answer to a search; sources stay as they came.
#[derive(Deserialize)]
pub(crate) struct Results<'a> {
    /// Best first.
    #[serde(borrow)]
    pub(crate) hits: Vec<Hit<'a>>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// What the server says it took.
    pub(crate) took_ms: u64,
}

/// One document found.
#[derive(Deserialize)]
pub(crate) struct Hit<'a> {
    /// Its id.
    pub(crate) id: String,
    /// How well it fits.
    pub(crate) score: f64,
    /// The document.
    #[serde(borrow)]
    pub(crate) source: &'a RawValue,
}

impl Search {
    /// Searches and prints.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let client = Client::new(&self.server.url)?;
        let path = search_path(&self.collection, &self.query, self.limit, self.offset);
        let answer = client.expect(Method::GET, &path, Bytes::new()).await?;
        let results = parse(&answer.body)?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        if std::io::stdout().is_terminal() {
            writeln!(out, "{}", table(&results, &self.query))?;
            say!("{} of {} documents, {} ms", results.hits.len(), results.total, results.took_ms);
        } else {
            for hit in &results.hits {
                let id = serde_json::to_string(&hit.id)?;
                // JSON has line ends between its tokens only, and a line of NDJSON has none.
                let source = hit.source.get().replace(['\n', '\r'], " ");
                writeln!(out, "{{\"id\":{id},\"score\":{},\"source\":{source}}}", hit.score)?;
            }
        }
        out.flush()?;
        Ok(0)
    }
}

impl Health {
    /// Asks; exit code 5 unless it serves.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let client = Client::new(&self.server.url)?;
        client.expect(Method::GET, "/health", Bytes::new()).await?;
        say!("{} serves", self.server.url);
        Ok(0)
    }
}

/// The path that makes a search.
pub(crate) fn search_path(collection: &str, query: &str, limit: u64, offset: u64) -> String {
    let mut path =
        format!("/collections/{}/documents/search?q={}&limit={limit}", encode(collection), encode(query));
    if offset > 0 {
        path.push_str(&format!("&offset={offset}"));
    }
    path
}

/// Reads an answer.
pub(crate) fn parse(body: &[u8]) -> Result<Results<'_>, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::new(Kind::Internal, format!("the server's answer cannot be read: {error}")))
}

fn table(results: &Results<'_>, query: &str) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["score", "id", "document"]);
    for hit in &results.hits {
        let lines = fields(hit.source.get(), query);
        table.add_row([format!("{:.3}", hit.score), printable(&hit.id), lines.join("\n")]);
    }
    table
}

/// A document's fields, one a line, each cut to the piece where the query's words stand.
pub(crate) fn fields(source: &str, query: &str) -> Vec<String> {
    let Ok(Members(document)) = serde_json::from_str(source) else { return Vec::new() };
    let words: Vec<String> = query
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() > 2 && !matches!(*word, "AND" | "NOT"))
        .map(str::to_lowercase)
        .collect();
    document
        .iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            format!("{}: {}", printable(name), snippet(&printable(&text), &words))
        })
        .collect()
}

/// The piece of a text around the first of the words, or its beginning.
fn snippet(text: &str, words: &[String]) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= SNIPPET_CHARS {
        return text.to_string();
    }
    let first = text
        .split_inclusive(|c: char| !c.is_alphanumeric())
        .scan(0, |at, piece| {
            let start = *at;
            *at += piece.chars().count();
            Some((start, piece.trim_end_matches(|c: char| !c.is_alphanumeric()).to_lowercase()))
        })
        .find(|(_, word)| words.contains(word))
        .map_or(0, |(start, _)| start);
    let start = first.saturating_sub(SNIPPET_CHARS / 3).min(chars.len() - SNIPPET_CHARS);
    let piece: String = chars[start..start + SNIPPET_CHARS].iter().collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if start + SNIPPET_CHARS < chars.len() { "…" } else { "" };
    format!("{before}{piece}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_shows_the_word_that_was_sought() {
        let text = format!("{} needle {}", "hay ".repeat(200), "hay ".repeat(200));
        let piece = snippet(&text, &["needle".to_string()]);
        assert!(piece.contains("needle") && piece.starts_with('…') && piece.ends_with('…'));
        assert!(piece.chars().count() <= SNIPPET_CHARS + 2);
        assert_eq!(snippet("short", &[]), "short");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(fields(r#"{"a":"x\u001b[2Jy"}"#, "x"), vec!["a: x [2Jy"]);
    }
}
