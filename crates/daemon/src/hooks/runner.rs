//! The last words of the daemon in a hook's process (daemon spec §16.3): it leaves the session, the descriptors and, where
//! that is asked for, the network of the daemon behind, and becomes the hook. It runs as a hidden first word of our own
//! program, before any thread is started, so that all of this needs no unsafe code between `fork` and `exec`.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit};

use super::section::FsPolicy;

/// The hidden first word.
pub const RUN_HOOK: &str = "run-hook";

/// The hook gets a network of its own, without any way out.
const NO_NETWORK: &str = "--no-network";
/// Nothing is run: the exit code says whether [`NO_NETWORK`] can be had.
const PROBE: &str = "--probe";
/// The hook runs in `bwrap`; followed by what it may write.
const BUBBLEWRAP: &str = "--bwrap=";
/// What `bwrap` leaves visible although it hides what is around it: the socket of the daemon.
const KEEP: &str = "--keep=";
/// What it hides, although the rest is visible: the files of its user.
const HIDE: &str = "--hide=";
/// Ends the words for the runner.
const END: &str = "--";

/// Where `bwrap` must be: a hook's sandbox is not looked for in a PATH.
pub(super) const BUBBLEWRAP_PROGRAM: &str = "/usr/bin/bwrap";

/// Exit code of a hook that could not be begun, as a shell has it.
pub const NOT_BEGUN: u8 = 126;

/// How a hook's process is made: part of the daemon, spoken by [`Plan::words`] and heard by [`become_hook`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nothing is run.
    pub(super) is_probe: bool,
    /// In a network of its own.
    pub(super) no_network: bool,
    /// In `bwrap`, with what it may write.
    pub(super) bubblewrap: Option<FsPolicy>,
    /// Directories that the sandbox shows although it hides what is around them.
    pub(super) keep: Vec<PathBuf>,
    /// Directories that it hides under [`FsPolicy::Sandbox`], beside those where users' files usually lie.
    pub(super) hide: Vec<PathBuf>,
    /// The file.
    pub(super) program: PathBuf,
}

impl Plan {
    /// The words after [`RUN_HOOK`].
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if self.is_probe {
            words.push(PROBE.into());
        }
        if self.no_network {
            words.push(NO_NETWORK.into());
        }
        if let Some(files) = self.bubblewrap {
            words.push(format!("{BUBBLEWRAP}{}", files.as_str()).into());
        }
        let keep = self.keep.iter().map(|dir| (KEEP, dir));
        for (flag, dir) in keep.chain(self.hide.iter().map(|dir| (HIDE, dir))) {
            let mut word = OsString::from(flag);
            word.push(dir);
            words.push(word);
        }
        words.push(END.into());
        words.push(self.program.clone().into());
        words
    }

    fn parse(words: impl IntoIterator<Item = OsString>) -> Option<Self> {
        use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
        let mut plan = Self::default();
        let mut words = words.into_iter();
        loop {
            let word = words.next()?;
            if word == END {
                plan.program = words.next()?.into();
                return words.next().is_none().then_some(plan);
            } else if word == PROBE {
                plan.is_probe = true;
            } else if word == NO_NETWORK {
                plan.no_network = true;
            } else if let Some(dir) = word.as_bytes().strip_prefix(KEEP.as_bytes()) {
                plan.keep.push(OsString::from_vec(dir.to_vec()).into());
            } else if let Some(dir) = word.as_bytes().strip_prefix(HIDE.as_bytes()) {
                plan.hide.push(OsString::from_vec(dir.to_vec()).into());
            } else {
                let files = word.to_str()?.strip_prefix(BUBBLEWRAP)?;
                plan.bubblewrap = Some(FsPolicy::parse(files)?);
            }
        }
    }

    /// Program and arguments of what the process becomes.
    fn command(&self) -> Command {
        let Some(files) = self.bubblewrap else { return Command::new(&self.program) };
        let mut command = Command::new(BUBBLEWRAP_PROGRAM);
        command.args(self.bubblewrap_words(files)).arg(END).arg(&self.program);
        command
    }

    /// What is mounted, in this order: later ones lie above earlier ones.
    fn bubblewrap_words(&self, files: FsPolicy) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut say = |texts: &[&str]| words.extend(texts.iter().map(OsString::from));
        // Not `--die-with-parent`: the parent would be the thread that began it, which may end earlier. The group ends all.
        say(&["--unshare-pid"]);
        if self.no_network {
            say(&["--unshare-net"]);
        }
        match files {
            FsPolicy::Rw => say(&["--dev-bind", "/", "/"]),
            FsPolicy::Readonly | FsPolicy::Sandbox => say(&[
                "--ro-bind",
                "/",
                "/",
                "--dev",
                "/dev",
                "--proc",
                "/proc",
                "--tmpfs",
                "/tmp",
                "--tmpfs",
                "/run",
            ]),
        }
        if files == FsPolicy::Sandbox {
            say(&["--tmpfs", "/home", "--tmpfs", "/root"]);
            for dir in &self.hide {
                words.extend(["--tmpfs".into(), dir.into()]);
            }
        }
        if files != FsPolicy::Rw {
            let dir = self.program.parent().map(Path::to_owned);
            for dir in self.keep.iter().chain(&dir) {
                words.push("--ro-bind".into());
                words.push(dir.into());
                words.push(dir.into());
            }
        }
        words
    }
}

