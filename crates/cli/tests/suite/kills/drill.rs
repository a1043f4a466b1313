//! One death after the other: what makes a daemon come by its point, what is looked at when it lies there, and how it
//! comes back.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use claudemesh_agents::render::{Provenance, frame, words};
use claudemesh_crypto::backup::{Header, KdfCosts, seal_with_header};
use claudemesh_daemon::care::backup::{Extras, collect};
use claudemesh_daemon::clock;
use claudemesh_ipc::api::identity::RotateKeypairRequest;
use claudemesh_ipc::api::{
    InboxItem, InboxQuery, MessageMode, OutboxPruneRequest, RegisterRequest, StatusReport,
};
use claudemesh_ipc::{Client, Paths, SessionToken};
use serde_json::json;

use super::death::Death;
use super::points::Road;
use crate::chaos::fault::Victim;
use crate::chaos::operator::PRUNE_AFTER_SECS;
use crate::chaos::process::{Ended, Process, program};
use crate::chaos::proxy::Weather;
use crate::chaos::say;
use crate::chaos::storm::{Storm, process};
use crate::chaos::system::System;
use crate::chaos::traffic::Traffic;

/// Pause between two looks.
const TICK: Duration = Duration::from_millis(10);
/// Pause between two things that make a daemon come by its point.
const NUDGE: Duration = Duration::from_millis(200);
/// Time for one of them.
const NUDGE_LIMIT: Duration = Duration::from_secs(5);
/// Whoever is not dead by then does not come by.
const DEATH_PATIENCE: Duration = Duration::from_secs(30);
/// The next start answers within this.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Deaths between two lines of progress.
const PROGRESS: usize = 25;
/// Of the backup that is restored.
const PASSPHRASE: &str = "the heron has a long patience";

/// What the deaths brought to light.
#[derive(Default)]
pub struct Drill {
    pub faults: Vec<String>,
    starts: Vec<Duration>,
    deaths: usize,
}

impl Drill {
    /// A daemon that talks is killed from outside, started armed, dies at its point, and is started again.
    pub async fn pass(
        &mut self,
        system: &mut System,
        storm: &mut Storm,
        traffic: &Traffic,
        death: &Death,
    ) {
        system.note(format_args!("{death:?}"));
        // A change of the key that was under way at the last death is done by now, or goes on with this one.
        system.learn_key(death.person);
        let victim = Victim::Daemon(death.person);
        storm.hit(system, victim).await;
        if death.point.on == Road::Restore {
            self.die_restoring(system, storm, death).await;
        } else {
            self.die(system, storm, death).await;
        }
        self.faults.extend(torn(system.people[death.person].paths.root()));
        system.people[death.person].proxy.set(Weather::Clear);
        storm.raise(system);
        self.answers(system, death).await;
        if death.point.on == Road::Record {
            let _ = scribe(system, death.person).deregister_session().await;
        }
        self.deaths += 1;
        if self.deaths.is_multiple_of(PROGRESS) {
            let (deaths, faults) = (self.deaths, self.faults.len());
            say(format_args!("{deaths:>5} deaths  {faults} faults  {}", traffic.counters.line()));
        }
    }

    /// Milliseconds between the start of a process and its first answer.
    pub fn slowest_start_ms(&self) -> u64 {
        let slowest = self.starts.iter().max().copied().unwrap_or_default();
        u64::try_from(slowest.as_millis()).unwrap()
    }

