//! Tables, logs and manifests as text, for people and golden tests.

use std::io::{self, Write};

use crate::batch::{Batch, Operation};
use crate::coding::Decoder;
use crate::log::{self, Kind};
use crate::table::block::{Block, BlockCursor};
use crate::table::builder::TableMeta;
use crate::table::footer::{self, BlockKind, FOOTER_BYTES, Footer, Handle};
use crate::version::Version;
use crate::version::edit::Edit;

/// A key or value for people: text where it is printable, escapes elsewhere, cut after 60 bytes.
pub fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(60)];
    let dots = if bytes.len() > shown.len() { "…" } else { "" };
    format!("{}{dots}", shown.escape_ascii())
}

/// Writes a log segment (`.wal`, `.log`, `.manifest`) as text. `entry` explains the payload of a journal's entries.
pub fn log_segment(
    name: &str,
    bytes: &[u8],
    out: &mut dyn Write,
    entry: &dyn Fn(&[u8]) -> String,
) -> io::Result<()> {
    log::dump(name, bytes, out, &|kind, payload| match kind {
        Kind::Batch => Batch::decode(payload).map_or("malformed batch".into(), |batch| batch_text(&batch)),
        Kind::Edit | Kind::Snapshot => {
            Edit::decode(payload).map_or("malformed edit".into(), |edit| edit_text(&edit))
        }
        Kind::Entry => entry(payload),
        Kind::Seal | Kind::Vouch => String::new(),
    })
}

