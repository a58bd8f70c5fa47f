//! Tables, logs and manifests as text, for people and golden tests.

use std::io::{self, Write};

use crate::batch::{Batch, Operation};
use crate::blob::{self, BlobHandle};
use crate::coding::Decoder;
use crate::compaction::progress::Progress;
use crate::log::{self, Kind};
use crate::quarantine::Quarantine;
use crate::table::block::{Block, BlockCursor};
use crate::table::builder::split_partition;
use crate::table::filter::Filter;
use crate::table::footer::{self, BlockKind, FOOTER_BYTES, Footer, Handle};
use crate::table::properties::Properties;
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
        Kind::Entry | Kind::Raft => entry(payload),
        Kind::Seal | Kind::Vouch => String::new(),
    })
}

fn batch_text(batch: &Batch) -> String {
    let operations = batch.effective().unwrap_or_default();
    let texts = operations.iter().map(|operation| match operation {
        Operation::Put(key, value) => format!("put {}={}", printable(key), printable(value)),
        Operation::PutUntil(key, value, expiry) => {
            format!("put {}={} until {expiry}", printable(key), printable(value))
        }
        Operation::Delete(key) => format!("delete {}", printable(key)),
        Operation::DeleteRange(start, end) => format!("delete {}..{}", printable(start), printable(end)),
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn edit_text(edit: &Edit) -> String {
    let mut parts = Vec::new();
    parts.extend(edit.durable_seq.map(|seq| format!("durable seq {seq}")));
    parts.extend(edit.floor.map(|seq| format!("floor {seq}")));
    parts.extend(edit.next_file.map(|number| format!("next file {number}")));
    parts.extend(edit.splits.iter().filter(|splits| !splits.is_empty()).map(|splits| {
        let keys: Vec<String> = splits.iter().map(|key| printable(key)).collect();
        format!("flushes are cut at {}", keys.join(" "))
    }));
    parts.extend(edit.log.map(|log| format!("log durable to {}:{}", log.segment, log.offset)));
    parts.extend(edit.add.iter().map(|(level, meta)| {
        let (smallest, largest) = (printable(&meta.smallest), printable(&meta.largest));
        format!("+table {} L{level} {} entries [{smallest} .. {largest}]", meta.number, meta.entries)
    }));
    parts.extend(edit.remove.iter().map(|number| format!("-table {number}")));
    parts.extend(edit.attachments.attach.iter().map(|meta| {
        format!("+file {} kind {} {} bytes hash {:032x}", meta.number, meta.kind, meta.len, meta.hash)
    }));
    parts.extend(edit.attachments.detach.iter().map(|number| format!("-file {number}")));
    parts.extend(edit.attachments.state.iter().map(|state| format!("state {} bytes", state.len())));
    parts.extend(
        edit.add_blobs
            .iter()
            .map(|meta| format!("+blobs {} {:016x} {} bytes", meta.number, meta.uid, meta.len)),
    );
    parts.extend(edit.remove_blobs.iter().map(|uid| format!("-blobs {uid:016x}")));
    parts.extend(edit.progress.iter().map(progress_text));
    parts.extend(edit.remove_progress.iter().map(|table| format!("-compaction of table {table}")));
    for (sign, quarantines) in [('+', &edit.add_quarantines), ('-', &edit.remove_quarantines)] {
        parts.extend(quarantines.iter().map(|quarantine| format!("{sign}{quarantine}")));
    }
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

fn progress_text(progress: &Progress) -> String {
    let (next, bytes) = (printable(&progress.next_key), progress.bytes());
    format!("compaction of table {} up to {next}, {bytes} bytes written", progress.id())
}

/// When its entries were flushed and go, and which blob files they point into, as far as there is anything to say.
fn times_and_blobs(stated: &Properties, out: &mut dyn Write) -> io::Result<()> {
    if stated.expiring > 0 {
        writeln!(out, "the last that expires goes at {} ms", stated.expiry_max)?;
    }
    for (file, bytes) in &stated.blobs {
        writeln!(out, "{bytes} bytes of values in the blob file {file:016x}")?;
    }
    writeln!(out, "flushed from {} to {} ms since 1970", stated.oldest_ms, stated.written_ms)
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
    lines.extend(version.quarantines.iter().map(Quarantine::to_string));
    lines.extend(version.progress.iter().map(|progress| progress_text(progress)));
    let used = version.blob_bytes_used();
    lines.extend(version.blobs.values().map(|blob| {
        let used = used.get(&blob.meta.uid).copied().unwrap_or(0);
        format!("blobs {} {} bytes, {used} in use", blob.meta.number, blob.meta.len)
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
    match open(footer.properties, BlockKind::Properties)
        .map(|raw| Properties::decode(&mut Decoder::new(&raw)))
    {
        Ok(Some(stated)) => writeln!(
            out,
            "entries {} deletes {} ({} close) shadowed {} expiring {} raw {} bytes seqs {}..={} keys [{} .. {}]",
            stated.entries,
            stated.deletes,
            stated.close_deletes,
            stated.shadowed,
            stated.expiring,
            stated.raw_bytes,
            stated.min_seq,
            stated.max_seq,
            printable(&stated.smallest),
            printable(&stated.largest)
        )
        .and_then(|()| times_and_blobs(&stated, out))?,
        Ok(None) => writeln!(out, "DAMAGE: malformed properties at {}", footer.properties.offset)?,
        Err(reason) => writeln!(out, "DAMAGE: properties at {}: {reason}", footer.properties.offset)?,
    }
    let top = match open(footer.index, BlockKind::Index).map(Block::new) {
        Ok(Some(top)) => top,
        Ok(None) => return writeln!(out, "DAMAGE: malformed top index at {}", footer.index.offset),
        Err(reason) => return writeln!(out, "DAMAGE: top index at {}: {reason}", footer.index.offset),
    };
    each_handle(top, out, &mut |handle, separator, out| {
        let (offset, len) = (handle.offset, handle.len);
        let raw = match open(handle, BlockKind::Partition) {
            Ok(raw) => raw,
            Err(reason) => return writeln!(out, "DAMAGE: partition at {offset}: {reason}"),
        };
        let index = split_partition(&raw).and_then(|(filter, index)| {
            Some((Filter::new(filter)?.name(), filter.len(), Block::new(index.to_vec())?))
        });
        let Some((filter, filter_len, index)) = index else {
            return writeln!(out, "DAMAGE: malformed partition at {offset}");
        };
        let up_to = printable(separator);
        writeln!(out, "partition at {offset}, {len} bytes, up to {up_to}, {filter} of {filter_len} bytes")?;
        each_handle(index, out, &mut |handle, separator, out| {
            let (offset, len) = (handle.offset, handle.len);
            let codec = find(handle).map_or("outside the file", footer::codec_name);
            writeln!(out, "block at {offset}, {len} bytes, {codec}, up to {}", printable(separator))?;
            match open(handle, BlockKind::Data).map(Block::new) {
                Ok(Some(block)) => block_text(block, out),
                Ok(None) => writeln!(out, "  DAMAGE: malformed block"),
                Err(reason) => writeln!(out, "  DAMAGE: {reason}"),
            }
        })
    })
}

/// What is done with each entry of an index: handle and separator.
type Each<'a> = dyn FnMut(Handle, &[u8], &mut dyn Write) -> io::Result<()> + 'a;

fn each_handle(index: Block, out: &mut dyn Write, each: &mut Each<'_>) -> io::Result<()> {
    let mut cursor = BlockCursor::new(std::sync::Arc::new(index));
    let mut moved = cursor.seek_first();
    while let (Ok(()), Some(entry)) = (moved, cursor.entry()) {
        match Handle::decode(entry.value) {
            Some(handle) => each(handle, entry.key, out)?,
            None => return writeln!(out, "DAMAGE: malformed index entry"),
        }
        moved = cursor.next();
    }
    if moved.is_err() { writeln!(out, "DAMAGE: malformed index") } else { Ok(()) }
}

/// Writes a blob file as text: its values in order.
pub fn blobs(name: &str, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let Some((uid, values)) = blob::read_all(bytes) else {
        return writeln!(out, "{name}: no blob file: the magic number is missing");
    };
    writeln!(out, "blob file uid {uid:016x}, {} bytes, {} values", bytes.len(), values.len())?;
    for (offset, codec, value) in values {
        match value {
            Ok(value) => {
                writeln!(out, "{offset:>10}  {} bytes, {codec}  {}", value.len(), printable(&value))?
            }
            Err(reason) => writeln!(out, "{offset:>10}  DAMAGE: {codec}: {reason}")?,
        }
    }
    Ok(())
}

fn block_text(block: Block, out: &mut dyn Write) -> io::Result<()> {
    let mut cursor = BlockCursor::new(std::sync::Arc::new(block));
    let mut moved = cursor.seek_first();
    while let (Ok(()), Some(entry)) = (moved, cursor.entry()) {
        let (key, value) = (printable(entry.key), entry.value.get(entry.op.prefix_bytes()..));
        write!(out, "  {key} @{} {:?} ", entry.seq, entry.op)?;
        if let Some(expiry) = entry.expiry() {
            write!(out, "{expiry} ms ")?;
        }
        match entry.blob_handle() {
            Some(Ok(handle)) => {
                let BlobHandle { file, offset, len } = handle;
                writeln!(out, "{len} bytes at {offset} of blob file {file:016x}")?;
            }
            Some(Err(_)) => writeln!(out, "DAMAGE: malformed handle")?,
            None => writeln!(out, "{}", value.map_or("DAMAGE: too short".into(), printable))?,
        }
        moved = cursor.next();
    }
    if moved.is_err() { writeln!(out, "  DAMAGE: malformed entry") } else { Ok(()) }
}
