//! Key-values: what can be done to them, and how a log carries it. A key is any bytes, in a space, which is there as soon as
//! something is in it.
//!
//! ```text
//! │ 1 │ space: slice │ key: slice │ condition │ until │ returns: u8 │ value: slice │         put
//! │ 2 │ space │ key │ condition │ returns: u8 │                                             delete
//! │ 3 │ space │ start: slice │ ends: u8 │ end: slice │                                      delete range; no end if `ends` is 0
//! │ 4 │ lease: varint │ ttl: varint │                                                       grant a lease
//! │ 5 │ lease │                              keep alive      │ 6 │ lease │                  revoke
//! │ 7 │ count: varint │ { expires: varint │ 1 │ space │ key │ or │ 2 │ lease │ } … │         expire
//! until:    │ 0 │ deleted   │ 1 │ ttl: varint │   │ 2 │ lease: varint │
//!
//! outcome:  │ 1 │ existed: u8 │ previous │             put      │ 2 │ count: varint │ previous │      deleted
//!           │ 3 │ lease: varint │ ttl: varint │       a lease  │ 4 │ keys: varint │ leases: varint │ expired
//! previous: │ 0 │ or │ 1 │ version: varint │ value: slice │
//! ```
//!
//! What expires does so by the log's own time, which is that of its entries: at one sequence number it is gone on every
//! replica. From the moment on nobody reads it; an [`KeyWrite::Expire`] of whoever keeps the log takes its room.

use lumen_engine::coding::{Decoder, put_slice, put_varint};
use lumen_engine::inspect::printable;

use crate::catalog::check_space;
use crate::codec::{put_condition, read_condition};
use crate::error::Rejection;
use crate::write::Condition;

/// Bytes of a key at most, unless [`Options`](crate::Options) say otherwise: 8 KiB.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// Bytes of a value at most, unless [`Options`](crate::Options) say otherwise: 16 MiB.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// A lease and a time to live are at most this long: a hundred years.
const TTL_MS_MAX: u64 = 100 * 365 * 86_400_000;

/// One change of key-values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyWrite {
    /// Creates or replaces a key-value.
    Put {
        /// Where.
        space: String,
        /// 1 byte to 8 KiB.
        key: Vec<u8>,
        /// Up to 16 MiB.
        value: Vec<u8>,
        /// When to refuse.
        condition: Condition,
        /// How long it is kept.
        until: Until,
        /// Whether the outcome is to say what it replaced.
        returns: bool,
    },
    /// Removes a key-value; one that is not there is fine.
    Delete {
        /// Where.
        space: String,
        /// Which.
        key: Vec<u8>,
        /// When to refuse.
        condition: Condition,
        /// Whether the outcome is to say what it removed.
        returns: bool,
    },
    /// Removes all key-values of a range of keys.
    DeleteRange {
        /// Where.
        space: String,
        /// The first key.
        start: Vec<u8>,
        /// The first key after the range; none: to the end of the space.
        end: Option<Vec<u8>>,
    },
    /// Makes a lease: keys that are put with it are kept as long as it is kept alive.
    Grant {
        /// Its number; 0: the sequence number of this write.
        lease: u64,
        /// How long it lasts without being kept alive, in milliseconds.
        ttl: u64,
    },
    /// Has a lease last for its time again, from now on.
    KeepAlive {
        /// Which.
        lease: u64,
    },
    /// Ends a lease and removes all it keeps.
    Revoke {
        /// Which.
        lease: u64,
    },
    /// Removes what has expired. For who keeps the log, see [`Database::due`](crate::Database::due).
    Expire {
        /// What, and when it expired.
        due: Vec<Due>,
    },
}

/// How long a key-value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// Until it is deleted.
    #[default]
    Deleted,
    /// So many milliseconds.
    Ttl(u64),
    /// As long as this lease.
    Lease(u64),
}

/// Something that has expired, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When, by the log's time in milliseconds since 1970.
    pub expires: u64,
    /// What.
    pub what: DueWhat,
}

/// What expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DueWhat {
    /// A key-value.
    Key {
        /// Where.
        space: String,
        /// Which.
        key: Vec<u8>,
    },
    /// A lease, with all it keeps.
    Lease(u64),
}

