//! A terminal of a test's own: one window of a private tmux server, which ends with the value.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::process::{POLL, Ran, RigError, run};

/// Terminals of this process so far.
static OPENED: AtomicUsize = AtomicUsize::new(0);

/// Longest answer of the tmux server.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Size of the window: wide, so that long lines are not broken.
const SIZE: (&str, &str) = ("200", "50");

/// One program in a terminal.
pub(super) struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Starts `argv` in `cwd` with this environment and no other. `dir` gets the server's socket; its path must be short.
    pub(super) fn open(
        dir: &Path,
        environment: &[(String, OsString)],
        cwd: &Path,
        argv: &[OsString],
    ) -> Result<Self, RigError> {
        // One HOME may have several terminals.
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { socket: dir.join(format!("tmux-{number}.sock")) };
        let mut command = terminal.command();
        command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        let (width, height) = SIZE;
        command.args(["-f", "/dev/null", "new-session", "-d", "-s", "agent"]);
        command.args(["-x", width, "-y", height, "-c"]).arg(cwd);
        // A single word would be run by a shell, whose process id is another.
        command.args(["--", "env"]).args(argv);
        Self::checked(command)?;
        Ok(terminal)
    }

    /// The screen, with what has scrolled away.
    pub(super) fn screen(&self) -> Result<String, RigError> {
        let mut command = self.command();
        command.args(["capture-pane", "-p", "-S", "-500", "-t", "agent"]);
        Ok(Self::checked(command)?.stdout)
    }

    /// Types text as it stands.
    pub(super) fn type_text(&self, text: &str) -> Result<(), RigError> {
        let mut command = self.command();
        command.args(["send-keys", "-t", "agent", "-l", "--", text]);
        Self::checked(command).map(|_| ())
    }

    /// Presses a key, in tmux's name of it: `Enter`, `Escape`, `C-c`.
    pub(super) fn press(&self, key: &str) -> Result<(), RigError> {
        let mut command = self.command();
        command.args(["send-keys", "-t", "agent", key]);
        Self::checked(command).map(|_| ())
    }

    /// Process id of the program in the window.
    pub(super) fn pid(&self) -> Result<Option<i32>, RigError> {
        let mut command = self.command();
        command.args(["display-message", "-p", "-t", "agent", "#{pane_pid}"]);
        Ok(Self::checked(command)?.stdout.trim().parse().ok())
    }

    /// Waits until the screen fits.
    pub(super) fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String, RigError> {
        let deadline = Instant::now() + patience;
        loop {
            let screen = self.screen().unwrap_or_default();
            if fits(&screen) {
                return Ok(screen);
            }
            if Instant::now() >= deadline {
                return Err(RigError::Never { what: what.to_owned(), screen });
            }
            std::thread::sleep(POLL);
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket);
        command
    }

    fn checked(command: Command) -> Result<Ran, RigError> {
        let ran = run(command, ANSWER_WAIT).map_err(|error| match error {
            RigError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                RigError::Missing("tmux")
            }
            other => other,
        })?;
        if ran.code == Some(0) {
            return Ok(ran);
        }
        let what = format!("tmux to answer ({})", ran.stderr.trim());
        Err(RigError::Never { what, screen: ran.stdout })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = self.command();
        command.arg("kill-server").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It is gone already.
        let _ = command.status();
    }
}
