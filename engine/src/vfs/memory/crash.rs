//! The power is cut: what is left of a file system in memory.

use super::{Memory, NameChange, Pending, SECTOR_BYTES, write_into};

/// What a power cut leaves of unsynced bytes and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing unsynced survives.
    DropPending,
    /// Everything survives, as when only the process died.
    KeepAll,
    /// The first so-many operations survive, in the order they were issued.
    Prefix,
    /// Each sector and each name survives or not by itself.
    RandomSectors,
    /// Lengths survive, unsynced bytes read as zeros.
    LengthWithZeros,
    /// Lengths survive, unsynced bytes read as garbage.
    LengthWithGarbage,
    /// Names survive, bytes do not: a rename is seen whose content is not there.
    NamesWithoutBytes,
    /// The newest unsynced write stops in the middle of a sector.
    TornSector,
}

impl Crash {
    /// Every model.
    pub const ALL: [Crash; 8] = [
        Crash::DropPending,
        Crash::KeepAll,
        Crash::Prefix,
        Crash::RandomSectors,
        Crash::LengthWithZeros,
        Crash::LengthWithGarbage,
        Crash::NamesWithoutBytes,
        Crash::TornSector,
    ];
}

/// A small generator (xorshift64*, Vigna 2016): the crash models need choices that a seed repeats, not quality.
fn next_random(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

impl Memory {
    /// Cuts the power and restores it: what was not synced is lost as `model` says, open files and locks are dead, and
    /// planned faults are forgotten.
    pub fn crash(&self, model: Crash, seed: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let cut = match model {
            Crash::Prefix => next_random(&mut seed) % (state.issues + 1),
            _ => u64::MAX,
        };
        let mut names = std::mem::take(&mut state.durable_names);
        for change in state.changes.drain(..) {
            let (NameChange::Set { issue, .. } | NameChange::Remove { issue, .. }) = &change;
            let kept = match model {
                Crash::DropPending => false,
                Crash::Prefix => *issue <= cut,
                Crash::RandomSectors => next_random(&mut seed) & 1 == 0,
                _ => true,
            };
            match change {
                NameChange::Set { path, inode, .. } if kept => {
                    names.insert(path, inode);
                }
                NameChange::Remove { path, .. } if kept => {
                    names.remove(&path);
                }
                _ => {}
            }
        }
        let newest = state
            .inodes
            .values()
            .flat_map(|inode| &inode.pending)
            .filter_map(|p| if let Pending::Write { issue, .. } = p { Some(*issue) } else { None })
            .max();
        for inode in state.inodes.values_mut() {
            let mut bytes = std::mem::take(&mut inode.durable);
            let durable_len = bytes.len();
            for pending in inode.pending.drain(..) {
                match pending {
                    Pending::Length { issue, len } => match model {
                        Crash::DropPending | Crash::NamesWithoutBytes => {}
                        Crash::Prefix if issue > cut => {}
                        Crash::RandomSectors if next_random(&mut seed) & 1 == 0 => {}
                        _ => bytes.resize(len, 0),
                    },
                    Pending::Write { issue, offset, bytes: data } => match model {
                        Crash::DropPending | Crash::NamesWithoutBytes => {}
                        Crash::KeepAll => write_into(&mut bytes, offset, &data),
                        Crash::Prefix if issue <= cut => write_into(&mut bytes, offset, &data),
                        Crash::Prefix => {}
                        Crash::RandomSectors => {
                            let mut at = offset;
                            while at < offset + data.len() {
                                let end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(offset + data.len());
                                if next_random(&mut seed) & 1 == 0 {
                                    write_into(&mut bytes, at, &data[at - offset..end - offset]);
                                }
                                at = end;
                            }
                        }
                        Crash::LengthWithZeros | Crash::LengthWithGarbage => {
                            let end = offset + data.len();
                            if bytes.len() < end {
                                bytes.resize(end, 0);
                            }
                            if model == Crash::LengthWithGarbage && end > durable_len {
                                for byte in &mut bytes[offset.max(durable_len)..end] {
                                    *byte = next_random(&mut seed) as u8;
                                }
                            }
                        }
                        Crash::TornSector if Some(issue) == newest => {
                            let torn = next_random(&mut seed) as usize % (data.len() + 1);
                            write_into(&mut bytes, offset, &data[..torn]);
                        }
                        Crash::TornSector => write_into(&mut bytes, offset, &data),
                    },
                }
            }
            inode.current = bytes.clone();
            inode.durable = bytes;
        }
        state.names = names.clone();
        state.durable_names = names;
        state.locks.clear();
        state.faults.clear();
        state.power_off_at = None;
        state.generation += 1;
        state.forget_unnamed();
    }
}
