//! One file of an agent's, changed so that nobody loses anything: under a lock, with a way back written down first and a
//! copy beside it, only if it is still what was read (CLI spec §2.4, §6.1; MCP spec §10).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use claudemesh_agents::install::{self, Part, Wanted};
use claudemesh_agents::settings::{
    Entry, Outcome, Record, SettingsError, Syntax, Undone, diff, meaning, put, take, undo,
};
use claudemesh_daemon::care::crash_point;
use claudemesh_daemon::home::file::{self, Symlinks};

use super::store::{Store, Untouched};
use super::turn::Turn;

/// How often a file that somebody else writes at the same time is read and changed again.
const TRIES: u32 = 3;
/// Copies kept of each file.
const BACKUPS_KEPT: usize = 10;
/// Between the name of a file and the time of its copy.
const BACKUP_MARK: &str = ".pre-claudemesh.";

/// Whether entries come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    Put,
    Take,
}

/// What a file is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum After {
    /// What it is.
    Same,
    /// This text.
    Text(String),
    /// It goes.
    Gone,
}

/// An edit that was worked out and not done.
pub(crate) struct Planned {
    pub(crate) outcomes: Vec<(Part, Outcome)>,
    /// Dead entries of earlier programs that go, too.
    pub(crate) stale: usize,
    pub(crate) after: After,
    record: Option<Record>,
    before: Option<String>,
}

/// What became of a file.
pub(crate) struct Done {
    pub(crate) outcomes: Vec<(Part, Outcome)>,
    pub(crate) stale: usize,
    pub(crate) is_changed: bool,
    pub(crate) backup: Option<PathBuf>,
}

/// How writing ended.
enum Written {
    Yes,
    /// Yes, and somebody else wrote in the very next moment.
    AndChanged,
    /// Somebody else was faster.
    No,
}

/// A file as it was read.
struct Current {
    /// Behind any links.
    real: PathBuf,
    text: Option<String>,
    mode: u32,
}

impl Planned {
    /// True when something is to be written.
    pub(crate) fn is_change(&self) -> bool {
        self.after != After::Same
    }

    /// The change, for a person; `name` is what the file is called.
    pub(crate) fn diff(&self, name: &str) -> String {
        let after = match &self.after {
            After::Same => return String::new(),
            After::Text(text) => text,
            After::Gone => "",
        };
        diff(name, self.before.as_deref().unwrap_or_default(), after)
    }
}

/// Works out what a file is to become. Writes nothing.
///
/// # Errors
/// Why it has to stay as it is.
pub(crate) fn look(store: &Store, wanted: &Wanted, aim: Aim) -> Result<Planned, Untouched> {
    let current = read(&wanted.file)?;
    plan(store, wanted, aim, current.text)
}

/// Changes a file.
///
/// # Errors
/// Why it stayed as it is.
pub(crate) fn carry_out(
    store: &Store,
    backups: &Path,
    wanted: &Wanted,
    aim: Aim,
) -> Result<Done, Untouched> {
    // What needs no change needs no lock, and makes no directory.
    let planned = look(store, wanted, aim)?;
    if !planned.is_change() {
        close(store, wanted, aim, planned.before.as_deref())?;
        return Ok(done(planned, None));
    }
    let lock = store.lock(&wanted.file)?;
    remove_left_over(&wanted.file);
    for _ in 0..TRIES {
        let _turn = Turn::wait(wanted, &lock)?;
        let current = read(&wanted.file)?;
        let planned = plan(store, wanted, aim, current.text.clone())?;
        if !planned.is_change() {
            return Ok(done(planned, None));
        }
        let backup = match (&current.text, &planned.after) {
            // Nothing but what we put there is in a file that goes.
            (None, _) | (_, After::Gone) => None,
            (Some(text), _) => Some(keep_copy(backups, wanted, text)?),
        };
        match write(store, wanted, &current, &planned)? {
            Written::Yes => {
                prune(backups, &wanted.file);
                return Ok(done(planned, backup));
            }
            Written::AndChanged => {}
            Written::No => {
                // A copy of what did not change; one too many does no harm.
                let _ = backup.map(fs::remove_file);
            }
        }
    }
    Err(Untouched::of(&wanted.file, "another program keeps writing to it")
        .fix("end the agent's sessions and run this again"))
}

