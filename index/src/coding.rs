//! Varints, bit packing and a reader that never reads past the end.
//!
//! ```text
//! varint     7 bits per byte, low bits first, the high bit says "more follows"; at most 10 bytes
//! packed     value i stands at bits [i·width, (i+1)·width), little endian, zero padded to a byte
//! bit array  │ width: u8 │ count: varint │ packed values │ 8 zero bytes (only when width > 0) │
//! ```
//! The padding of a bit array lets any value be fetched with one eight-byte load. Widths of 57 to 63 are rounded up
//! to 64 for the same reason. Decoders answer `Err(reason)`; whoever knows the file turns it into `Error::Corrupt`.

use bitpacking::{BitPacker, BitPacker4x};

/// Values per full block: what `BitPacker4x` packs at once.
pub(crate) const BLOCK: usize = 128;

/// A decoder's answer: the value, or what did not fit.
pub(crate) type Decoded<T> = Result<T, &'static str>;

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads forward through bytes it does not trust.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or("length overflows")?;
        let slice = self.bytes.get(self.at..end).ok_or("too short")?;
        self.at = end;
        Ok(slice)
    }

    pub(crate) fn u8(&mut self) -> Decoded<u8> {
        let byte = *self.bytes.get(self.at).ok_or("too short")?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Decoded<u16> {
        Ok(u16::from_le_bytes(self.bytes(2)?.try_into().map_err(|_| "too short")?))
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.bytes(4)?.try_into().map_err(|_| "too short")?))
    }

    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().map_err(|_| "too short")?))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Decoded<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err("varint too long");
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("varint too long")
    }

    pub(crate) fn varint_u32(&mut self) -> Decoded<u32> {
        u32::try_from(self.varint()?).map_err(|_| "number too large")
    }

    pub(crate) fn varint_usize(&mut self) -> Decoded<usize> {
        usize::try_from(self.varint()?).map_err(|_| "number too large")
    }
}

/// Bits needed for `value`.
pub(crate) fn width_of(value: u64) -> u8 {
    (64 - value.leading_zeros()) as u8
}

/// Bytes that `count` values of `width` bits take, packed.
pub(crate) fn packed_len(count: usize, width: u8) -> usize {
    (count * usize::from(width)).div_ceil(8)
}

/// Appends up to 127 values of `width` bits; a full block goes through SIMD instead.
pub(crate) fn pack_u32(values: &[u32], width: u8, out: &mut Vec<u8>) {
    if values.len() == BLOCK {
        let start = out.len();
        out.resize(start + packed_len(BLOCK, width), 0);
        let block: &[u32; BLOCK] = values.try_into().expect("length was checked");
        BitPacker4x::new().compress(block, &mut out[start..], width);
        return;
    }
    let mut pending = 0_u64;
    let mut bits = 0_u32;
    for &value in values {
        pending |= u64::from(value) << bits;
        bits += u32::from(width);
        while bits >= 8 {
            out.push(pending as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(pending as u8);
    }
}

/// Fills `out` (at most 128 values) from what [`pack_u32`] wrote.
pub(crate) fn unpack_u32(bytes: &[u8], width: u8, out: &mut [u32]) -> Decoded<()> {
    if width > 32 || bytes.len() < packed_len(out.len(), width) {
        return Err("packed block too short or too wide");
    }
    if width == 0 {
        out.fill(0);
        return Ok(());
    }
    if out.len() == BLOCK {
        BitPacker4x::new().decompress(&bytes[..packed_len(BLOCK, width)], out, width);
        return Ok(());
    }
    let mask = (1_u64 << width) - 1;
    let mut pending = 0_u64;
    let mut bits = 0_u32;
    let mut next = bytes.iter();
    for value in out {
        while bits < u32::from(width) {
            pending |= u64::from(*next.next().ok_or("packed block too short")?) << bits;
            bits += 8;
        }
        *value = (pending & mask) as u32;
        pending >>= width;
        bits -= u32::from(width);
    }
    Ok(())
}

/// Appends a bit array of `values`, none above `max`.
pub(crate) fn put_bit_array(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = u64>, max: u64) {
    let width = match width_of(max) {
        57..=64 => 64,
        width => width,
    };
    out.push(width);
    put_varint(out, values.len() as u64);
    if width == 0 {
        return;
    }
    let mut pending = 0_u128;
    let mut bits = 0_u32;
    for value in values {
        pending |= u128::from(value) << bits;
        bits += u32::from(width);
        while bits >= 8 {
            out.push(pending as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(pending as u8);
    }
    out.extend_from_slice(&[0; 8]);
}

/// A bit array in place: any value in one load.
#[derive(Clone, Copy)]
pub(crate) struct BitArray<'a> {
    bytes: &'a [u8],
    width: u8,
    mask: u64,
    len: usize,
}

impl<'a> BitArray<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Decoded<BitArray<'a>> {
        let width = reader.u8()?;
        if width > 56 && width != 64 {
            return Err("bit array of impossible width");
        }
        let len = reader.varint_usize()?;
        let bits = len.checked_mul(usize::from(width)).ok_or("length overflows")?;
        let bytes = if width == 0 { &[][..] } else { reader.bytes(bits.div_ceil(8).saturating_add(8))? };
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        Ok(BitArray { bytes, width, mask, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Value `index`; 0 past the end.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> u64 {
        let bit = index * usize::from(self.width);
        match self.bytes.get(bit / 8..bit / 8 + 8) {
            Some(word) => {
                let word = u64::from_le_bytes(word.try_into().expect("eight bytes were taken"));
                (word >> (bit % 8)) & self.mask
            }
            None => 0,
        }
    }
}

/// The 16 first bytes of a key as one number: compares like the key, as far as it goes.
pub(crate) fn prefix(key: &[u8]) -> u128 {
    let mut first = [0; 16];
    let count = key.len().min(16);
    first[..count].copy_from_slice(&key[..count]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_values_come_back(values in prop::collection::vec(any::<u32>(), 0..=128), shift in 0_u32..32) {
            let values: Vec<u32> = values.into_iter().map(|value| value >> shift).collect();
            let width = width_of(u64::from(values.iter().copied().max().unwrap_or(0)));
            let mut bytes = Vec::new();
            pack_u32(&values, width, &mut bytes);
            prop_assert_eq!(bytes.len(), packed_len(values.len(), width));
            let mut back = vec![7; values.len()];
            unpack_u32(&bytes, width, &mut back).unwrap();
            prop_assert_eq!(back, values);
        }

        #[test]
        fn bit_arrays_give_every_value(values in prop::collection::vec(any::<u64>(), 0..300), shift in 0_u32..64) {
            let values: Vec<u64> = values.into_iter().map(|value| value >> shift).collect();
            let mut bytes = Vec::new();
            put_bit_array(&mut bytes, values.iter().copied(), values.iter().copied().max().unwrap_or(0));
            let mut reader = Reader::new(&bytes);
            let array = BitArray::read(&mut reader).unwrap();
            prop_assert!(reader.is_empty());
            prop_assert_eq!((0..array.len()).map(|i| array.get(i)).collect::<Vec<_>>(), values);
        }

        #[test]
        fn varints_come_back_and_garbage_is_refused(value: u64, garbage in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(Reader::new(&bytes).varint(), Ok(value));
            let _ = Reader::new(&garbage).varint();
            let _ = BitArray::read(&mut Reader::new(&garbage)).map(|array| array.get(array.len()));
        }
    }
}
