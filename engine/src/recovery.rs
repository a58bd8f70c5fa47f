//! Opening a store: lock, manifest, log.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::background::Background;
use crate::batch::{Batch, Operation};
use crate::compaction::picker;
use crate::error::{Error, Result};
use crate::gaps::Gaps;
use crate::key::Seq;
use crate::log::{Kind, Log, LogOptions, Recovery};
use crate::memtable::{Gathered, Memtable};
use crate::options::Options;
use crate::state::{FlushTask, Shared, Work};
use crate::stats::Counters;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{ArcSwap, Condvar, Mutex};
use crate::table::cache::BlockCache;
use crate::throttle::Throttle;
use crate::version::Version;
use crate::version::manifest::{Files, Manifest};
use crate::vfs::Lock;
use crate::vfs::overlay::Overlay;
use crate::view::View;

/// File ending of the engine's own log.
pub(crate) const LOG_EXTENSION: &str = "wal";
/// The first log segment after opening: 4 MiB of zeros take about 12 ms to write.
pub(crate) const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

pub(crate) struct Opened {
    pub background: Background,
    pub recovery: Recovery,
    pub lock: Box<dyn Lock>,
}

pub(crate) fn open(dir: &Path, mut options: Options) -> Result<Opened> {
    if options.read_only {
        options.vfs = Arc::new(Overlay::new(options.vfs));
        options.threads = 0;
    }
    let vfs = options.vfs.clone();
    vfs.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
    let lock = vfs.lock(&dir.join("LOCK")).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::InUse { path: dir.to_path_buf() },
        _ => Error::io("lock", dir, e),
    })?;
    let found = Found::list(dir, &options)?;
    let cache = Arc::new(BlockCache::new(options.cache_bytes, options.block_bytes));
    let files = Files { vfs: vfs.clone(), dir: dir.to_path_buf(), cache };
    let leftover = found.names.first().map(|(_, name)| name.as_str());
    let opened = Manifest::open(dir, &options, &files, leftover)?;
    let version = opened.version;
    // Found out before any thread starts: later, a file that is not named may be one that is being written.
    let orphans = found.orphans(&version);
    let durable = version.durable_seq;
    let mut replayed = Replayed::new(&options);
    let mut last = durable;
    let (mut log, mut recovery) = (None, Recovery::default());
    if options.log {
        let log_options = LogOptions {
            dir: dir.to_path_buf(),
            extension: LOG_EXTENSION,
            segment_bytes: options.segment_bytes,
            first_segment_bytes: FIRST_SEGMENT_BYTES.min(options.segment_bytes),
            kinds: &[Kind::Batch],
            from_seq: 0,
            uuid: None,
            random: options.random,
        };
        let mut first = None;
        let (log_opened, replayed) =
            Log::open(vfs.clone(), log_options, opened.log, durable + 1, &mut |seq, _, payload| {
                first.get_or_insert(seq);
                if seq <= durable {
                    return Ok(());
                }
                if seq != last + 1 {
                    let reason = format!("seq {seq} follows {last}: batches are missing");
                    return Err(Error::corrupt("the log", 0, reason));
                }
                let batch = Batch::decode(payload)
                    .ok_or_else(|| Error::corrupt("the log", 0, format!("malformed batch of seq {seq}")))?;
                replayed.add(seq, &batch.effective()?);
                last = seq;
                Ok(())
            })?;
        if replayed.first_seq.is_some_and(|first| first > durable + 1) {
            let reason =
                format!("it begins at seq {:?}, but tables end at seq {durable}", replayed.first_seq);
            return Err(Error::corrupt("the log", 0, reason));
        }
        // Or the next batch would have a seq that the log has passed.
        if let Some(ahead) = replayed.last_seq.filter(|&seq| seq > last) {
            let reason = format!("it ends at seq {ahead}, but its batches at seq {last}");
            return Err(Error::corrupt("the log", 0, reason));
        }
        log = Some(Arc::new(log_opened));
        recovery = replayed;
    }
    let picker = picker::from_options(&options);
    let (active, queue) = replayed.finish();
    let frozen = queue.iter().rev().map(|task| task.memtable.clone()).collect();
    let (counters, gaps) = (Arc::<Counters>::default(), Arc::new(Gaps::new(last)));
    let view =
        View::new(active, frozen, Arc::new(version), gaps, counters.clone()).measured(&options, &*picker);
    let shared = Shared {
        options,
        dir: dir.to_path_buf(),
        files,
        view: ArcSwap::from_pointee(view),
        visible: AtomicU64::new(last),
        next_file: AtomicU64::new(opened.next_file.max(found.next_number())),
        orphans: Mutex::new(orphans),
        manifest: Mutex::new(opened.manifest),
        work: Mutex::new(Work { queue, ..Work::default() }),
        over: AtomicBool::new(false),
        bell: Condvar::new(),
        picker,
        counters,
        throttle: Throttle::new(Instant::now()),
        replaced: Mutex::default(),
        distrusted: Mutex::default(),
        wanted_room: AtomicU64::new(0),
    };
    let background = Background { shared: Arc::new(shared), log };
    Ok(Opened { background, recovery, lock })
}