    async fn die(&mut self, system: &mut System, storm: &mut Storm, death: &Death) {
        let name = death.point.name;
        if death.point.on == Road::Requeue {
            // Rows wait for a broker that cannot be reached.
            let proxy = &system.people[death.person].proxy;
            proxy.set(Weather::Refuse);
            proxy.cut();
        }
        process(system, Victim::Daemon(death.person)).start_armed(Some(name), death.passes);
        let before = storm.tally.points.get(name).copied().unwrap_or_default();
        let deadline = Instant::now() + DEATH_PATIENCE;
        let mut next_nudge = Instant::now() + NUDGE;
        loop {
            storm.revive(system).await;
            if storm.tally.points.get(name).copied().unwrap_or_default() > before {
                return;
            }
            if Instant::now() > deadline {
                self.faults.push(format!("nobody died at {name}: {death:?}"));
                return;
            }
            if Instant::now() > next_nudge {
                nudge(system, death).await;
                next_nudge = Instant::now() + NUDGE;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The command line dies while it puts the files of a backup in their places. With few files it comes by less often.
    async fn die_restoring(&mut self, system: &mut System, storm: &mut Storm, death: &Death) {
        let name = death.point.name;
        let person = &system.people[death.person];
        let home = person.paths.root().parent().unwrap().to_owned();
        let [file, passphrase] = backup(system, death.person, &home).await;
        let mut command_line = Process::new("restore", system.root(), move || {
            let mut command = program(&home);
            command.args(["daemon", "restore", "--confirm", "--in"]).arg(&file);
            command.arg("--passphrase-file").arg(&passphrase);
            command
        });
        for passes in (0..=death.passes).rev() {
            change_files(&system.people[death.person].paths);
            command_line.start_armed(Some(name), passes);
            let deadline = Instant::now() + DEATH_PATIENCE;
            let ended = loop {
                match command_line.ended() {
                    None if Instant::now() < deadline => tokio::time::sleep(TICK).await,
                    ended => break ended,
                }
            };
            match ended {
                Some(Ended::AtPoint(point)) => {
                    *storm.tally.points.entry(point).or_default() += 1;
                    storm.after_kill(system, Victim::Daemon(death.person)).await;
                    return;
                }
                Some(Ended::Alone { code: 0, .. }) => {}
                other => {
                    self.faults.push(format!("a restore ended as {other:?}: {death:?}"));
                    return;
                }
            }
        }
        self.faults.push(format!("nobody died at {name}: {death:?}"));
    }

    /// Waits for the first answer of the daemon that was started.
    async fn answers(&mut self, system: &mut System, death: &Death) {
        let started = Instant::now();
        let pid = process(system, Victim::Daemon(death.person)).pid();
        let client = system.people[death.person].client();
        while !client.version().await.is_ok_and(|version| Some(version.pid) == pid) {
            if started.elapsed() > START_LIMIT {
                self.faults.push(format!("no answer after {death:?}"));
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        self.starts.push(started.elapsed());
    }
}

/// Does what makes the daemon come by its point.
async fn nudge(system: &mut System, death: &Death) {
    let person = &mut system.people[death.person];
    let client = person.client().with_timeout(NUDGE_LIMIT);
    match death.point.on {
        Road::Traffic | Road::Requeue | Road::Restore => {}
        Road::Prune => {
            let older_than = Some(PRUNE_AFTER_SECS);
            let _ = client.outbox_prune(&OutboxPruneRequest { confirm: true, older_than }).await;
        }
        Road::Session => {
            for session in &mut person.sessions {
                session.register(&client).await;
            }
        }
        Road::Record => read_and_record(system, death.person).await,
        Road::Files | Road::Rotation => {
            system.learn_key(death.person);
            let _ = client.rotate_keypair(&RotateKeypairRequest::default()).await;
            system.learn_key(death.person);
        }
    }
}

/// An agent that reads what its member gets, and hears of nothing by itself.
fn scribe(system: &System, person: usize) -> Client {
    let token = SessionToken::from_bytes(&[u8::try_from(person).unwrap(); 32]);
    system.people[person].client().with_timeout(NUDGE_LIMIT).with_token(Some(token))
}

/// The scribe lists its inbox, and its record shows what it was handed by that.
async fn read_and_record(system: &System, person: usize) {
    let client = scribe(system, person);
    let mesh = crate::chaos::system::MESH.to_owned();
    let (token, pid) = (client.token().unwrap().clone(), std::process::id());
    let request = RegisterRequest {
        use_stored_key: false,
        message_mode: Some(MessageMode::Inbox),
        ..RegisterRequest::stored(token, format!("scribe-{person}"), mesh, "scribe".to_owned(), pid)
    };
    if client.register_session(&request).await.is_err() {
        return;
    }
    let unread =
        InboxQuery { unread_only: Some(true), mark_seen: Some(true), ..InboxQuery::default() };
    let Ok(page) = client.inbox(&unread).await else { return };
    let dir = system.people[person].paths.root().parent().unwrap().join(".claude");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("scribe.jsonl");
    let mut file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, record_of(&page.items).as_bytes()).unwrap();
    let transcript = path.to_str().map(str::to_owned);
    let report = StatusReport { transcript, ..StatusReport::default() };
    let _ = client.session_status(&report).await;
}

/// Messages in a transcript, and the question to the model behind them.
fn record_of(items: &[InboxItem]) -> String {
    let texts: Vec<String> = items
        .iter()
        .map(|item| frame(&Provenance::of(item, &[]), words(item), usize::MAX))
        .collect();
    let shown = json!({ "type": "user", "uuid": "1", "message": { "content": texts.join("\n") } });
    let asked = json!({ "type": "api-request", "querySource": "sdk" });
    format!("{shown}\n{asked}\n")
}

/// A backup of a daemon's files that opens at once, and the file with its passphrase.
async fn backup(system: &System, person: usize, home: &Path) -> [PathBuf; 2] {
    let bundle = collect(&system.people[person].paths, Extras::default(), clock::now()).await;
    let costs = KdfCosts { passes: 1, memory_kib: 8, lanes: 1 };
    let header = Header { costs, salt: [1; 16], nonce: [2; 24] };
    let sealed = seal_with_header(&bundle.unwrap().document().unwrap(), PASSPHRASE, &header);
    let files = [home.join("mesh.cmb"), home.join("passphrase")];
    for (file, bytes) in files.iter().zip([sealed.unwrap().as_slice(), PASSPHRASE.as_bytes()]) {
        let mut options = std::fs::File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        std::io::Write::write_all(&mut options.open(file).unwrap(), bytes).unwrap();
    }
    files
}

/// Files of a backup that are as they were stay in their places: each gets a mark that means nothing.
fn change_files(paths: &Paths) {
    let mut files = json_files(paths.sessions_dir());
    let daemon = paths.daemon_dir();
    files.extend([
        paths.membership_file(),
        daemon.join("keypair-archive.json"),
        paths.settings_file(),
    ]);
    for file in files.into_iter().filter(|file| file.exists()) {
        let mut file = std::fs::File::options().append(true).open(file).unwrap();
        std::io::Write::write_all(&mut file, b"\n").unwrap();
    }
}

/// Small files of a daemon that are not whole.
fn torn(dir: &Path) -> Vec<String> {
    let mut torn = Vec::new();
    for path in json_files(dir) {
        let text = std::fs::read(&path).unwrap();
        if let Err(error) = serde_json::from_slice::<serde_json::Value>(&text) {
            torn.push(format!("{} is not whole: {error}", path.display()));
        }
    }
    torn
}

fn json_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(json_files(&path));
        } else if path.extension().is_some_and(|end| end == "json") {
            files.push(path);
        }
    }
    files
}
