//! The log: what was synced is there as long as nobody let go of it, a torn tail is told from damage, and after a failed
//! sync nobody is acknowledged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lumen_engine::log::{
    HEADER_BYTES, Kind, Log, LogOptions, MAX_RECORD_BYTES, Position, RECORD_HEADER_BYTES, Recovery, dump,
};
use lumen_engine::vfs::memory::{Crash, Fault, Memory};
use lumen_engine::{Engine, Error, Options};

const DIR: &str = "/log";

fn options(segment_bytes: u64, random: fn() -> u64) -> LogOptions {
    LogOptions {
        dir: Path::new(DIR).to_path_buf(),
        extension: "wal",
        segment_bytes,
        first_segment_bytes: segment_bytes.min(1024),
        kinds: &[Kind::Entry],
        from_seq: 0,
        uuid: None,
        random,
    }
}

fn open(vfs: &Memory, segment_bytes: u64) -> (Log, Recovery, Vec<u64>) {
    let mut seen = Vec::new();
    let opened = Log::open(Arc::new(vfs.clone()), options(segment_bytes, || 7), None, 1, &mut |seq, _, _| {
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

/// Bytes of a record of [`append`] in the file.
const RECORD: u64 = (RECORD_HEADER_BYTES as u64 + 1 + 100).next_multiple_of(8);

fn first_segment() -> PathBuf {
    Path::new(DIR).join("0000000001.wal")
}

/// What opening says after `change` was done to the first segment of `vfs`, whose log is a copy.
fn open_changed(vfs: &Memory, change: impl FnOnce(&mut Vec<u8>)) -> Result<(Recovery, Vec<u64>), Error> {
    let copy = vfs.fork();
    copy.damage(&first_segment(), change);
    let mut seen = Vec::new();
    let options = options(4096, || 8);
    let opened = Log::open(Arc::new(copy), options, None, 1, &mut |seq, _, payload| {
        assert_eq!(payload, [seq as u8; 100], "a record that nobody wrote");
        seen.push(seq);
        Ok(())
    });
    opened.map(|(_, recovery)| (recovery, seen))
}

#[test]
fn one_sync_releases_everybody_who_appended_before_it() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 64 << 10);
    let ends: Vec<Position> =
        (1..=16).map(|seq| log.append(seq, Kind::Entry, &[b"x"]).expect("appended")).collect();
    std::thread::scope(|scope| {
        for end in &ends {
            scope.spawn(|| log.sync(*end).expect("synced"));
        }
    });
    assert_eq!(log.stats().syncs, 1);
    assert_eq!(log.durable(), ends[15]);
}

#[test]
fn a_failed_sync_is_told_to_every_waiter_and_to_all_who_come_later() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    let acknowledged = log.durable();
    let ends: Vec<Position> =
        (3..=6).map(|seq| log.append(seq, Kind::Entry, &[&[seq as u8; 100]]).expect("appended")).collect();
    vfs.fail(vfs.calls() + 2, Fault::LyingSync); // one write of the group, then the sync
    std::thread::scope(|scope| {
        for end in &ends {
            scope.spawn(|| assert!(matches!(log.sync(*end), Err(Error::SyncFailed { .. }))));
        }
    });
    // The system would call a second sync a success. Nobody asks it.
    let calls = vfs.calls();
    assert!(matches!(log.append(9, Kind::Entry, &[b"x"]), Err(Error::SyncFailed { .. })));
    assert!(matches!(log.sync(ends[0]), Err(Error::SyncFailed { .. })));
    assert!(matches!(log.seal(), Err(Error::SyncFailed { .. })));
    assert_eq!(vfs.calls(), calls, "a poisoned log touches no file");
    log.sync(acknowledged).expect("what was acknowledged stays so");
    drop(log);
    vfs.crash(Crash::DropPending, 1);
    assert_eq!(open(&vfs, 4096).2, [1, 2]);
}

#[test]
fn a_failed_write_poisons_as_a_failed_sync_does() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=1);
    let end = log.append(2, Kind::Entry, &[&[2; 100]]).expect("appended");
    vfs.fail(vfs.calls() + 1, Fault::ShortWrite);
    assert!(matches!(log.sync(end), Err(Error::SyncFailed { .. })));
    assert!(log.append(3, Kind::Entry, &[b"x"]).is_err());
    drop(log);
    vfs.crash(Crash::KeepAll, 1);
    let (_, recovery, seen) = open(&vfs, 4096);
    assert_eq!(seen, [1]);
    assert_eq!(recovery.torn.expect("half a record").offset, HEADER_BYTES as u64 + RECORD);
}