/// Brings to an end what a process of ours that died began with a file that is as it should be.
fn close(store: &Store, wanted: &Wanted, aim: Aim, text: Option<&str>) -> Result<(), Untouched> {
    let path = wanted.file.to_string_lossy();
    let ledger = store.ledger()?;
    let is_begun = ledger.begun.contains_key(&*path);
    if !is_begun && (aim == Aim::Put || !ledger.files.contains_key(&*path)) {
        return Ok(());
    }
    let _lock = store.lock(&wanted.file)?;
    remove_left_over(&wanted.file);
    store.change(|ledger| {
        ledger.settle(&path, text);
        if aim == Aim::Take {
            ledger.files.remove(&*path);
        }
    })
}

fn done(planned: Planned, backup: Option<PathBuf>) -> Done {
    let is_changed = planned.is_change();
    Done { outcomes: planned.outcomes, stale: planned.stale, is_changed, backup }
}

fn plan(
    store: &Store,
    wanted: &Wanted,
    aim: Aim,
    before: Option<String>,
) -> Result<Planned, Untouched> {
    let mut ledger = store.ledger()?;
    let path = wanted.file.to_string_lossy().into_owned();
    ledger.settle(&path, before.as_deref());
    let parts: Vec<Part> = wanted.entries.iter().map(|(part, _)| *part).collect();
    let entries: Vec<Entry> = wanted.entries.iter().map(|(_, entry)| entry.clone()).collect();
    let record = ledger.record_of(&path, wanted.syntax, before.as_deref(), &entries).cloned();
    let planned = match aim {
        Aim::Put => coming(wanted.syntax, &entries, record, before.as_deref()),
        Aim::Take => going(wanted.syntax, &entries, record.as_ref(), before.as_deref()),
    };
    let (outcomes, stale, after, record) =
        planned.map_err(|error| refused(&wanted.file, &error))?;
    let outcomes = parts.into_iter().zip(outcomes).collect();
    Ok(Planned { outcomes, stale, after, record, before })
}

type Plan = (Vec<Outcome>, usize, After, Option<Record>);

fn coming(
    syntax: Syntax,
    entries: &[Entry],
    earlier: Option<Record>,
    before: Option<&str>,
) -> Result<Plan, SettingsError> {
    let text = before.unwrap_or_default();
    // What is dead does not come back: the way back begins behind its end.
    let stale = install::stale(&meaning(syntax, text)?, &is_alive);
    let cleaned =
        if stale.is_empty() { text.to_owned() } else { take(syntax, text, &stale, &[])?.text };
    let edited = put(syntax, &cleaned, entries)?;
    let base = before.map(|_| cleaned.as_str());
    let record = match earlier {
        Some(earlier) => Some(earlier.and(base, &edited)),
        None => edited.is_change().then(|| Record::of(base, entries, &edited)),
    };
    let is_same = edited.text == text;
    let after = if is_same { After::Same } else { After::Text(edited.text) };
    Ok((edited.outcomes, stale.len(), after, record))
}

