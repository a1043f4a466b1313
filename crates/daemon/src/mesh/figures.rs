//! What monitoring asks of one mesh.

use claudemesh_client::Connection;

use super::MeshHandle;

/// The connections of a mesh at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ConnectionCounts {
    /// 1 while the member's own connection is open.
    pub(crate) member: usize,
    /// Open connections of sessions.
    pub(crate) sessions: usize,
    /// Frames on the member's connection that could not be read, since it was made.
    pub(crate) unreadable_frames: u64,
}

impl MeshHandle {
    pub(crate) fn connections(&self) -> ConnectionCounts {
        let control = self.mesh.control();
        let sessions = self.mesh.sessions.lock();
        let is_open =
            |connection: &Option<Connection>| connection.as_ref().is_some_and(Connection::is_open);
        ConnectionCounts {
            member: usize::from(is_open(&control)),
            sessions: sessions.values().filter(|link| is_open(&link.connection.lock())).count(),
            unreadable_frames: control
                .map_or(0, |connection| connection.counters().invalid_inbound),
        }
    }
}