/// What a change of key-values did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// It is there.
    Put {
        /// Whether there was one before.
        existed: bool,
        /// What it replaced, if that was asked for.
        previous: Option<Previous>,
    },
    /// It is not there, or they are not.
    Deleted {
        /// How many were there before.
        count: u64,
        /// What was removed, if that was asked for.
        previous: Option<Previous>,
    },
    /// The lease lasts so long from now on.
    Lease {
        /// Its number.
        lease: u64,
        /// Milliseconds.
        ttl: u64,
    },
    /// So much had expired, and is removed.
    Expired {
        /// Key-values, those of leases among them.
        keys: u64,
        /// Leases.
        leases: u64,
    },
}

/// A key-value as it was before a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// The sequence number that wrote it.
    pub version: u64,
    /// Its value.
    pub value: Vec<u8>,
}

/// Bytes that keys and values may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyLimits {
    pub key: usize,
    pub value: usize,
}

impl KeyLimits {
    /// None but what the engine has.
    pub(crate) const NONE: KeyLimits = KeyLimits { key: usize::MAX, value: usize::MAX };
}

impl KeyWrite {
    /// Checks what can be checked without what is there.
    pub(crate) fn check(&self, limits: &KeyLimits) -> Result<(), Rejection> {
        let check_key = |key: &[u8]| match key.len() {
            0 => Err(Rejection::InvalidName { reason: "a key has at least one byte".into() }),
            size if size > limits.key => Err(too_large("the key", limits.key, size)),
            _ => Ok(()),
        };
        let check_ttl = |ttl: u64| match ttl {
            1..=TTL_MS_MAX => Ok(()),
            _ => Err(Rejection::Validation {
                reason: format!("a time to live is 1 ms to 100 years; {ttl} ms is not"),
                field: None,
            }),
        };
        match self {
            KeyWrite::Put { space, key, value, until, .. } => {
                check_space(space)?;
                check_key(key)?;
                if value.len() > limits.value {
                    return Err(too_large("the value", limits.value, value.len()));
                }
                if let Until::Ttl(ttl) = until { check_ttl(*ttl) } else { Ok(()) }
            }
            KeyWrite::Delete { space, key, .. } => {
                check_space(space)?;
                check_key(key)
            }
            KeyWrite::DeleteRange { space, .. } => check_space(space),
            KeyWrite::Grant { ttl, .. } => check_ttl(*ttl),
            KeyWrite::KeepAlive { .. } | KeyWrite::Revoke { .. } | KeyWrite::Expire { .. } => Ok(()),
        }
    }

    /// In words, for people.
    pub(crate) fn describe(&self) -> String {
        let shown = |space: &str, key: &[u8]| format!("{space}/{}", printable(key));
        match self {
            KeyWrite::Put { space, key, value, .. } => {
                format!("put key {} {} bytes", shown(space, key), value.len())
            }
            KeyWrite::Delete { space, key, .. } => format!("delete key {}", shown(space, key)),
            KeyWrite::DeleteRange { space, start, end } => {
                let end = end.as_deref().map_or_else(|| "the end".into(), printable);
                format!("delete keys from {} to {end}", shown(space, start))
            }
            KeyWrite::Grant { lease, ttl } => format!("grant lease {lease} of {ttl} ms"),
            KeyWrite::KeepAlive { lease } => format!("keep lease {lease} alive"),
            KeyWrite::Revoke { lease } => format!("revoke lease {lease}"),
            KeyWrite::Expire { due } => format!("expire {}", due.len()),
        }
    }

