//! The table of crash points: every place where a daemon, or the command line at work on its files, can be made to die
//! (daemon spec §26). A test compares it with the source.

use std::path::{Path, PathBuf};

/// A place to die at.
#[derive(Debug, PartialEq, Eq)]
pub struct Point {
    pub name: &'static str,
    pub on: Road,
    /// It is passed at least so often before somebody waits in vain.
    pub passes: u32,
}

/// What has to happen for somebody to come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Messages are sent and received.
    Traffic,
    /// An operator puts a row that waits back into the queue.
    Requeue,
    /// An operator takes the text out of old rows.
    Prune,
    /// A session registers.
    Session,
    /// An agent's own record shows messages that it was handed.
    Record,
    /// Small files are written: some at each start, more when a member key is changed.
    Files,
    /// A member key is changed.
    Rotation,
    /// The command line restores a backup; its process dies instead of the daemon.
    Restore,
}

pub const POINTS: [Point; 17] = [
    point("accept.before_commit", Road::Traffic, 8),
    point("accept.after_commit_before_reply", Road::Traffic, 8),
    // The first commits are those of the start.
    point("commit.before_fsync", Road::Traffic, 30),
    point("commit.after_fsync_before_reply", Road::Traffic, 30),
    point("drain.after_inflight_before_write", Road::Traffic, 8),
    point("drain.after_write_before_ack", Road::Traffic, 8),
    point("drain.after_ack_before_done", Road::Traffic, 8),
    point("inbox.after_insert_before_ack", Road::Traffic, 8),
    point("requeue.mid_tx", Road::Requeue, 2),
    point("prune.mid", Road::Prune, 1),
    point("sessions.mid_write", Road::Session, 2),
    point("evidence.after_commit_before_receipt", Road::Record, 2),
    point("config.mid_write", Road::Files, 6),
    point("rotate.after_archive", Road::Rotation, 1),
    point("rotate.after_register", Road::Rotation, 1),
    point("rotate.after_config", Road::Rotation, 1),
    point("restore.mid_exchange", Road::Restore, 5),
];

const fn point(name: &'static str, on: Road, passes: u32) -> Point {
    Point { name, on, passes }
}

/// Those that a daemon comes by while people talk and operators work.
pub fn everyday() -> impl Iterator<Item = &'static str> {
    let roads = [Road::Traffic, Road::Requeue, Road::Prune, Road::Session];
    POINTS.iter().filter(move |point| roads.contains(&point.on)).map(|point| point.name)
}

/// Calls whose text argument names a crash point.
const CALLS: [&str; 2] = ["crash_point(", "replace_past("];

/// Names of crash points in the sources below `dir`.
fn named_in(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named_in(&path, found);
        } else {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for call in CALLS {
                for (at, _) in text.match_indices(call) {
                    let arguments = text[at + call.len()..].split(')').next().unwrap_or_default();
                    found.extend(arguments.split('"').nth(1).map(str::to_owned));
                }
            }
        }
    }
}

/// Daemon spec §26: the table of crash points is the one of the source.
#[test]
fn every_crash_point_of_the_daemon_is_in_the_table() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for source in ["daemon/src", "sqlite/src"] {
        named_in(&crates.join(source), &mut found);
    }
    found.sort();
    found.dedup();
    let mut known: Vec<_> = POINTS.iter().map(|point| point.name).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}
