//! The floor: a short piece is written behind the last one and synced, again and again, in a file whose room is there already
//! and filled, as a log's that has been used before. No server that syncs answers sooner.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;
use lumen_benches::options::Options;

pub(crate) const OPTIONS: &[(&str, &str)] = &[("--bytes", "200"), ("--times", "4000")];

/// How long they took, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Syncs {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// Appends so many bytes, so many times, each synced by `fdatasync`, to a file in this folder, which is gone afterwards.
pub(crate) fn measure(folder: &Path, bytes: usize, times: usize) -> io::Result<Syncs> {
    let file: File = tempfile::tempfile_in(folder)?;
    let len = (bytes * times).next_multiple_of(1 << 20);
    file.write_all_at(&vec![0; len], 0)?;
    file.sync_all()?;
    let piece = vec![b'x'; bytes];
    let mut took = Histogram::<u64>::new(3).expect("three digits");
    for n in 0..times {
        let begin = Instant::now();
        file.write_all_at(&piece, (n * bytes) as u64)?;
        file.sync_data()?;
        took.record(begin.elapsed().as_nanos() as u64).expect("below centuries");
    }
    let quantile = |quantile| took.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Syncs { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999) })
}

pub(crate) fn run(options: &Options) -> bool {
    let folder = options.folder();
    let (bytes, times) = (options.number("--bytes") as usize, options.number("--times") as usize);
    let Syncs { p50, p99, p999 } = measure(folder.path(), bytes, times).expect("the disk takes it");
    println!(
        "{times} times {bytes} bytes, written and synced: p50 {p50:.1} µs, p99 {p99:.1} µs, p99.9 {p999:.1} µs"
    );
    true
}
