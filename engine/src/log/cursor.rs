//! Walking the records of a log that is being written: for who has to send them elsewhere.
//!
//! Only what was handed to the operating system is seen, and each record once. The log's seqs must have no gaps: a record that
//! cannot be read although a later one can is damage.

use std::sync::Arc;

use crate::coding::u32_at;
use crate::error::{Error, Result};
use crate::log::reader::segment_name;
use crate::log::segment::{self, HEADER_BYTES, Header, Kind, MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
use crate::log::writer::Log;
use crate::vfs::{File, Mode};

/// Bytes that are read at once.
const WINDOW_BYTES: usize = 256 << 10;

/// A place in a log, before some record.
pub struct Cursor {
    file: Arc<dyn File>,
    number: u64,
    tag: u32,
    file_len: u64,
    /// Where the next record would start.
    at: u64,
    /// What was read ahead, and where it lies in the file.
    window: Vec<u8>,
    window_at: u64,
    /// The seq of the record before, or of what was before the segment.
    last_seq: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its seq.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// What it holds.
    pub payload: Vec<u8>,
}

impl Log {
    /// A cursor before the first record whose seq is at least `seq`, or before the end. `None` when that record was let go.
    pub fn cursor(&self, seq: u64) -> Result<Option<Cursor>> {
        let end = {
            let state = self.state.lock();
            (seq > state.last_seq).then_some((state.number, state.end, seq.saturating_sub(1)))
        };
        if let Some((number, end, last_seq)) = end {
            let cursor = Cursor::open(self, number, last_seq)?;
            return Ok(cursor.map(|cursor| Cursor { at: end, ..cursor }));
        }
        let segments = self.segments();
        let Some(&(number, first)) = segments.iter().rev().find(|&&(_, first)| first <= seq) else {
            return Ok(None);
        };
        let Some(mut cursor) = Cursor::open(self, number, first.saturating_sub(1))? else { return Ok(None) };
        while let Some((next, ..)) = cursor.peek(self)? {
            if next >= seq {
                break;
            }
            cursor.skip()?;
        }
        Ok(Some(cursor))
    }
}

impl Cursor {
    /// Before the first record of a segment; `None` when it is gone.
    fn open(log: &Log, number: u64, last_seq: u64) -> Result<Option<Cursor>> {
        let path = log.dir().join(segment_name(number, log.extension()));
        let file = match log.vfs().open(&path, Mode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let io = |error| Error::io("read", &path, error);
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(&mut bytes, 0).map_err(io)?;
        let header = Header::decode(&bytes)
            .map_err(|reason| Error::corrupt(segment_name(number, log.extension()), 0, reason))?;
        let file_len = file.len().map_err(io)?;
        Ok(Some(Cursor {
            file,
            number,
            tag: header.tag,
            file_len,
            at: HEADER_BYTES as u64,
            window: Vec::new(),
            window_at: 0,
            last_seq,
        }))
    }

    /// The next record, if it is there by now.
    pub fn next(&mut self, log: &Log) -> Result<Option<LogRecord>> {
        let Some((seq, kind, from, to, end)) = self.peek_record(log)? else { return Ok(None) };
        let record = LogRecord { seq, kind, payload: self.window[from..to].to_vec() };
        (self.at, self.last_seq) = (end, seq);
        Ok(Some(record))
    }

    /// The seq of the next record.
    fn peek(&mut self, log: &Log) -> Result<Option<(u64, u64)>> {
        Ok(self.peek_record(log)?.map(|(seq, _, _, _, end)| (seq, end)))
    }

    fn skip(&mut self) -> Result<()> {
        let record = self.record_here()?;
        if let Some((seq, _, _, _, end)) = record {
            (self.at, self.last_seq) = (end, seq);
        }
        Ok(())
    }

    /// Seq, kind, where the payload lies in the window, and where the record ends; in the next segment if this one has ended.
    fn peek_record(&mut self, log: &Log) -> Result<Option<(u64, Kind, usize, usize, u64)>> {
        let mut is_old = !self.window.is_empty();
        loop {
            if let Some(found) = self.record_here()? {
                let (seq, .., end) = found;
                if seq > self.last_seq {
                    return Ok(Some(found));
                }
                // It was there before: recovery writes the end of a segment again that nothing proved to be durable, and what
                // vouches for a record has its seq.
                self.at = end;
                continue;
            }
            // What was read ahead may be of before the record was written.
            if std::mem::take(&mut is_old) {
                self.window.clear();
                continue;
            }
            let segments = log.segments();
            let Some(&(number, first)) = segments.iter().find(|&&(number, _)| number > self.number) else {
                return Ok(None); // it is the last one, and goes on later
            };
            // What had been written before the next segment began is there now.
            if self.record_here()?.is_some() {
                continue;
            }
            // Segments between that were let go of held nothing that comes next, which the seqs say.
            if first > self.last_seq + 1 {
                let name = segment_name(self.number, log.extension());
                let reason = format!("no valid record here, but records go on to seq {first}");
                return Err(Error::corrupt(name, self.at, reason));
            }
            match Cursor::open(log, number, self.last_seq)? {
                Some(next) => *self = next,
                None => return Ok(None),
            }
        }
    }

    fn record_here(&mut self) -> Result<Option<(u64, Kind, usize, usize, u64)>> {
        let Some(header) = self.bytes(RECORD_HEADER_BYTES)? else { return Ok(None) };
        let (len, tag) = (u32_at(header, 4) as usize, u32_at(header, 8));
        if tag != self.tag || len == 0 || len > MAX_RECORD_BYTES {
            self.window.clear(); // it may not be written yet: read it again the next time
            return Ok(None);
        }
        if self.bytes(RECORD_HEADER_BYTES + len)?.is_none() {
            return Ok(None);
        }
        let from = (self.at - self.window_at) as usize;
        let Some(record) = segment::decode_record(&self.window, from, self.tag) else {
            self.window.clear();
            return Ok(None);
        };
        let Some(kind) = Kind::from_u8(record.kind) else { return Ok(None) };
        let start = from + RECORD_HEADER_BYTES + 1;
        let end = self.window_at + record.end as u64;
        Ok(Some((record.seq, kind, start, start + record.payload.len(), end)))
    }

    /// So many bytes from where the next record starts; `None` when the file ends before.
    fn bytes(&mut self, len: usize) -> Result<Option<&[u8]>> {
        let end = self.at + len as u64;
        let has = self.at >= self.window_at && end <= self.window_at + self.window.len() as u64;
        if !has {
            if end > self.file_len {
                self.file_len =
                    self.file.len().map_err(|e| Error::io("measure", "a log segment".as_ref(), e))?;
                if end > self.file_len {
                    return Ok(None);
                }
            }
            let want = (len.max(WINDOW_BYTES) as u64).min(self.file_len - self.at) as usize;
            self.window.clear();
            self.window.resize(want, 0);
            self.window_at = self.at;
            let read = self.file.read_at(&mut self.window, self.at);
            read.map_err(|e| Error::io("read", "a log segment".as_ref(), e))?;
        }
        let from = (self.at - self.window_at) as usize;
        Ok(Some(&self.window[from..from + len]))
    }
}
