//! What a script's commands act on: a store on a file system in memory.
//!
//! ```text
//! open [option=n …]           opens the store: how many batches the log gave back, and what was torn
//! close · kill                orderly, or as when the process dies
//! power_cut                   everything that was not synced is lost, and the process dies
//! put a=1 b=x*20              one batch; x*20 is twenty times x
//! put c=1@50                  an entry that is there until 50 ms after the script's beginning
//! now 50                      moves the clock there
//! delete a b..d               one batch; b..d is every key from b up to d, without d
//! put …; delete …             one batch of both
//! buffered put …              one that does not wait for the disk
//! fill k 0 20 v*9             k00 to k19, in one batch
//! get a b · get a at s        values, now or in snapshot s
//! scan · scan b..d · scan at s · backward …
//! snapshot s · release s
//! flush · settle              memory to tables; and then compact until nothing is due
//! levels · files · edits      the tree; the files; the manifest's edits since the last look
//! attach 1 text               a file of kind 1, installed by an edit of its own
//! put …; freeze 1 text        a batch, frozen and flushed together with a file
//! detach n · attached
//! inspect FILE                a log, table or manifest as text
//! flip FILE n · cut FILE n · zero FILE n m · remove FILE · leave 9.sst
//! past 3 a b                  values as of seq 3
//! checkpoint /dir             a copy
//! ingest b..d c=3             rows past the log, in place of what lies from b to d
//! scrub                       reads everything and isolates damage
//! verify                      reads everything and reports damage
//! ```
//!
//! `FILE` is a file's name without the leading zeros (`3.sst`), or an ending for the newest of its kind (`wal`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lumen_engine::attachment::{AttachmentEdit, Attachments, Frozen};
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::vfs::{Mode, Vfs};
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options, Snapshot, inspect};

const DIR: &str = "/store";

/// When scripts begin, in milliseconds since 1970.
const BEGIN: u64 = 1_700_000_000_000;

