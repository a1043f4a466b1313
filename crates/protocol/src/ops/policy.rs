//! The policy gate as a pure decision: which operation runs, is asked about, or is refused (CLI spec §1.17).
//!
//! Order: the file's rules, first match; then what the table itself asks about; then the file's default. The approval
//! mode comes last and only ever makes a denial harder: `deny` wins over every consent. Nothing here reads a file.

use serde::{Deserialize, Serialize};

use super::{Class, Operation};

/// Input fields that name whom or what an operation concerns; rules with `peers` look at them.
pub const TARGET_FIELDS: [&str; 3] = ["target", "peer", "to"];

/// What happens with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It runs.
    #[default]
    Allow,
    /// Somebody is asked first.
    Prompt,
    /// It does not run.
    Deny,
}

impl Decision {
    /// The word in policy files and audit lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Prompt => "prompt",
            Self::Deny => "deny",
        }
    }
}

/// How much a caller lets through without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalMode {
    /// No write at all: somebody only plans.
    Plan,
    /// No write at all.
    ReadOnly,
    /// The rules decide.
    #[default]
    Write,
    /// Nobody is asked; what is denied stays denied.
    Yolo,
}

impl ApprovalMode {
    /// Every mode, the strictest first.
    pub const ALL: &'static [Self] = &[Self::Plan, Self::ReadOnly, Self::Write, Self::Yolo];

    /// The word of `--approval-mode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::ReadOnly => "read-only",
            Self::Write => "write",
            Self::Yolo => "yolo",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.as_str() == word)
    }
}

/// One rule of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Resource, or `*`.
    pub resource: String,
    /// Verb, or `*`.
    pub verb: String,
    /// Slug; absent means every mesh. A rule with a mesh never matches when the mesh is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Names, keys or `@groups`; one of them must be the target. Absent means every target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
    /// What happens.
    pub decision: Decision,
    /// Shown when somebody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A policy file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// When no rule matches.
    #[serde(default)]
    pub default: Decision,
    /// In order; the first match counts.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// What a verb or a tool is about to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gated {
    /// Resource of the canonical words.
    pub resource: &'static str,
    /// Verb of the canonical words.
    pub verb: &'static str,
    /// What it may change.
    pub class: Class,
    /// Why somebody is asked before it runs; empty when nobody is.
    pub reason_to_ask: &'static str,
}

impl Gated {
    /// True when it changes something.
    pub const fn is_write(self) -> bool {
        !matches!(self.class, Class::Read)
    }
}

impl Operation {
    /// The operation as the gate sees it.
    pub fn gated(&self) -> Gated {
        let (resource, verb) = self.resource_and_verb();
        let reason_to_ask = self.verb.map_or("", |verb| verb.reason_to_ask);
        Gated { resource, verb, class: self.class, reason_to_ask }
    }
}

/// One thing that is about to happen.
#[derive(Debug, Clone, Copy)]
pub struct Action<'a> {
    /// What.
    pub gated: Gated,
    /// On which mesh, when that is known.
    pub mesh: Option<&'a str>,
    /// Every way to name the target: as it was typed, its name, its keys, its groups with `@`.
    pub target_names: &'a [String],
}

/// Where a decision comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A rule of the file.
    File,
    /// The table of operations.
    Builtin,
    /// The file's default, or allow.
    Default,
    /// The approval mode.
    Mode,
}

/// A decision and its ground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What happens.
    pub decision: Decision,
    /// Whose word that is.
    pub source: Source,
    /// Number of the rule in the file, from 1.
    pub rule: Option<usize>,
    /// Why, for people.
    pub reason: Option<String>,
}

impl Rule {
    fn matches(&self, action: &Action<'_>) -> bool {
        let fits = |pattern: &str, word: &str| pattern == "*" || pattern == word;
        fits(&self.resource, action.gated.resource)
            && fits(&self.verb, action.gated.verb)
            && self.mesh.as_deref().is_none_or(|mesh| action.mesh == Some(mesh))
            && self.peers.as_deref().is_none_or(|peers| {
                peers.iter().any(|peer| {
                    action.target_names.iter().any(|name| name.eq_ignore_ascii_case(peer))
                })
            })
    }

    /// True when the rule could match if the target were known better than by what was typed.
    pub fn asks_for_target(&self, gated: Gated) -> bool {
        let fits = |pattern: &str, word: &str| pattern == "*" || pattern == word;
        self.peers.is_some() && fits(&self.resource, gated.resource) && fits(&self.verb, gated.verb)
    }
}

impl Policy {
    /// What the rules say, before any consent.
    pub fn rule_for(&self, action: &Action<'_>) -> Verdict {
        if let Some((at, rule)) =
            self.rules.iter().enumerate().find(|(_, rule)| rule.matches(action))
        {
            return Verdict {
                decision: rule.decision,
                source: Source::File,
                rule: Some(at + 1),
                reason: rule.reason.clone(),
            };
        }
        let reason = action.gated.reason_to_ask;
        if !reason.is_empty() {
            let reason = Some(reason.to_owned());
            return Verdict {
                decision: Decision::Prompt,
                source: Source::Builtin,
                rule: None,
                reason,
            };
        }
        Verdict { decision: self.default, source: Source::Default, rule: None, reason: None }
    }