#[test]
fn a_changed_byte_is_a_torn_tail_in_the_last_record_and_damage_before_it() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=3);
    drop(log);
    for at in HEADER_BYTES..HEADER_BYTES + 3 * RECORD as usize {
        let record = (at as u64 - HEADER_BYTES as u64) / RECORD;
        let offset = HEADER_BYTES as u64 + record * RECORD;
        let unused = (at as u64 - offset) >= RECORD_HEADER_BYTES as u64 + 1 + 100;
        match open_changed(&vfs, |bytes| bytes[at] ^= 0x10) {
            Ok((_, seen)) if unused => assert_eq!(seen, [1, 2, 3], "byte {at} pads"),
            Ok((recovery, seen)) => {
                assert_eq!((record, seen), (2, vec![1, 2]), "byte {at}");
                assert_eq!(recovery.torn.expect("a torn tail").offset, offset);
            }
            Err(Error::Corrupt { file, offset: found, .. }) => {
                assert!(record < 2, "byte {at}: nothing proves the last record durable");
                assert_eq!((file.as_str(), found), ("0000000001.wal", offset), "byte {at}");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[test]
fn a_vouching_record_and_a_seal_make_damage_of_what_was_a_torn_tail() {
    let last = HEADER_BYTES + RECORD as usize;
    for end in [Log::vouch, Log::seal] {
        let vfs = memory();
        let (log, ..) = open(&vfs, 4096);
        append(&log, 1..=2);
        let (recovery, seen) = open_changed(&vfs, |bytes| bytes[last + 30] ^= 1).expect("a torn tail");
        assert_eq!((recovery.torn.is_some(), seen), (true, vec![1]));
        end(&log).expect("ended");
        let records = log.stats().records;
        log.vouch().expect("nothing to add");
        assert_eq!(log.stats().records, records, "what is vouched for is not vouched for again");
        drop(log);
        let changed = open_changed(&vfs, |bytes| bytes[last + 30] ^= 1);
        assert!(
            matches!(changed, Err(Error::Corrupt { offset, .. }) if offset == last as u64),
            "{changed:?}"
        );
    }
}

#[test]
fn a_vouching_record_vouches_for_nothing_that_was_written_since_the_sync_it_tells_of() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    // Another writer comes between a vouching one's sync and its record.
    log.append(3, Kind::Entry, &[&[3; 100]]).expect("appended");
    let end = log.append(0, Kind::Vouch, &[]).expect("appended");
    log.sync(end).expect("synced");
    assert!(log.wants_vouch(), "nothing vouches for 3");
    log.vouch().expect("vouched");
    assert!(!log.wants_vouch());
    let refused = open_changed(&vfs, |bytes| {
        let at = bytes.windows(100).position(|run| run == [3; 100]).expect("the record");
        bytes[at] ^= 1;
    });
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    // What an opening has written anew is not vouched for either.
    append(&log, 4..=4);
    drop(log);
    vfs.crash(Crash::KeepAll, 1);
    let (log, _, seen) = open(&vfs, 4096);
    assert!(seen == [1, 2, 3, 4] && log.wants_vouch());
}

#[test]
fn a_sealed_log_takes_no_more_and_says_that_it_ended_in_order() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    log.seal().expect("sealed");
    log.seal().expect("again");
    assert!(matches!(log.append(3, Kind::Entry, &[b"x"]), Err(Error::Closed)));
    drop(log);
    vfs.crash(Crash::DropPending, 1);
    let (log, recovery, seen) = open(&vfs, 4096);
    assert_eq!((recovery.sealed, recovery.torn, seen), (true, None, vec![1, 2]));
    append(&log, 3..=3);
    drop(log);
    let (_, recovery, seen) = open(&vfs, 4096);
    assert_eq!((recovery.sealed, seen), (false, vec![1, 2, 3]));
}

#[test]
fn zeros_behind_the_last_record_are_its_end_and_not_a_torn_tail() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    drop(log);
    let (recovery, seen) = open_changed(&vfs, |bytes| bytes.extend([0; 5000])).expect("opens");
    assert_eq!((recovery.torn, seen), (None, vec![1, 2]));
    // A last record that reads as zeros was lost with the power, whether whole or in part.
    let end = HEADER_BYTES + 2 * RECORD as usize;
    for zeros in 1..=RECORD as usize {
        let (_, seen) = open_changed(&vfs, |bytes| bytes[end - zeros..end].fill(0)).expect("opens");
        assert!(seen == [1] || (zeros <= 3 && seen == [1, 2]), "{zeros} zeros: {seen:?}");
    }
}

