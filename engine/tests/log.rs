//! The log between one life and the next: what was synced is there as long as nobody let go of it.

use std::path::Path;
use std::sync::Arc;

use lumen_engine::log::{Kind, Log, LogOptions, Recovery};
use lumen_engine::vfs::memory::{Crash, Memory};

const DIR: &str = "/log";

fn open(vfs: &Memory, segment_bytes: u64) -> (Log, Recovery, Vec<u64>) {
    let options = LogOptions {
        dir: Path::new(DIR).to_path_buf(),
        extension: "wal",
        segment_bytes,
        first_segment_bytes: segment_bytes.min(1024),
        uuid: None,
        random: || 7,
    };
    let mut seen = Vec::new();
    let opened = Log::open(Arc::new(vfs.clone()), options, None, 1, &mut |seq, _, _| {
        seen.push(seq);
        Ok(())
    });
    let (log, recovery) = opened.expect("the log opens");
    (log, recovery, seen)
}

fn append(log: &Log, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let end = log.append(seq, Kind::Entry, &[&[seq as u8; 100]]).expect("appended");
        log.sync(end).expect("synced");
    }
}

/// A folder of its own in a new file system.
fn memory() -> Memory {
    use lumen_engine::vfs::Vfs;
    let vfs = Memory::new();
    vfs.create_dir(Path::new(DIR)).expect("a folder");
    vfs
}

#[test]
fn a_purge_after_a_restart_keeps_the_last_record_although_it_was_vouched_for() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=3);
    log.vouch().expect("vouched");
    drop(log);
    vfs.crash(Crash::KeepAll, 1);
    let (log, _, seen) = open(&vfs, 4096);
    assert_eq!(seen, [1, 2, 3]);
    log.purge(2).expect("purged");
    drop(log);
    vfs.crash(Crash::KeepAll, 2);
    let (_, _, seen) = open(&vfs, 4096);
    assert_eq!(seen.last(), Some(&3), "only records up to 2 were let go of");
}

#[test]
fn a_purge_keeps_the_last_record_of_a_segment_that_a_vouching_record_overflowed() {
    for records in 1..40 {
        let vfs = memory();
        let (log, ..) = open(&vfs, 1024);
        append(&log, 1..=records);
        log.vouch().expect("vouched");
        log.purge(records - 1).expect("purged");
        drop(log);
        vfs.crash(Crash::DropPending, 1);
        let (_, _, seen) = open(&vfs, 1024);
        assert_eq!(seen.last(), Some(&records), "only records up to {} were let go of", records - 1);
    }
}

#[test]
fn whatever_is_purged_between_restarts_what_follows_is_there() {
    // Lives of a few records each, ended by a kill, an orderly close or an idle moment, with a purge at every point.
    for purged in 0..12 {
        for ending in 0..3 {
            let vfs = memory();
            for life in 0..4 {
                let (log, recovery, seen) = open(&vfs, 1024);
                let last = life * 3;
                assert_eq!(
                    recovery.last_seq.unwrap_or(0),
                    last,
                    "life {life}, purged {purged}, ending {ending}"
                );
                let kept: Vec<u64> = (purged.min(last) + 1..=last).collect();
                assert!(seen.ends_with(&kept), "life {life}, purged {purged}, ending {ending}: {seen:?}");
                log.purge(purged.min(last)).expect("purged");
                append(&log, last + 1..=last + 3);
                match ending {
                    0 => {}
                    1 => log.vouch().expect("vouched"),
                    _ => log.seal().expect("sealed"),
                }
                drop(log);
                vfs.crash(Crash::KeepAll, life);
            }
        }
    }
}
