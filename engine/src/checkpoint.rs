//! A consistent copy of a store beside it, by hard links: it takes no time and no room until the store moves on.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::key::Seq;
use crate::log::sync_failed;
use crate::state::Shared;
use crate::version::Version;
use crate::version::manifest;
use crate::vfs::{Mode, Vfs};

/// Bytes copied at once where the file system cannot link.
const COPY_BYTES: usize = 1 << 20;

/// Makes `dir`, which is empty or not there, a store of its own with all tables, blob files and attachments of `version`.
/// The manifest comes last: without it the folder does not open. `step` is called with each file's name and bytes, and may
/// stop it by answering false: then nothing can be opened in `dir`.
pub(crate) fn write(
    shared: &Shared,
    version: &Version,
    dir: &Path,
    step: &mut dyn FnMut(&str, u64) -> bool,
) -> Result<Option<Seq>> {
    let vfs = &*shared.options.vfs;
    vfs.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
    let there = vfs.list(dir).map_err(|e| Error::io("list", dir, e))?;
    if !there.is_empty() {
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is in it already", there[0]));
        return Err(Error::io("write a checkpoint to", dir, taken));
    }
    for (name, len) in version.files() {
        if !step(&name, len) {
            return Ok(None);
        }
        link_or_copy(vfs, &shared.dir.join(&name), &dir.join(&name))?;
    }
    vfs.sync_dir(dir).map_err(|e| sync_failed(dir, &e.0))?;
    manifest::write_alone(dir, &shared.options, &version.without_progress(), shared.peek_next_file())?;
    Ok(Some(version.durable_seq))
}

/// Gives a finished file a further name, or copies it to another device.
pub(crate) fn link_or_copy(vfs: &dyn Vfs, from: &Path, to: &Path) -> Result<()> {
    match vfs.link(from, to) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
            copy(vfs, from, to)
        }
        linked => linked.map_err(|e| Error::io("link", from, e)),
    }
}

fn copy(vfs: &dyn Vfs, from: &Path, to: &Path) -> Result<()> {
    let source = vfs.open(from, Mode::Read).map_err(|e| Error::io("open", from, e))?;
    let len = source.len().map_err(|e| Error::io("measure", from, e))?;
    let target = vfs.open(to, Mode::Create).map_err(|e| Error::io("create", to, e))?;
    let mut bytes = vec![0; COPY_BYTES.min(len as usize)];
    let mut at = 0;
    while at < len {
        let part = &mut bytes[..COPY_BYTES.min((len - at) as usize)];
        source.read_at(part, at).map_err(|e| Error::io("read", from, e))?;
        target.write_at(part, at).map_err(|e| Error::io("write", to, e))?;
        at += part.len() as u64;
    }
    target.sync().map_err(|e| sync_failed(to, &e.0))
}
