//! A store as a set of immutable files that can be sent elsewhere and installed there by one manifest edit.
//!
//! Who sends holds a [`FileSet`]: the files it names stay as long as it is held. Who receives asks
//! [`missing`](crate::Engine::missing) which of them are not there yet (files are the same when uid or hash, and length,
//! are), puts those into a folder under the names they had, and calls [`install`](crate::Engine::install). Everything that
//! was in the receiver's store is replaced. Files get new numbers there; their order stays, so that whatever compares
//! numbers still holds.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::attachment::AttachmentMeta;
use crate::blob::BlobMeta;
use crate::checkpoint::link_or_copy;
use crate::error::{Error, Result};
use crate::install::How;
use crate::key::{Entry, Seq};
use crate::log::sync_failed;
use crate::output::read_blob;
use crate::range_delete::WAITING;
use crate::state::Shared;
use crate::table::properties::TableMeta;
use crate::version::Version;
use crate::version::edit::Edit;
use crate::version::manifest;
use crate::vfs::Mode;

/// The files of a moment, held.
pub struct FileSet {
    shared: Arc<Shared>,
    version: Arc<Version>,
}

/// One file of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFile {
    /// Its name in the store that it comes from.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

impl FileSet {
    pub(crate) fn new(shared: &Arc<Shared>) -> FileSet {
        FileSet { shared: shared.clone(), version: shared.view.load().version.clone() }
    }

    /// Everything up to here is in it.
    pub fn seq(&self) -> Seq {
        self.version.durable_seq
    }

    /// What the receiver has to know: an edit from nothing, encoded.
    pub fn manifest(&self) -> Vec<u8> {
        manifest::whole(&self.version.without_progress(), self.shared.peek_next_file(), None).encode()
    }

    /// All files.
    pub fn files(&self) -> Vec<SetFile> {
        self.version.files().into_iter().map(|(name, len)| SetFile { name, len }).collect()
    }

    /// Fills `buffer` from `offset` of a file of the set.
    pub fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let path = self.shared.dir.join(name);
        if !self.version.files().iter().any(|(file, _)| file == name) {
            return Err(Error::corrupt(name, 0, "there is no such file in the set"));
        }
        let file =
            self.shared.options.vfs.open(&path, Mode::Read).map_err(|e| Error::io("open", &path, e))?;
        file.read_at(buffer, offset).map_err(|e| Error::io("read", &path, e))
    }
}

fn decode(manifest: &[u8]) -> Result<Edit> {
    Edit::decode(manifest).ok_or_else(|| Error::corrupt("the manifest of a file set", 0, "malformed edit"))
}

/// The state of the owner of attachments in a set, by its manifest; empty if it has none.
pub fn state_of(manifest: &[u8]) -> Result<Vec<u8>> {
    Ok(decode(manifest)?.attachments.state.unwrap_or_default())
}

fn same_table(a: &TableMeta, b: &TableMeta) -> bool {
    (a.stated.uid, a.len) == (b.stated.uid, b.len)
}

fn same_blobs(a: &BlobMeta, b: &BlobMeta) -> bool {
    (a.uid, a.len) == (b.uid, b.len)
}

fn same_attachment(a: &AttachmentMeta, b: &AttachmentMeta) -> bool {
    (a.kind, a.len, a.hash) == (b.kind, b.len, b.hash)
}

/// The name that a file of a set has here, if it is here and was not found damaged.
struct Here {
    version: Arc<Version>,
    distrusted: HashSet<String>,
}

impl Here {
    fn of(shared: &Shared) -> Here {
        let version = shared.view.load().version.clone();
        Here { version, distrusted: shared.distrusted.lock().clone() }
    }

    fn trusted(&self, name: String) -> Option<String> {
        (!self.distrusted.contains(&name)).then_some(name)
    }

    fn table(&self, meta: &TableMeta) -> Option<String> {
        let mut tables = self.version.slots.iter().flatten();
        self.trusted(tables.find(|table| same_table(&table.meta, meta))?.name())
    }

    fn blobs(&self, meta: &BlobMeta) -> Option<String> {
        let found = self.version.blobs.get(&meta.uid).filter(|blob| same_blobs(&blob.meta, meta))?;
        self.trusted(crate::blob::name(found.meta.number))
    }

    fn attachment(&self, meta: &AttachmentMeta) -> Option<String> {
        let mut attachments = self.version.attachments.values();
        let found = attachments.find(|attachment| same_attachment(&attachment.meta, meta))?;
        self.trusted(crate::attachment::name(found.meta.number))
    }
}

