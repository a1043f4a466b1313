//! The policy gate in front of every verb that reads or changes a mesh (CLI spec §1.17): reads the rules, decides,
//! asks a person when a rule says so, and leaves one line in the audit log.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use claudemesh_ipc::policy::{self, AuditLine, PolicyError};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::ops::policy::{
    Action, ApprovalMode, Decision, Gated, Policy, Source, Verdict,
};
use claudemesh_protocol::text::sanitized_line;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::words;
use crate::output::prompt;

/// Longest name of a target in a question, in characters.
const TARGET_MAX_CHARS: usize = 60;

/// What is about to happen, and what the rules say about it.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    gated: Gated,
    mode: ApprovalMode,
    mesh: Option<String>,
    target: Option<String>,
    verdict: Verdict,
}

impl Judged {
    /// True when a person is to be asked.
    pub(crate) fn asks(&self) -> bool {
        self.verdict.decision == Decision::Prompt
    }

    /// Names the target otherwise in the question.
    #[must_use]
    pub(crate) fn naming(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// `peer kick Mou on dev — affects another member's sessions. Continue?`
    fn question(&self) -> String {
        let mut question = format!("{} {}", self.gated.resource, self.gated.verb);
        if let Some(target) = &self.target {
            question.push(' ');
            question.push_str(&sanitized_line(target, TARGET_MAX_CHARS));
        }
        if let Some(mesh) = &self.mesh {
            question.push_str(" on ");
            question.push_str(mesh);
        }
        if let Some(reason) = &self.verdict.reason {
            question.push_str(" — ");
            question.push_str(reason);
        }
        question.push_str(". Continue?");
        question
    }

    fn denied(&self) -> Failure {
        let verb = format!("{} {}", self.gated.resource, self.gated.verb);
        let message = match (self.verdict.source, self.verdict.rule) {
            (Source::Mode, _) => format!("{verb} denied by approval mode {}", self.mode.as_str()),
            (_, Some(rule)) => format!("denied by policy: {verb} (rule {rule})"),
            (_, None) => format!("denied by policy: {verb} (default)"),
        };
        let mut failure =
            Failure::of_word("policy_denied", message).exit(ExitCode::PermissionDenied);
        if let Some(rule) = self.verdict.rule {
            failure = failure.with("rule", rule);
        }
        if let (Some(reason), false) = (&self.verdict.reason, self.verdict.source == Source::Mode) {
            failure = failure.detail(sanitized_line(reason, 200));
        }
        failure.action("claudemesh policy show")
    }
}

impl Context {
    /// Where the rules lie, and whether somebody named that file.
    pub(crate) fn policy_path(&self) -> (PathBuf, bool) {
        let named = self.global.policy.as_ref().or(self.environment.policy.as_ref());
        match named {
            Some(path) => (path.clone(), true),
            None => (self.paths.policy_file(), false),
        }
    }

    /// The rules in force. A file that is no policy is said once, and the built-in rules apply.
    ///
    /// # Errors
    /// Exit 5 when a file was named and is not there, exit 10 when it cannot be read.
    pub(crate) fn policy(&self) -> Outcome<Policy> {
        let (path, is_named) = self.policy_path();
        match policy::load(&path) {
            Ok(Some(policy)) => Ok(policy),
            Ok(None) if is_named => {
                Err(Failure::not_found(format!("policy file {} not found", path.display()))
                    .action("claudemesh policy init"))
            }
            Ok(None) => Ok(Policy::default()),
            Err(error @ PolicyError::Parse { .. }) => {
                self.out.warning(&format!("{error}; the built-in rules apply"));
                Ok(Policy::default())
            }
            Err(error) => Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        }
    }

    /// `--approval-mode`, else the environment's; `-y` asks nobody.
    ///
    /// # Errors
    /// Exit 3 when the environment names no mode.
    pub(crate) fn approval_mode(&self) -> Outcome<ApprovalMode> {
        let mode = match (&self.global.approval_mode, &self.environment.approval_mode) {
            (Some(mode), _) => *mode,
            (None, Some(word)) => ApprovalMode::parse(word).ok_or_else(|| {
                Failure::invalid(format!("CLAUDEMESH_APPROVAL_MODE \"{word}\""))
                    .detail("expected: plan, read-only, write, yolo")
            })?,
            (None, None) => ApprovalMode::default(),
        };
        Ok(if mode == ApprovalMode::Write && self.global.yes { ApprovalMode::Yolo } else { mode })
    }

