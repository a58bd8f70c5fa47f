//! A file of lines, cut into pieces of whole lines that know their numbers.

use std::io::{self, Read};

use bytes::Bytes;

/// A piece is cut at the last line end before this many bytes: large enough that its cost is in its bytes, small enough
/// that what is kept until the server has decided it stays small.
const CHUNK_BYTES: usize = 1 << 20;

/// A line longer than this is not sent: the server takes none longer than 16 MiB.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;

/// Lines on their way to the server.
pub(crate) struct Chunk {
    /// Number of the first line in the file, from 1.
    pub(crate) first_line: u64,
    /// Lines in it; the last may lack its end.
    pub(crate) lines: u64,
    /// The lines. Of a line that is too long, only its end: the server counts it and finds nothing in it.
    pub(crate) text: Bytes,
    /// Where in the file the chunk ends.
    pub(crate) end: u64,
    /// It was one line, longer than any server takes.
    pub(crate) too_long: bool,
}

impl Chunk {
    /// Number of the last line.
    pub(crate) fn last_line(&self) -> u64 {
        self.first_line + self.lines - 1
    }

    /// The lines from `line` on.
    pub(crate) fn text_from(&self, line: u64) -> Bytes {
        match line.checked_sub(self.first_line + 1) {
            None => self.text.clone(),
            Some(nth) => match memchr::memchr_iter(b'\n', &self.text).nth(nth as usize) {
                Some(newline) => self.text.slice(newline + 1..),
                None => Bytes::new(),
            },
        }
    }
}

/// Reads a file and cuts it.
pub(crate) struct ChunkReader {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    at_end: bool,
    line: u64,
    offset: u64,
}

impl ChunkReader {
    /// A reader from the file's first byte.
    pub(crate) fn new(source: Box<dyn Read + Send>) -> ChunkReader {
        ChunkReader { source, buffer: Vec::new(), at_end: false, line: 1, offset: 0 }
    }

    /// The first lines, up to `lines_max`, which are not taken out: the next chunk begins with them.
    pub(crate) fn sample(&mut self, lines_max: usize) -> io::Result<Vec<&[u8]>> {
        while !self.at_end
            && self.buffer.len() < LINE_BYTES_MAX
            && memchr::memchr_iter(b'\n', &self.buffer).count() < lines_max
        {
            self.fill()?;
        }
        let whole = if self.at_end {
            self.buffer.len()
        } else {
            memchr::memrchr(b'\n', &self.buffer).map_or(0, |newline| newline + 1)
        };
        Ok(self.buffer[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .take(lines_max)
            .collect())
    }

    /// The next lines; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Chunk>> {
        while !self.at_end && self.buffer.len() < CHUNK_BYTES {
            self.fill()?;
        }
        loop {
            if self.at_end && self.buffer.len() <= CHUNK_BYTES {
                return Ok((!self.buffer.is_empty()).then(|| self.cut(self.buffer.len())));
            }
            let window = &self.buffer[..self.buffer.len().min(CHUNK_BYTES)];
            if let Some(last_end) = memchr::memrchr(b'\n', window) {
                return Ok(Some(self.cut(last_end + 1)));
            }
            // One line fills the window: a chunk of its own, if it is not too long.
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                return Ok(Some(if end > LINE_BYTES_MAX { self.skip(end + 1) } else { self.cut(end + 1) }));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return self.skip_unended().map(Some);
            }
            if self.at_end {
                return Ok(Some(self.cut(self.buffer.len())));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        const READ_BYTES: usize = 1 << 20;
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.source.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        self.at_end = read? == 0;
        Ok(())
    }

    fn cut(&mut self, end: usize) -> Chunk {
        let rest = self.buffer.split_off(end);
        let text = std::mem::replace(&mut self.buffer, rest);
        let ended = memchr::memchr_iter(b'\n', &text).count() as u64;
        let lines = ended + u64::from(text.last() != Some(&b'\n'));
        self.chunk(lines, Bytes::from(text), end, false)
    }

    fn chunk(&mut self, lines: u64, text: Bytes, bytes: usize, too_long: bool) -> Chunk {
        let first_line = self.line;
        self.line += lines;
        self.offset += bytes as u64;
        Chunk { first_line, lines, text, end: self.offset, too_long }
    }

    fn skip(&mut self, end: usize) -> Chunk {
        self.buffer.drain(..end);
        self.chunk(1, Bytes::from_static(b"\n"), end, true)
    }

    /// Throws away a line whose end is not in memory.
    fn skip_unended(&mut self) -> io::Result<Chunk> {
        loop {
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            if self.at_end {
                return Ok(self.skip(0));
            }
            self.fill()?;
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                return Ok(self.skip(end + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(input: Vec<u8>) -> Vec<(u64, u64, usize)> {
        let mut reader = ChunkReader::new(Box::new(io::Cursor::new(input)));
        std::iter::from_fn(|| reader.next().unwrap())
            .map(|chunk| (chunk.first_line, chunk.lines, if chunk.too_long { 0 } else { chunk.text.len() }))
            .collect()
    }

    #[test]
    fn every_line_is_in_exactly_one_chunk() {
        let input = [vec![b'x'; 999], vec![b'\n']].concat().repeat(20_000);
        let chunks = chunks(input);
        assert!(chunks.len() >= 4);
        assert_eq!(chunks.iter().map(|c| c.1).sum::<u64>(), 20_000);
        assert_eq!(chunks.iter().map(|c| c.2).sum::<usize>(), 20_000_000);
        for pair in chunks.windows(2) {
            assert_eq!(pair[0].0 + pair[0].1, pair[1].0);
        }
    }

    #[test]
    fn a_last_line_without_an_end_counts() {
        assert_eq!(chunks(b"a\nb".to_vec()), vec![(1, 2, 3)]);
        assert_eq!(chunks(b"a\n\n".to_vec()), vec![(1, 2, 3)]);
        assert_eq!(chunks(Vec::new()), vec![]);
    }

    #[test]
    fn lines_that_are_too_long_keep_their_number() {
        let long = [b"a\n".to_vec(), vec![b'x'; 20 << 20], b"\nb\n".to_vec()].concat();
        assert_eq!(chunks(long), vec![(1, 1, 2), (2, 1, 0), (3, 1, 2)]);
        let medium = [vec![b'x'; 10 << 20], b"\nb".to_vec()].concat();
        assert_eq!(chunks(medium), vec![(1, 1, (10 << 20) + 1), (2, 1, 1)]);
    }

    #[test]
    fn the_rest_of_a_chunk_begins_at_a_line() {
        let text = Bytes::from_static(b"a\nb\nc");
        let chunk = Chunk { first_line: 10, lines: 3, text, end: 5, too_long: false };
        assert_eq!(chunk.last_line(), 12);
        let rests: Vec<Bytes> = (9..14).map(|line| chunk.text_from(line)).collect();
        assert_eq!(rests, ["a\nb\nc", "a\nb\nc", "b\nc", "c", ""]);
    }

    #[test]
    fn a_sample_takes_nothing_out() {
        let mut reader = ChunkReader::new(Box::new(io::Cursor::new(b"a\n\nb\nc".to_vec())));
        assert_eq!(reader.sample(2).unwrap(), vec![&b"a"[..], &b"b"[..]]);
        assert_eq!(reader.next().unwrap().unwrap().text, "a\n\nb\nc");
    }
}