/// Becomes the hook that the words after [`RUN_HOOK`] describe. Returns the exit code when it does not, with the reason
/// on standard error. To be called before any thread is started.
pub fn become_hook(words: impl IntoIterator<Item = OsString>) -> u8 {
    use std::io::Write as _;
    let done = match Plan::parse(words) {
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "not the words of a daemon")),
        Some(plan) => go(&plan),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            // Nobody may be reading; the exit code says it too.
            let _ = writeln!(io::stderr().lock(), "cannot begin the hook: {error}");
            NOT_BEGUN
        }
    }
}

fn go(plan: &Plan) -> io::Result<()> {
    rustix::process::setsid()?;
    // A dump would hold what the hook was told.
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    close_inherited()?;
    if plan.no_network && plan.bubblewrap.is_none() {
        leave_network()?;
    }
    if plan.is_probe && plan.bubblewrap.is_none() {
        return Ok(());
    }
    Err(plan.command().exec())
}

/// Closes every descriptor but the three streams: our own are closed by `exec`, those that the daemon was started with are
/// not.
fn close_inherited() -> io::Result<()> {
    const LAST_STREAM: i32 = 2;
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/dev/fd")? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok())
            && number > LAST_STREAM
        {
            numbers.push(number);
        }
    }
    // One of them was the listing itself, which is closed by now.
    for number in numbers {
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Moves into a user and a network namespace of its own: no interface is up there, not even the loopback. The user stays
/// who he is, and Unix sockets with a path stay reachable.
#[cfg(target_os = "linux")]
fn leave_network() -> io::Result<()> {
    use rustix::thread::UnshareFlags;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    #[expect(deprecated, reason = "its successor is unsafe for another flag, which is not used")]
    rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
    // The kernel lets nobody name groups who could thereby leave one that forbids him something.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

#[cfg(not(target_os = "linux"))]
fn leave_network() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_read_back_from_their_words() {
        let plans = [
            Plan { program: "/h/on-dm".into(), ..Plan::default() },
            Plan { no_network: true, is_probe: true, program: "/h/--".into(), ..Plan::default() },
            Plan {
                bubblewrap: Some(FsPolicy::Sandbox),
                keep: vec!["/run/x y".into(), "/tmp/ä".into()],
                hide: vec!["/Users/a".into()],
                no_network: true,
                program: "/h/on dm".into(),
                ..Plan::default()
            },
        ];
        for plan in plans {
            assert_eq!(Plan::parse(plan.words()), Some(plan));
        }
        for words in
            [&[][..], &["--"], &["x", "--", "y"], &["--", "y", "z"], &["--bwrap=x", "--", "y"]]
        {
            assert_eq!(Plan::parse(words.iter().map(OsString::from)), None, "{words:?}");
        }
    }

    #[test]
    fn the_sandbox_hides_before_it_shows() {
        let plan = Plan {
            bubblewrap: Some(FsPolicy::Sandbox),
            no_network: true,
            keep: vec!["/run/cm".into()],
            program: "/home/a/hooks/on-dm".into(),
            ..Plan::default()
        };
        let command = plan.command();
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        let line = words.join(" ");
        assert!(
            line.ends_with("--ro-bind /home/a/hooks /home/a/hooks -- /home/a/hooks/on-dm"),
            "{line}"
        );
        let at = |text: &str| line.find(text).unwrap();
        assert!(
            at("--ro-bind / /") < at("--tmpfs /home")
                && at("--tmpfs /run") < at("--ro-bind /run/cm")
        );
        assert!(line.contains("--unshare-net") && line.contains("--unshare-pid"));
    }
}