    /// Lets the verb of this call pass, on every mesh it works on, or says why not.
    ///
    /// # Errors
    /// Exit 7 when it is denied, or asked about where nobody can be asked; exit 1 when a person says no.
    pub(crate) async fn admit(&self, meshes: &[String], target: Option<&str>) -> Outcome<()> {
        match self.judge(meshes, target).await? {
            Some(judged) => self.settle(&judged),
            None => Ok(()),
        }
    }

    /// What the rules say about the verb of this call; with several meshes the strictest word counts. `None` for a verb
    /// that is not gated.
    ///
    /// # Errors
    /// The rules cannot be read; a rule names peers and the target cannot be looked up.
    pub(crate) async fn judge(
        &self,
        meshes: &[String],
        target: Option<&str>,
    ) -> Outcome<Option<Judged>> {
        let Some(gated) = self.gated else { return Ok(None) };
        let policy = self.policy()?;
        let mode = self.approval_mode()?;
        let mut target_names: Vec<String> = target.map(str::to_owned).into_iter().collect();
        if let Some(target) = target
            && policy.rules.iter().any(|rule| rule.asks_for_target(gated))
        {
            target_names.extend(self.names_of(meshes, target).await?);
        }
        let judge = |mesh: Option<&str>| {
            let action = Action { gated, mesh, target_names: &target_names };
            Judged {
                gated,
                mode,
                mesh: mesh.map(str::to_owned),
                target: target.map(str::to_owned),
                verdict: policy.decide(&action, mode),
            }
        };
        let strictest = meshes
            .iter()
            .map(|mesh| judge(Some(mesh)))
            .max_by_key(|judged| strictness(judged.verdict.decision));
        Ok(Some(strictest.unwrap_or_else(|| judge(None))))
    }

    /// Runs, asks, or refuses, as was judged; leaves a line in the audit log.
    ///
    /// # Errors
    /// As [`Context::admit`].
    pub(crate) fn settle(&self, judged: &Judged) -> Outcome<()> {
        if judged.gated.is_write() {
            self.leave_policy_file();
        }
        let result = match judged.verdict.decision {
            Decision::Allow => Ok(()),
            Decision::Deny => Err((judged.denied(), "denied")),
            Decision::Prompt => match self.out.confirm(&judged.question(), prompt::Default::No) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    let failure = Failure::of_word("cancelled", "cancelled");
                    Err((failure.exit(ExitCode::Cancelled), "cancelled"))
                }
                Err(failure) => Err((failure, "cancelled")),
            },
        };
        let outcome = result.as_ref().map_or_else(|(_, outcome)| *outcome, |()| "allowed");
        self.audit(judged, outcome);
        result.map_err(|(failure, _)| failure)
    }

    /// Best effort: no verb fails for want of its audit line.
    fn audit(&self, judged: &Judged, outcome: &str) {
        let line = AuditLine {
            ts: &Self::now().to_iso(),
            resource: judged.gated.resource,
            verb: judged.gated.verb,
            mesh: judged.mesh.as_deref(),
            target: judged.target.as_deref(),
            mode: judged.mode.as_str(),
            is_write: judged.gated.is_write(),
            decision: judged.verdict.decision.as_str(),
            rule: judged.verdict.rule,
            reason: judged.verdict.reason.as_deref(),
            outcome,
        };
        let _ = policy::append(&self.paths.audit_file(), &line);
    }

    /// The first gated write leaves a file to edit (CLI spec §2.1); best effort, and never over one that is there.
    fn leave_policy_file(&self) {
        let (path, is_named) = self.policy_path();
        if !is_named && !path.exists() && path.parent().is_some_and(Path::is_dir) {
            let _ = write_new(&path, &default_file());
        }
    }

    /// Every way to name a target: its names, its keys, its groups.
    async fn names_of(&self, meshes: &[String], target: &str) -> Outcome<Vec<String>> {
        let client = self.client_of(OperationKind::PeerList).await?;
        let mesh = match meshes {
            [only] => Some(only.as_str()),
            _ => None,
        };
        policy::names_of(&client, mesh, target).await.map_err(crate::link::failure)
    }
}