    /// Appends its encoding.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            KeyWrite::Put { space, key, value, condition, until, returns } => {
                out.push(1);
                put_slice(out, space.as_bytes());
                put_slice(out, key);
                put_condition(out, *condition);
                match until {
                    Until::Deleted => out.push(0),
                    Until::Ttl(ttl) => {
                        out.push(1);
                        put_varint(out, *ttl);
                    }
                    Until::Lease(lease) => {
                        out.push(2);
                        put_varint(out, *lease);
                    }
                }
                out.push(u8::from(*returns));
                put_slice(out, value);
            }
            KeyWrite::Delete { space, key, condition, returns } => {
                out.push(2);
                put_slice(out, space.as_bytes());
                put_slice(out, key);
                put_condition(out, *condition);
                out.push(u8::from(*returns));
            }
            KeyWrite::DeleteRange { space, start, end } => {
                out.push(3);
                put_slice(out, space.as_bytes());
                put_slice(out, start);
                out.push(u8::from(end.is_some()));
                put_slice(out, end.as_deref().unwrap_or_default());
            }
            KeyWrite::Grant { lease, ttl } => {
                out.push(4);
                put_varint(out, *lease);
                put_varint(out, *ttl);
            }
            KeyWrite::KeepAlive { lease } => {
                out.push(5);
                put_varint(out, *lease);
            }
            KeyWrite::Revoke { lease } => {
                out.push(6);
                put_varint(out, *lease);
            }
            KeyWrite::Expire { due } => {
                out.push(7);
                put_varint(out, due.len() as u64);
                for Due { expires, what } in due {
                    put_varint(out, *expires);
                    match what {
                        DueWhat::Key { space, key } => {
                            out.push(1);
                            put_slice(out, space.as_bytes());
                            put_slice(out, key);
                        }
                        DueWhat::Lease(lease) => {
                            out.push(2);
                            put_varint(out, *lease);
                        }
                    }
                }
            }
        }
    }

    /// Reads it from where the decoder is.
    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<KeyWrite> {
        Some(match decoder.u8()? {
            1 => KeyWrite::Put {
                space: decoder.text()?.into(),
                key: decoder.slice()?.to_vec(),
                condition: read_condition(decoder)?,
                until: match decoder.u8()? {
                    0 => Until::Deleted,
                    1 => Until::Ttl(decoder.varint()?),
                    2 => Until::Lease(decoder.varint()?),
                    _ => return None,
                },
                returns: decoder.flag()?,
                value: decoder.slice()?.to_vec(),
            },
            2 => KeyWrite::Delete {
                space: decoder.text()?.into(),
                key: decoder.slice()?.to_vec(),
                condition: read_condition(decoder)?,
                returns: decoder.flag()?,
            },
            3 => {
                let (space, start) = (decoder.text()?.into(), decoder.slice()?.to_vec());
                let (ends, end) = (decoder.flag()?, decoder.slice()?);
                if !ends && !end.is_empty() {
                    return None;
                }
                KeyWrite::DeleteRange { space, start, end: ends.then(|| end.to_vec()) }
            }
            4 => KeyWrite::Grant { lease: decoder.varint()?, ttl: decoder.varint()? },
            5 => KeyWrite::KeepAlive { lease: decoder.varint()? },
            6 => KeyWrite::Revoke { lease: decoder.varint()? },
            7 => {
                let count = decoder.length()?;
                let mut due = Vec::with_capacity(count.min(decoder.remaining() / 3));
                for _ in 0..count {
                    let expires = decoder.varint()?;
                    let what = match decoder.u8()? {
                        1 => DueWhat::Key { space: decoder.text()?.into(), key: decoder.slice()?.to_vec() },
                        2 => DueWhat::Lease(decoder.varint()?),
                        _ => return None,
                    };
                    due.push(Due { expires, what });
                }
                KeyWrite::Expire { due }
            }
            _ => return None,
        })
    }
}

impl KeyOutcome {
    /// Appends its encoding.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        fn put_previous(out: &mut Vec<u8>, previous: Option<&Previous>) {
            out.push(u8::from(previous.is_some()));
            if let Some(Previous { version, value }) = previous {
                put_varint(out, *version);
                put_slice(out, value);
            }
        }
        match self {
            KeyOutcome::Put { existed, previous } => {
                out.extend([1, u8::from(*existed)]);
                put_previous(out, previous.as_ref());
            }
            KeyOutcome::Deleted { count, previous } => {
                out.push(2);
                put_varint(out, *count);
                put_previous(out, previous.as_ref());
            }
            KeyOutcome::Lease { lease, ttl } => {
                out.push(3);
                put_varint(out, *lease);
                put_varint(out, *ttl);
            }
            KeyOutcome::Expired { keys, leases } => {
                out.push(4);
                put_varint(out, *keys);
                put_varint(out, *leases);
            }
        }
    }

    /// Reads it from where the decoder is.
    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<KeyOutcome> {
        fn previous(decoder: &mut Decoder<'_>) -> Option<Option<Previous>> {
            Some(match decoder.flag()? {
                true => Some(Previous { version: decoder.varint()?, value: decoder.slice()?.to_vec() }),
                false => None,
            })
        }
        Some(match decoder.u8()? {
            1 => KeyOutcome::Put { existed: decoder.flag()?, previous: previous(decoder)? },
            2 => KeyOutcome::Deleted { count: decoder.varint()?, previous: previous(decoder)? },
            3 => KeyOutcome::Lease { lease: decoder.varint()?, ttl: decoder.varint()? },
            4 => KeyOutcome::Expired { keys: decoder.varint()?, leases: decoder.varint()? },
            _ => return None,
        })
    }
}

fn too_large(what: &str, limit: usize, size: usize) -> Rejection {
    Rejection::TooLarge { what: what.into(), limit: limit as u64, size: size as u64 }
}
