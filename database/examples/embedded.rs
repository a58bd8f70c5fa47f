//! Lumen inside a program: open, describe, write, search.

use lumen::{Condition, Database, Mapping, Options, SearchRequest, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::open(std::env::temp_dir().join("lumen-embedded"), Options::default())?;
    let mapping = Mapping::from_json(br#"{"fields":{"title":{"type":"text"},"year":{"type":"i64"}}}"#)?;
    db.write(Write::CreateCollection { name: "books".into(), mapping })?;
    for (id, source) in [
        ("walden", r#"{"title":"Walden, or Life in the Woods","year":1854}"#),
        ("moby", r#"{"title":"Moby-Dick, or The Whale","year":1851}"#),
    ] {
        let (collection, source) = ("books".into(), source.as_bytes().to_vec());
        db.write(Write::Put { collection, id: id.into(), source, condition: Condition::Always })?;
    }
    let query = "whale OR woods";
    let request = SearchRequest { collection: "books", query, offset: 0, limit: 10, cancelled: None };
    for hit in db.snapshot().search(&request)?.hits {
        println!("{:.3}  {}  {}", hit.score, hit.id, String::from_utf8_lossy(&hit.source));
    }
    Ok(db.close()?)
}
