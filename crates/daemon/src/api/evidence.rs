//! What is known about the ways to the agent of a session, and what follows from what its own record shows (agents spec
//! §1.2, §1.8).

use std::time::Duration;

use claudemesh_ipc::api::StatusReport;
use claudemesh_ipc::api::session::{DeliveryPath, PathState, PathView};

use super::Api;
use crate::inbox::Subject;
use crate::sessions::activity::ChannelState;
use crate::sessions::{Opening, Session};
use crate::storage::Causes;

/// What a hook took, and what is not in context after this time, did not arrive: the hook died before its agent read it.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Messages whose senders are told that the agent waits for its person.
const WAITING_MAX: u32 = 200;

impl Api {
    /// A hook reports, and may name the record of its session. To be done before anything is handed to it.
    pub(super) async fn note_record(&self, session: &Session, report: &StatusReport) {
        if report.event.is_some() {
            session.activity.heard.reported(crate::clock::now());
        }
        if let Some(path) = &report.transcript {
            let evidence = &self.daemon.context().evidence;
            evidence.name(session, path, report.agent.as_deref()).await;
        }
    }

    /// What a hook took and its agent was never shown waits for the session again. Only where its record can be read:
    /// otherwise nobody knows.
    pub(super) async fn take_back(&self, session: &Session) {
        let context = self.daemon.context();
        if !context.evidence.is_readable(&session.session_id) {
            return;
        }
        let Some(scope) = self.session_scope(session) else { return };
        let before = crate::clock::now().minus(LOST_AFTER);
        let taken = async {
            if !context.inbox.may_be_lost(&scope, before).await? {
                return Ok(0);
            }
            // What was appended a moment ago may show it.
            match context.evidence.entered(&session.session_id).await {
                Some(entered) => context.inbox.take_back(&scope, before, entered).await,
                None => Ok(0),
            }
        };
        match taken.await {
            Ok(0) => {}
            Ok(messages) => {
                tracing::info!(session_id = session.session_id, messages, "messages_handed_again");
                session.activity.look_again();
            }
            Err(error) => tracing::warn!(error = %Causes(&error), "lost_messages_not_found"),
        }
    }

    /// The agent of a session waits for a decision of its person, or no longer does: the senders of what waits for the
    /// session are told.
    pub(super) async fn waits_for_human(&self, session: &Session, waits: bool) {
        if !session.activity.heard.set_waits_for_human(waits) {
            return;
        }
        let Some(mesh) = self.mesh(&session.mesh) else { return };
        let Some(scope) = self.session_scope(session) else { return };
        match self.daemon.context().inbox.waiting(&scope, Opening::All, WAITING_MAX).await {
            Ok(items) => mesh.wait_for_session(items.iter().filter_map(Subject::of_item).collect()),
            Err(error) => tracing::warn!(error = %Causes(&error), "waiting_messages_not_found"),
        }
    }

    /// What is known about the ways to the agent of a session.
    pub(super) fn paths(&self, session: &Session) -> Vec<PathView> {
        let activity = &session.activity;
        let view = |path, state, since: Option<String>| PathView { path, state, since };
        let channel = match activity.channel() {
            ChannelState::Unknown if !activity.has_live_path() => None,
            ChannelState::Unknown => Some(PathState::Unknown),
            ChannelState::Listening => Some(PathState::Listening),
            ChannelState::Refused => Some(PathState::Refused),
        };
        let channel = channel.map(|state| view(DeliveryPath::Channel, state, None));
        let hooks = activity
            .heard
            .reported_at()
            .map(|at| view(DeliveryPath::Hooks, PathState::Listening, Some(at.to_iso())));
        let bell = activity
            .bell_armed_until()
            .map(|until| view(DeliveryPath::Bell, PathState::Armed, Some(until.to_iso())));
        let record = self.daemon.context().evidence.view(&session.session_id);
        [channel, hooks, bell, record].into_iter().flatten().collect()
    }
}