fn going(
    syntax: Syntax,
    entries: &[Entry],
    record: Option<&Record>,
    before: Option<&str>,
) -> Result<Plan, SettingsError> {
    let Some(text) = before else {
        return Ok((vec![Outcome::Absent; entries.len()], 0, After::Same, None));
    };
    // Nobody needs a session's entry once everything else of ours is gone.
    let stale = install::stale(&meaning(syntax, text)?, &|_| false);
    let undone = undo(syntax, text, entries, record)?;
    let (rest, is_gone) = match undone {
        Undone::Delete => (String::new(), true),
        Undone::Text { text, .. } => (text, false),
        Undone::Untouched => (text.to_owned(), false),
    };
    let rest = if stale.is_empty() { rest } else { take(syntax, &rest, &stale, &[])?.text };
    let has = |text: &str, entry: &Entry| -> Result<Outcome, SettingsError> {
        let taken = take(syntax, text, std::slice::from_ref(entry), &[])?;
        Ok(taken.outcomes.first().copied().unwrap_or(Outcome::Absent))
    };
    let mut outcomes = Vec::with_capacity(entries.len());
    for entry in entries {
        outcomes.push(match (has(text, entry)?, has(&rest, entry)?) {
            // It was the user's before us.
            (Outcome::Removed, Outcome::Removed) => Outcome::Foreign,
            (found, _) => found,
        });
    }
    let after = match is_gone {
        true => After::Gone,
        false if rest == text => After::Same,
        false => After::Text(rest),
    };
    Ok((outcomes, stale.len(), after, None))
}

/// Puts the new text in the place of the old one.
fn write(
    store: &Store,
    wanted: &Wanted,
    current: &Current,
    planned: &Planned,
) -> Result<Written, Untouched> {
    let fail = |error: io::Error| cannot_write(&wanted.file, &error);
    let path = wanted.file.to_string_lossy().into_owned();
    let before = current.text.as_deref();
    if let Some(record) = &planned.record {
        let made = Store::make_dirs(&wanted.file)?;
        store.change(|ledger| {
            ledger.settle(&path, before);
            ledger.begun.insert(path.clone(), record.clone());
            ledger.dirs.extend(made);
        })?;
        crash_point("install.begun");
    }
    let expected = before.map(str::as_bytes);
    let is_done = match &planned.after {
        After::Same => true,
        After::Text(text) => file::replace_unchanged(
            &wanted.file,
            expected,
            text.as_bytes(),
            current.mode,
            "install.before_rename",
        )
        .map_err(fail)?,
        After::Gone => {
            let found = read(&wanted.file)?;
            let is_same = found.text.as_deref() == before;
            if is_same {
                fs::remove_file(&current.real).map_err(fail)?;
            }
            is_same
        }
    };
    if !is_done {
        return Ok(Written::No);
    }
    crash_point("install.renamed");
    let found = read(&wanted.file)?.text;
    store.change(|ledger| {
        ledger.settle(&path, found.as_deref());
        if planned.record.is_none() {
            ledger.files.remove(&path);
        }
    })?;
    crash_point("install.settled");
    let is_changed = matches!(&planned.after, After::Text(text) if found.as_ref() != Some(text));
    Ok(if is_changed { Written::AndChanged } else { Written::Yes })
}

fn read(path: &Path) -> Result<Current, Untouched> {
    let untouched = |why: String| Untouched::of(path, why);
    let real = file::through_link(path).map_err(|error| untouched(error.to_string()))?;
    let stat = match fs::metadata(&real) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Current { real, text: None, mode: file::SECRET });
        }
        Err(error) => return Err(untouched(error.to_string())),
    };
    if !stat.is_file() {
        return Err(untouched("it is no file".to_owned()));
    }
    let (owner, mode) =
        file::owner_and_mode(&real).map_err(|error| untouched(error.to_string()))?;
    if owner != rustix::process::geteuid().as_raw() {
        return Err(untouched("it belongs to another user".to_owned()).fix("run this as that user"));
    }
    if mode & 0o200 == 0 {
        return Err(
            untouched("it is read-only".to_owned()).fix(format!("chmod u+w {}", shell_word(&real)))
        );
    }
    let content =
        file::read(&real, Symlinks::Refuse).map_err(|error| untouched(error.to_string()))?;
    let Some(content) = content else {
        return Ok(Current { real, text: None, mode: file::SECRET });
    };
    let text = String::from_utf8(content.bytes.to_vec())
        .map_err(|_| untouched("it is not UTF-8 text".to_owned()))?;
    Ok(Current { real, text: Some(text), mode })
}

