//! Files of others (index segments) that are frozen, flushed, installed and removed together with our tables.
//!
//! An owner writes an attachment through [`AttachmentWriter`], and an [`AttachmentEdit`] names it in the manifest: in the
//! same record as the table of a flush (through [`Frozen`]), or in a record of its own (a merge). A file that no record
//! names is removed at the next opening. The engine knows nothing of what is inside.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use crate::coding::{Decoder, put_slice, put_varint};
use crate::error::{Error, Result};
use crate::log::sync_failed;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::vfs::{Bytes, File, Vfs};

/// What the manifest keeps about an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentMeta {
    /// The file's number; the file is `<number>.att`.
    pub number: u64,
    /// What it is; the owner's choice.
    pub kind: u8,
    /// Bytes of the file.
    pub len: u64,
    /// XXH3-128 of the whole file, by which two stores know that they have the same file. A CRC would not do: of what ends
    /// with its own CRC, as owners' files do, it is the same for all contents of a length.
    pub hash: u128,
    /// The owner's note.
    pub note: Vec<u8>,
}

impl AttachmentMeta {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.number);
        out.push(self.kind);
        put_varint(out, self.len);
        out.extend_from_slice(&self.hash.to_le_bytes());
        put_slice(out, &self.note);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<AttachmentMeta> {
        Some(AttachmentMeta {
            number: decoder.varint()?,
            kind: decoder.u8()?,
            len: decoder.varint()?,
            hash: u128::from(decoder.u64()?) | u128::from(decoder.u64()?) << 64,
            note: decoder.slice()?.to_vec(),
        })
    }
}

/// Changes to the attachments, made by one manifest record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachmentEdit {
    /// Files that come.
    pub attach: Vec<AttachmentMeta>,
    /// Numbers of files that go; removed when their last reader lets go.
    pub detach: Vec<u64>,
    /// The owner's state as of the durable seq, replacing the one before.
    pub state: Option<Vec<u8>>,
}

/// The owner's part of a frozen memory: made at the cut, written by the flush that follows.
pub trait Frozen: Send {
    /// Writes the files. Nothing is installed yet. After an error none is left, and it may be called again: a full disk is
    /// waited out.
    fn write(&mut self, files: &Attachments) -> Result<AttachmentEdit>;
    /// The record that names the files is durable.
    fn installed(self: Box<Self>, files: &Attachments) -> Result<()>;
}

/// A live attachment; its file is removed with the last reader once it is detached.
pub(crate) struct Attachment {
    pub(crate) meta: AttachmentMeta,
    path: PathBuf,
    vfs: Arc<dyn Vfs>,
    obsolete: AtomicBool,
}

impl Attachment {
    pub(crate) fn new(meta: AttachmentMeta, path: PathBuf, vfs: Arc<dyn Vfs>) -> Attachment {
        Attachment { meta, path, vfs, obsolete: AtomicBool::new(false) }
    }

    pub(crate) fn make_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The bytes, mapped; the length is checked, the contents are not.
    fn map(&self) -> Result<Bytes> {
        let name = name(self.meta.number);
        let bytes = self.vfs.map(&self.path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::corrupt(&name, 0, "the file is missing, but the manifest names it")
            }
            _ => Error::io("map", &self.path, e),
        })?;
        let (len, expected) = ((*bytes).as_ref().len() as u64, self.meta.len);
        if len != expected {
            let reason = format!("the file has {len} bytes, the manifest says {expected}");
            return Err(Error::corrupt(name, len, reason));
        }
        Ok(bytes)
    }

    /// Reads all of it.
    pub(crate) fn verify(&self) -> Result<()> {
        if XxHash3_128::oneshot((*self.map()?).as_ref()) != self.meta.hash {
            let name = name(self.meta.number);
            return Err(Error::corrupt(name, 0, "the checksum of the file is not the manifest's"));
        }
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            let _ = self.vfs.remove(&self.path); // should this fail, the next opening removes it
        }
    }
}

/// Mapped bytes that keep their attachment from being removed.
struct Mapped {
    bytes: Bytes,
    _attachment: Arc<Attachment>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

/// Reads and creates attachments of one engine.
#[derive(Clone)]
pub struct Attachments {
    pub(crate) shared: Arc<crate::state::Shared>,
}

impl Attachments {
    /// Creates a file; it becomes an attachment once an edit names it.
    pub fn create(&self) -> Result<AttachmentWriter> {
        let number = self.shared.next_file();
        let path = self.shared.attachment_path(number);
        let file = self
            .shared
            .options
            .vfs
            .open(&path, crate::vfs::Mode::Create)
            .map_err(|e| Error::io("create", &path, e))?;
        let vfs = self.shared.options.vfs.clone();
        let hasher = XxHash3_128::new();
        Ok(AttachmentWriter { file, path, number, len: 0, hasher, vfs, finished: false })
    }

    /// What is attached now.
    pub fn list(&self) -> Vec<AttachmentMeta> {
        let view = self.shared.view.load();
        view.version.attachments.values().map(|attachment| attachment.meta.clone()).collect()
    }

    /// The bytes of an attachment, mapped. The length is checked here, the contents by whoever reads them.
    pub fn map(&self, number: u64) -> Result<Bytes> {
        let view = self.shared.view.load();
        let Some(attachment) = view.version.attachments.get(&number) else {
            return Err(Error::corrupt(name(number), 0, "no such attachment in the manifest"));
        };
        Ok(Arc::new(Mapped { bytes: attachment.map()?, _attachment: attachment.clone() }))
    }

    /// The bytes of a file that was finished and is not attached yet.
    pub fn map_new(&self, meta: &AttachmentMeta) -> Result<Bytes> {
        let path = self.shared.attachment_path(meta.number);
        self.shared.options.vfs.map(&path).map_err(|e| Error::io("map", &path, e))
    }

    /// Installs changes by one manifest record; returns when it is durable.
    pub fn install(&self, edit: AttachmentEdit) -> Result<()> {
        self.shared.commit(crate::version::edit::Edit { attachments: edit, ..Default::default() })
    }

    /// Removes a file that was created and will not be named.
    pub fn discard(&self, number: u64) {
        let _ = self.shared.options.vfs.remove(&self.shared.attachment_path(number)); // or the next opening does
    }
}

/// Writes one attachment from front to back. Dropped unfinished, it takes its file away.
pub struct AttachmentWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    number: u64,
    len: u64,
    hasher: XxHash3_128,
    vfs: Arc<dyn Vfs>,
    finished: bool,
}

impl Drop for AttachmentWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.vfs.remove(&self.path); // or the next opening does
        }
    }
}

impl AttachmentWriter {
    /// The number that the file will have.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Makes the bytes durable. The name becomes durable with the record that names it.
    pub fn finish(mut self, kind: u8, note: Vec<u8>) -> Result<AttachmentMeta> {
        self.file.sync().map_err(|e| sync_failed(&self.path, &e.0))?;
        self.finished = true;
        let hash = self.hasher.finish_128();
        Ok(AttachmentMeta { number: self.number, kind, len: self.len, hash, note })
    }
}

impl io::Write for AttachmentWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.len)?;
        self.hasher.write(bytes);
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an attachment's file is called.
pub(crate) fn name(number: u64) -> String {
    format!("{number:010}.att")
}

/// Live attachments by number.
pub(crate) type AttachmentMap = BTreeMap<u64, Arc<Attachment>>;
