//! One run from its file to its audit line (daemon spec §16.3, §16.5, §16.8).

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::PublicKey;

use super::Hooks;
use super::answer::Answer;
use super::audit::Record;
use super::event::Occasion;
use super::file;
use super::installed::Hook;
use super::process::{self, Ended, Isolation, Job};
use super::queue::Run;
use super::runner::Plan;
use super::sandbox::{Abilities, Confinement};
use super::token::{Grant, Issued};
use crate::api::Api;
use crate::blocking;
use crate::events::{Audience, Event};

/// Where hooks find programs; the daemon's own PATH is not theirs.
const HOOK_PATH: &str = "/usr/bin:/bin";
/// Their language.
const HOOK_LANG: &str = "C.UTF-8";

/// What a hook is run with.
pub(super) struct Call<'a> {
    /// Which.
    pub(super) hook: &'a Hook,
    /// The id of its event.
    pub(super) event_id: String,
    /// The mesh of the event.
    pub(super) mesh: Option<&'a str>,
    /// What it reads.
    pub(super) input: Vec<u8>,
    /// Its capability token.
    pub(super) issued: Option<Issued>,
}

/// A run that is over, to be written down.
pub(super) struct Executed {
    pub(super) record: Record,
    /// How the process ended; `None` when there was none.
    pub(super) ended: Option<Ended>,
}

impl Executed {
    /// It ran to its end, without a complaint, and all it said is here.
    pub(super) fn output(&self) -> Option<&[u8]> {
        let ended = self.ended.as_ref()?;
        let is_good = ended.exit == Some(0)
            && !ended.timed_out
            && !ended.stopped
            && ended.stdout_bytes == ended.stdout.len() as u64;
        is_good.then_some(ended.stdout.as_slice())
    }

    /// The word for figures.
    fn how(&self) -> &'static str {
        match &self.ended {
            None => "not_run",
            Some(ended) if ended.timed_out => "timeout",
            Some(ended) if ended.stopped => "stopped",
            Some(ended) if ended.signal.is_some() => "signal",
            Some(ended) if ended.exit == Some(0) => "ok",
            Some(_) => "failed",
        }
    }
}

impl Hooks {
    /// Runs a hook that waited, and sends what it replies.
    pub(super) async fn carry_out(&self, run: Run, api: &Api) {
        let mut executed = self.hear(&run.hook, &run.occasion).await;
        self.heed(&run.hook, &run.occasion, &mut executed, api).await;
        self.write_down(&run.hook, &executed).await;
    }

    /// Runs a hook with what it hears.
    pub(super) async fn hear(&self, hook: &Hook, occasion: &Occasion) -> Executed {
        let limit = self.shared.settings.get().hooks.stdin_limit;
        self.execute(Call {
            hook,
            event_id: occasion.id_for(&hook.name),
            mesh: occasion.mesh.as_deref(),
            input: occasion.input(&hook.name, &hook.section, limit),
            issued: self.issue(hook, occasion),
        })
        .await
    }

    /// Does what the output of a run asks for.
    pub(super) async fn heed(
        &self,
        hook: &Hook,
        occasion: &Occasion,
        executed: &mut Executed,
        api: &Api,
    ) {
        let Some(output) = executed.output() else { return };
        match Answer::read(output) {
            Err(error) => {
                tracing::warn!(hook = %hook.name, %error, "hook_output_ignored");
                executed.record.refused = Some("output".to_owned());
            }
            Ok(Answer { reply: Some(text), priority }) => {
                match self.reply(hook, occasion, text, priority, api).await {
                    Ok(()) => executed.record.replied = true,
                    Err(reason) => {
                        tracing::warn!(hook = %hook.name, reason, "hook_reply_not_sent");
                        executed.record.refused = Some(format!("reply: {reason}"));
                    }
                }
            }
            Ok(Answer { reply: None, .. }) => {}
        }
    }

    /// The token of a run, when its section asks for one and there is a mesh to use it in.
    fn issue(&self, hook: &Hook, occasion: &Occasion) -> Option<Issued> {
        let scopes = hook.section.capability_token_scope.clone();
        let mesh = occasion.mesh.clone().filter(|_| !scopes.is_empty())?;
        let grant = Grant::new(hook.name.clone(), mesh, scopes, occasion.origin.clone());
        Some(self.shared.tokens.issue(grant))
    }

    /// Runs a hook to its end.
    pub(super) async fn execute(&self, call: Call<'_>) -> Executed {
        let Call { hook, event_id, mesh, input, issued } = call;
        let name = hook.name.to_string();
        let mut record =
            Record::begun(name, mesh.map(str::to_owned), event_id, crate::clock::now());
        record.stdin_bytes = input.len();
        let ended = match self.prepare(hook, &mut record, issued.as_ref(), input).await {
            Err(refused) => {
                record.refused = Some(refused);
                None
            }
            Ok((runner, job)) => {
                let grant = issued.as_ref().map(|issued| Arc::clone(issued.grant()));
                // With the script's end its token ends, whatever it left behind.
                let ran = process::run(&runner, job, &self.shared.stopping, move || drop(issued));
                let ran = ran.await;
                record.capability_calls = grant.map_or(0, |grant| grant.calls());
                match ran {
                    Ok(ended) => {
                        record.ended(&ended);
                        Some(ended)
                    }
                    Err(error) => {
                        tracing::warn!(hook = %hook.name, %error, "hook_not_started");
                        record.refused = Some("not started".to_owned());
                        None
                    }
                }
            }
        };
        Executed { record, ended }
    }