#[test]
fn several_may_let_go_of_the_log_at_once() {
    for round in 0..50 {
        let vfs = memory();
        let (log, ..) = open(&vfs, 1024);
        append(&log, 1..=100);
        std::thread::scope(|scope| {
            let purge = |upto: u64| log.purge(upto).map_err(|error| format!("round {round}: {error}"));
            let all: Vec<_> =
                [60, 90, 75, 90].map(|upto| scope.spawn(move || purge(upto))).into_iter().collect();
            all.into_iter().for_each(|thread| assert_eq!(thread.join().expect("no panic"), Ok(())));
        });
        append(&log, 101..=110);
        drop(log);
        vfs.crash(Crash::KeepAll, 1);
        let (_, recovery, seen) = open(&vfs, 1024);
        let first = recovery.first_seq.expect("records");
        assert!((84..=91).contains(&first), "what holds records after 90 stays, and no more: {first}");
        assert_eq!(seen, (first..=110).collect::<Vec<_>>());
    }
}

#[test]
fn a_recycled_segment_does_not_bring_back_what_it_held() {
    static TAG: AtomicU64 = AtomicU64::new(1);
    let random = || TAG.fetch_add(1, Ordering::Relaxed);
    let vfs = memory();
    let log = Log::open(Arc::new(vfs.clone()), options(8192, random), None, 1, &mut |_, _, _| Ok(()));
    let (log, _) = log.expect("opens");
    append(&log, 1..=200);
    log.purge(200).expect("purged");
    let last = 201 + 8192 / RECORD;
    append(&log, 201..=last);
    drop(log);
    vfs.crash(Crash::KeepAll, 1);
    // The newest segment still holds records of its earlier life behind its own.
    let newest = vfs.files().into_iter().rfind(|(path, _)| path.extension().is_some_and(|e| e == "wal"));
    let (_, bytes) = newest.expect("a segment");
    let stale = (1..=200u8).filter(|seq| bytes.windows(100).any(|window| window == [*seq; 100])).count();
    assert!(stale > 5, "the segment was not recycled, so this test shows nothing");
    let mut seen = Vec::new();
    let (_, recovery) = Log::open(Arc::new(vfs), options(8192, random), None, 1, &mut |seq, _, _| {
        seen.push(seq);
        Ok(())
    })
    .expect("opens");
    assert_eq!(recovery.last_seq, Some(last));
    assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order, nothing twice: {seen:?}");
}

#[test]
fn an_absurd_length_is_no_record_and_no_reason_to_allocate() {
    // Lengths up to 4 GiB in a file of 4 KiB: were one believed, the payload could not be lent from the file.
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    drop(log);
    let second = HEADER_BYTES + RECORD as usize;
    for len in [0, 4096, MAX_RECORD_BYTES as u32, MAX_RECORD_BYTES as u32 + 1, u32::MAX - 7, u32::MAX] {
        let forged = open_changed(&vfs, |bytes| {
            bytes[second + 4..second + 8].copy_from_slice(&len.to_le_bytes());
            // With a checksum that is right for as much as there is.
            let body = (second + RECORD_HEADER_BYTES).saturating_add(len as usize).min(bytes.len());
            let crc = crc32fast::hash(&bytes[second + 4..body]);
            bytes[second..second + 4].copy_from_slice(&crc.to_le_bytes());
        });
        assert_eq!(forged.expect("a torn tail").1, [1], "length {len}");
    }
}