fn refused(path: &Path, error: &SettingsError) -> Untouched {
    let untouched = Untouched::of(path, error.to_string());
    match error {
        SettingsError::LossGuard => untouched,
        SettingsError::Unreadable { line, .. } => {
            untouched.fix(format!("${{EDITOR:-vi}} +{line} {}", shell_word(path)))
        }
        _ => untouched.fix(format!("${{EDITOR:-vi}} {}", shell_word(path))),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Untouched {
    let untouched = Untouched::of(path, format!("it cannot be written: {error}"));
    match (error.kind(), path.parent()) {
        (io::ErrorKind::PermissionDenied, Some(dir)) => {
            untouched.fix(format!("chmod u+w {}", shell_word(dir)))
        }
        _ => untouched,
    }
}

/// A path as a person types it.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |sign: char| sign.is_ascii_alphanumeric() || "/._-+,:@%~".contains(sign);
    if text.chars().all(is_plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Keeps a file as it is before it is changed.
fn keep_copy(backups: &Path, wanted: &Wanted, text: &str) -> Result<PathBuf, Untouched> {
    let fail = |error: io::Error| {
        Untouched::of(
            &wanted.file,
            format!("no copy can be kept in {}: {error}", backups.display()),
        )
    };
    let name = wanted.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    file::create_private_dir(backups).map_err(fail)?;
    let mut time = chrono::Utc::now().timestamp_millis();
    loop {
        let copy = backups.join(format!("{name}{BACKUP_MARK}{time}"));
        match file::create_new(&copy, text.as_bytes(), file::SECRET) {
            Ok(()) => return Ok(copy),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => time += 1,
            Err(error) => return Err(fail(error)),
        }
    }
}

/// Removes the oldest copies of a file.
fn prune(backups: &Path, path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}{BACKUP_MARK}");
    let entries = fs::read_dir(backups).into_iter().flatten().flatten();
    let time_of = |entry: fs::DirEntry| {
        let time = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse::<i64>().ok()?;
        Some((time, entry.path()))
    };
    let mut copies: Vec<(i64, PathBuf)> = entries.filter_map(time_of).collect();
    copies.sort_unstable_by(|one, other| other.cmp(one));
    for (_, copy) in copies.into_iter().skip(BACKUPS_KEPT) {
        // One too many does no harm.
        let _ = fs::remove_file(copy);
    }
}

/// Removes what a process of ours that died in the middle left beside a file. The lock is held: nobody is writing.
pub(super) fn remove_left_over(path: &Path) {
    let real = file::through_link(path).unwrap_or_else(|_| path.to_owned());
    let (Some(dir), Some(name)) = (real.parent(), real.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    let prefix = format!("{name}.");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|found| found.starts_with(&prefix) && file::is_temporary(found));
        if is_ours {
            // The next one finds it again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // One that is not ours to ask about is alive.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(shell_word(Path::new("/a/b.json")), "/a/b.json");
        assert_eq!(shell_word(Path::new("/it's me")), r"'/it'\''s me'");
    }

    #[test]
    fn the_newest_ten_copies_stay() {
        let dir = tempfile::tempdir().unwrap();
        for time in 1..=12 {
            fs::write(dir.path().join(format!("settings.json{BACKUP_MARK}{time}")), "").unwrap();
        }
        for other in ["settings.json.pre-claudemesh.x", ".claude.json.pre-claudemesh.1", "mine"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        prune(dir.path(), Path::new("/x/settings.json"));
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 10 + 3);
        assert!(!dir.path().join(format!("settings.json{BACKUP_MARK}2")).exists());
        assert!(dir.path().join(format!("settings.json{BACKUP_MARK}3")).exists());
    }
}
