//! Cuts a stream of bytes into batches of whole lines, in bounded memory.

use bytes::{Bytes, BytesMut};

/// A batch is cut at the first line end after this many bytes: large enough that a sync is shared by many documents,
/// small enough that several are in memory at once.
const BATCH_BYTES: usize = 1 << 20;

/// What the cutter gives out.
pub(crate) enum Batch {
    /// Whole lines, the first of which has this number.
    Lines {
        /// Number of the first line, from 1.
        first_line: u64,
        /// The lines with their ends; the last one's may be missing.
        text: Bytes,
    },
    /// A line longer than the limit; its bytes are gone.
    TooLong {
        /// Its number.
        line: u64,
    },
}

/// Cuts what it is fed into batches.
pub(crate) struct LineCutter {
    buffer: BytesMut,
    /// The byte after the last line end in the buffer.
    whole: usize,
    /// Number of the first line in the buffer.
    line: u64,
    /// Throwing away the rest of a line that is too long.
    skipping: bool,
    line_bytes_max: usize,
}

impl LineCutter {
    /// A cutter that refuses lines of more than `line_bytes_max`.
    pub(crate) fn new(line_bytes_max: usize) -> LineCutter {
        LineCutter { buffer: BytesMut::new(), whole: 0, line: 1, skipping: false, line_bytes_max }
    }

    /// The number of the first line that was not given out yet.
    pub(crate) fn next_line(&self) -> u64 {
        self.line
    }

    /// Takes bytes; gives out a batch when there is one. Call again with nothing until there is none.
    pub(crate) fn push(&mut self, mut data: Bytes) -> Option<Batch> {
        if self.skipping {
            match memchr::memchr(b'\n', &data) {
                None => return None,
                Some(newline) => {
                    data = data.slice(newline + 1..);
                    self.skipping = false;
                    self.line += 1;
                }
            }
        }
        if let Some(newline) = memchr::memrchr(b'\n', &data) {
            self.whole = self.buffer.len() + newline + 1;
        }
        self.buffer.extend_from_slice(&data);
        if self.whole >= BATCH_BYTES || (self.whole > 0 && self.buffer.len() >= BATCH_BYTES) {
            return Some(self.cut(self.whole));
        }
        if self.whole == 0 && self.buffer.len() > self.line_bytes_max {
            self.buffer = BytesMut::new();
            self.skipping = true;
            return Some(Batch::TooLong { line: self.line });
        }
        None
    }

    /// Gives out what is left; the last line may lack its end.
    pub(crate) fn finish(&mut self) -> Option<Batch> {
        (!self.buffer.is_empty()).then(|| self.cut(self.buffer.len()))
    }

    fn cut(&mut self, end: usize) -> Batch {
        let text = self.buffer.split_to(end).freeze();
        self.whole = 0;
        let first_line = self.line;
        self.line += memchr::memchr_iter(b'\n', &text).count() as u64;
        Batch::Lines { first_line, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(chunks: &[&[u8]], line_bytes_max: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut cutter = LineCutter::new(line_bytes_max);
        let mut out = Vec::new();
        let mut keep = |batch: Option<Batch>| match batch {
            Some(Batch::Lines { first_line, text }) => out.push((first_line, Some(text.to_vec()))),
            Some(Batch::TooLong { line }) => out.push((line, None)),
            None => {}
        };
        for chunk in chunks {
            keep(cutter.push(Bytes::copy_from_slice(chunk)));
        }
        keep(cutter.finish());
        out
    }

    #[test]
    fn lines_are_never_torn() {
        let line = [vec![b'x'; 1000], vec![b'\n']].concat();
        let input = line.repeat(5000);
        let chunks: Vec<&[u8]> = input.chunks(70_001).collect();
        let batches = run(&chunks, 1 << 24);
        assert!(batches.len() > 3);
        let mut next = 1;
        for (first_line, text) in &batches {
            let text = text.as_ref().unwrap();
            assert_eq!((*first_line, text.len() % 1001), (next, 0));
            next += (text.len() / 1001) as u64;
        }
        assert_eq!(next, 5001);
    }

    #[test]
    fn a_line_too_long_is_skipped_and_counted() {
        let long = vec![b'x'; 3000];
        let batches = run(&[b"a\n", &long, &long, b"end\nb\n", b"c"], 4000);
        // "a" is in front of the long line in the buffer, so the length is known only when "a" is cut off.
        let text: Vec<u8> = batches.iter().filter_map(|(_, text)| text.clone()).flatten().collect();
        assert!(text.ends_with(b"b\nc"));
        let batches = run(&[&long, &long, b"end\nb\n", b"c"], 4000);
        assert_eq!(batches, vec![(1, None), (2, Some(b"b\nc".to_vec()))]);
    }
}