/// Which files of the set are not here.
pub(crate) fn missing(shared: &Shared, manifest: &[u8]) -> Result<Vec<SetFile>> {
    let (edit, here) = (decode(manifest)?, Here::of(shared));
    let mut missing = Vec::new();
    for (_, meta) in edit.add.iter().filter(|(_, meta)| here.table(meta).is_none()) {
        missing.push(SetFile { name: crate::table::name(meta.number), len: meta.len });
    }
    for meta in edit.add_blobs.iter().filter(|meta| here.blobs(meta).is_none()) {
        missing.push(SetFile { name: crate::blob::name(meta.number), len: meta.len });
    }
    for meta in edit.attachments.attach.iter().filter(|meta| here.attachment(meta).is_none()) {
        missing.push(SetFile { name: crate::attachment::name(meta.number), len: meta.len });
    }
    Ok(missing)
}

/// A set whose files are here and checked, so that one manifest edit is left to do. Files of one that is dropped stay until
/// the next opening, as do those of one whose edit failed.
pub struct ReadyFileSet {
    edit: Edit,
    seq: Seq,
}

impl ReadyFileSet {
    /// Everything up to here is in it.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The state of the owner of attachments that comes with the set; empty if there is none.
    pub fn state(&self) -> &[u8] {
        self.edit.attachments.state.as_deref().unwrap_or_default()
    }

    /// Has another state installed in its place: what is this store's own in it stays.
    pub fn set_state(&mut self, state: Vec<u8>) {
        self.edit.attachments.state = Some(state);
    }
}

/// Brings the files of a set here under new names, and checks them. What was brought goes if any of it is not as it should
/// be, and a file of this store that was found damaged counts as [`missing`] from then on.
pub(crate) fn prepare(shared: &Shared, manifest: &[u8], staged: &Path) -> Result<ReadyFileSet> {
    let mut brought = Vec::new();
    bring(shared, manifest, staged, &mut brought).inspect_err(|error| {
        let damaged = error.file_name();
        for (name, from_here) in &brought {
            if let Some(here) = from_here
                && damaged.as_ref().is_some_and(|file| file == name || file == here)
            {
                shared.distrusted.lock().insert(here.clone());
            }
            let _ = shared.options.vfs.remove(&shared.dir.join(name)); // or the next opening does
        }
    })
}

/// As [`prepare`]; notes the names of the files, and the name that each had here.
fn bring(
    shared: &Shared,
    manifest: &[u8],
    staged: &Path,
    brought: &mut Vec<(String, Option<String>)>,
) -> Result<ReadyFileSet> {
    let vfs = &*shared.options.vfs;
    let mut edit = decode(manifest)?;
    manifest::check(&edit).map_err(|reason| Error::corrupt("the manifest of a file set", 0, reason))?;
    edit.progress.clear();
    let seq = edit.durable_seq.unwrap_or(0);
    let renumber = Renumber::new(shared, &edit)?;
    let here = Here::of(shared);
    // Under its new name in any case, so that whatever fails leaves nothing but files that no manifest names.
    let mut bring = |name_here: Option<String>, name_there: String, name: String| -> Result<()> {
        let to = shared.dir.join(&name);
        brought.push((name, name_here.clone()));
        match name_here {
            Some(name) => link_or_copy(vfs, &shared.dir.join(name), &to),
            None => {
                let from = staged.join(name_there);
                let file = vfs.open(&from, Mode::Write).map_err(|e| Error::io("open", &from, e))?;
                file.sync().map_err(|e| sync_failed(&from, &e.0))?;
                link_or_copy(vfs, &from, &to)
            }
        }
    };
    for (_, meta) in &mut edit.add {
        let there = crate::table::name(meta.number);
        meta.number = renumber.file(meta.number);
        bring(here.table(meta), there, crate::table::name(meta.number))?;
    }
    for meta in &mut edit.add_blobs {
        let there = crate::blob::name(meta.number);
        meta.number = renumber.file(meta.number);
        bring(here.blobs(meta), there, crate::blob::name(meta.number))?;
    }
    for meta in &mut edit.attachments.attach {
        let there = crate::attachment::name(meta.number);
        meta.number = renumber.file(meta.number);
        bring(here.attachment(meta), there, crate::attachment::name(meta.number))?;
    }
    for range in edit.add_ranges.iter_mut().filter(|range| range.floor != WAITING) {
        range.floor = renumber.file(range.floor);
    }
    check(shared, &edit)?;
    (edit.next_file, edit.log) = (None, None);
    Ok(ReadyFileSet { edit, seq })
}

