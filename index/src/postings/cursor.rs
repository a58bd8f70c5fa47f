//! Reads one posting list forward, block by block, decoding only what is asked for.

use crate::coding::{BLOCK, Decoded, Reader, packed_len, unpack_u32};
use crate::error::Error;
use crate::postings::{Facts, SKIP_BYTES};
use bitpacking::{BitPacker, BitPacker4x};

/// Where list bytes come from, checked before they are handed out.
pub(crate) trait ByteSource {
    /// The bytes of the postings section at `at..at + len`.
    fn bytes(&self, at: u64, len: usize) -> Result<&[u8], Error>;
    /// The error for bytes that make no sense.
    fn corrupt(&self, at: u64, reason: &'static str) -> Error;
}

/// Bytes in memory, for tests of the codec alone.
#[cfg(test)]
pub(crate) struct SliceSource<'a> {
    pub(crate) bytes: &'a [u8],
}

#[cfg(test)]
impl ByteSource for SliceSource<'_> {
    fn bytes(&self, at: u64, len: usize) -> Result<&[u8], Error> {
        self.bytes.get(at as usize..at as usize + len).ok_or_else(|| self.corrupt(at, "too short"))
    }

    fn corrupt(&self, at: u64, reason: &'static str) -> Error {
        Error::Corrupt { file: "slice".into(), offset: at, reason }
    }
}

/// Where a list stands and what the dictionary says about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListBytes {
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) positions_len: u64,
    pub(crate) df: u32,
    pub(crate) positional: bool,
}

/// A position in a list: always on a block, the first one at the start.
pub(crate) struct ListCursor<'a, S> {
    source: &'a S,
    list: ListBytes,
    skips: &'a [u8],
    /// Documents of the segment: none may be above.
    limit: u32,
    blocks: u32,
    block: u32,
    last: u32,
    docs_ready: bool,
    tfs_ready: bool,
    positions_ready: bool,
    tf_bytes: &'a [u8],
    tf_width: u8,
    count: usize,
    docs: [u32; BLOCK],
    tfs: [u32; BLOCK],
    positions: Vec<u32>,
    /// `starts[i]..starts[i + 1]` are the positions of the block's document i.
    starts: Vec<u32>,
}

