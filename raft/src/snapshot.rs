//! A snapshot: the immutable files of the database, held where they are, or staged where they are to be installed.
//!
//! Nothing is copied to make one. Who sends one holds a set of files and reads from them; who receives one puts the files
//! that it lacks into a folder, has them checked, and then replaces everything by one manifest edit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lumen_engine::vfs::Vfs;

use lumen::Database;
use lumen_engine::file_set::{FileSet, ReadyFileSet};

use crate::error::Result;
use crate::state_machine::Place;
use crate::transfer::Staging;

/// Where a database is.
#[derive(Clone)]
pub(crate) struct Home {
    pub vfs: Arc<dyn Vfs>,
    pub dir: PathBuf,
    /// Whether what waits for the disk may have threads of its own.
    pub threaded: bool,
}

impl Home {
    /// Of a database that was opened in a folder with these options.
    pub(crate) fn of(dir: &Path, options: &lumen::Options) -> Home {
        Home { vfs: options.vfs.clone(), dir: dir.to_owned(), threaded: options.threads > 0 }
    }
}

/// What openraft hands from one end to the other.
pub(crate) enum SnapshotData {
    /// Held here, to be sent.
    Held(Arc<HeldSet>),
    /// Received, with its files here and checked.
    Ready(Box<Received>),
}

/// A snapshot that has come, so that one manifest edit is left to do.
pub(crate) struct Received {
    place: Place,
    ready: ReadyFileSet,
    staging: Staging,
}

impl Received {
    /// Brings the files here and checks them. If any is not what it should be, all that was staged goes, and is to be sent
    /// anew.
    pub(crate) fn check(db: &Database, manifest: &[u8], staging: Staging) -> Result<Received> {
        let checked = Database::position_of(manifest)
            .and_then(|position| Ok((position, db.prepare_install(manifest, staging.folder())?)));
        let (position, ready) = checked.inspect_err(|_| staging.clear())?;
        Ok(Received { place: Place::decode(&position)?, ready, staging })
    }

    /// Where the log is after all that it holds.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

/// The files of a moment, held.
pub(crate) struct HeldSet {
    set: FileSet,
    /// The database that they are of.
    pub origin: [u8; 16],
    /// What the receiver has to know.
    pub manifest: Vec<u8>,
}

impl HeldSet {
    /// Fills `buffer` from `offset` of one of them.
    pub(crate) fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        Ok(self.set.read(name, offset, buffer)?)
    }
}

impl SnapshotData {
    /// What is durable now.
    pub(crate) fn pin(db: &Database) -> Result<SnapshotData> {
        let set = db.file_set();
        let manifest = set.manifest();
        Ok(SnapshotData::Held(Arc::new(HeldSet { set, origin: db.id(), manifest })))
    }

    /// Where the log is after all that the snapshot holds.
    pub(crate) fn place(&self) -> Result<Place> {
        match self {
            SnapshotData::Held(held) => Place::decode(&Database::position_of(&held.manifest)?),
            SnapshotData::Ready(received) => Ok(received.place.clone()),
        }
    }

    /// Replaces everything by it, with one manifest edit. `home` is where the database is.
    pub(crate) fn install(self, db: &Database, home: &Home) -> Result<Place> {
        let Received { place, ready, staging } = *match self {
            // Of another database in this process: as if it had been sent.
            SnapshotData::Held(held) => {
                let staging = Staging::open(home.vfs.clone(), &home.dir, held.origin)?;
                for file in staging.wanted(db, &held.manifest)? {
                    let mut bytes = vec![0; file.len as usize];
                    held.read(&file.name, 0, &mut bytes)?;
                    staging.put(&file.name, 0, &bytes)?;
                }
                Box::new(Received::check(db, &held.manifest, staging)?)
            }
            SnapshotData::Ready(received) => received,
        };
        db.install(ready)?;
        staging.clear();
        Ok(place)
    }
}
