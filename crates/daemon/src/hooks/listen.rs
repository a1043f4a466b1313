//! What hooks hear (daemon spec §16.1): messages as they are stored, what the broker tells, and the daemon's own connections.
//! Whoever tells is not held up: names are compared, and what is to run is queued.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use claudemesh_ipc::api::{EventKind, InboxItem};
use claudemesh_protocol::limits::{HOOK_EVENTS_REMEMBERED, HOOK_OUTAGE};
use parking_lot::Mutex;
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

use super::event::{Identity, Occasion, is_mention, stems};
use super::name::Stem;
use super::queue::Run;
use super::{Hooks, Shared};
use crate::clock;
use crate::events::{Event, Listener};

/// What was heard before.
#[derive(Default)]
pub(super) struct Listening {
    heard: Mutex<Heard>,
    outages: Mutex<HashMap<String, Outage>>,
}

/// Messages that hooks were told: one that comes to several of our keys is told once.
#[derive(Default)]
struct Heard {
    known: HashSet<Identity>,
    order: VecDeque<Identity>,
}

impl Heard {
    /// True the first time.
    fn is_new(&mut self, identity: Identity) -> bool {
        if !self.known.insert(identity) {
            return false;
        }
        self.order.push_back(identity);
        if self.order.len() > HOOK_EVENTS_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// A mesh without its connection.
struct Outage {
    /// It is over.
    over: CancellationToken,
    /// Hooks were told.
    is_told: bool,
}

/// The bus holds this one, which does not keep the hooks alive.
struct Ear(Weak<Shared>);

impl Listener for Ear {
    fn arrived(&self, item: &InboxItem) {
        if let Some(shared) = self.0.upgrade() {
            Hooks { shared }.arrived(item);
        }
    }

    fn happened(&self, event: &Event) {
        if let Some(shared) = self.0.upgrade() {
            Hooks { shared }.happened(event);
        }
    }
}

impl Hooks {
    /// Begins to hear.
    pub(super) fn listen(&self) {
        self.shared.events.listen(Box::new(Ear(Arc::downgrade(&self.shared))));
    }

    /// The daemon serves: what waits for that runs, once for each start.
    pub(crate) fn started(&self) {
        let slugs: Vec<_> =
            self.shared.meshes.all().iter().map(|mesh| mesh.slug().to_owned()).collect();
        let data = json!({ "daemon_version": crate::daemon::VERSION, "meshes": slugs });
        let data = data.as_object().cloned().unwrap_or_default();
        self.tell(&Stem::Startup, Occasion::own("startup", None, data, clock::now()));
    }

    /// A message was stored.
    fn arrived(&self, item: &InboxItem) {
        let installed = self.installed();
        if !installed.has(Stem::hears_messages) || !self.are_on() {
            return;
        }
        let Some(occasion) = Occasion::message(item, clock::now()) else { return };
        if !self.shared.listening.heard.lock().is_new(occasion.identity()) {
            return;
        }
        let is_mention = installed.has(|stem| *stem == Stem::Mention)
            && is_mention(item, &self.own_names(&item.mesh));
        let occasion = Arc::new(occasion);
        for stem in stems(item, is_mention) {
            self.offer(&stem, &occasion);
        }
    }

    /// The names under which we are spoken to in a mesh: the member's, and those of its sessions here.
    pub(super) fn own_names(&self, mesh: &str) -> Vec<String> {
        let sessions = self.shared.sessions.live(mesh);
        let mut names: Vec<_> =
            sessions.iter().map(|session| session.display_name.clone()).collect();
        if let Some(mesh) = self.shared.meshes.get(mesh) {
            names.extend(mesh.name_of(mesh.member().public));
        }
        names
    }

    fn happened(&self, event: &Event) {
        let Some(mesh) = event.mesh.as_deref() else { return };
        match &event.kind {
            EventKind::Other(kind) if kind == "file_shared" => {
                self.told_by_broker(&Stem::FileShare, "file_shared", mesh, &event.data);
            }
            EventKind::Other(kind) if kind == "task_assigned" => {
                self.told_by_broker(&Stem::TaskAssigned, "task_assigned", mesh, &event.data);
            }
            EventKind::DaemonDisconnect => self.connection_lost(mesh, event.data.clone()),
            EventKind::DaemonReconnect => self.connection_back(mesh),
            _ => {}
        }
    }

    fn told_by_broker(
        &self,
        stem: &Stem,
        kind: &'static str,
        mesh: &str,
        data: &Map<String, serde_json::Value>,
    ) {
        if self.installed().has(|installed| installed == stem) {
            let occasion = Occasion::told_by_broker(kind, mesh, data, clock::now());
            self.tell(stem, occasion);
        }
    }

    /// A short outage is none.
    fn connection_lost(&self, mesh: &str, data: Map<String, serde_json::Value>) {
        let over = CancellationToken::new();
        let outage = Outage { over: over.clone(), is_told: false };
        let earlier = self.shared.listening.outages.lock().insert(mesh.to_owned(), outage);
        if let Some(earlier) = earlier {
            earlier.over.cancel();
        }
        let (hooks, mesh) = (self.clone(), mesh.to_owned());
        self.shared.tasks.spawn(async move {
            let lasts = tokio::select! {
                biased;
                () = hooks.shared.stopping.cancelled() => false,
                () = over.cancelled() => false,
                () = tokio::time::sleep(HOOK_OUTAGE) => true,
            };
            if !lasts {
                return;
            }
            if let Some(outage) = hooks.shared.listening.outages.lock().get_mut(&mesh) {
                outage.is_told = true;
            }
            let occasion = Occasion::own("disconnect", Some(&mesh), data, clock::now());
            hooks.tell(&Stem::Disconnect, occasion);
        });
    }

    fn connection_back(&self, mesh: &str) {
        let Some(outage) = self.shared.listening.outages.lock().remove(mesh) else { return };
        outage.over.cancel();
        if outage.is_told {
            let occasion = Occasion::own("reconnect", Some(mesh), Map::new(), clock::now());
            self.tell(&Stem::Reconnect, occasion);
        }
    }

    /// Queues the hooks of one stem.
    fn tell(&self, stem: &Stem, occasion: Occasion) {
        if self.are_on() {
            self.offer(stem, &Arc::new(occasion));
        }
    }

    fn offer(&self, stem: &Stem, occasion: &Arc<Occasion>) {
        for hook in self.installed().of(stem, occasion.mesh.as_deref()) {
            if occasion.is_for(&hook.section) {
                self.enqueue(Run { hook, occasion: Arc::clone(occasion) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_heard_once_and_forgotten_after_thousands() {
        let mut heard = Heard::default();
        let id = |text: &str| claudemesh_crypto::hash::sha256(text.as_bytes());
        assert!(heard.is_new(id("a")) && !heard.is_new(id("a")));
        for number in 0..HOOK_EVENTS_REMEMBERED {
            assert!(heard.is_new(id(&number.to_string())));
        }
        assert_eq!(heard.known.len(), HOOK_EVENTS_REMEMBERED);
        assert!(heard.is_new(id("a")));
    }
}
