//! The process of an agent session, as a daemon sees it: a process id that lives and, some day, ends.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;

/// What a session is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It talks and listens.
    Talks,
    /// It works and says nothing: messages of low priority wait for it.
    Busy,
    /// It has ended, or is about to; nobody registers it.
    Gone,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It says so.
    Said,
    /// Its process ends without a word.
    ProcessEnds,
}

/// One session's process, over all its lives.
#[derive(Default)]
pub struct Agent {
    stage: AtomicU8,
    lives: AtomicU32,
    process: Mutex<Option<Child>>,
}

impl Agent {
    /// The process id to register with; a process is started when there is none.
    pub fn pid(&self) -> u32 {
        let mut process = self.process.lock();
        // It reads from us, so it ends when the test is killed.
        let start = || {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        process.get_or_insert_with(start).id()
    }

    /// The process ends.
    pub fn end(&self) {
        if let Some(mut process) = self.process.lock().take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Talks,
            1 => Stage::Busy,
            _ => Stage::Gone,
        }
    }

    /// How often it has ended. What a life was shown and did not take may be shown to the next one too.
    pub fn lives(&self) -> u32 {
        self.lives.load(Ordering::Relaxed)
    }

    pub fn set_stage(&self, stage: Stage) {
        let number = match stage {
            Stage::Talks => 0,
            Stage::Busy => 1,
            Stage::Gone => {
                self.lives.fetch_add(1, Ordering::Relaxed);
                2
            }
        };
        self.stage.store(number, Ordering::Relaxed);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}
