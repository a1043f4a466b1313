//! The storm: applies faults, ends them in time, starts again whatever died, and looks at every database that was hit.

use std::time::{Duration, Instant};

use claudemesh_ipc::api::session::{HookEvent, StatusReport};
use rand::RngExt as _;

use super::agent::{Leave, Stage};
use super::fault::{Cure, Dice, Fault, Healing, Victim};
use super::plan::Plan;
use super::process::{Ended, Process};
use super::proxy::Weather;
use super::report::Tally;
use super::system::{ABSENT, SESSIONS, System};
use super::traffic::Traffic;
use super::{say, settle};

/// Pause between two looks at the processes.
const TICK: Duration = Duration::from_millis(25);
/// Pause between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// Nobody starts a new message while more than this waits: the storm is to be measured, not the backlog.
const BACKLOG_MAX: i64 = 1_500;
/// The same for the longest outbox.
const OUTBOX_MAX: usize = 150;
/// Time for one word to a daemon, which may be down or frozen.
const SAY_LIMIT: Duration = Duration::from_millis(500);
/// Pause before a session tries again to come back.
const RETURN_RETRY: Duration = Duration::from_millis(250);
/// Exit code of a program that panicked.
const PANICKED: i32 = 101;

/// A storm over a system.
pub struct Storm {
    dice: Dice,
    healings: Vec<Healing>,
    pub tally: Tally,
}

impl Storm {
    pub fn new(dice: Dice) -> Self {
        Self { dice, healings: Vec::new(), tally: Tally::default() }
    }

    /// Blows as long as the plan wants.
    pub async fn blow(&mut self, system: &mut System, traffic: &Traffic, plan: &Plan) {
        let started = Instant::now();
        let (mut next_fault, mut next_progress) = (started + PROGRESS / 5, started + PROGRESS);
        while started.elapsed() < plan.duration || self.tally.kills < plan.kills {
            tokio::time::sleep(TICK).await;
            self.revive(system).await;
            self.heal(system).await;
            let now = Instant::now();
            if now >= next_fault {
                let fault = self.dice.roll();
                if self.cause(system, fault).await {
                    next_fault = Instant::now() + self.dice.pause();
                }
            }
            if now >= next_progress {
                next_progress = now + PROGRESS;
                let open = system.engine.open_deliveries().await;
                let is_behind = settle::backlog(system).await > OUTBOX_MAX;
                traffic.pause(is_behind || open.is_some_and(|open| open > BACKLOG_MAX));
                self.progress(started, traffic, open);
                let own = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
                system.note(format_args!("{own} descriptors in the test itself"));
            }
        }
    }

    /// Ends every fault; who was armed to die is started afresh, everybody else must recover in place.
    pub async fn calm(&mut self, system: &mut System) {
        self.healings.clear();
        self.cure(system, Cure::StartServer).await;
        for index in 0..system.people.len() {
            self.cure(system, Cure::ClearWeather(index)).await;
        }
        for victim in every_victim() {
            self.cure(system, Cure::FreeDisk(victim)).await;
            self.cure(system, Cure::Thaw(victim)).await;
            if process(system, victim).is_armed() {
                process(system, victim).kill();
                self.after_kill(system, victim).await;
            }
            self.cure(system, Cure::Start(victim)).await;
        }
        for person in 0..ABSENT {
            for number in 0..SESSIONS {
                self.cure(system, Cure::ReturnSession { person, number }).await;
            }
        }
    }

    /// Notices who ended by itself; it starts again after a moment.
    pub async fn revive(&mut self, system: &mut System) {
        for victim in every_victim() {
            let Some(ended) = process(system, victim).ended() else { continue };
            system.note(format_args!("{victim:?} ended: {ended:?}"));
            match ended {
                Ended::AtPoint(point) => {
                    *self.tally.points.entry(point).or_default() += 1;
                    self.after_kill(system, victim).await;
                }
                Ended::Stopped => {}
                Ended::Alone { code, signal } => {
                    self.tally.ended_alone += 1;
                    let name = process(system, victim).name().to_owned();
                    let line = format!("{name} ended by itself: code {code}, signal {signal}");
                    say(format_args!("{line}"));
                    if code == PANICKED || signal != 0 {
                        self.tally.damage.push(line);
                    }
                }
            }
            let at = Instant::now() + self.dice.downtime();
            self.healings.push(Healing { at, cure: Cure::Start(victim) });
        }
    }

    /// Everybody who is down starts now.
    pub fn raise(&mut self, system: &mut System) {
        self.healings.retain(|healing| !matches!(healing.cure, Cure::Start(_)));
        for victim in every_victim() {
            process(system, victim).start();
        }
    }

    pub async fn heal(&mut self, system: &mut System) {
        let now = Instant::now();
        let due: Vec<Cure> =
            self.healings.extract_if(.., |healing| healing.at <= now).map(|h| h.cure).collect();
        for cure in due {
            if !matches!(cure, Cure::ReturnSession { .. }) {
                system.note(format_args!("{cure:?}"));
            }
            self.cure(system, cure).await;
        }
    }

