//! Daemons that leave nothing behind (daemon spec §4.1, §4.2): jobs of a build server beside the machine of the person whose
//! keys they use.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use claudemesh_ipc::api::RegisterRequest;
use claudemesh_ipc::{Client, SessionToken};
use claudemesh_protocol::PublicKey;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::home::{Home, Ran, two_people, until};
use crate::sessions::wait;
use crate::words::snapshot;

/// A job: a machine with a copy of somebody's memberships, and a private place for what runs there.
struct Job {
    home: Home,
    runtime: TempDir,
}

impl Job {
    /// With the memberships of `owner`, on a build server.
    fn of(owner: &Home) -> Self {
        let job = Self::bare(true);
        std::fs::create_dir(job.home.file("")).unwrap();
        std::fs::copy(owner.file("config.json"), job.home.file("config.json")).unwrap();
        job
    }

    /// Without anything, on a build server or elsewhere.
    fn bare(is_ci: bool) -> Self {
        let runtime = tempfile::tempdir().unwrap();
        let mut home = Home::new().with("XDG_RUNTIME_DIR", runtime.path().to_str().unwrap());
        if is_ci {
            home = home.with("CI", "true");
        }
        Self { home, runtime }
    }

    fn up(&self, words: &[&str]) -> Daemon {
        let words = [&["daemon", "up"], words].concat();
        Daemon::of(&self.home.json_ok(&words))
    }

    /// The directories of ephemeral daemons that are there.
    fn dirs(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.runtime.path().join("claudemesh")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Everything in the home directory, but what verbs write about themselves.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.home.path().to_owned()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path.clone());
                }
                if !path.ends_with("audit.log") && !path.ends_with("policy.yaml") {
                    found.insert(path);
                }
            }
        }
        found
    }

    /// The same words in a process of another step, which has only what the first one printed.
    fn at(&self, daemon: &Daemon, words: &[&str]) -> Ran {
        let mut command = self.home.command(words);
        Ran::from(command.env("CLAUDEMESH_DAEMON_DIR", &daemon.dir).output().unwrap())
    }

    fn json_at(&self, daemon: &Daemon, words: &[&str]) -> Value {
        let ran = self.at(daemon, &[words, &["--json"]].concat());
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for dir in self.dirs() {
            let lock = std::fs::File::open(dir.join("daemon.lock"));
            let pid = std::fs::read_to_string(dir.join("daemon.pid"));
            if let (Ok(lock), Ok(pid)) = (lock, pid)
                && lock.try_lock().is_err()
            {
                crate::home::kill(pid.trim().parse().unwrap());
            }
        }
    }
}

