//! One person's machine: a temporary HOME, the binary, and nothing of the surrounding environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(15);

/// A HOME of its own; broker and daemon started in it are stopped when it goes.
pub struct Home {
    dir: TempDir,
    extra: Vec<(String, String)>,
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), extra: Vec::new() }
    }

    /// With an environment variable of its own.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(".claudemesh").join(name)
    }

    pub fn broker_dir(&self) -> PathBuf {
        self.path().join(".local/share/claudemesh-broker")
    }

    /// The binary with these words and only the environment of this HOME.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claudemesh"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.path())
            .env("USER", "ana")
            .env("LANG", "C.UTF-8");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// The same words so many times side by side; each must succeed.
    pub fn ok_at_once(&self, times: usize, words: &[&str]) {
        let start = |_| {
            let mut command = self.command(words);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..times).map(start).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::from(self.command(words).output().unwrap())
    }

    /// A run that must succeed; its stdout.
    pub fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        ran.stdout
    }

    /// A run with `--json`; exit code and document.
    pub fn json(&self, words: &[&str]) -> (i32, Value) {
        let mut words = words.to_vec();
        words.push("--json");
        let ran = self.run(&words);
        let document = serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}: {ran:?}"));
        (ran.code, document)
    }

    /// A successful run with `--json`; its document.
    pub fn json_ok(&self, words: &[&str]) -> Value {
        let (code, document) = self.json(words);
        assert_eq!(code, 0, "{words:?}: {document}");
        document
    }

    /// Feeds `input` to a run.
    pub fn feed(&self, words: &[&str], input: &[u8]) -> Ran {
        use std::io::Write as _;

        let mut command = self.command(words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who refuses what is too long does not read it to its end.
        let written = child.stdin.take().unwrap().write_all(input);
        if let Err(error) = written {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{words:?}: {error}");
        }
        Ran::from(child.wait_with_output().unwrap())
    }

    /// `up` on any free port.
    pub fn up(&self) -> Value {
        self.json_ok(&["up", "--listen", "127.0.0.1:0"])
    }

    /// A link to a mesh of this HOME, for one joiner or more.
    pub fn invite(&self, uses: u32) -> String {
        let share = self.json_ok(&["share", "--uses", &uses.to_string()]);
        share["url"].as_str().unwrap().to_owned()
    }

    /// The same for one of several meshes.
    pub fn invite_to(&self, mesh: &str, uses: u32) -> String {
        let share = self.json_ok(&["share", "--mesh", mesh, "--uses", &uses.to_string()]);
        share["url"].as_str().unwrap().to_owned()
    }

    /// Waits until the roster has this many members.
    pub fn has_members(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let members = self.json_ok(&["members"]);
            if members.as_array().unwrap().len() == count {
                return;
            }
            assert!(Instant::now() < deadline, "never {count} members: {members}");
        }
    }

    /// The key of a member, once the roster has it.
    pub fn member_key(&self, name: &str) -> String {
        let mut key = None;
        until("the roster has the member", || {
            let members = self.json_ok(&["members"]);
            let row = members.as_array().unwrap().iter().find(|row| row["displayName"] == name);
            key = row.map(|row| row["pubkey"].as_str().unwrap().to_owned());
            key.is_some()
        });
        key.unwrap()
    }

    /// Changes the broker's database behind its back, while it is stopped.
    pub fn changed_in_store(&self, statement: &'static str) {
        use sqlx::ConnectOptions as _;

        let file = self.broker_dir().join("broker.db");
        crate::sessions::wait(async {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
            let mut database = options.connect().await.unwrap();
            let done = sqlx::query(statement).execute(&mut database).await.unwrap();
            assert!(done.rows_affected() > 0, "{statement}");
        });
    }

    /// The inbox without marking anything.
    pub fn bodies(&self) -> Vec<String> {
        let inbox = self.json_ok(&["inbox", "--peek"]);
        inbox
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|item| item["body"].as_str().map(str::to_owned))
            .collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let daemon = self.file("daemon");
        kill_holder(&daemon.join("daemon.lock"), &daemon.join("daemon.pid"));
        let broker = self.broker_dir().join("broker.lock");
        kill_holder(&broker, &broker);
    }
}

/// Kills the process that holds a lock, whose id stands in `pid_file`: only ever one that a test of this HOME started.
fn kill_holder(lock: &Path, pid_file: &Path) {
    let Ok(file) = std::fs::File::open(lock) else { return };
    if file.try_lock().is_ok() {
        return;
    }
    let text = std::fs::read_to_string(pid_file).unwrap_or_default();
    if let Ok(pid) = text.trim().parse() {
        kill(pid);
    }
}

/// SIGKILL.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two people with a mesh `home` between them: the first made it, the second joined by link.
pub fn two_people() -> (Home, Home) {
    with_another("Bob")
}

/// The same, and Bob's machine has no daemon yet.
pub fn two_people_one_daemon() -> (Home, Home) {
    let (ana, bob) = (Home::new(), Home::new());
    ana.up();
    bob.ok(&["--no-daemon", "join", &ana.invite(1), "--name", "Bob"]);
    (ana, bob)
}

/// Two people, the second by this name.
pub fn with_another(name: &str) -> (Home, Home) {
    let ana = Home::new();
    ana.up();
    let other = Home::new();
    other.ok(&["join", &ana.invite(1), "--name", name]);
    (ana, other)
}
