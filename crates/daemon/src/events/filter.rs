//! Which subscriber sees which event (daemon spec §14.3).

use std::collections::{HashSet, VecDeque};

use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::limits::EVENT_RING;

use super::{Audience, Event, MessageKey};

/// What a subscriber asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whose events.
    pub view: View,
    /// Only these kinds, `lagged` always.
    pub kinds: Option<HashSet<String>>,
}

/// Whose events a subscriber sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// Those of one session.
    Session {
        /// Its mesh.
        mesh: String,
        /// UUID of the agent session.
        session_id: String,
        /// Its key, when it has one.
        key: Option<PublicKey>,
    },
    /// Those of the member on one or all meshes; nothing addressed to a session.
    Member {
        /// Only this mesh.
        mesh: Option<String>,
    },
    /// Everything on one or all meshes.
    All {
        /// Only this mesh.
        mesh: Option<String>,
    },
}

impl Filter {
    /// Everything.
    pub const fn everything() -> Self {
        Self { view: View::All { mesh: None }, kinds: None }
    }

    /// Whether the subscriber gets `event`; remembers messages, so that a second copy is refused.
    pub(super) fn admits(&self, event: &Event, seen: &mut Seen) -> bool {
        if !self.is_visible(event) {
            return false;
        }
        let (View::Session { .. }, Some(key), EventKind::Message) =
            (&self.view, &event.message, &event.kind)
        else {
            return self.is_wanted(&event.kind);
        };
        seen.is_new(key) && self.is_wanted(&event.kind)
    }

    fn is_wanted(&self, kind: &EventKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind.as_str()))
    }

    fn is_visible(&self, event: &Event) -> bool {
        let on =
            |mesh: &Option<String>| mesh.is_none() || event.mesh.is_none() || event.mesh == *mesh;
        match &self.view {
            View::All { mesh } => on(mesh) && event.audience != Audience::Listed,
            View::Member { mesh } => {
                let is_theirs = matches!(event.audience, Audience::Everyone | Audience::Member);
                on(mesh) && is_theirs
            }
            View::Session { mesh, session_id, key } => {
                let is_named = event.sessions.contains(session_id);
                let is_mine = match event.audience {
                    Audience::Everyone | Audience::Member => !is_named,
                    Audience::Session(recipient) => *key == Some(recipient) && !is_named,
                    Audience::Listed => is_named,
                };
                is_mine && event.mesh.as_ref().is_none_or(|of| of == mesh)
            }
        }
    }
}

/// The last messages a session got; as many as the bus remembers.
#[derive(Default)]
pub(super) struct Seen {
    order: VecDeque<MessageKey>,
    keys: HashSet<MessageKey>,
}

impl Seen {
    fn is_new(&mut self, key: &MessageKey) -> bool {
        if !self.keys.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key.clone());
        if self.order.len() > EVENT_RING
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}
