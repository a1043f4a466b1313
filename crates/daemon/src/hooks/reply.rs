//! `{"reply": …}` (daemon spec §16.3): sent as any message is, under an id that follows from the event, so that a hook that
//! runs again for the same event cannot send again.

use claudemesh_protocol::Priority;

use super::Hooks;
use super::event::Occasion;
use super::execute::address;
use super::guard::MayReply;
use super::installed::Hook;
use crate::api::send::Letter;
use crate::api::{Api, Caller, Failure};
use crate::ops::Place as _;

impl Hooks {
    /// Sends what a hook replied to where its event came from.
    ///
    /// # Errors
    /// Why not, in a word.
    pub(super) async fn reply(
        &self,
        hook: &Hook,
        occasion: &Occasion,
        text: String,
        priority: Option<Priority>,
        api: &Api,
    ) -> Result<(), String> {
        if !hook.section.allow_reply {
            return Err("allow_reply is not set".to_owned());
        }
        let (Some(origin), Some(mesh)) = (&occasion.origin, &occasion.mesh) else {
            return Err("nobody can be answered".to_owned());
        };
        match self.shared.replies.count(&hook.name, origin.counted()) {
            MayReply::Yes => {}
            may => {
                self.shared.figures.of(&hook.name, |figures| figures.muted_replies += 1);
                if may == MayReply::MutedNow {
                    let sender = origin.counted().to_hex();
                    let sender = sender.get(..SHOWN_CHARS).unwrap_or_default();
                    tracing::warn!(hook = %hook.name, sender, "hook_replies_muted");
                }
                return Err("too many replies".to_owned());
            }
        }
        let letter = Letter::of_hook(HookLetter {
            to: address(origin.topic.as_deref(), origin.sender),
            message: text,
            priority: priority.unwrap_or_default(),
            mesh: mesh.clone(),
            client_message_id: reply_id(&occasion.id_for(&hook.name), hook),
            hops: origin.hops.saturating_add(1),
        });
        send(api, letter).await.map_err(|failure| failure.code().to_owned())
    }
}

/// Characters of a key in the log (daemon spec §22).
const SHOWN_CHARS: usize = 12;

/// What a hook sends.
pub(crate) struct HookLetter {
    /// As a sender would type it.
    pub(crate) to: String,
    /// The words.
    pub(crate) message: String,
    /// Their urgency.
    pub(crate) priority: Priority,
    /// The mesh of the event.
    pub(crate) mesh: String,
    /// The same whenever the event is told again.
    pub(crate) client_message_id: String,
    /// Automatic answers before it, and this one.
    pub(crate) hops: u32,
}

fn reply_id(event_id: &str, hook: &Hook) -> String {
    format!("hook-{event_id}-{}", hook.name.stem)
}

async fn send(api: &Api, letter: Letter) -> Result<(), Failure> {
    let caller = Caller::person();
    let addressed = api.address(&caller, &letter).await?;
    api.deliver(&caller, &letter, addressed).await.map(drop)
}