    async fn cure(&mut self, system: &mut System, cure: Cure) {
        match cure {
            Cure::Start(victim) => process(system, victim).start(),
            Cure::Thaw(victim) => process(system, victim).thaw(),
            Cure::FreeDisk(victim) => {
                let pid = process(system, victim).pid();
                match victim {
                    Victim::Broker => system.broker_disk.free(pid),
                    Victim::Daemon(index) => system.people[index].disk.free(pid),
                }
            }
            Cure::ClearWeather(index) => system.people[index].proxy.set(Weather::Clear),
            Cure::EndVisit => {
                process(system, Victim::Daemon(ABSENT)).kill();
                self.after_kill(system, Victim::Daemon(ABSENT)).await;
            }
            Cure::EndSession { person, number, leave, pause } => {
                let session = &system.people[person].sessions[number];
                session.agent.set_stage(Stage::Gone);
                match leave {
                    // A daemon that is down hears nothing, and notices by itself when it is back.
                    Leave::Said => {
                        let client = system.people[person].client().with_timeout(SAY_LIMIT);
                        let client = client.with_token(Some(session.token.clone()));
                        if client.deregister_session().await.is_err() {
                            session.agent.end();
                        }
                    }
                    Leave::ProcessEnds => session.agent.end(),
                }
                let at = Instant::now() + pause;
                let cure = Cure::ReturnSession { person, number };
                self.healings.push(Healing { at, cure });
            }
            Cure::ReturnSession { person, number } => {
                let client = system.people[person].client().with_timeout(SAY_LIMIT);
                let session = &mut system.people[person].sessions[number];
                session.agent.set_stage(Stage::Talks);
                if session.register(&client).await {
                    system.note(format_args!("{cure:?}"));
                } else {
                    let at = Instant::now() + RETURN_RETRY;
                    self.healings.push(Healing { at, cure });
                }
            }
            // One whose log found no room may have ended by itself.
            Cure::FreeServerDisk | Cure::StartServer => {
                system.engine.free_disk();
                let Some(server) = system.engine.server() else { return };
                server.start_again().await.unwrap();
                let faults = system.check_broker().await;
                self.note_check(faults);
            }
        }
    }

    /// Begins a fault, and counts it; false when it makes no sense now.
    pub async fn cause(&mut self, system: &mut System, fault: Fault) -> bool {
        let has_begun = self.strike(system, fault).await;
        if has_begun {
            system.note(format_args!("{fault:?}"));
            *self.tally.faults.entry(fault.kind()).or_default() += 1;
        }
        has_begun
    }

    async fn strike(&mut self, system: &mut System, fault: Fault) -> bool {
        let now = Instant::now();
        let healing = |pause: Duration, cure: Cure| Healing { at: now + pause, cure };
        match fault {
            Fault::Kill { victim, pause } => {
                if !self.hit(system, victim).await {
                    return false;
                }
                self.healings
                    .push(Healing { at: Instant::now() + pause, cure: Cure::Start(victim) });
            }
            Fault::Stop { victim } => {
                if !self.is_well(system, victim) {
                    return false;
                }
                process(system, victim).stop();
            }
            Fault::Away { person, pause } => {
                let victim = Victim::Daemon(person);
                if !self.hit(system, victim).await {
                    return false;
                }
                self.healings
                    .push(Healing { at: Instant::now() + pause, cure: Cure::Start(victim) });
            }
            Fault::CrashPoint { victim, point, passes } => {
                if !self.hit(system, victim).await {
                    return false;
                }
                process(system, victim).start_armed(Some(point), passes);
            }
            Fault::KillAll { pause } => self.kill_all(system, pause).await,
            Fault::Freeze { victim, pause } => {
                if !self.is_well(system, victim) {
                    return false;
                }
                process(system, victim).freeze();
                self.healings.push(healing(pause, Cure::Thaw(victim)));
            }
            Fault::DiskFull { victim, slack_bytes, pause } => {
                if !self.is_well(system, victim) {
                    return false;
                }
                let pid = process(system, victim).pid();
                match victim {
                    Victim::Broker => system.broker_disk.fill(pid, slack_bytes),
                    Victim::Daemon(index) => system.people[index].disk.fill(pid, slack_bytes),
                }
                self.healings.push(healing(pause, Cure::FreeDisk(victim)));
            }
            Fault::Cut { person } => system.people[person].proxy.cut(),
            Fault::Truncate { person, bytes } => system.people[person].proxy.cut_after(bytes),
            Fault::Weather { person, weather, pause } => {
                if self.has_cure(Cure::ClearWeather(person)) {
                    return false;
                }
                system.people[person].proxy.set(weather);
                self.healings.push(healing(pause, Cure::ClearWeather(person)));
            }
            Fault::Visit { pause } => {
                if self.has_cure(Cure::EndVisit) {
                    return false;
                }
                process(system, Victim::Daemon(ABSENT)).start();
                self.healings.push(healing(pause, Cure::EndVisit));
            }
            Fault::EndSession { person, number, leave, busy, pause } => {
                let session = &system.people[person].sessions[number];
                if session.agent.stage() != Stage::Talks {
                    return false;
                }
                session.agent.set_stage(Stage::Busy);
                let client = system.people[person].client().with_timeout(SAY_LIMIT);
                let client = client.with_token(Some(session.token.clone()));
                let report =
                    StatusReport { event: Some(HookEvent::Prompt), ..StatusReport::default() };
                let _ = client.session_status(&report).await;
                self.healings
                    .push(healing(busy, Cure::EndSession { person, number, leave, pause }));
            }
            Fault::ServerDiskFull { slack_bytes, pause } => {
                if self.has_cure(Cure::StartServer) || self.has_cure(Cure::FreeServerDisk) {
                    return false;
                }
                if !system.engine.fill_disk(slack_bytes) {
                    return false;
                }
                self.healings.push(healing(pause, Cure::FreeServerDisk));
            }
            Fault::ServerKill { .. } | Fault::ServerStop { .. } | Fault::BackendKill { .. } => {
                return self.strike_server(system, fault).await;
            }
        }
        true
    }