#[test]
fn a_record_over_the_limit_is_refused_and_one_over_the_segment_is_not() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 1024);
    append(&log, 1..=1);
    let end = log.append(2, Kind::Entry, &[&[7; 5000]]).expect("it gets a segment of its own");
    log.sync(end).expect("synced");
    let part = vec![0; MAX_RECORD_BYTES / 4];
    let refused = log.append(3, Kind::Entry, &[&part, &part, &part, &part]);
    assert!(matches!(refused, Err(Error::TooLarge { what: "a log record", .. })));
    drop(log);
    vfs.crash(Crash::DropPending, 1);
    assert_eq!(open(&vfs, 1024).2, [1, 2]);
}

#[test]
fn a_seq_that_none_can_follow_is_damage() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, u64::MAX..=u64::MAX);
    drop(log);
    let opened = open_changed(&vfs, |_| {});
    assert!(
        matches!(opened, Err(Error::Corrupt { offset, .. }) if offset == HEADER_BYTES as u64),
        "{opened:?}"
    );
}

#[test]
fn a_durable_position_inside_a_record_is_damage_at_once_and_not_at_the_next_opening() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    drop(log);
    let second = HEADER_BYTES as u64 + RECORD;
    for (offset, is_sound) in [(second, true), (second + 8, false), (second + RECORD, true)] {
        let floor = Some(Position { segment: 1, offset });
        let copy: Arc<Memory> = Arc::new(vfs.fork());
        let opened = Log::open(copy, options(4096, || 7), floor, 1, &mut |_, _, _| Ok(()));
        match opened {
            Ok(_) => assert!(is_sound, "{offset}"),
            Err(error) => {
                assert!(
                    !is_sound && matches!(error, Error::Corrupt { offset: at, .. } if at == offset),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_file_that_ends_with_its_last_record_is_shown() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=1);
    drop(log);
    let (_, bytes) = vfs.files().into_iter().find(|(path, _)| *path == first_segment()).expect("a segment");
    let end = HEADER_BYTES + RECORD_HEADER_BYTES + 1 + 100; // without the zeros that make it a multiple of eight
    let mut text = Vec::new();
    dump("log", &bytes[..end], &mut text, &|_, _| String::new()).expect("memory takes all");
    assert!(String::from_utf8_lossy(&text).ends_with("end of records, 0 bytes follow\n"));
}

#[test]
fn a_log_that_is_ahead_of_its_batches_is_damage() {
    let vfs = memory();
    let engine_options = || Options { vfs: Arc::new(vfs.clone()), threads: 0, ..Options::default() };
    let (log, ..) = open(&vfs, 4096);
    append(&log, 7..=7); // an entry, not a batch: the first batch would get seq 1
    drop(log);
    let opened = Engine::open(DIR, engine_options());
    assert!(matches!(opened.err(), Some(Error::Corrupt { .. })));
}

#[test]
fn a_record_of_another_log_s_kind_is_damage() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=3);
    log.sync(log.end()).expect("synced");
    drop(log);
    let others = LogOptions { kinds: &[Kind::Raft], ..options(4096, || 7) };
    let refused = Log::open(Arc::new(vfs.clone()), others, None, 1, &mut |_, _, _| panic!("it is not ours"));
    let error = refused.err().expect("damage");
    assert!(matches!(&error, Error::Corrupt { reason, .. } if reason.contains("kind 2")), "{error}");
    assert_eq!(open(&vfs, 4096).2, [1, 2, 3]);
}

#[test]
fn a_cursor_meets_what_is_written_behind_it() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    // Some ask once more when they have had the last record, others know that it was; some come back late.
    let cursor = |seq| log.cursor(seq).expect("readable").expect("it is there");
    let mut cursors = [(1, true, 1), (1, false, 1), (2, false, 3), (1, true, 7)]
        .map(|(seq, asks, every)| (cursor(seq), seq, asks, every));
    for last in 3..=200 {
        for (cursor, next, asks, every) in &mut cursors {
            if last % *every != 0 {
                continue;
            }
            while *next < last {
                let record = cursor.next(&log).expect("readable").expect("it is written");
                assert_eq!((record.seq, &record.payload[..]), (*next, &[*next as u8; 100][..]));
                *next += 1;
            }
            if *asks {
                assert!(cursor.next(&log).expect("readable").is_none(), "nothing comes after {last}");
            }
        }
        append(&log, last..=last);
    }
    assert!(log.segments().len() > 3, "{:?}", log.segments());
}