/// What the log holds, in memtables of their usual size. Those that are not small are flushed without ado: nothing is added
/// to them, so that they can be sorted at once, and the next opening is quick.
struct Replayed {
    memtable_bytes: usize,
    /// Bytes that the last one may grow to.
    growing_bytes: usize,
    gathered: Gathered,
    last: Seq,
    full: VecDeque<FlushTask>,
}

impl Replayed {
    fn new(options: &Options) -> Replayed {
        Replayed {
            // Nothing is flushed in a store that is only read.
            memtable_bytes: if options.read_only { usize::MAX } else { options.memtable_bytes.max(1) },
            growing_bytes: if options.read_only { 0 } else { options.memtable_bytes },
            gathered: Gathered::new(),
            last: 0,
            full: VecDeque::new(),
        }
    }

    fn add(&mut self, seq: Seq, operations: &[Operation<'_>]) {
        if self.gathered.bytes() >= self.memtable_bytes {
            self.freeze();
        }
        self.gathered.add(seq, operations);
        self.last = seq;
    }

    fn freeze(&mut self) {
        let memtable = Arc::new(std::mem::replace(&mut self.gathered, Gathered::new()).sorted());
        memtable.end(self.last);
        self.full.push_back(FlushTask { memtable, attached: None, seq: self.last, committed: false });
    }

    /// The active memtable, and those that are to be flushed.
    fn finish(mut self) -> (Arc<Memtable>, VecDeque<FlushTask>) {
        if self.gathered.bytes() >= (self.memtable_bytes / 4).max(1) {
            self.freeze();
        }
        (Arc::new(self.gathered.growing(self.growing_bytes)), self.full)
    }
}

/// The tables and attachments in the folder when it was opened.
struct Found {
    dir: PathBuf,
    names: Vec<(u64, String)>,
}

impl Found {
    /// A folder with tables but without a manifest has lost it: starting afresh would hide everything.
    fn list(dir: &Path, options: &Options) -> Result<Found> {
        let names = options.vfs.list(dir).map_err(|e| Error::io("list", dir, e))?;
        let ends = |ending: &str| names.iter().find(|name| name.ends_with(ending));
        if ends(".manifest").is_none() {
            if let Some(name) = ends(".sst").or(ends(".att")).or(ends(".blob")) {
                return Err(Error::corrupt("the manifest", 0, format!("it is missing, but {name} is there")));
            }
        }
        let number = |name: &String| {
            let (number, ending) = name.split_once('.')?;
            matches!(ending, "sst" | "att" | "blob").then_some(())?;
            number.parse::<u64>().ok()
        };
        let names = names.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
        Ok(Found { dir: dir.to_path_buf(), names })
    }

    /// Above all that are there: a leftover of a crash keeps its name until the orphans are removed, and a flush during
    /// replay must not meet it.
    fn next_number(&self) -> u64 {
        self.names.iter().map(|(number, _)| number + 1).max().unwrap_or(1)
    }

    /// Those that the manifest does not name.
    fn orphans(&self, version: &Version) -> Vec<PathBuf> {
        let is_live = |number: u64, name: &str| {
            if name.ends_with(".sst") {
                let mut of_progress = version.progress.iter().flat_map(|progress| &progress.tables);
                version.slots.iter().flatten().any(|table| table.meta.number == number)
                    || of_progress.any(|meta| meta.number == number)
            } else if name.ends_with(".blob") {
                let mut of_progress = version.progress.iter().flat_map(|progress| &progress.blobs);
                version.blobs.values().any(|blob| blob.meta.number == number)
                    || of_progress.any(|meta| meta.number == number)
            } else {
                version.attachments.contains_key(&number)
            }
        };
        let orphans = self.names.iter().filter(|(number, name)| !is_live(*number, name));
        orphans.map(|(_, name)| self.dir.join(name)).collect()
    }
}

/// Removes the tables and attachments that the manifest did not name at opening.
pub(crate) fn remove_orphans(shared: &Shared) -> Result<()> {
    for path in std::mem::take(&mut *shared.orphans.lock()) {
        shared.options.vfs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    Ok(())
}