/// An ephemeral daemon in the background.
struct Daemon {
    pid: Pid,
    dir: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    fn of(up: &Value) -> Self {
        assert_eq!(
            (&up["ephemeral"], &up["already_running"]),
            (&true.into(), &false.into()),
            "{up}"
        );
        let path = |name: &str| PathBuf::from(up[name].as_str().unwrap());
        let pid = i32::try_from(up["pid"].as_i64().unwrap()).unwrap();
        Self { pid: Pid::from_raw(pid).unwrap(), dir: path("dir"), socket: path("socket") }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// The key its session has in its only mesh, once it is connected.
    fn key(&self) -> String {
        let mut key = None;
        until("the session is connected", || {
            let health = wait(self.client().health()).unwrap();
            let mesh = &health.meshes[0];
            key = mesh.session_pubkey.map(PublicKey::to_hex);
            mesh.status == claudemesh_ipc::api::MeshStatus::Open
        });
        key.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    fn is_gone(&self) {
        until("its directory is gone", || !self.dir.exists());
        until("its process is gone", || test_kill_process(self.pid).is_err() || is_dead(self.pid));
    }
}

/// A process that has ended and that nobody has waited for.
fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn sees(home: &Home, key: &str) -> bool {
    home.json_ok(&["peers"]).to_string().contains(key)
}

fn own_key(home: &Home) -> String {
    let members = home.json_ok(&["members"]);
    let own = members.as_array().unwrap().iter().find(|row| row["isSelf"] == true).unwrap();
    own["pubkey"].as_str().unwrap().to_owned()
}

/// Daemon spec §4 Accept 4.
#[test]
fn a_job_leaves_nothing_behind() {
    let (ana, bob) = two_people();
    let job = Job::of(&ana);
    let before = job.files();
    assert!(!before.contains(&job.home.file("daemon")));
    let daemon = job.up(&[]);
    let key = daemon.key();
    until("the job is there", || sees(&bob, &key));
    assert_eq!(job.dirs(), std::slice::from_ref(&daemon.dir));
    assert!(daemon.dir.starts_with(job.runtime.path()));
    let mode = std::fs::metadata(&daemon.dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for name in ["daemon.lock", "daemon.pid"] {
        assert!(daemon.dir.join(name).exists(), "{name}");
    }
    let text = std::fs::read_to_string(daemon.dir.join("daemon.log")).unwrap();
    assert!(text.contains("ci_defaults") && !text.contains("persistent_keypair"), "{text}");
    job.home.ok(&["send", "Bob", "built"]);
    until("Bob has it", || bob.bodies() == ["built"]);
    assert_eq!(job.files(), before, "the home is as it was");
    daemon.signal(Signal::TERM);
    daemon.is_gone();
    assert!(job.dirs().is_empty());
    // Long before a lease would end.
    until("the job has left", || !sees(&bob, &key));
    assert_eq!(job.files(), before);
    // A session is no member.
    ana.has_members(2);
}

/// Daemon spec §4 Accept 5: as a session, and as a member that joined for the job alone.
#[test]
fn a_job_ends_when_its_time_is_over() {
    let (ana, bob) = two_people();
    let url = ana.invite(5);
    let job = Job::of(&ana);
    let stranger = Job::bare(false);
    for (job, more) in [(&job, vec![]), (&stranger, vec!["--invite", &url, "-y"])] {
        let before = job.files();
        let words = ["daemon", "up", "--foreground", "--ephemeral", "--ttl", "2s"];
        let began = Instant::now();
        let mut command = job.home.command(&[&words[..], &more].concat());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = child.wait_with_output().unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(8), "{text}");
        assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(text.contains("ephemeral_ttl_reached") && !text.contains("left_behind"), "{text}");
        assert!(text.contains("features_negotiated"), "it was connected: {text}");
        assert!(job.dirs().is_empty());
        assert_eq!(job.files(), before);
        let peers = bob.json_ok(&["peers", "--all"]);
        let is_session = |row: &Value| row["peerRole"] == "session";
        assert!(!peers.as_array().unwrap().iter().any(is_session), "{peers}");
        ana.has_members(2);
    }
}

/// Mail for the person stays with the machine that lasts, and the job has its own: daemon spec §4.1.
#[test]
fn a_job_talks_for_itself_and_takes_nobodys_mail() {
    let (ana, bob) = two_people();
    let member = own_key(&ana);
    let job = Job::of(&ana);
    let daemon = job.up(&["--ttl", "10m"]);
    let key = daemon.key();
    until("Bob sees the job", || sees(&bob, &key));
    bob.ok(&["send", &member, "for the person"]);
    bob.ok(&["send", &key, "for the job"]);
    until("the person has hers", || ana.bodies() == ["for the person"]);
    let inbox = || job.json_at(&daemon, &["inbox", "--peek"]);
    until("the job has its own", || !inbox().as_array().unwrap().is_empty());
    let items = inbox();
    assert_eq!(items[0]["body"], "for the job", "{items}");
    assert_eq!(
        items[0]["senderVerified"].as_bool().or(items[0]["sender_verified"].as_bool()),
        Some(true),
        "{items}"
    );
    let sent = job.json_at(&daemon, &["send", "Bob", "from the job"]);
    assert_eq!(sent["ok"], true, "{sent}");
    until("Bob has the answer", || bob.bodies() == ["from the job"]);
    // Nobody is there for the person now; the job does not stand in for her.
    ana.ok(&["daemon", "down"]);
    bob.ok(&["send", &member, "for later"]);
    bob.ok(&["send", &key, "for now"]);
    until("the job has the second one", || inbox().as_array().unwrap().len() == 2);
    assert!(!inbox().to_string().contains("for later"));
    ana.ok(&["daemon", "up"]);
    until("it waited for her", || ana.bodies().contains(&"for later".to_owned()));
    assert!(!inbox().to_string().contains("for later"));
    assert_eq!(job.at(&daemon, &["daemon", "down"]).code, 0);
    daemon.is_gone();
}

/// An agent of the job: a session of its own below the job's, with its keys in the job's directory.
#[test]
fn agents_work_with_the_daemon_of_a_job() {
    let (ana, bob) = two_people();
    let job = Job::of(&ana);
    let daemon = job.up(&[]);
    daemon.key();
    let token = SessionToken::from_bytes(&[9; 32]);
    let id = "00000000-0000-4000-8000-000000000009";
    let pid = std::process::id();
    let request =
        RegisterRequest::stored(token.clone(), id.into(), "home".into(), "agent".into(), pid);
    let agent = daemon.client().with_token(Some(token));
    let reply = wait(agent.register_session(&request)).unwrap();
    assert!(reply.presence_accepted, "{reply:?}");
    assert!(daemon.dir.join("sessions/home").join(format!("{id}.json")).exists());
    assert!(!job.home.file("sessions").exists());
    until("Bob sees the agent", || bob.ok(&["peers"]).contains("agent"));
    bob.ok(&["send", "agent", "look here"]);
    let read = || {
        let mut command = job.home.command(&["inbox", "--peek", "--json"]);
        command.env("CLAUDEMESH_IPC_TOKEN", "09".repeat(32));
        Ran::from(command.output().unwrap())
    };
    until("the agent has it", || read().stdout.contains("look here"));
    assert!(ana.bodies().is_empty());
}

/// A member for one job, without an account, without a home: `--invite`.
#[test]
fn a_member_for_one_job_joins_and_leaves() {
    let (ana, bob) = two_people();
    let job = Job::bare(false);
    let before = job.files();
    let url = ana.invite(1);
    let daemon = job.up(&["--ephemeral", "--invite", &url, "--ttl", "10m", "-y"]);
    ana.has_members(3);
    for dir in [job.home.path(), &daemon.dir] {
        assert!(!text_below(dir).contains("secretKey"), "no key is written");
    }
    // On a machine of somebody's own verbs mean the daemon that lasts; this one is named.
    assert_eq!(job.home.run(&["peers"]).code, 5);
    until("the job knows Bob", || job.at(&daemon, &["peers"]).stdout.contains("Bob"));
    let sent = job.json_at(&daemon, &["send", "Bob", "hello from the job"]);
    assert_eq!(sent["ok"], true, "{sent}");
    until("Bob has it", || bob.bodies() == ["hello from the job"]);
    let status = job.json_at(&daemon, &["daemon", "status"]);
    assert_eq!(status["ephemeral"], true, "{status}");
    let restart = job.at(&daemon, &["daemon", "restart"]);
    assert_eq!(restart.code, 3, "{restart:?}");
    job.json_at(&daemon, &["send", "Bob", "last words", "--wait=0s"]);
    let down = job.json_at(&daemon, &["daemon", "down"]);
    assert_eq!(down["stopped"], true);
    daemon.is_gone();
    ana.has_members(2);
    until("what it accepted was sent", || bob.bodies().contains(&"last words".to_owned()));
    assert_eq!(job.files(), before);
    let late = job.at(&daemon, &["inbox"]);
    assert_eq!(late.code, 4, "nothing is started in its place: {late:?}");
    assert!(late.stderr.contains("the ephemeral daemon has ended"), "{late:?}");
}

/// A killed job leaves its directory, which the next one removes; its session ends with its lease.
#[test]
fn the_next_job_clears_up_after_a_killed_one() {
    let (ana, _bob) = two_people();
    let job = Job::of(&ana);
    let killed = job.up(&[]);
    killed.signal(Signal::KILL);
    until("it is dead", || is_dead(killed.pid) || test_kill_process(killed.pid).is_err());
    assert!(killed.dir.exists());
    let other = job.runtime.path().join("claudemesh/ephemeral-mine");
    std::fs::create_dir(&other).unwrap();
    let next = job.up(&[]);
    assert!(!killed.dir.exists() && next.dir.exists() && other.exists());
    let second = job.up(&["--ephemeral"]);
    assert!(next.dir.exists(), "who lives is left alone");
    // Two of them: which one is meant has to be said.
    let unsaid = job.home.run(&["peers"]);
    assert!(unsaid.stderr.contains("CLAUDEMESH_DAEMON_DIR"), "{unsaid:?}");
    assert_eq!(job.json_at(&second, &["daemon", "down"])["stopped"], true);
    second.is_gone();
    let again = job.home.json_ok(&["daemon", "up"]);
    assert_eq!((&again["already_running"], &again["ephemeral"]), (&true.into(), &true.into()));
    assert_eq!(job.home.json_ok(&["daemon", "down"])["stopped"], true);
    next.is_gone();
}

/// On a build server no verb starts a daemon by the way: what can do without one does, and ends when the broker has it.
#[test]
fn verbs_on_a_build_server_start_no_daemon() {
    let (ana, bob) = two_people();
    let job = Job::of(&ana);
    let sent = job.home.json_ok(&["send", "Bob", "straight"]);
    assert_eq!(sent["ok"], true, "{sent}");
    until("Bob has it", || bob.bodies() == ["straight"]);
    let needs = job.home.run(&["inbox"]);
    assert_eq!(needs.code, 4, "{needs:?}");
    assert!(needs.stderr.contains("claudemesh daemon up"), "{needs:?}");
    assert!(job.dirs().is_empty() && !job.home.file("daemon/daemon.lock").exists());
}

/// Daemon spec §4.2: explicit flags win.
#[test]
fn flags_stand_above_what_surrounds() {
    for (flag, said) in [
        ("--persistent", "persistent_keypair_in_ci_environment"),
        ("--container", "container_defaults"),
    ] {
        let home = Home::new().with("CI", "true");
        let up = home.json_ok(&["daemon", "up", flag]);
        assert_eq!(up["ephemeral"], Value::Null, "{up}");
        let log = std::fs::read_to_string(home.file("daemon/daemon.log")).unwrap();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert_eq!(lines[0].contains("WARN"), flag == "--persistent", "{log}");
        assert_eq!(home.json_ok(&["daemon", "down"])["stopped"], true);
    }
}

/// What is refused, and that nothing is left of it.
#[test]
fn refusals_leave_nothing() {
    let (ana, _bob) = two_people();
    let used_up = ana.invite(1);
    let other = Home::new();
    other.ok(&["join", &used_up, "--name", "Cleo"]);
    let job = Job::bare(false);
    let before = job.files();
    let mut text = String::new();
    for (words, code) in [
        (&["--ephemeral", "--ttl", "soon"][..], 3),
        (&["--ephemeral", "--ttl", "0s"], 3),
        (&["--ephemeral", "--ttl", "31d"], 3),
        (&["--ttl", "1h"], 3),
        (&["--invite", "https://mesh.example/i/abcd1234"], 3),
        (&["--ephemeral", "--persistent"], 3),
        (&["--ephemeral", "--invite", "no invite"], 3),
        (&["--ephemeral", "-y", "--invite", &used_up], 5),
        (&["--foreground", "--ephemeral", "-y", "--invite", &used_up], 1),
        (&["--foreground", "--ephemeral", "--invite", "no invite"], 3),
    ] {
        let ran = job.home.run(&[&["daemon", "up"], words].concat());
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{words:?}");
        let shown = words.join(" ").replace(&used_up, "<used up>");
        let said = ran.stderr.replace(&used_up, "<used up>");
        write!(text, "$ claudemesh daemon up {shown}\n{said}exit {}\n\n", ran.code).unwrap();
        assert!(job.dirs().is_empty(), "{words:?}");
        assert_eq!(job.files(), before, "{words:?}");
    }
    ana.has_members(3);
    let masked = used_up.rsplit_once('/').unwrap().1;
    let (first, _) = masked.split_at(2);
    snapshot("ephemeral", &text.replace(&format!("{first}***"), "XX***"));
}

/// What a person sees of one, on a machine of somebody's own and on a build server.
#[test]
fn words_for_people() {
    let mut text = String::new();
    for is_ci in [false, true] {
        let job = Job::bare(is_ci);
        let mut dir = String::new();
        text.push_str(if is_ci { "# on a build server\n" } else { "# elsewhere\n" });
        for line in [
            "daemon up --ephemeral --ttl 10m",
            "daemon up",
            "daemon status",
            "daemon restart",
            "daemon rotate-keypair -y",
            "daemon down",
            "daemon status",
        ] {
            if !is_ci && line == "daemon up" {
                // That would be one that lasts.
                continue;
            }
            let mut command = job.home.command(&line.split(' ').collect::<Vec<_>>());
            if !is_ci && !dir.is_empty() {
                command.env("CLAUDEMESH_DAEMON_DIR", &dir);
            }
            let ran = Ran::from(command.output().unwrap());
            if dir.is_empty() {
                dir = job.dirs()[0].to_str().unwrap().to_owned();
            }
            let said = format!("{}{}", ran.stdout, ran.stderr).replace(&dir, "[dir]");
            write!(text, "$ claudemesh {line}\n{said}exit {}\n\n", ran.code).unwrap();
        }
        assert!(job.dirs().is_empty());
    }
    snapshot("ephemeral-words", &text);
}

/// The content of every file below `dir`, as text.
fn text_below(dir: &Path) -> String {
    let mut text = String::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    text
}
