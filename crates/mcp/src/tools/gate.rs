//! The policy gate in front of every tool call: the same rules and the same log as the command line's (CLI spec §1.17,
//! MCP spec §6), with the person at the client in place of the person at the terminal.

use std::path::PathBuf;

use claudemesh_ipc::client::Client;
use claudemesh_ipc::policy::{self, AuditLine, PolicyError};
use claudemesh_protocol::ops::policy::{
    Action, ApprovalMode, Decision, Gated, Policy, Source, TARGET_FIELDS, Verdict,
};
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::question::{Questions, Reply};
use crate::clock;
use crate::road::Road;

/// The word for what the gate does not let through.
const DENIED: &str = "policy_denied";
/// Longest target in a question, in characters.
const TARGET_MAX_CHARS: usize = 120;
/// Longest reason of a rule in a question, in characters.
const REASON_MAX_CHARS: usize = 200;

/// Where the rules are.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The file.
    pub path: PathBuf,
    /// Somebody named it: it must be there.
    pub is_named: bool,
}

/// The gate of one server.
pub(crate) struct Gate {
    /// How much passes without a question.
    pub mode: ApprovalMode,
    /// The rules; read again for every call, so that a change needs no restart.
    pub rules: Rules,
    /// The log.
    pub audit_file: PathBuf,
}

/// A call in front of the gate.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// What it does.
    pub gated: Gated,
    /// Mesh of the arguments or of the server.
    pub mesh: Option<&'a str>,
    /// Its arguments.
    pub arguments: &'a Map<String, Value>,
    /// Who asks the person; `None` when the client cannot.
    pub questions: Option<&'a Questions>,
}

/// What the rules say about one call.
struct Judged {
    mesh: Option<String>,
    target: Option<String>,
    verdict: Verdict,
}

impl Gate {
    /// Lets the call pass, after a question where the rules want one, and leaves a line in the log.
    ///
    /// # Errors
    /// [`Failure`]: it is denied or was declined; the rules cannot be read; they need to know the peers or the meshes and
    /// the daemon is not there.
    pub(crate) async fn admit(&self, caller: Caller<'_>, road: &Road) -> Result<(), Failure> {
        let judged = match self.policy().await {
            Ok(policy) => self.judge(&policy, caller, road).await?,
            Err(failure) if caller.gated.is_write() => return Err(failure),
            // What only reads runs under the built-in rules; the command line is as lenient with every verb, because it
            // can tell a person.
            Err(failure) => {
                tracing::warn!(reason = failure.text(), "the built-in rules apply");
                self.judge(&Policy::default(), caller, road).await?
            }
        };
        let (outcome, word) = match judged.verdict.decision {
            Decision::Allow => (Ok(()), "allowed"),
            Decision::Deny => (Err(self.denied(caller.gated, &judged)), "denied"),
            Decision::Prompt => ask(caller, &judged).await,
        };
        self.audit(caller.gated, judged, word).await;
        outcome
    }

    async fn policy(&self) -> Result<Policy, Failure> {
        let path = self.rules.path.clone();
        let loaded = tokio::task::spawn_blocking(move || policy::load(&path)).await;
        let shown = self.rules.path.display();
        let refuse = |message: String| Failure::new(DENIED, message).hint("claudemesh policy path");
        match loaded {
            Ok(Ok(Some(policy))) => Ok(policy),
            Ok(Ok(None)) if self.rules.is_named => {
                Err(refuse(format!("the policy file {shown} is not there")))
            }
            Ok(Ok(None)) => Ok(Policy::default()),
            Ok(Err(error @ PolicyError::Parse { .. })) => Err(refuse(error.to_string())),
            Ok(Err(error)) => Err(refuse(format!("{error}: the rules are not known"))),
            Err(error) => Err(Failure::new("internal", error.to_string())),
        }
    }

    /// The strictest word of the rules over every target and every mesh the call may mean.
    async fn judge(
        &self,
        policy: &Policy,
        caller: Caller<'_>,
        road: &Road,
    ) -> Result<Judged, Failure> {
        let gated = caller.gated;
        let targets = targets(caller.arguments);
        let meshes = self.meshes(policy, caller, road).await?;
        let needs_names = policy.rules.iter().any(|rule| rule.asks_for_target(gated));
        let mut strictest: Option<Judged> = None;
        let no_mesh = [None];
        let each_mesh: Vec<Option<&str>> = meshes.iter().map(|mesh| Some(mesh.as_str())).collect();
        for mesh in if each_mesh.is_empty() { &no_mesh[..] } else { &each_mesh[..] } {
            let some_targets = targets.iter().map(|target| Some(target.as_str()));
            let no_target = targets.is_empty().then_some(None);
            for target in some_targets.chain(no_target) {
                let mut names: Vec<String> = target.map(str::to_owned).into_iter().collect();
                if let Some(target) = target.filter(|_| needs_names) {
                    names.extend(names_of(road, *mesh, target).await?);
                }
                let action = Action { gated, mesh: *mesh, target_names: &names };
                let verdict = policy.decide(&action, self.mode);
                if strictest.as_ref().is_none_or(|known| {
                    strictness(known.verdict.decision) < strictness(verdict.decision)
                }) {
                    let (mesh, target) = (mesh.map(str::to_owned), target.map(str::to_owned));
                    strictest = Some(Judged { mesh, target, verdict });
                }
            }
        }
        strictest.ok_or_else(|| Failure::new("internal", "nothing was judged"))
    }