    async fn strike_server(&mut self, system: &mut System, fault: Fault) -> bool {
        if self.has_cure(Cure::StartServer) {
            return false;
        }
        let pause = match fault {
            Fault::BackendKill { choice } => {
                let is_hit = system.engine.kill_backend(choice);
                self.tally.kills += u32::from(is_hit);
                return is_hit;
            }
            Fault::ServerKill { pause } => {
                let Some(server) = system.engine.server() else { return false };
                server.crash().await;
                self.tally.kills += 1;
                pause
            }
            Fault::ServerStop { pause } => {
                let Some(server) = system.engine.server() else { return false };
                // One that takes too long to stop is killed: also a fault.
                self.tally.kills += u32::from(server.stop().await.is_err());
                pause
            }
            _ => return false,
        };
        self.healings.push(Healing { at: Instant::now() + pause, cure: Cure::StartServer });
        true
    }

    /// Everything at once; databases are looked at before anything starts again.
    async fn kill_all(&mut self, system: &mut System, pause: Duration) {
        let mut hit = Vec::new();
        for victim in every_victim() {
            if process(system, victim).is_up() {
                process(system, victim).kill();
                hit.push(victim);
            }
        }
        if let Some(server) = system.engine.server()
            && !self.healings.iter().any(|healing| healing.cure == Cure::StartServer)
        {
            server.crash().await;
            self.tally.kills += 1;
            self.healings.push(Healing { at: Instant::now() + pause, cure: Cure::StartServer });
        }
        for victim in hit {
            self.after_kill(system, victim).await;
            let at = Instant::now() + pause.mul_f64(self.dice.random.random_range(0.0..1.5));
            if victim != Victim::Daemon(ABSENT) {
                self.healings.push(Healing { at, cure: Cure::Start(victim) });
            }
        }
    }

    /// `kill -9` of one process that is up and not frozen or otherwise in treatment.
    pub async fn hit(&mut self, system: &mut System, victim: Victim) -> bool {
        if !self.is_well(system, victim) {
            return false;
        }
        process(system, victim).kill();
        self.after_kill(system, victim).await;
        true
    }

    pub async fn after_kill(&mut self, system: &mut System, victim: Victim) {
        self.tally.kills += 1;
        let faults = match victim {
            Victim::Broker => system.check_broker().await,
            Victim::Daemon(index) => system.check_daemon(index).await,
        };
        self.note_check(faults);
    }

    fn note_check(&mut self, faults: Vec<String>) {
        self.tally.checks += 1;
        for fault in &faults {
            say(format_args!("damaged: {fault}"));
        }
        self.tally.damage.extend(faults);
    }

    fn is_well(&self, system: &mut System, victim: Victim) -> bool {
        let process = process(system, victim);
        process.is_up() && !process.is_frozen() && !self.has_cure(Cure::Start(victim))
    }

    fn has_cure(&self, cure: Cure) -> bool {
        self.healings.iter().any(|healing| healing.cure == cure)
    }

    fn progress(&self, started: Instant, traffic: &Traffic, open: Option<i64>) {
        let open = open.map_or("?".to_owned(), |open| open.to_string());
        say(format_args!(
            "{:>4} s  {:>4} kills  {:>4} faults  {open:>5} deliveries open  {}",
            started.elapsed().as_secs(),
            self.tally.kills,
            self.tally.faults.values().sum::<u32>(),
            traffic.counters.line(),
        ));
    }
}

pub fn every_victim() -> impl Iterator<Item = Victim> {
    std::iter::once(Victim::Broker).chain((0..=ABSENT).map(Victim::Daemon))
}

pub fn process(system: &mut System, victim: Victim) -> &mut Process {
    match victim {
        Victim::Broker => &mut system.broker,
        Victim::Daemon(index) => &mut system.people[index].daemon,
    }
}