thread_local! {
    /// Milliseconds since a script's beginning, as it wants them.
    static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

pub(crate) struct World {
    vfs: Memory,
    engine: Option<Engine>,
    snapshots: BTreeMap<String, Snapshot>,
    /// Edits that [`World::edits`] has shown.
    edits_shown: usize,
}

/// A file with its kind and text, as part of a freeze.
struct File(u8, String);

impl Frozen for File {
    fn write(&mut self, files: &Attachments) -> Result<AttachmentEdit, Error> {
        attach(files, self.0, &self.1)
    }

    fn installed(self: Box<Self>, _: &Attachments) -> Result<(), Error> {
        Ok(())
    }
}

fn attach(files: &Attachments, kind: u8, text: &str) -> Result<AttachmentEdit, Error> {
    let mut writer = files.create()?;
    writer.write_all(text.as_bytes()).expect("memory takes all");
    let meta = writer.finish(kind, b"a note".to_vec())?;
    Ok(AttachmentEdit { attach: vec![meta], ..AttachmentEdit::default() })
}

/// `x*20` is twenty times x.
fn value(text: &str) -> Vec<u8> {
    match text.split_once('*') {
        Some((unit, times)) => unit.repeat(times.parse().expect("a number after *")).into_bytes(),
        None => text.into(),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} should be a number"))
}

fn batch(text: &str) -> Batch {
    let mut batch = Batch::new();
    for part in text.split(';') {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words[..] {
            ["put", ref pairs @ ..] => {
                for pair in pairs {
                    let (key, text) = pair.split_once('=').expect("key=value");
                    match text.split_once('@') {
                        Some((text, ms)) => {
                            batch.put_until(key.as_bytes(), &value(text), BEGIN + number::<u64>(ms))
                        }
                        None => batch.put(key.as_bytes(), &value(text)),
                    }
                }
            }
            ["delete", ref keys @ ..] => {
                for key in keys {
                    match key.split_once("..") {
                        Some((start, end)) => batch.delete_range(start.as_bytes(), end.as_bytes()),
                        None => batch.delete(key.as_bytes()),
                    }
                }
            }
            ["fill", prefix, from, to, text] => {
                for n in number::<u32>(from)..number(to) {
                    batch.put(format!("{prefix}{n:02}").as_bytes(), &value(text));
                }
            }
            _ => panic!("no part of a batch: {part}"),
        }
    }
    batch
}

impl World {
    pub(crate) fn new() -> World {
        NOW.set(0);
        let (vfs, snapshots) = (Memory::new(), BTreeMap::new());
        World { vfs, engine: None, snapshots, edits_shown: 0 }
    }

    /// Runs one command; what it prints goes to `out`. A command that does not exist is a bug of the script: a panic.
    pub(crate) fn command(&mut self, line: &str, out: &mut String) -> Result<(), Error> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["open", ref options @ ..] => self.open(options, out)?,
            ["close"] => self.take().close()?,
            ["kill"] => drop(self.take()),
            ["power_cut"] => {
                drop(self.take());
                self.vfs.crash(Crash::DropPending, 1);
            }
            ["put" | "delete" | "fill", ..] => self.write(line, Durability::Sync)?,
            ["buffered", ..] => self.write(line.trim_start_matches("buffered"), Durability::Buffered)?,
            ["get", key, "at", snapshot] => self.get(&[key], Some(snapshot), out)?,
            ["get", ref keys @ ..] => self.get(keys, None, out)?,
            ["scan" | "backward", ref rest @ ..] => self.scan(words[0] == "scan", rest, out)?,
            ["snapshot", name] => drop(self.snapshots.insert(name.into(), self.engine().snapshot())),
            ["release", name] => drop(self.snapshots.remove(name).expect("a snapshot of that name")),
            ["flush"] => self.engine().flush()?,
            ["settle"] => self.engine().settle()?,
            ["rest"] => self.engine().rest()?,
            ["levels"] => print(out, self.engine().shape()),
            ["files"] => print(out, self.names().join(" ")),
            ["edits"] => self.edits(out),
            ["attach", kind, text] => {
                let files = self.engine().attachments();
                files.install(attach(&files, number(kind), text)?)?;
            }
            ["detach", file] => {
                let edit = AttachmentEdit { detach: vec![number(file)], ..AttachmentEdit::default() };
                self.engine().attachments().install(edit)?;
            }
            ["attached"] => self.attached(out)?,
            ["inspect", file] => print(out, self.inspect(file)),
            ["flip", file, at] => self.damage(file, |bytes| bytes[number::<usize>(at)] ^= 1),
            ["cut", file, at] => self.damage(file, |bytes| bytes.truncate(number(at))),
            ["zero", file, from, to] => self.damage(file, |bytes| bytes[number(from)..number(to)].fill(0)),
            ["leave", name] => {
                let (number, ending) = name.split_once('.').expect("number.ending");
                let path = Path::new(DIR).join(format!("{:010}.{ending}", self::number::<u64>(number)));
                self.vfs.open(&path, Mode::Create).expect("nothing fails");
                self.vfs.sync_dir(Path::new(DIR)).expect("nothing fails");
            }
            ["remove", file] => {
                self.vfs.remove(&self.path(file)).expect("just listed");
                self.vfs.sync_dir(Path::new(DIR)).expect("nothing fails");
            }
            ["scrub"] => {
                for error in self.engine().scrub(&mut |_, _| true)? {
                    print(out, error.to_string());
                }
            }
            ["now", ms] => NOW.set(number(ms)),
            ["past", seq, ref keys @ ..] => {
                let snapshot = self.engine().snapshot_of(number(seq))?;
                for key in keys {
                    let found = snapshot.get(key.as_bytes())?;
                    let text = found.map_or("not there".into(), |value| inspect::printable(&value));
                    print(out, format!("{key} at {seq}: {text}"));
                }
            }
            ["checkpoint", dir] => {
                let seq = self.engine().checkpoint(dir, &mut |_, _| true)?;
                print(out, format!("checkpoint of seq {}", seq.expect("not stopped")));
            }
            ["ingest", ref words @ ..] => self.ingest(words)?,
            ["verify"] => {
                for error in self.engine().verify(&mut |_, _| true)? {
                    print(out, error.to_string());
                }
            }
            _ => panic!("no such command: {line}"),
        }
        Ok(())
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the store is open")
    }

    /// Nobody reads any more, as when a process ends.
    fn take(&mut self) -> Engine {
        self.snapshots.clear();
        self.engine.take().expect("the store is open")
    }

    fn open(&mut self, words: &[&str], out: &mut String) -> Result<(), Error> {
        let mut options = Options {
            vfs: Arc::new(self.vfs.clone()),
            threads: 0,
            segment_bytes: 4096,
            cache_bytes: 64 << 10,
            random: || 0x0123_4567_89ab_cdef,
            clock: || BEGIN + NOW.get(),
            ..Options::default()
        };
        for word in words {
            let (name, value) = word.split_once('=').expect("option=number");
            match name {
                "log" => options.log = number::<u8>(value) == 1,
                "block_bytes" => options.block_bytes = number(value),
                "memtable_bytes" => options.memtable_bytes = number(value),
                "table_bytes" => options.table_bytes = number(value),
                "level_bytes" => options.level_bytes = number(value),
                "level0_tables" => options.level0_tables = number(value),
                "garbage_age_max" => options.garbage_age_max = Some(Duration::from_millis(number(value))),
                "lazy" => options.compaction = Compaction::LazyLeveled { runs: number(value) },
                "tiers" => {
                    let (runs, size_ratio_percent, space_percent) = (number(value), 1, 200);
                    options.compaction = Compaction::Tiered { runs, size_ratio_percent, space_percent };
                }
                "segment_bytes" => options.segment_bytes = number(value),
                "blob_bytes" => options.blob_bytes = number(value),
                "retain_seqs" => options.retain_seqs = number(value),
                _ => panic!("no such option: {name}"),
            }
        }
        let engine = Engine::open(DIR, options)?;
        let recovery = engine.recovery();
        let mut text =
            format!("opened at seq {}, {} batches replayed", engine.visible_seq(), recovery.records);
        if let Some(torn) = &recovery.torn {
            write!(text, "; torn tail of {} at offset {}", torn.file, torn.offset).expect("a string");
        }
        print(out, text);
        self.engine = Some(engine);
        self.edits_shown = 0;
        Ok(())
    }

    fn write(&mut self, line: &str, durability: Durability) -> Result<(), Error> {
        let engine = self.engine();
        let Some((before, file)) = line.split_once("; freeze ") else {
            return engine.write(&batch(line), durability).map(drop);
        };
        // With a log above the engine, its owner applies, publishes and says when to freeze.
        let (kind, text) = file.split_once(' ').expect("kind and text");
        let seq = engine.visible_seq() + 1;
        engine.apply(seq, &batch(before))?;
        engine.publish(seq);
        engine.freeze(seq, Some(Box::new(File(number(kind), text.into()))))?;
        engine.work()
    }

    /// `ingest a=1 b=2` or `ingest b..d c=3`, which replaces what lies between.
    fn ingest(&self, words: &[&str]) -> Result<(), Error> {
        let mut ingestion = self.engine().ingest();
        for word in words {
            match (word.split_once('='), word.split_once("..")) {
                (Some((key, text)), _) => ingestion.put(key.as_bytes(), &value(text))?,
                (None, Some((start, end))) => ingestion.replace(start.as_bytes(), end.as_bytes()),
                (None, None) => panic!("ingest [start..end] key=value …"),
            }
        }
        ingestion.commit().map(drop)
    }

    fn at(&self, name: Option<&str>) -> Snapshot {
        match name {
            Some(name) => self.snapshots.get(name).expect("a snapshot of that name").clone(),
            None => self.engine().snapshot(),
        }
    }

    fn get(&self, keys: &[&str], snapshot: Option<&str>, out: &mut String) -> Result<(), Error> {
        let snapshot = self.at(snapshot);
        for key in keys {
            match snapshot.get_versioned(key.as_bytes())? {
                Some((seq, value)) => print(out, format!("{key}={} @{seq}", inspect::printable(&value))),
                None => print(out, format!("{key} is not there")),
            }
        }
        Ok(())
    }

    fn scan(&self, forward: bool, words: &[&str], out: &mut String) -> Result<(), Error> {
        let (range, name) = match *words {
            [] => (None, None),
            ["at", name] => (None, Some(name)),
            [range] => (Some(range), None),
            [range, "at", name] => (Some(range), Some(name)),
            _ => panic!("scan [start..end] [at snapshot]"),
        };
        let (start, end) = match range {
            Some(range) => {
                let (start, end) = range.split_once("..").expect("start..end");
                (Bound::Included(start.as_bytes()), Bound::Excluded(end.as_bytes()))
            }
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let snapshot = self.at(name);
        let mut scan = snapshot.scan(start, end);
        let mut rows = 0;
        while if forward { scan.next_row()? } else { scan.prev_row()? } {
            let (key, value) = (inspect::printable(scan.key()), inspect::printable(scan.value()));
            print(out, format!("{key}={value} @{}", scan.seq()));
            rows += 1;
        }
        if rows == 0 {
            print(out, "(empty)".into());
        }
        Ok(())
    }

    fn attached(&self, out: &mut String) -> Result<(), Error> {
        let files = self.engine().attachments();
        for meta in files.list() {
            let bytes = files.map(meta.number)?;
            let (text, note) = (inspect::printable((*bytes).as_ref()), inspect::printable(&meta.note));
            print(out, format!("file {} kind {} with {note}: {text}", meta.number, meta.kind));
        }
        Ok(())
    }

    /// Names of the files, without leading zeros; the lock and the spare segments left out.
    fn names(&self) -> Vec<String> {
        let names = self.vfs.list(Path::new(DIR)).expect("nothing fails");
        let shown = names.iter().filter(|name| *name != "LOCK" && !name.ends_with("-spare"));
        shown.map(|name| name.trim_start_matches('0').to_owned()).collect()
    }

    fn path(&self, file: &str) -> PathBuf {
        let names = self.vfs.list(Path::new(DIR)).expect("nothing fails");
        let ending = format!(".{file}");
        let found =
            names.iter().rfind(|name| name.trim_start_matches('0') == file || name.ends_with(&ending));
        Path::new(DIR).join(found.unwrap_or_else(|| panic!("no file {file} in {names:?}")))
    }

    fn inspect(&self, file: &str) -> String {
        let path = self.path(file);
        let bytes = self.vfs.contents(&path).expect("just listed");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut out = Vec::new();
        let written = if name.ends_with(".sst") {
            inspect::table(&name, &bytes, &mut out)
        } else if name.ends_with(".blob") {
            inspect::blobs(&name, &bytes, &mut out)
        } else {
            inspect::log_segment(&name, &bytes, &mut out, &|_| String::new())
        };
        written.expect("memory takes all");
        let text = String::from_utf8(out).expect("text");
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") // editors take trailing spaces away
    }

    fn edits(&mut self, out: &mut String) {
        let text = self.inspect("manifest");
        let edits: Vec<&str> = text.lines().filter(|line| line.contains(" Edit ")).collect();
        for line in edits.iter().skip(self.edits_shown) {
            let (_, after) = line.split_once("synced ").expect("as inspect writes it");
            print(out, after.split_once(' ').expect("an edit").1.to_owned());
        }
        self.edits_shown = edits.len();
    }

    fn damage(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.vfs.damage(&self.path(file), change);
    }
}

fn print(out: &mut String, text: String) {
    if !text.is_empty() {
        writeln!(out, "{}", text.trim_end()).expect("a string takes all");
    }
}