fn batch_text(batch: &Batch) -> String {
    let operations = batch.effective().unwrap_or_default();
    let texts = operations.iter().map(|operation| match operation {
        Operation::Put(key, value) => format!("put {}={}", printable(key), printable(value)),
        Operation::Delete(key) => format!("delete {}", printable(key)),
        Operation::DeleteRange(start, end) => format!("delete {}..{}", printable(start), printable(end)),
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn edit_text(edit: &Edit) -> String {
    let mut parts = Vec::new();
    parts.extend(edit.durable_seq.map(|seq| format!("durable seq {seq}")));
    parts.extend(edit.next_file.map(|number| format!("next file {number}")));
    parts.extend(edit.log.map(|log| format!("log durable to {}:{}", log.segment, log.offset)));
    parts.extend(edit.add.iter().map(|(level, meta)| {
        let (smallest, largest) = (printable(&meta.smallest), printable(&meta.largest));
        format!("+table {} L{level} {} entries [{smallest} .. {largest}]", meta.number, meta.entries)
    }));
    parts.extend(edit.remove.iter().map(|number| format!("-table {number}")));
    parts.extend(edit.attachments.attach.iter().map(|meta| {
        format!("+file {} kind {} {} bytes crc {:08x}", meta.number, meta.kind, meta.len, meta.crc)
    }));
    parts.extend(edit.attachments.detach.iter().map(|number| format!("-file {number}")));
    parts.extend(edit.attachments.state.iter().map(|state| format!("state {} bytes", state.len())));
    for (sign, ranges) in [('+', &edit.add_ranges), ('-', &edit.remove_ranges)] {
        parts.extend(ranges.iter().map(|range| {
            format!(
                "{sign}range delete {}..{} before seq {}",
                printable(&range.start),
                printable(&range.end),
                range.seq
            )
        }));
    }
    parts.join("; ")
}

/// What is live as text: a line for each table, range delete and attachment.
pub(crate) fn version(version: &Version) -> String {
    let mut lines = Vec::new();
    for (level, tables) in version.slots.iter().enumerate() {
        lines.extend(tables.iter().map(|table| {
            let meta = &table.meta;
            let (smallest, largest) = (printable(&meta.smallest), printable(&meta.largest));
            let (puts, deletes) = (meta.entries - meta.deletes, meta.deletes);
            format!("L{level} table {} [{smallest} .. {largest}] {puts} puts, {deletes} deletes", meta.number)
        }));
    }
    lines.extend(version.range_deletes.list().iter().map(|range| {
        let (start, end) = (printable(&range.start), printable(&range.end));
        format!("range delete {start}..{end} before seq {}", range.seq)
    }));
    lines.extend(version.attachments.values().map(|attachment| {
        format!("file {} kind {} {} bytes", attachment.meta.number, attachment.meta.kind, attachment.meta.len)
    }));
    if lines.is_empty() { "(empty)".into() } else { lines.join("\n") }
}

/// Writes a table as text: footer, properties, then every block with its entries.
pub fn table(name: &str, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let Some(footer_at) = bytes.len().checked_sub(FOOTER_BYTES) else {
        return writeln!(out, "{name}: no table: shorter than a footer");
    };
    let raw: &[u8; FOOTER_BYTES] = bytes[footer_at..].try_into().expect("a footer's length");
    let footer = match Footer::decode(raw, bytes.len() as u64) {
        Ok(footer) => footer,
        Err(reason) => return writeln!(out, "{name}: no table: {reason}"),
    };
    let find = |handle: Handle| {
        let start = usize::try_from(handle.offset).ok()?;
        bytes.get(start..start.checked_add(handle.len)?)
    };
    let open = |handle: Handle, kind| {
        let block = find(handle).ok_or("block outside the file")?;
        footer::open(block, kind, footer.uid, handle.offset).map_err(|reason| reason.into_owned())
    };
    writeln!(out, "table uid {:016x}, {} bytes", footer.uid, bytes.len())?;
    match open(footer.properties, BlockKind::Properties).map(|raw| TableMeta::decode(&mut Decoder::new(&raw)))
    {
        Ok(Some(meta)) => writeln!(
            out,
            "number {} entries {} deletes {} raw {} bytes seqs {}..={} keys [{} .. {}]",
            meta.number,
            meta.entries,
            meta.deletes,
            meta.raw_bytes,
            meta.min_seq,
            meta.max_seq,
            printable(&meta.smallest),
            printable(&meta.largest)
        )?,
        Ok(None) => writeln!(out, "DAMAGE: malformed properties at {}", footer.properties.offset)?,
        Err(reason) => writeln!(out, "DAMAGE: properties at {}: {reason}", footer.properties.offset)?,
    }
    writeln!(out, "filter {} bytes at {}", footer.filter.len, footer.filter.offset)?;
    let index = match open(footer.index, BlockKind::Index).map(Block::new) {
        Ok(Some(index)) => index,
        Ok(None) => return writeln!(out, "DAMAGE: malformed index at {}", footer.index.offset),
        Err(reason) => return writeln!(out, "DAMAGE: index at {}: {reason}", footer.index.offset),
    };
    let mut index = BlockCursor::new(std::sync::Arc::new(index));
    let mut moved = index.seek_first();
    while let (Ok(()), Some(entry)) = (moved, index.entry()) {
        let mut decoder = Decoder::new(entry.value);
        let (Some(offset), Some(len)) = (decoder.varint(), decoder.length()) else {
            return writeln!(out, "DAMAGE: malformed index entry");
        };
        let codec = find(Handle { offset, len }).map_or("outside the file", footer::codec_name);
        writeln!(out, "block at {offset}, {len} bytes, {codec}, up to {}", printable(entry.key))?;
        match open(Handle { offset, len }, BlockKind::Data).map(Block::new) {
            Ok(Some(block)) => block_text(block, out)?,
            Ok(None) => writeln!(out, "  DAMAGE: malformed block")?,
            Err(reason) => writeln!(out, "  DAMAGE: {reason}")?,
        }
        moved = index.next();
    }
    Ok(())
}

fn block_text(block: Block, out: &mut dyn Write) -> io::Result<()> {
    let mut cursor = BlockCursor::new(std::sync::Arc::new(block));
    let mut moved = cursor.seek_first();
    while let (Ok(()), Some(entry)) = (moved, cursor.entry()) {
        writeln!(out, "  {} @{} {:?} {}", printable(entry.key), entry.seq, entry.op, printable(entry.value))?;
        moved = cursor.next();
    }
    if moved.is_err() { writeln!(out, "  DAMAGE: malformed entry") } else { Ok(()) }
}