#[test]
fn a_cursor_goes_on_over_segments_that_were_let_go_of_behind_it() {
    let vfs = memory();
    let (log, ..) = open(&vfs, 4096);
    append(&log, 1..=2);
    drop(log);
    // Each opening begins a segment, in which the unproven end of the one before is written again.
    drop(open(&vfs, 4096));
    let (log, ..) = open(&vfs, 4096);
    append(&log, 3..=4);
    assert_eq!(log.segments().iter().map(|(_, first)| *first).collect::<Vec<_>>(), [1, 2, 2]);
    for from in 1..=4 {
        let mut cursor = log.cursor(from).expect("readable").expect("it is there");
        let all: Vec<u64> =
            std::iter::from_fn(|| cursor.next(&log).expect("readable")).map(|it| it.seq).collect();
        assert_eq!(all, (from..=4).collect::<Vec<_>>());
    }
    let mut cursor = log.cursor(1).expect("readable").expect("it is there");
    let mut next = || cursor.next(&log).expect("readable").map(|record| record.seq);
    assert_eq!((next(), next()), (Some(1), Some(2)));
    log.purge(2).expect("purged");
    assert_eq!(log.segments().len(), 1);
    assert_eq!((next(), next(), next()), (Some(3), Some(4), None));

    // One that has not come so far says that something is missing.
    let mut late = log.cursor(3).expect("readable").expect("it is there");
    append(&log, 5..=30);
    log.purge(20).expect("purged");
    assert!(log.segments()[0].1 > 4, "the test wants its segment to be gone");
    let found: Result<Vec<_>, _> = std::iter::from_fn(|| late.next(&log).transpose()).collect();
    match found {
        Ok(all) => {
            assert_eq!(all.iter().map(|record| record.seq).collect::<Vec<_>>(), (3..=30).collect::<Vec<_>>())
        }
        Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
    }
}

#[test]
fn what_is_kept_but_not_asked_for_is_not_read_and_damage_in_it_is_told_to_who_reads_it() {
    use lumen_engine::vfs::{Mode, Vfs};
    let vfs = memory();
    let (log, ..) = open(&vfs, 1024);
    append(&log, 1..=30);
    // As much as is to be kept is kept, in whole segments, and what is behind it.
    log.purge_keeping(30, 0).expect("purged");
    let last = log.segments()[0].1;
    append(&log, 31..=60);
    log.purge_keeping(60, 3 * 1024).expect("purged");
    let segments = log.segments();
    assert!(segments.len() >= 3 && segments[0].1 > last, "{segments:?}");
    log.purge_keeping(60, u64::MAX).expect("purged");
    assert_eq!(log.segments(), segments);
    drop(log);
    let path = Path::new(DIR).join(format!("{:010}.wal", segments[0].0));
    let file = vfs.open(&path, Mode::Write).expect("there");
    file.write_at(&[0xff; 8], 200).expect("written");
    file.sync().map_err(|error| error.0).expect("synced");
    let wanted = segments[1].1 + 1;
    let opened = |from_seq| {
        let mut seen = Vec::new();
        let options = LogOptions { from_seq, ..options(1024, || 7) };
        let opened = Log::open(Arc::new(vfs.clone()), options, None, 1, &mut |seq, _, _| {
            seen.push(seq);
            Ok(())
        });
        opened.map(|(log, _)| (log, seen))
    };
    assert!(matches!(opened(0), Err(Error::Corrupt { offset, .. }) if offset <= 200));
    let (log, seen) = opened(wanted).expect("what is asked for is whole");
    assert_eq!(seen, (segments[1].1..=60).collect::<Vec<_>>());
    let mut cursor = log.cursor(wanted).expect("readable").expect("it is there");
    assert_eq!(cursor.next(&log).expect("readable").expect("there").seq, wanted);
    let read = log.cursor(segments[1].1 - 1);
    let read = read.and_then(|cursor| cursor.expect("there").next(&log));
    assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    // What is appended after an opening that read no record goes on where the log ended.
    append(&log, 61..=62);
    log.seal().expect("sealed");
    drop(log);
    let (_, seen) = opened(61).expect("sealed in order");
    assert!(seen.ends_with(&[61, 62]), "{seen:?}");
}
