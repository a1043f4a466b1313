//! What the hook of a session takes along to its agent: marked as handed over before it is answered (daemon spec §8.7, MCP
//! spec §10.3).

use claudemesh_agents::answer::room_for;
use claudemesh_ipc::api::session::{HookEvent, HumanWait, Identity};
use claudemesh_ipc::api::{InboxItem, MessageMode, StatusReport};
use claudemesh_protocol::PublicKey;

use super::super::Api;
use crate::inbox::{InboxFilter, Scope};
use crate::sessions::{Opening, Session};
use crate::storage::Causes;

/// What a session's hook is answered.
#[derive(Default)]
pub(super) struct Handed {
    /// Messages, oldest first.
    pub(super) messages: Vec<InboxItem>,
    /// Unread ones the agent is to be told of, those among them.
    pub(super) unread: u64,
}

impl Api {
    /// What is said at an event to a session whose gate it opens so far.
    pub(super) async fn hand_at(
        &self,
        session: &Session,
        report: &StatusReport,
        opening: Opening,
    ) -> Handed {
        if report.event == Some(HookEvent::Start) && session.message_mode != MessageMode::Off {
            // Who is told at the start need not be told at the first prompt.
            let _is_due = session.activity.heard.may_count();
            let messages = self.let_through(session, opening).await;
            let handed = self.hand(session, report, messages).await;
            let unread = handed.unread.max(self.count_unread(session).await);
            return Handed { unread, ..handed };
        }
        if session.message_mode == MessageMode::Inbox {
            return Handed { unread: self.count_now(session, report).await, ..Handed::default() };
        }
        let messages = self.let_through(session, opening).await;
        self.hand(session, report, messages).await
    }

    /// Gives messages to the hook of a session: as they are to one that only looks, else as many as it has room for and
    /// nobody else took, each on record.
    async fn hand(
        &self,
        session: &Session,
        report: &StatusReport,
        mut messages: Vec<InboxItem>,
    ) -> Handed {
        let Some(event) = report.event.filter(|_| report.take && !messages.is_empty()) else {
            // Whoever looks may show them, too.
            was_shown(session, &messages);
            return Handed { messages, unread: 0 };
        };
        let Some(scope) = self.session_scope(session) else { return Handed::default() };
        let unread = self.count_unread(session).await.max(messages.len() as u64);
        let member = self.identity(session).member_pubkey;
        let own: Vec<String> = member.map(PublicKey::to_hex).into_iter().collect();
        messages.truncate(room_for(&messages, &own, unread));
        let ids: Vec<String> = messages.iter().map(|item| item.id.clone()).collect();
        let path = path_of(event).to_owned();
        let inbox = &self.daemon.context().inbox;
        match inbox.take(&scope, &ids, path.clone(), crate::clock::now()).await {
            Ok(taken) => {
                messages.retain(|item| taken.ids.contains(&item.id));
                was_shown(session, &messages);
                if let Some(mesh) = self.mesh(&session.mesh) {
                    mesh.handed(taken.handed, &path, &session.display_name);
                }
                let unread = if messages.is_empty() { 0 } else { unread };
                Handed { messages, unread }
            }
            Err(error) => {
                session.activity.look_again();
                if let Some(id) = &report.event_id {
                    session.activity.heard.forget(id);
                }
                tracing::warn!(error = %Causes(&error), "hook_messages_not_marked");
                Handed::default()
            }
        }
    }

    /// How many messages wait in the inbox of a session that hears of no more, when it is time to say that again.
    async fn count_now(&self, session: &Session, report: &StatusReport) -> u64 {
        if !report.take || report.event != Some(HookEvent::Prompt) {
            return 0;
        }
        let unread = self.count_unread(session).await;
        if unread > 0 && session.activity.heard.may_count() { unread } else { 0 }
    }

    async fn count_unread(&self, session: &Session) -> u64 {
        let Some(scope) = self.session_scope(session) else { return 0 };
        let filter = InboxFilter { limit: 1, ..InboxFilter::default() };
        match self.daemon.context().inbox.unread(&Scope::Session(scope), &filter).await {
            Ok((_, count)) => count,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "hook_messages_not_counted");
                0
            }
        }
    }

    /// Who a session is.
    pub(super) fn identity(&self, session: &Session) -> Identity {
        Identity {
            name: session.display_name.clone(),
            mesh: session.mesh.clone(),
            member_pubkey: self.mesh(&session.mesh).map(|mesh| mesh.member().public),
        }
    }

    /// True when a session has somebody to talk to: another member, or another session.
    pub(super) fn has_company(&self, session: &Session) -> bool {
        self.mesh(&session.mesh).is_some_and(|mesh| mesh.crowd().members > 1)
            || self.daemon.context().sessions.live(&session.mesh).len() > 1
    }
}

fn was_shown(session: &Session, messages: &[InboxItem]) {
    for item in messages {
        session.was_shown(item.hops);
    }
}

/// True when the agent waits for a person after this report, false when it goes on; `None` when it says nothing about that.
/// An edit may be announced while a dialog is open for another one.
pub(super) fn waits_for_human(report: &StatusReport) -> Option<bool> {
    match report.waits_for_human {
        Some(HumanWait::Dialog) => Some(true),
        Some(HumanWait::Idle | HumanWait::Clear) => Some(false),
        Some(HumanWait::Other) | None => {
            let goes_on = matches!(
                report.event,
                Some(HookEvent::Prompt | HookEvent::Tool | HookEvent::Stop | HookEvent::Start)
            );
            goes_on.then_some(false)
        }
    }
}

/// The way to the agent by the hook of an event, as its senders are told (agents spec §1.8).
const fn path_of(event: HookEvent) -> &'static str {
    match event {
        HookEvent::Prompt => "hook:prompt",
        HookEvent::Tool => "hook:tool",
        HookEvent::Stop => "hook:stop",
        HookEvent::Start => "hook:start",
        HookEvent::Edit => "hook:edit",
        HookEvent::Notify => "hook:notify",
        HookEvent::End => "hook:end",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_is_over_when_the_agent_goes_on() {
        let report = |event, waits_for_human| StatusReport {
            event: Some(event),
            waits_for_human,
            ..StatusReport::default()
        };
        let waits = |event, wait| waits_for_human(&report(event, wait));
        assert_eq!(waits(HookEvent::Notify, Some(HumanWait::Dialog)), Some(true));
        assert_eq!(waits(HookEvent::Notify, Some(HumanWait::Idle)), Some(false));
        assert_eq!(waits(HookEvent::Notify, None), None);
        assert_eq!(waits(HookEvent::Notify, Some(HumanWait::Other)), None);
        assert_eq!(waits(HookEvent::Edit, None), None);
        for event in [HookEvent::Prompt, HookEvent::Tool, HookEvent::Stop, HookEvent::Start] {
            assert_eq!(waits(event, None), Some(false), "{event:?}");
        }
    }
}
