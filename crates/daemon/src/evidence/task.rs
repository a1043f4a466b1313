//! The task that reads the records of all sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::session::PathState;
use claudemesh_protocol::wire::ReceiptState;
use tokio::time::Instant;

use super::file::{From, Unusable};
use super::notices::Notices;
use super::tail::{Look, Tail};
use super::{Evidence, Named, format_of, format_word};
use crate::clock;
use crate::daemon::Daemon;
use crate::inbox::{Proved, RecordRead};
use crate::sessions::Session;
use crate::storage::{Causes, StorageError};

/// Period of the safety net; ended sessions are dropped then.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Pause between two looks at a record of which the kernel does not tell, at one that is not there yet, and at signs of
/// messages that somebody is about to hand over.
const POLL: Duration = Duration::from_millis(500);
/// How long a record that was named is looked for at that pace: clients write it behind the screen.
const AWAITED_FOR: Duration = Duration::from_mins(1);
/// Changes within this time share a look.
const SETTLE: Duration = Duration::from_millis(10);
/// Bytes after which it is noted how far a record was read though it proved nothing.
const NOTE_BYTES: u64 = 1024 * 1024;
/// Most of a record that is read back when something was handed over before it was known.
const BACKLOG_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Time for the sessions of an earlier run to register again; later it takes a hook to name their records.
const COMING_BACK: Duration = Duration::from_mins(1);
/// Records that nobody has read for so long are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);

/// Reads the records of live sessions until the daemon stops.
pub(crate) async fn run(daemon: Daemon) {
    let evidence = daemon.context().evidence.clone();
    let stopping = daemon.stopping();
    let mut readers = Readers {
        daemon,
        evidence,
        notices: Notices::open(),
        tails: BTreeMap::new(),
        known: BTreeMap::new(),
        known_until: Instant::now() + COMING_BACK,
    };
    readers.remember().await;
    let mut due = BTreeSet::new();
    loop {
        readers.look_at(due).await;
        let next = readers.next_look();
        due = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = readers.evidence.shared.wake.notified() => readers.asked().await,
            changed = readers.notices.changed() => {
                tokio::time::sleep(SETTLE).await;
                readers.changed(&changed)
            }
            () = sleep_until(next) => readers.ripe().await,
        };
    }
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

struct Readers {
    daemon: Daemon,
    evidence: Evidence,
    notices: Notices,
    /// By session.
    tails: BTreeMap<String, Tail>,
    /// Records of an earlier run whose sessions have not been seen yet.
    known: BTreeMap<String, RecordRead>,
    /// A session that is not back by then is not waited for.
    known_until: Instant,
}

impl Readers {
    /// Takes up what an earlier run has read.
    async fn remember(&mut self) {
        let inbox = &self.daemon.context().inbox;
        let forgotten = inbox.forget_records(clock::now().minus(FORGOTTEN_AFTER)).await;
        match (forgotten, inbox.records().await) {
            (Ok(()), Ok(records)) => {
                self.known =
                    records.into_iter().map(|read| (read.session_id.clone(), read)).collect();
                self.take_up().await;
            }
            (Err(error), _) | (_, Err(error)) => not_read(&error),
        }
    }

    /// Records of sessions that are back, and that no hook has named yet.
    async fn take_up(&mut self) {
        if self.known.is_empty() {
            return;
        }
        for session in self.daemon.context().sessions.all() {
            let Some(read) = self.known.remove(&session.session_id) else { continue };
            let mut state = self.evidence.shared.state.lock();
            if state.contains_key(&session.session_id) {
                continue;
            }
            let Some(format) = format_of(&read.path, Some(&read.format)) else { continue };
            let now = clock::now();
            let named = Named {
                path: read.path.into(),
                format,
                session_name: session.display_name.clone(),
                noted_at: now,
                size: 0,
                wanted: 1,
                done: 0,
                state: PathState::Unknown,
                since: now,
                entered: Vec::new(),
            };
            state.insert(session.session_id.clone(), named);
        }
        self.follow_names().await;
    }

    /// Begins with the records that were named since the last time.
    async fn follow_names(&mut self) {
        let named: Vec<(String, Named)> = {
            let state = self.evidence.shared.state.lock();
            let is_new = |(id, named): &(&String, &Named)| {
                self.tails.get(*id).is_none_or(|tail| tail.path != named.path)
            };
            state.iter().filter(is_new).map(|(id, named)| (id.clone(), named.clone())).collect()
        };
        for (session_id, named) in named {
            // What the old one still says, it says now or never.
            if self.tails.contains_key(&session_id) {
                self.look(&session_id).await;
            }
            match self.begin(&session_id, named).await {
                Ok(tail) => {
                    self.forget(&session_id);
                    self.tails.insert(session_id, tail);
                }
                Err(error) => not_read(&error),
            }
        }
    }