impl<'a, S: ByteSource> ListCursor<'a, S> {
    pub(crate) fn open(source: &'a S, list: ListBytes, limit: u32) -> Result<ListCursor<'a, S>, Error> {
        let blocks = list.df.div_ceil(BLOCK as u32);
        let skip_len = if blocks > 1 { blocks as usize * SKIP_BYTES } else { 0 };
        if list.df == 0 || list.df > limit || skip_len as u64 > list.len {
            return Err(source.corrupt(list.at, "posting list of impossible length"));
        }
        let skips = source.bytes(list.at, skip_len)?;
        let mut cursor = ListCursor {
            source,
            list,
            skips,
            limit,
            blocks,
            block: 0,
            last: 0,
            docs_ready: false,
            tfs_ready: false,
            positions_ready: false,
            tf_bytes: &[],
            tf_width: 0,
            count: 0,
            docs: [0; BLOCK],
            tfs: [0; BLOCK],
            positions: Vec::new(),
            starts: Vec::new(),
        };
        cursor.enter(0)?;
        Ok(cursor)
    }

    #[inline]
    fn skip(&self, block: u32, field: usize) -> u32 {
        let at = block as usize * SKIP_BYTES + field * 4;
        self.skips.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn enter(&mut self, block: u32) -> Result<(), Error> {
        self.block = block;
        self.docs_ready = false;
        self.tfs_ready = false;
        self.positions_ready = false;
        self.count = (self.list.df as usize - block as usize * BLOCK).min(BLOCK);
        if self.blocks > 1 {
            self.last = self.skip(block, 0);
        } else {
            self.last = self.docs()?.last().copied().unwrap_or(0);
        }
        Ok(())
    }

    /// To the next block; false at the end, where the cursor stays on the last.
    pub(crate) fn next(&mut self) -> Result<bool, Error> {
        if self.block + 1 >= self.blocks {
            return Ok(false);
        }
        self.enter(self.block + 1)?;
        Ok(true)
    }

    /// To the first block, from here on, whose last document is not below `target`.
    #[inline]
    pub(crate) fn seek(&mut self, target: u32) -> Result<bool, Error> {
        if target <= self.last {
            return Ok(true);
        }
        self.seek_far(target)
    }

    fn seek_far(&mut self, target: u32) -> Result<bool, Error> {
        // Gallop, then bisect.
        let (mut low, mut step) = (self.block + 1, 1);
        while low + step < self.blocks && self.skip(low + step - 1, 0) < target {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(self.blocks);
        while low < high {
            let middle = (low + high) / 2;
            if self.skip(middle, 0) < target {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low >= self.blocks {
            return Ok(false);
        }
        self.enter(low)?;
        Ok(true)
    }

    /// The last document of the block.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// What bounds the block's scores; `None` for lists of one block.
    pub(crate) fn facts(&self) -> Option<Facts> {
        self.facts_of(self.block)
    }

    fn facts_of(&self, block: u32) -> Option<Facts> {
        let at = block as usize * SKIP_BYTES + 12;
        self.skips.get(at..at + 4).map(|b| [(b[0], b[1]), (b[2], b[3])])
    }

    /// The largest `f` of the blocks from here on that may have documents up to `to`.
    pub(crate) fn bound(&mut self, to: u32, f: &dyn Fn(Option<Facts>) -> f32) -> Result<f32, Error> {
        if self.blocks == 1 {
            let first = self.docs()?.first().copied();
            return Ok(if first.is_some_and(|first| first <= to) { f(None) } else { 0.0 });
        }
        let mut most = f(self.facts());
        for block in self.block + 1..self.blocks {
            if self.skip(block - 1, 0) >= to {
                break;
            }
            most = most.max(f(self.facts_of(block)));
        }
        Ok(most)
    }

    #[inline]
    pub(crate) fn docs(&mut self) -> Result<&[u32], Error> {
        if !self.docs_ready {
            self.load()?;
        }
        Ok(&self.docs[..self.count])
    }

    fn load(&mut self) -> Result<(), Error> {
        let start = if self.block == 0 { 0 } else { self.skip(self.block - 1, 1) };
        let data_len = self.list.len - self.skips.len() as u64;
        let end =
            if self.blocks > 1 { self.skip(self.block, 1) } else { data_len.min(u64::from(u32::MAX)) as u32 };
        let at = self.list.at + self.skips.len() as u64 + u64::from(start);
        if end < start || u64::from(end) > data_len {
            return Err(self.source.corrupt(at, "posting block out of its list"));
        }
        let before = if self.block == 0 { None } else { Some(self.skip(self.block - 1, 0)) };
        let bytes = self.source.bytes(at, (end - start) as usize)?;
        let read = || -> Decoded<(u8, &'a [u8], u8, &'a [u8])> {
            let (head, body) = bytes.split_first_chunk::<2>().ok_or("posting block too short")?;
            let doc_len = packed_len(self.count, head[0]);
            if head[0] > 32 || head[1] > 32 || body.len() < doc_len + packed_len(self.count, head[1]) {
                return Err("posting block too short");
            }
            Ok((head[0], &body[..doc_len], head[1], &body[doc_len..]))
        };
        let (doc_width, doc_bytes, tf_width, tf_bytes) =
            read().map_err(|reason| self.source.corrupt(at, reason))?;
        self.tf_width = tf_width;
        self.tf_bytes = tf_bytes;
        let docs = &mut self.docs[..self.count];
        if self.count == BLOCK {
            BitPacker4x::new().decompress_strictly_sorted(before, doc_bytes, docs, doc_width);
        } else {
            unpack_u32(doc_bytes, doc_width, docs).map_err(|reason| self.source.corrupt(at, reason))?;
            let mut next = before.map_or(0, |last| last.wrapping_add(1));
            for doc in &mut *docs {
                *doc = doc.wrapping_add(next);
                next = doc.wrapping_add(1);
            }
        }
        if docs.iter().copied().max().unwrap_or(0) >= self.limit {
            return Err(self.source.corrupt(at, "posting past the last document"));
        }
        self.docs_ready = true;
        Ok(())
    }

    #[inline]
    pub(crate) fn tfs(&mut self) -> Result<&[u32], Error> {
        if !self.tfs_ready {
            self.docs()?;
            let tfs = &mut self.tfs[..self.count];
            unpack_u32(self.tf_bytes, self.tf_width, tfs)
                .map_err(|reason| self.source.corrupt(self.list.at, reason))?;
            tfs.iter_mut().for_each(|tf| *tf = tf.saturating_add(1));
            self.tfs_ready = true;
        }
        Ok(&self.tfs[..self.count])
    }

    /// Documents and frequencies of the block.
    #[inline]
    pub(crate) fn both(&mut self) -> Result<(&[u32], &[u32]), Error> {
        self.tfs()?;
        Ok((&self.docs[..self.count], &self.tfs[..self.count]))
    }

    /// The positions of the block's document `index`.
    #[inline]
    pub(crate) fn positions(&mut self, index: usize) -> Result<&[u32], Error> {
        if !self.positions_ready {
            self.load_positions()?;
        }
        Ok(&self.positions[self.starts[index] as usize..self.starts[index + 1] as usize])
    }

    /// All positions of the block, document after document.
    pub(crate) fn block_positions(&mut self) -> Result<&[u32], Error> {
        if !self.list.positional {
            return Ok(&[]);
        }
        if !self.positions_ready {
            self.load_positions()?;
        }
        Ok(&self.positions)
    }

    fn load_positions(&mut self) -> Result<(), Error> {
        self.tfs()?;
        let start = if self.block == 0 { 0 } else { self.skip(self.block - 1, 2) };
        let end = if self.blocks > 1 { u64::from(self.skip(self.block, 2)) } else { self.list.positions_len };
        let at = self.list.at + self.list.len + u64::from(start);
        if end < u64::from(start) || end > self.list.positions_len {
            return Err(self.source.corrupt(at, "positions out of their list"));
        }
        let mut bytes = self.source.bytes(at, (end - u64::from(start)) as usize)?;
        self.starts.clear();
        self.starts.push(0);
        let mut total = 0_u64;
        for &tf in &self.tfs[..self.count] {
            total += u64::from(tf);
            self.starts.push(total.min(u64::from(u32::MAX)) as u32);
        }
        // Every chunk takes a byte at least, so this bounds what is allocated by what is there.
        if total.div_ceil(BLOCK as u64) > bytes.len() as u64 {
            return Err(self.source.corrupt(at, "positions too short"));
        }
        self.positions.resize(total as usize, 0);
        for chunk in self.positions.chunks_mut(BLOCK) {
            let width = bytes.first().copied().unwrap_or(u8::MAX);
            let len = packed_len(chunk.len(), width.min(32));
            if width > 32 || bytes.len() < 1 + len {
                return Err(self.source.corrupt(at, "positions too short"));
            }
            unpack_u32(&bytes[1..1 + len], width, chunk).map_err(|reason| self.source.corrupt(at, reason))?;
            bytes = &bytes[1 + len..];
        }
        for document in self.starts.windows(2) {
            let mut position = 0_u32;
            for delta in &mut self.positions[document[0] as usize..document[1] as usize] {
                position = position.wrapping_add(*delta);
                *delta = position;
            }
        }
        self.positions_ready = true;
        Ok(())
    }
}

/// Reads the posting of a term of one document: document, frequency, positions.
pub(crate) fn read_single(
    source: &impl ByteSource,
    list: ListBytes,
    limit: u32,
) -> Result<(u32, u32, Vec<u32>), Error> {
    let bytes = source.bytes(list.at, list.len as usize)?;
    let read = || -> Decoded<(u32, u32, Vec<u32>)> {
        let mut reader = Reader::new(bytes);
        let (doc, tf) = (reader.varint_u32()?, reader.varint_u32()?);
        let count = if list.positional { tf as usize } else { 0 };
        // A position takes a byte at least, so this bounds what is allocated by what is there.
        if doc >= limit || tf == 0 || count > bytes.len() {
            return Err("single posting out of shape");
        }
        let mut positions = Vec::with_capacity(count);
        let mut position = 0_u32;
        for _ in 0..count {
            position = position.wrapping_add(reader.varint_u32()?);
            positions.push(position);
        }
        if reader.is_empty() { Ok((doc, tf, positions)) } else { Err("single posting: bytes left over") }
    };
    read().map_err(|reason| source.corrupt(list.at, reason))
}