/// New numbers for the files of a set, in their order. Only those from the smallest to the largest that the set has are
/// reserved: else numbers would grow ever faster where stores install sets from one another.
struct Renumber {
    first: u64,
    count: u64,
    base: u64,
}

impl Renumber {
    fn new(shared: &Shared, edit: &Edit) -> Result<Renumber> {
        let tables = edit.add.iter().map(|(_, meta)| meta.number);
        let blobs = edit.add_blobs.iter().map(|meta| meta.number);
        let attachments = edit.attachments.attach.iter().map(|meta| meta.number);
        let numbers = tables.chain(blobs).chain(attachments);
        let (first, last) = numbers.fold((u64::MAX, 0), |(first, last), it| (first.min(it), last.max(it)));
        let count = last.saturating_sub(first).saturating_add(1);
        if shared.peek_next_file().saturating_add(count) >= manifest::NUMBERS_END {
            let reason = format!("there are no numbers left for {count} files");
            return Err(Error::corrupt("the manifest of a file set", 0, reason));
        }
        Ok(Renumber { first, count, base: shared.reserve_files(count) })
    }

    /// The number for a file, or for a border between the numbers of files.
    fn file(&self, number: u64) -> u64 {
        self.base + number.saturating_sub(self.first).min(self.count)
    }
}

/// Replaces everything by the set.
pub(crate) fn install(shared: &Shared, ready: ReadyFileSet) -> Result<Seq> {
    shared.commit_with(ready.edit, How::Install)?;
    Ok(ready.seq)
}

/// Reads all that was brought: a file that was damaged on the way is found before anything is replaced.
fn check(shared: &Shared, edit: &Edit) -> Result<()> {
    let mut version = Version::default();
    manifest::apply(&mut version, edit, &shared.files)?;
    let mut value = |entry: &Entry<'_>| {
        let Some(handle) = entry.blob_handle() else { return Ok(()) };
        read_blob(&version.blobs, handle?).map(drop)
    };
    for table in version.slots.iter().flatten() {
        table.verify(&mut value)?;
    }
    version.attachments.values().try_for_each(|attachment| attachment.verify())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::engine::Engine;
    use crate::options::Options;
    use crate::vfs::Vfs as _;
    use crate::vfs::memory::Memory;

    #[test]
    fn a_set_that_could_not_be_opened_is_not_installed() {
        let vfs = Memory::new();
        let options = || Options { vfs: Arc::new(vfs.clone()), log: false, threads: 0, ..Options::default() };
        let leader = Engine::open("/leader", options()).expect("open");
        let follower = Engine::open("/follower", options()).expect("open");
        let mut batch = Batch::new();
        batch.put(b"key", b"value");
        leader.apply(5, &batch).expect("apply");
        leader.publish(5);
        leader.freeze(5, None).expect("freeze");
        leader.work().expect("work");
        let set = leader.file_set();
        vfs.create_dir(Path::new("/staged")).expect("folder");
        for file in set.files() {
            let mut bytes = vec![0; file.len as usize];
            set.read(&file.name, 0, &mut bytes).expect("read");
            let staged = vfs.open(&Path::new("/staged").join(&file.name), Mode::Create).expect("create");
            staged.write_at(&bytes, 0).expect("write");
        }
        let honest = set.manifest();
        let forgeries: [fn(&mut Edit); 4] = [
            |edit| edit.durable_seq = Some(4),
            |edit| edit.next_file = Some(edit.add[0].1.number),
            |edit| edit.next_file = Some(u64::MAX),
            |edit| edit.add[0].1.stated.entries = u64::MAX,
        ];
        for (number, forge) in forgeries.into_iter().enumerate() {
            let mut edit = decode(&honest).expect("sound");
            forge(&mut edit);
            match follower.prepare_install(&edit.encode(), "/staged") {
                Err(Error::Corrupt { file, reason, .. }) => {
                    assert!(file.contains("file set") && reason.contains("cannot be"), "{number}: {reason}");
                }
                other => panic!("{number}: {:?}", other.map(|ready| ready.seq())),
            }
        }
        assert_eq!(follower.install(&honest, "/staged").expect("install"), 5);
        // Numbers do not grow with each set that they install from one another.
        for _ in 0..50 {
            leader.install(&follower.file_set().manifest(), "/none").expect("all is here");
            follower.install(&leader.file_set().manifest(), "/none").expect("all is here");
        }
        let next = follower.background.shared.peek_next_file();
        assert!(next < 1_000, "the next file would be {next}");
        assert_eq!(follower.get(b"key").expect("get").as_deref(), Some(&b"value"[..]));
    }
}