    /// What happens in this mode: `plan` and `read-only` deny every write, `yolo` asks nobody, and a denial stays one.
    pub fn decide(&self, action: &Action<'_>, mode: ApprovalMode) -> Verdict {
        let verdict = self.rule_for(action);
        match (mode, verdict.decision) {
            (_, Decision::Deny) => verdict,
            (ApprovalMode::Plan | ApprovalMode::ReadOnly, _) if action.gated.is_write() => {
                Verdict {
                    decision: Decision::Deny,
                    source: Source::Mode,
                    rule: None,
                    reason: Some(format!("approval mode {}", mode.as_str())),
                }
            }
            (ApprovalMode::Yolo, Decision::Prompt) => {
                Verdict { decision: Decision::Allow, ..verdict }
            }
            _ => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OperationKind;

    fn rule(resource: &str, verb: &str, decision: Decision) -> Rule {
        let (resource, verb) = (resource.to_owned(), verb.to_owned());
        Rule { resource, verb, mesh: None, peers: None, decision, reason: None }
    }

    fn decide(policy: &Policy, kind: OperationKind, mode: ApprovalMode) -> Verdict {
        let action =
            Action { gated: kind.spec().gated(), mesh: Some("dev"), target_names: &["Mou".into()] };
        policy.decide(&action, mode)
    }

    #[test]
    fn without_a_file_only_what_the_table_names_is_asked() {
        let policy = Policy::default();
        let verdict = decide(&policy, OperationKind::PeerKick, ApprovalMode::Write);
        assert_eq!((verdict.decision, verdict.source), (Decision::Prompt, Source::Builtin));
        assert!(verdict.reason.unwrap().contains("sessions"));
        for kind in OperationKind::ALL {
            let verdict = decide(&policy, *kind, ApprovalMode::Yolo);
            assert_eq!(verdict.decision, Decision::Allow, "{kind:?}");
        }
    }

    #[test]
    fn plan_and_read_only_deny_every_write_and_no_read() {
        for mode in [ApprovalMode::Plan, ApprovalMode::ReadOnly] {
            for kind in OperationKind::ALL {
                let verdict = decide(&Policy::default(), *kind, mode);
                let is_denied = verdict.decision == Decision::Deny;
                assert_eq!(is_denied, kind.spec().class != Class::Read, "{kind:?}");
            }
        }
    }

    /// C55.
    #[test]
    fn a_denial_wins_over_every_consent() {
        let rules = vec![rule("state", "*", Decision::Deny)];
        let policy = Policy { default: Decision::Allow, rules };
        for mode in ApprovalMode::ALL {
            let verdict = decide(&policy, OperationKind::StateSet, *mode);
            assert_eq!((verdict.decision, verdict.rule), (Decision::Deny, Some(1)));
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_comes_before_the_table() {
        let rules = vec![rule("peer", "kick", Decision::Allow), rule("*", "*", Decision::Deny)];
        let policy = Policy { default: Decision::Allow, rules };
        let kick = decide(&policy, OperationKind::PeerKick, ApprovalMode::Write);
        assert_eq!((kick.decision, kick.rule), (Decision::Allow, Some(1)));
        let ban = decide(&policy, OperationKind::PeerBan, ApprovalMode::Write);
        assert_eq!((ban.decision, ban.rule), (Decision::Deny, Some(2)));
    }

    #[test]
    fn mesh_and_peers_narrow_a_rule() {
        let mut narrow = rule("state", "set", Decision::Deny);
        narrow.mesh = Some("dev".into());
        let gated = OperationKind::StateSet.spec().gated();
        let of = |rule: &Rule, mesh: Option<&str>, names: &[String]| {
            let policy = Policy { default: Decision::Allow, rules: vec![rule.clone()] };
            policy.rule_for(&Action { gated, mesh, target_names: names }).decision
        };
        assert_eq!(of(&narrow, Some("dev"), &[]), Decision::Deny);
        assert_eq!(of(&narrow, Some("prod"), &[]), Decision::Allow);
        assert_eq!(of(&narrow, None, &[]), Decision::Allow, "an unknown mesh matches no rule");
        let mut peers = rule("*", "*", Decision::Deny);
        peers.peers = Some(vec!["@admins".into(), "mou".into()]);
        assert_eq!(of(&peers, None, &["Mou".into()]), Decision::Deny);
        assert_eq!(of(&peers, None, &["x".into(), "@admins".into()]), Decision::Deny);
        assert_eq!(of(&peers, None, &["Bob".into()]), Decision::Allow);
        assert_eq!(of(&peers, None, &[]), Decision::Allow);
    }
}