    async fn begin(&self, session_id: &str, named: Named) -> Result<Tail, StorageError> {
        let inbox = &self.daemon.context().inbox;
        let path = named.path.to_string_lossy();
        let open = inbox.open_turn(session_id).await?;
        let begin = match inbox.record(session_id, &path).await? {
            Some(read) => From::Place(read.place),
            None if inbox.was_handed(session_id, named.noted_at).await? => {
                From::Byte(named.size.saturating_sub(BACKLOG_MAX_BYTES))
            }
            None => From::Byte(named.size),
        };
        let who = (session_id.to_owned(), named.session_name);
        let mut tail = Tail::new(who, (named.path, named.format), (begin, open));
        tail.awaited_until = Instant::now() + AWAITED_FOR;
        Ok(tail)
    }

    /// Somebody asked for looks, or named records.
    async fn asked(&mut self) -> BTreeSet<String> {
        self.take_up().await;
        self.follow_names().await;
        let state = self.evidence.shared.state.lock();
        let mut due = BTreeSet::new();
        for (id, named) in state.iter() {
            if let Some(tail) = self.tails.get_mut(id) {
                tail.session_name.clone_from(&named.session_name);
                if named.done < named.wanted {
                    tail.awaited_until = Instant::now() + AWAITED_FOR;
                    due.insert(id.clone());
                }
            }
        }
        due
    }

    fn changed(&self, watches: &[i32]) -> BTreeSet<String> {
        let is_hit = |tail: &&Tail| tail.watched.is_some_and(|(watch, _)| watches.contains(&watch));
        self.tails.values().filter(is_hit).map(|tail| tail.session_id.clone()).collect()
    }

    /// Everything, from time to time; what belongs to nobody any more is looked at once more and dropped.
    async fn ripe(&mut self) -> BTreeSet<String> {
        self.take_up().await;
        if Instant::now() > self.known_until {
            self.known.clear();
        }
        // A session is registered before its record is named.
        let named: Vec<String> = self.evidence.shared.state.lock().keys().cloned().collect();
        let live: BTreeSet<String> = {
            let all = self.daemon.context().sessions.all();
            all.iter().map(|session| session.session_id.clone()).collect()
        };
        for session_id in named.into_iter().filter(|id| !live.contains(id)) {
            self.look_to_the_end(&session_id).await;
            self.forget(&session_id);
            self.evidence.shared.state.lock().remove(&session_id);
        }
        self.tails.keys().cloned().collect()
    }

    fn forget(&mut self, session_id: &str) {
        if let Some((watch, _)) = self.tails.remove(session_id).and_then(|tail| tail.watched)
            // Two sessions may have one record.
            && !self.tails.values().any(|tail| tail.watched.is_some_and(|(other, _)| other == watch))
        {
            self.notices.forget(watch);
        }
    }

    /// When somebody has to be looked at without being asked.
    fn next_look(&self) -> Option<Instant> {
        if self.tails.is_empty() && self.known.is_empty() {
            return None;
        }
        let now = Instant::now();
        let is_pressing = |tail: &Tail| match tail.watched {
            Some(_) => tail.is_waiting(),
            None => tail.awaited_until > now || self.is_readable(tail),
        };
        let slow = clock::next_tick(LOOK_INTERVAL);
        let is_pressing = self.tails.values().any(is_pressing);
        Some(if is_pressing { slow.min(now + POLL) } else { slow })
    }

    fn is_readable(&self, tail: &Tail) -> bool {
        self.evidence.is_readable(&tail.session_id)
    }

    /// Looks at all of these, piece by piece in turn, until nothing is left.
    async fn look_at(&mut self, mut due: BTreeSet<String>) {
        while !due.is_empty() {
            let mut more = BTreeSet::new();
            for session_id in due {
                if self.daemon.is_stopping() {
                    return;
                }
                if self.look(&session_id).await {
                    more.insert(session_id);
                }
            }
            due = more;
        }
    }

    async fn look_to_the_end(&mut self, session_id: &str) {
        while !self.daemon.is_stopping() && self.look(session_id).await {}
    }

