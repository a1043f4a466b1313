//! What one durable write costs on this machine's disk, printed beside the figures.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Writes measured.
const WRITES: usize = 300;

/// Times of single 4 KiB appends with `fdatasync`, in the directory benchmarks store in.
///
/// # Errors
/// When the temporary directory cannot be written.
pub(crate) fn fdatasync_times() -> anyhow::Result<Vec<Duration>> {
    let mut file: File = tempfile::tempfile()?;
    let block = [0x5a_u8; 4096];
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        file.write_all(&block)?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}
