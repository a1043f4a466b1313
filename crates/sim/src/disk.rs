//! The simulated disk: real SQLite files in memory, commits that take their time, machines that die between any two of
//! them, and what a power failure leaves of a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudemesh_sqlite::Durability;
use claudemesh_sqlite::simulation::Disk;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::dice::Dice;
use crate::trace::Trace;

/// How a machine dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process ends; what it has written stays.
    Kill,
    /// The power goes; of what was not synced, any part may be lost.
    PowerFailure,
}

/// The disks of one run.
pub(crate) struct SimDisk {
    inner: Mutex<Inner>,
    trace: Arc<Trace>,
}

struct Inner {
    dice: Dice,
    machines: BTreeMap<PathBuf, Machine>,
    /// Length of each log that is synced.
    synced: BTreeMap<PathBuf, u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Machine {
    is_dead: bool,
    is_full: bool,
    is_slow: bool,
}

impl SimDisk {
    pub(crate) fn new(seed: u64, trace: Arc<Trace>) -> Arc<Self> {
        let inner = Inner {
            dice: Dice::new(seed, "disk"),
            machines: BTreeMap::new(),
            synced: BTreeMap::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), trace })
    }

    /// Every database below `dir` belongs to one machine, which lives.
    pub(crate) fn add_machine(&self, dir: &Path) {
        self.inner.lock().machines.insert(dir.to_owned(), Machine::default());
    }

    /// The disk below `dir` takes no more, or takes again.
    pub(crate) fn set_full(&self, dir: &Path, is_full: bool) {
        if let Some(machine) = self.inner.lock().machines.get_mut(dir) {
            machine.is_full = is_full;
        }
    }

    /// The disk below `dir` is slow, or quick again.
    pub(crate) fn set_slow(&self, dir: &Path, is_slow: bool) {
        if let Some(machine) = self.inner.lock().machines.get_mut(dir) {
            machine.is_slow = is_slow;
        }
    }

    /// The machine of `dir` dies now; what its disk holds then is copied to `copy`.
    pub(crate) fn kill_machine(&self, dir: &Path, death: Death, copy: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if let Some(machine) = inner.machines.get_mut(dir) {
            machine.is_dead = true;
        }
        self.copy_dir(&mut inner, dir, copy, death)
    }

    fn copy_dir(&self, inner: &mut Inner, from: &Path, to: &Path, death: Death) -> io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
        let mut entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (kind, path) = (entry.file_type()?, entry.path());
            let target = to.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() {
                self.copy_dir(inner, &path, &target, death)?;
            } else if kind.is_file() && !name.ends_with("-shm") {
                fs::copy(&path, &target)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(0o600))?;
                if let Some(base) = name.strip_suffix("-wal") {
                    self.settle_log(
                        inner,
                        (&path.with_file_name(base), &target.with_file_name(base)),
                        &target,
                        death,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// A power failure keeps of the log what was synced, and any part of the rest.
    fn settle_log(
        &self,
        inner: &mut Inner,
        (before, after): (&Path, &Path),
        log: &Path,
        death: Death,
    ) -> io::Result<()> {
        let length = fs::metadata(log)?.len();
        let synced = inner.synced.get(before).copied().unwrap_or(0).min(length);
        let kept = match death {
            Death::Kill => length,
            Death::PowerFailure => match inner.dice.number(0..=2) {
                0 => synced,
                1 => length,
                _ => inner.dice.number(synced..=length),
            },
        };
        fs::OpenOptions::new().write(true).open(log)?.set_len(kept)?;
        inner.synced.insert(after.to_owned(), kept);
        let name = after.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.trace.note(&format!(
            "disk {death:?} {name}: {length} written, {synced} synced, {kept} kept"
        ));
        Ok(())
    }

    fn machine(&self, file: &Path) -> Machine {
        let inner = self.inner.lock();
        let found = file.ancestors().find_map(|dir| inner.machines.get(dir).copied());
        found.unwrap_or_default()
    }

    /// Waits as a disk does; for ever, when the machine dies meanwhile.
    async fn wait(&self, file: &Path, work: Work) {
        let machine = self.machine(file);
        if !machine.is_dead {
            let delay = {
                let dice = &mut self.inner.lock().dice;
                let quick = match work {
                    Work::Sync => {
                        dice.weighted(&[(70, (0, 3)), (25, (4, 20)), (5, (30, 400))], (0, 3))
                    }
                    Work::Write | Work::Answer => {
                        dice.weighted(&[(80, (0, 0)), (20, (1, 3))], (0, 0))
                    }
                    Work::Read => dice.weighted(&[(90, (0, 0)), (10, (1, 4))], (0, 0)),
                };
                let factor = if machine.is_slow { 40 } else { 1 };
                dice.millis(quick.0 * factor..=quick.1 * factor)
            };
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let dir = file.ancestors().find(|dir| self.inner.lock().machines.contains_key(*dir));
            let dir = dir.and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            self.trace.note(&format!("disk {dir}/{name} {work:?} {} ms", delay.as_millis()));
            if !delay.is_zero() {
                sleep(delay).await;
            }
        }
        if self.machine(file).is_dead {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Sync,
    Write,
    Answer,
    Read,
}

impl Disk for SimDisk {
    fn before_commit<'d>(&'d self, file: &'d Path, durability: Durability) -> BoxFuture<'d, ()> {
        let work = if durability == Durability::Full { Work::Sync } else { Work::Write };
        Box::pin(self.wait(file, work))
    }

    fn is_full(&self, file: &Path) -> bool {
        self.machine(file).is_full
    }

    fn committed(&self, file: &Path, durability: Durability) {
        if durability == Durability::Full {
            let length = fs::metadata(log_of(file)).map_or(0, |log| log.len());
            self.inner.lock().synced.insert(file.to_owned(), length);
        }
    }

    fn before_answer<'d>(&'d self, file: &'d Path) -> BoxFuture<'d, ()> {
        Box::pin(self.wait(file, Work::Answer))
    }

    fn before_read<'d>(&'d self, file: &'d Path) -> BoxFuture<'d, ()> {
        Box::pin(self.wait(file, Work::Read))
    }

    fn closed(&self, file: &Path) {
        self.inner.lock().synced.insert(file.to_owned(), 0);
    }
}

fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}
