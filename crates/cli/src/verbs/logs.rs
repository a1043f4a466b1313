//! `daemon logs`: the end of the daemon's log, and what is added to it (CLI spec §3.18).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{DaemonLogsArgs, LogLevel};
use crate::output::Output;

/// Step between two looks at a log that is followed.
const FOLLOW_STEP: Duration = Duration::from_millis(200);

/// Runs the verb; gives the exit code, since it writes as it reads.
///
/// # Errors
/// Exit 5 when there is no log, exit 10 when it cannot be read.
pub(crate) fn run(context: &Context, args: &DaemonLogsArgs) -> Outcome<u8> {
    let path = context.paths.log_file();
    let file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::not_found("the daemon has no log yet").detail(path.display().to_string())
        }
        _ => unreadable(&path, &error),
    })?;
    let mut reader = BufReader::new(file);
    let mut tail = std::collections::VecDeque::new();
    let mut line = String::new();
    while read_line(&mut reader, &mut line, &path)? {
        if is_shown(&line, args.level) {
            tail.push_back(shown(context, &line));
            if tail.len() > args.lines as usize {
                tail.pop_front();
            }
        }
    }
    if !Output::stream(&tail.into_iter().collect::<String>()) || !args.follow {
        return Ok(0);
    }
    loop {
        while read_line(&mut reader, &mut line, &path)? {
            if is_shown(&line, args.level) && !Output::stream(&shown(context, &line)) {
                return Ok(0);
            }
        }
        std::thread::sleep(FOLLOW_STEP);
        if was_rotated(&mut reader, &path) {
            let fresh = File::open(&path).map_err(|error| unreadable(&path, &error))?;
            reader = BufReader::new(fresh);
        }
    }
}

/// Reads one whole line; false at the end. A line without its end is left for the next time.
fn read_line(reader: &mut BufReader<File>, line: &mut String, path: &Path) -> Outcome<bool> {
    let mut bytes = Vec::new();
    let read =
        reader.by_ref().read_until(b'\n', &mut bytes).map_err(|error| unreadable(path, &error))?;
    if read == 0 {
        return Ok(false);
    }
    if !bytes.ends_with(b"\n") {
        let back = i64::try_from(read).unwrap_or_default();
        reader.seek(SeekFrom::Current(-back)).map_err(|error| unreadable(path, &error))?;
        return Ok(false);
    }
    *line = String::from_utf8_lossy(&bytes).into_owned();
    Ok(true)
}

/// True when the path leads to another file, or to a shorter one, than the one that is read.
fn was_rotated(reader: &mut BufReader<File>, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let Ok(now) = std::fs::metadata(path) else { return false };
    let Ok(own) = reader.get_ref().metadata() else { return false };
    let position = reader.stream_position().unwrap_or(0);
    now.ino() != own.ino() || now.len() < position
}

fn is_shown(line: &str, level: Option<LogLevel>) -> bool {
    let Some(least) = level else { return true };
    let value: Option<Value> = serde_json::from_str(line).ok();
    let word = value.as_ref().and_then(|value| value.get("level")).and_then(Value::as_str);
    let level = match word.map(str::to_ascii_lowercase).as_deref() {
        Some("trace") => LogLevel::Trace,
        Some("debug") => LogLevel::Debug,
        Some("warn") => LogLevel::Warn,
        Some("error") => LogLevel::Error,
        Some(_) => LogLevel::Info,
        // Lines that are no JSON come from a crash and are always of interest.
        None => return true,
    };
    level >= least
}

/// Raw under `--json`; otherwise made harmless, since logs may quote what strangers sent.
fn shown(context: &Context, line: &str) -> String {
    if context.out.is_json() {
        return line.to_owned();
    }
    format!("{}\n", claudemesh_protocol::text::sanitized(line.trim_end_matches(['\n', '\r'])))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("cannot read {}", path.display()), error)
}