    /// Everything that is decided before the process exists.
    async fn prepare(
        &self,
        hook: &Hook,
        record: &mut Record,
        issued: Option<&Issued>,
        input: Vec<u8>,
    ) -> Result<(process::Runner, Job), String> {
        let Some(start) = self.shared.start.get() else { return Err("not started".to_owned()) };
        let (root, path) = (self.shared.dir.clone(), hook.path.clone());
        // The file may have changed since it was loaded.
        let checked = blocking::run(move || file::check(&root, &path)).await;
        if let Err(refusal) = checked.unwrap_or(Err(file::Refusal::Unreadable)) {
            if self.is_news(&hook.path.display().to_string()) {
                tracing::warn!(path = %hook.path.display(), reason = %refusal, "hook_refused");
            }
            return Err(refusal.to_string());
        }
        let confinement = Confinement::of(&hook.section, self.abilities().await);
        record.sandbox = confinement.enforced;
        self.say_what_is_missing(hook, &confinement);
        if hook.section.require_sandbox && !confinement.missing.is_empty() {
            return Err("its policy cannot be enforced here".to_owned());
        }
        let mut plan = Plan { program: hook.path.clone(), ..Plan::default() };
        confinement.apply(&mut plan);
        if confinement.hides_files() {
            plan.keep.extend(start.socket.parent().map(PathBuf::from));
            plan.hide.extend(self.shared.home.clone().map(PathBuf::from));
        }
        let settings = self.shared.settings.get();
        let job = Job {
            plan,
            env: self.environment(hook, record, issued),
            dir: self.shared.dir.clone(),
            input,
            output_limit: hook.section.output_limit(settings.hooks.output_limit),
            timeout: hook.section.timeout(&hook.name.stem, settings.hooks.default_timeout),
            ends_group: hook.section.killpg_on_timeout,
        };
        Ok((start.runner.clone(), job))
    }

    fn say_what_is_missing(&self, hook: &Hook, confinement: &Confinement) {
        for reason in &confinement.missing {
            self.shared.figures.of(&hook.name, |figures| {
                *figures.unenforceable.entry(reason).or_default() += 1;
            });
            if self.is_news(&format!("{reason} {}", hook.name)) {
                tracing::warn!(hook = %hook.name, reason, "hook_policy_not_enforced");
            }
        }
    }

    /// What this machine can enforce; tried once.
    async fn abilities(&self) -> Abilities {
        let nothing = Abilities { namespaces: false, bubblewrap: false };
        let Some(start) = self.shared.start.get() else { return nothing };
        if start.runner.isolation == Isolation::Missing {
            return nothing;
        }
        let tried = self.shared.abilities.get_or_init(|| async {
            let abilities = Abilities {
                namespaces: process::can_leave_network(&start.runner).await,
                bubblewrap: process::can_bubblewrap(&start.runner).await,
            };
            tracing::info!(
                namespaces = abilities.namespaces,
                bubblewrap = abilities.bubblewrap,
                "hook_sandbox_tried"
            );
            abilities
        });
        *tried.await
    }

    /// All variables of a hook: nothing of the daemon's own environment, no key, no token but its own.
    fn environment(
        &self,
        hook: &Hook,
        record: &Record,
        issued: Option<&Issued>,
    ) -> Vec<(String, OsString)> {
        let mut variables = vec![
            ("PATH".to_owned(), OsString::from(HOOK_PATH)),
            ("LANG".to_owned(), HOOK_LANG.into()),
            ("CLAUDEMESH_HOOK_NAME".to_owned(), hook.name.stem.to_string().into()),
            ("CLAUDEMESH_EVENT_ID".to_owned(), record.event_id.clone().into()),
        ];
        variables.extend(self.shared.home.clone().map(|home| ("HOME".to_owned(), home)));
        variables
            .extend(record.mesh.clone().map(|mesh| ("CLAUDEMESH_MESH".to_owned(), mesh.into())));
        if let Some(start) = self.shared.start.get() {
            let socket = start.socket.clone().into_os_string();
            variables.push(("CLAUDEMESH_DAEMON_SOCK".to_owned(), socket));
        }
        if let Some(issued) = issued {
            let token = issued.token().reveal().into();
            variables.push(("CLAUDEMESH_CAPABILITY_TOKEN".to_owned(), token));
        }
        let own = hook.section.env.iter();
        variables.extend(own.map(|(name, value)| (name.clone(), value.into())));
        variables
    }

    /// Counts a run, tells it, and writes its line.
    pub(super) async fn write_down(&self, hook: &Hook, executed: &Executed) {
        let Executed { record, ended } = executed;
        let duration = ended.as_ref().map(|ended| ended.duration);
        self.shared.figures.ran(&hook.name, executed.how(), duration);
        tracing::debug!(hook = %hook.name, event_id = record.event_id, how = executed.how(), "hook_executed");
        self.shared.events.publish(Event {
            kind: EventKind::HookExecuted,
            mesh: record.mesh.clone(),
            audience: Audience::Everyone,
            sessions: Vec::new(),
            message: None,
            data: record.fields(),
        });
        if hook.section.audit {
            self.shared.audit.write(record).await;
        }
    }

    /// Counts a call with a hook's token.
    pub(crate) fn called(&self, grant: &Grant, scope: Option<&'static str>) {
        self.shared.figures.of(grant.hook(), |figures| {
            let label = scope.unwrap_or("refused");
            *figures.capability_calls.entry(label).or_default() += 1;
        });
    }
}

/// Whom a reply goes to, as a sender would type it.
pub(super) fn address(topic: Option<&str>, sender: PublicKey) -> String {
    topic.map_or_else(|| sender.to_hex(), |topic| format!("#{topic}"))
}