fn strictness(decision: Decision) -> u8 {
    match decision {
        Decision::Allow => 0,
        Decision::Prompt => 1,
        Decision::Deny => 2,
    }
}

/// Creates a private file; an existing one is left alone.
///
/// # Errors
/// There is one, or it cannot be written.
pub(crate) fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Every verb that the gate sees, once.
pub(crate) fn gated_verbs() -> Vec<Gated> {
    let mut seen: Vec<Gated> = Vec::new();
    for gated in words::verbs().filter_map(words::Verb::gated) {
        if !seen.contains(&gated) {
            seen.push(gated);
        }
    }
    seen
}

/// The text of a new policy file: the built-in rules, to be edited.
pub(crate) fn default_file() -> String {
    let mut text = String::from(
        "# What runs, is asked about, or is refused. The first rule that matches counts; deny wins over -y.\n\
         # resource and verb as in `claudemesh help all`, or \"*\"; mesh: and peers: [\"name\", \"@group\"] narrow a rule.\n\
         # Try one: claudemesh policy check peer kick\n\
         default: allow            # allow | prompt | deny\n\
         rules:\n",
    );
    for gated in gated_verbs().into_iter().filter(|gated| !gated.reason_to_ask.is_empty()) {
        // Writing into a text cannot fail.
        let _ = writeln!(
            text,
            "  - resource: {}\n    verb: {}\n    decision: prompt\n    reason: \"{}\"",
            gated.resource, gated.verb, gated.reason_to_ask
        );
    }
    text
}

/// Refuses words that no gated verb has.
///
/// # Errors
/// Exit 3 with what there is.
pub(crate) fn gated_verb(resource: &str, verb: &str) -> Outcome<Gated> {
    let all = gated_verbs();
    if let Some(gated) = all.iter().find(|gated| gated.resource == resource && gated.verb == verb) {
        return Ok(*gated);
    }
    let of_resource: Vec<&str> =
        all.iter().filter(|gated| gated.resource == resource).map(|gated| gated.verb).collect();
    let (message, expected) = if of_resource.is_empty() {
        let mut resources: Vec<&str> = all.iter().map(|gated| gated.resource).collect();
        resources.dedup();
        let mut seen = std::collections::BTreeSet::new();
        resources.retain(|resource| seen.insert(*resource));
        (format!("policy check: <resource> \"{resource}\""), resources)
    } else {
        (format!("policy check: <verb> \"{verb}\""), of_resource)
    };
    Err(Failure::new(ErrorCode::InvalidArgs, message)
        .detail(format!("expected: {}", expected.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_a_policy_with_the_built_in_rules() {
        let policy = policy::parse(&default_file()).unwrap();
        assert_eq!(policy.default, Decision::Allow);
        for gated in gated_verbs() {
            let action = Action { gated, mesh: None, target_names: &[] };
            let (with, without) = (policy.rule_for(&action), Policy::default().rule_for(&action));
            assert_eq!((with.decision, with.reason), (without.decision, without.reason));
        }
    }

    /// CLI spec §1.17: what is asked about without a file.
    #[test]
    fn the_built_in_rules_are_the_documented_ones() {
        let asked: Vec<String> = gated_verbs()
            .into_iter()
            .filter(|gated| !gated.reason_to_ask.is_empty())
            .map(|gated| format!("{} {}", gated.resource, gated.verb))
            .collect();
        for verb in ["peer kick", "peer disconnect", "peer ban", "mesh leave", "message flush"] {
            assert!(asked.iter().any(|asked| asked == verb), "{verb}: {asked:?}");
        }
        assert_eq!(asked.len(), 5, "{asked:?}");
    }
}