    /// One piece of one record; true when there is more.
    async fn look(&mut self, session_id: &str) -> bool {
        let wanted = self.evidence.wanted(session_id);
        let Some(tail) = self.tails.get_mut(session_id) else { return false };
        match tail.look(&self.evidence.shared.places).await {
            Ok(look) => {
                let has_more = look.has_more;
                if tail.watched.is_none_or(|(_, inode)| inode != look.safe.inode) {
                    let watch = self.notices.watch(&tail.path);
                    tail.watched = watch.map(|watch| (watch, look.safe.inode));
                }
                if let Some(at) = look.human_at {
                    for session in self.sessions(session_id) {
                        session.activity.human_spoke(at);
                    }
                }
                let is_noted = self.note(session_id, look).await;
                self.told(
                    session_id,
                    PathState::Readable,
                    wanted.filter(|_| !has_more && is_noted),
                );
                has_more && is_noted
            }
            Err(error) => {
                tail.watched = None;
                if !matches!(error, Unusable::Missing) && self.is_news(session_id) {
                    tracing::warn!(session_id, %error, "record_not_readable");
                }
                self.told(session_id, PathState::Unreadable, None);
                false
            }
        }
    }

    fn is_news(&self, session_id: &str) -> bool {
        let state = self.evidence.shared.state.lock();
        state.get(session_id).is_some_and(|named| named.state != PathState::Unreadable)
    }

    /// Notes what a look brought, and tells the senders. False when it could not be noted.
    async fn note(&mut self, session_id: &str, look: Look) -> bool {
        let Some(tail) = self.tails.get_mut(session_id) else { return false };
        let is_worth_it =
            !look.proofs.is_empty() || look.is_other || tail.unstored(&look.safe) >= NOTE_BYTES;
        if !is_worth_it {
            return true;
        }
        let now = clock::now();
        let read = RecordRead {
            session_id: session_id.to_owned(),
            path: tail.path.to_string_lossy().into_owned(),
            format: format_word(tail.format).to_owned(),
            place: look.safe,
            read_at: now,
        };
        let inbox = &self.daemon.context().inbox;
        let noted = async {
            let noted = inbox.prove(session_id, look.proofs, Some(read), now).await?;
            Ok::<_, StorageError>((noted, inbox.open_turn(session_id).await?))
        };
        match noted.await {
            Ok(((proved, unknown), open)) => {
                tail.stored(look.safe, open);
                tail.not_handed(unknown);
                if proved.iter().any(|proved| proved.is_news) {
                    claudemesh_sqlite::crash_point("evidence.after_commit_before_receipt");
                }
                self.say(session_id, proved);
                true
            }
            Err(error) => {
                tail.reread();
                not_read(&error);
                false
            }
        }
    }

    /// The registrations of an agent session.
    fn sessions(&self, session_id: &str) -> Vec<Arc<Session>> {
        let mut all = self.daemon.context().sessions.all();
        all.retain(|session| session.session_id == session_id);
        all
    }

    /// Says the receipts.
    fn say(&self, session_id: &str, proved: Vec<Proved>) {
        let was_heard = proved
            .iter()
            .any(|proved| proved.state == ReceiptState::InContext && proved.path == "channel");
        if was_heard {
            for session in self.sessions(session_id) {
                session.activity.channel_was_heard();
            }
        }
        for proved in proved.into_iter().filter(|proved| proved.is_news) {
            if let Some(mesh) = self.daemon.meshes().get(&proved.mesh) {
                mesh.proved(proved);
            }
        }
    }

    /// Tells who asks what became of a look.
    fn told(&self, session_id: &str, now: PathState, done: Option<u64>) {
        let entered = self.tails.get(session_id).map(Tail::entered).unwrap_or_default();
        {
            let mut state = self.evidence.shared.state.lock();
            let Some(named) = state.get_mut(session_id) else { return };
            if named.state != now {
                named.state = now;
                named.since = clock::now();
            }
            named.entered = entered;
            named.done = done.unwrap_or(named.done).max(named.done);
        }
        self.evidence.shared.looks.send_modify(|looks| *looks += 1);
    }
}

impl Evidence {
    /// Looks that were asked for until now.
    fn wanted(&self, session_id: &str) -> Option<u64> {
        self.shared.state.lock().get(session_id).map(|named| named.wanted)
    }
}

fn not_read(error: &StorageError) {
    tracing::warn!(error = %Causes(error), "evidence_not_noted");
}
