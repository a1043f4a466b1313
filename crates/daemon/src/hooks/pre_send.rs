//! `pre-send` (daemon spec §16.6): asked about each message before it is accepted, and before its id is used up. It may let
//! it pass, refuse it, or put other words in its place. What keeps it from answering refuses the message, unless its
//! section says otherwise.

use std::sync::Arc;

use claudemesh_ipc::Paths;
use claudemesh_protocol::ErrorCode;
use serde_json::{Value, json};

use super::Hooks;
use super::answer::Verdict;
use super::event::head;
use super::execute::Call;
use super::installed::{Hook, Installed};
use super::name::{HookName, Stem};
use super::redact::fitted;
use super::section::OnError;
use crate::api::Failure;
use crate::identity::Surroundings;
use crate::settings::Settings;
use crate::{blocking, ids};

/// What a guard is asked about.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Slug of the mesh.
    pub(crate) mesh: String,
    /// As the sender typed it.
    pub(crate) to: String,
    /// What it means.
    pub(crate) target: String,
    /// The words.
    pub(crate) message: String,
    /// Their urgency.
    pub(crate) priority: &'static str,
    /// The user's metadata.
    pub(crate) meta: Option<serde_json::Map<String, Value>>,
    /// Id of the session that sends.
    pub(crate) sender_session: Option<String>,
}

impl Hooks {
    /// Asks the guards of a mesh, the general one first; answers the words to send instead, if any.
    ///
    /// # Errors
    /// 422 `blocked_by_hook` with the hook and its reason.
    pub(crate) async fn before_send(&self, mut asked: Asked) -> Result<Option<String>, Failure> {
        if !self.are_on() {
            return Ok(None);
        }
        let installed = self.installed();
        if let Some((name, reason)) = installed.broken_guard(&asked.mesh) {
            return Err(blocked(name, &format!("it cannot run: {reason}")));
        }
        let mut guards = installed.of(&Stem::PreSend, Some(&asked.mesh));
        // The mesh's own comes first in the list.
        guards.reverse();
        let mut replaced = None;
        for hook in guards {
            if let Some(message) = self.ask(hook, asked.clone()).await? {
                asked.message.clone_from(&message);
                replaced = Some(message);
            }
        }
        Ok(replaced)
    }

    async fn ask(&self, hook: Arc<Hook>, asked: Asked) -> Result<Option<String>, Failure> {
        let hooks = self.clone();
        let (name, on_error) = (hook.name.clone(), hook.section.on_error);
        // Whoever asked may hang up: what was begun has an owner all the same.
        let verdict = self.shared.tasks.spawn(async move { hooks.verdict(&hook, asked).await });
        match verdict.await {
            Ok(Some(Verdict::Allow)) => Ok(None),
            Ok(Some(Verdict::Replace(message))) => Ok(Some(message)),
            Ok(Some(Verdict::Deny(reason))) => Err(blocked(&name, &reason)),
            Ok(None) | Err(_) => match on_error {
                OnError::Allow => Ok(None),
                OnError::Deny => Err(blocked(&name, "it gave no answer")),
            },
        }
    }

    /// What a guard says; `None` when it says nothing that counts.
    async fn verdict(&self, hook: &Hook, asked: Asked) -> Option<Verdict> {
        let settings = self.shared.settings.get();
        let patience = hook.section.timeout(&hook.name.stem, settings.hooks.default_timeout);
        let waited = tokio::time::timeout(patience, self.shared.guards.acquire());
        let Ok(Ok(_place)) = waited.await else {
            tracing::warn!(hook = %hook.name, "hook_waited_too_long");
            return None;
        };
        let event_id = ids::next();
        let input = input(hook, &event_id, &asked, settings.hooks.stdin_limit);
        let mesh = Some(asked.mesh.as_str());
        let mut executed = self.execute(Call { hook, event_id, mesh, input, issued: None }).await;
        let verdict = executed.output().and_then(|output| Verdict::read(output).ok());
        if verdict.is_none() {
            executed.record.refused.get_or_insert_with(|| "no answer".to_owned());
        }
        self.write_down(hook, &executed).await;
        verdict
    }
}

/// What a guard reads.
pub(super) fn input(hook: &Hook, event_id: &str, asked: &Asked, limit: usize) -> Vec<u8> {
    let request = json!({
        "to": asked.to, "target": asked.target, "message": asked.message, "priority": asked.priority,
        "meta": asked.meta, "sender_session": asked.sender_session,
    });
    let mut request = request.as_object().cloned().unwrap_or_default();
    if asked.sender_session.is_none() {
        request.remove("sender_session");
    }
    for path in &hook.section.redact_payload {
        path.hide_in(&mut request);
    }
    let now = crate::clock::now();
    let mut event = head(&hook.name, event_id, "pre_send", Some(&asked.mesh), now);
    event.insert("request".to_owned(), Value::Object(request));
    fitted(event, "request", limit)
}

/// Refuses to send without a daemon where a guard would look at the message: nobody would ask it.
///
/// # Errors
/// 422 `blocked_by_hook`.
pub(crate) async fn without_daemon(mesh: &str) -> Result<(), Failure> {
    let Ok(paths) = Paths::from_env() else { return Ok(()) };
    if crate::clock::is_simulated() || !paths.hooks_dir().exists() {
        return Ok(());
    }
    let looked = blocking::run(move || {
        let settings = Settings::read(&paths.settings_file()).unwrap_or_default();
        let root = paths.hooks_dir();
        let installed = Installed::load(&root).unwrap_or_else(|_| Installed::unusable(&root));
        (settings.hooks.enabled, installed)
    });
    let Some((enabled, installed)) = looked.await else { return Ok(()) };
    let are_on = enabled.unwrap_or(!Surroundings::of_this_process().is_ci());
    let broken = installed.broken_guard(mesh).map(|(name, _)| name.clone());
    let guard = installed.of(&Stem::PreSend, Some(mesh)).first().map(|hook| hook.name.clone());
    match broken.or(guard) {
        Some(name) if are_on => {
            let reason = "it is asked by the daemon, which does not run";
            Err(blocked(&name, reason).hint("claudemesh daemon up"))
        }
        _ => Ok(()),
    }
}

fn blocked(hook: &HookName, reason: &str) -> Failure {
    let message = if reason.is_empty() {
        format!("the hook {hook} does not let this message out")
    } else {
        format!("the hook {hook} does not let this message out: {reason}")
    };
    Failure::new(ErrorCode::BlockedByHook, message)
        .with("hook", hook.to_string())
        .with("reason", reason)
}