    /// The meshes the call may run on: the one that is named, else the session's, else, when a rule wants to know, all.
    async fn meshes(
        &self,
        policy: &Policy,
        caller: Caller<'_>,
        road: &Road,
    ) -> Result<Vec<String>, Failure> {
        if let Some(mesh) = caller.mesh {
            return Ok(vec![mesh.to_owned()]);
        }
        let is_hopeless = matches!(self.mode, ApprovalMode::Plan | ApprovalMode::ReadOnly);
        let standing = if policy.rules.iter().any(|rule| rule.mesh.is_some()) {
            road.standing().await?
        } else {
            let known = if is_hopeless && caller.gated.is_write() {
                road.current()
            } else {
                road.current_soon().await
            };
            // Only the question and the log would name it.
            let session = known.and_then(|standing| standing.session);
            return Ok(session.map(|session| session.mesh).into_iter().collect());
        };
        if let Some(session) = &standing.session {
            return Ok(vec![session.mesh.clone()]);
        }
        let health = standing.client.health().await.map_err(|error| unknown_rules(&error))?;
        Ok(health.meshes.into_iter().map(|mesh| mesh.slug).collect())
    }

    fn denied(&self, gated: Gated, judged: &Judged) -> Failure {
        let words = format!("{} {}", gated.resource, gated.verb);
        let mode = self.mode.as_str();
        let failure = match (judged.verdict.source, judged.verdict.rule) {
            (Source::Mode, _) => {
                Failure::new(DENIED, format!("{words} denied by approval mode {mode}"))
                    .hint("the person who configured this server decides the mode")
            }
            (_, Some(rule)) => {
                Failure::new(DENIED, format!("{words} denied by policy (rule {rule})"))
                    .with("rule", rule)
                    .hint("claudemesh policy show")
            }
            (_, None) => Failure::new(DENIED, format!("{words} denied by policy (default)"))
                .hint("claudemesh policy show"),
        };
        match &judged.verdict.reason {
            Some(reason) if judged.verdict.source == Source::File => {
                failure.with("reason", sanitized_line(reason, REASON_MAX_CHARS))
            }
            _ => failure,
        }
    }

    /// Best effort, as on the command line: no call fails for want of its line.
    async fn audit(&self, gated: Gated, judged: Judged, outcome: &'static str) {
        let (path, mode) = (self.audit_file.clone(), self.mode.as_str());
        let append = move || {
            let line = AuditLine {
                ts: &clock::now().to_iso(),
                resource: gated.resource,
                verb: gated.verb,
                mesh: judged.mesh.as_deref(),
                target: judged.target.as_deref(),
                mode,
                is_write: gated.is_write(),
                decision: judged.verdict.decision.as_str(),
                rule: judged.verdict.rule,
                reason: judged.verdict.reason.as_deref(),
                outcome,
            };
            policy::append(&path, &line)
        };
        match tokio::task::spawn_blocking(append).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a decision is missing from the audit log"),
            Err(error) => tracing::warn!(%error, "a decision is missing from the audit log"),
        }
    }
}

async fn ask(caller: Caller<'_>, judged: &Judged) -> (Result<(), Failure>, &'static str) {
    let words = format!("{} {}", caller.gated.resource, caller.gated.verb);
    let Some(questions) = caller.questions else {
        let failure = Failure::new(DENIED, format!("{words} needs a person's consent"))
            .hint("this client cannot ask; a person can run the same with the claudemesh command");
        return (Err(failure), "cancelled");
    };
    match questions.ask(&question(&words, judged)).await {
        Reply::Accepted => (Ok(()), "allowed"),
        Reply::Declined => {
            (Err(Failure::new(DENIED, format!("the user declined {words}"))), "cancelled")
        }
        Reply::Unanswered => {
            let failure = Failure::new(DENIED, format!("nobody answered whether {words} may run"));
            (Err(failure.hint("ask the user first, then try again")), "cancelled")
        }
    }
}

fn question(words: &str, judged: &Judged) -> String {
    let target = judged.target.as_deref().map(|target| sanitized_line(target, TARGET_MAX_CHARS));
    let target = target.map(|target| format!(" {target}")).unwrap_or_default();
    let mesh = judged.mesh.as_ref().map(|mesh| format!(" on {mesh}")).unwrap_or_default();
    let reason = judged.verdict.reason.as_deref();
    let reason = reason.map(|reason| format!(" ({})", sanitized_line(reason, REASON_MAX_CHARS)));
    format!("Let the agent run {words}{target}{mesh}{}?", reason.unwrap_or_default())
}

/// Everything the arguments name as whom they concern.
fn targets(arguments: &Map<String, Value>) -> Vec<String> {
    let named = TARGET_FIELDS.iter().filter_map(|field| arguments.get(*field));
    named
        .flat_map(|value| match value {
            Value::Array(items) => items.iter().collect(),
            one => vec![one],
        })
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

async fn names_of(road: &Road, mesh: Option<&str>, target: &str) -> Result<Vec<String>, Failure> {
    let client: Client = road.standing().await?.client;
    policy::names_of(&client, mesh, target).await.map_err(|error| unknown_rules(&error))
}

/// A rule is about peers or meshes that cannot be looked up: then nothing may run that it could forbid.
fn unknown_rules(error: &claudemesh_ipc::IpcError) -> Failure {
    let message = format!("whether this is allowed cannot be found out: {error}");
    Failure::new(error.code().as_str(), message)
}

const fn strictness(decision: Decision) -> u8 {
    match decision {
        Decision::Allow => 0,
        Decision::Prompt => 1,
        Decision::Deny => 2,
    }
}
