//! `POST /v1/admin/hooks-test` (daemon spec §9.7): runs one hook now, and shows what it said. With a stored message it is
//! the event of that message, told again under the same id; without, an invented one, and then nothing is sent.

use std::sync::Arc;

use claudemesh_ipc::api::hooks::{HooksTestReply, HooksTestRequest};
use claudemesh_ipc::api::{Decrypt, InboxItem};
use claudemesh_protocol::{ErrorCode, Priority, Timestamp};
use serde_json::{Map, Value};

use super::Hooks;
use super::answer::Verdict;
use super::event::Occasion;
use super::execute::{Call, Executed};
use super::installed::Hook;
use super::name::{HookName, Stem};
use super::pre_send::{Asked, input};
use crate::api::{Api, Failure};
use crate::clock;

/// What an invented message says.
const SAMPLE: &str = "a test of this hook";

impl Hooks {
    /// Runs a hook for somebody who tries it out; `stored` is the message to tell it of.
    ///
    /// # Errors
    /// `not_found` for a hook that is not installed, `invalid_field` for a message that it does not hear of.
    pub(crate) async fn try_out(
        &self,
        request: HooksTestRequest,
        stored: Option<InboxItem>,
        api: Arc<Api>,
    ) -> Result<HooksTestReply, Failure> {
        let hooks = self.clone();
        let tried =
            self.shared.tasks.spawn(async move { hooks.try_now(&request, stored, &api).await });
        tried.await.unwrap_or_else(|_| Err(Failure::new(ErrorCode::Internal, "the run panicked")))
    }

    async fn try_now(
        &self,
        request: &HooksTestRequest,
        stored: Option<InboxItem>,
        api: &Api,
    ) -> Result<HooksTestReply, Failure> {
        let name = HookName::parse(&request.hook).ok_or_else(|| {
            Failure::field("hook", format!("no hook is called {:?}", request.hook))
        })?;
        let hook = self.installed().named(&name).ok_or_else(|| {
            Failure::new(ErrorCode::NotFound, format!("the hook {name} is not installed, or not switched on"))
                .hint("hooks.toml needs a section for it with enabled = true; then `claudemesh daemon reload`")
        })?;
        let is_real = stored.is_some();
        let executed = if hook.name.stem == Stem::PreSend {
            self.try_guard(&hook, request).await
        } else {
            let occasion = match stored {
                Some(item) => Occasion::message(&item, clock::now())
                    .filter(|occasion| {
                        hook.name.stem.hears_messages() && occasion.is_for(&hook.section)
                    })
                    .ok_or_else(|| {
                        Failure::field("message_id", "the hook does not hear of this message")
                    })?,
                None => invented(&hook.name.stem, request.mesh.as_deref().or(name.mesh.as_deref())),
            };
            let mut executed = self.hear(&hook, &occasion).await;
            if is_real {
                self.heed(&hook, &occasion, &mut executed, api).await;
            }
            executed
        };
        self.write_down(&hook, &executed).await;
        Ok(shown(&executed))
    }

    async fn try_guard(&self, hook: &Hook, request: &HooksTestRequest) -> Executed {
        let mesh = request.mesh.clone().or_else(|| hook.name.mesh.clone()).unwrap_or_default();
        let asked = Asked {
            mesh: mesh.clone(),
            to: "somebody".to_owned(),
            target: "0".repeat(64),
            message: SAMPLE.to_owned(),
            priority: Priority::Next.as_str(),
            meta: None,
            sender_session: None,
        };
        let event_id = crate::ids::next();
        let input = input(hook, &event_id, &asked, self.shared.settings.get().hooks.stdin_limit);
        let mut executed =
            self.execute(Call { hook, event_id, mesh: Some(&mesh), input, issued: None }).await;
        if executed.output().is_some_and(|output| Verdict::read(output).is_err()) {
            executed.record.refused = Some("no answer".to_owned());
        }
        executed
    }
}

/// An event that did not happen.
fn invented(stem: &Stem, mesh: Option<&str>) -> Occasion {
    let (now, kind) = (clock::now(), stem.kind());
    if !stem.hears_messages() {
        return Occasion::own(kind, mesh, Map::new(), now);
    }
    let item = InboxItem {
        channel: if matches!(stem, Stem::Topic(_)) { "topic" } else { "dm" }.to_owned(),
        topic: match stem {
            Stem::Topic(name) => Some(name.clone()),
            _ => None,
        },
        ..sample(mesh.unwrap_or_default(), now)
    };
    let data = serde_json::to_value(item).ok().and_then(|data| data.as_object().cloned());
    // Nobody is answered: there is no sender.
    Occasion::own(kind, mesh, data.unwrap_or_default(), now)
}

/// A direct message of nobody's.
pub(super) fn sample(mesh: &str, now: Timestamp) -> InboxItem {
    InboxItem {
        id: crate::ids::next(),
        client_message_id: crate::ids::next(),
        broker_message_id: None,
        mesh: mesh.to_owned(),
        channel: "dm".to_owned(),
        topic: None,
        sender_pubkey: "0".repeat(64),
        sender_member_pubkey: "0".repeat(64),
        sender_name: "somebody".to_owned(),
        priority: Priority::Next,
        subtype: None,
        body: Some(SAMPLE.to_owned()),
        meta: None,
        mentions: Vec::new(),
        decrypt: Decrypt::Ok,
        reply_to_id: None,
        created_at: Some(now.to_iso()),
        received_at: now.to_iso(),
        seen_at: None,
        pushed_at: None,
        digest: false,
        addressed_to: None,
        recipient_pubkey: None,
        recipient_kind: None,
        transport: "broker".to_owned(),
        hops: 0,
        sender_verified: true,
        held: false,
        also_given: 0,
        state: None,
        answered_by: None,
    }
}

fn shown(executed: &Executed) -> HooksTestReply {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ended = executed.ended.as_ref();
    HooksTestReply {
        ok: executed.output().is_some() && executed.record.refused.is_none(),
        run: Value::Object(executed.record.fields()),
        stdout: ended.map(|ended| text(&ended.stdout)).unwrap_or_default(),
        stderr: ended.map(|ended| text(&ended.stderr)).unwrap_or_default(),
    }
}
