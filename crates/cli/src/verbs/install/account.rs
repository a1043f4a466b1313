//! What an installation did, or would do, to each agent: for people one row per step, for programs one object per agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use claudemesh_agents::agent::AgentKind;
use claudemesh_agents::install::{Choice, Part, Wanted};
use claudemesh_agents::settings::Outcome;
use serde_json::{Map, Value, json};

use super::edit::{self, Aim};
use super::skill::{self, Fate};
use super::store::Untouched;
use super::surroundings::Surroundings;
use super::turn;
use crate::output::{Icon, Line, Screen, Token};
use crate::verbs::backup::counted;

/// Lines of a diff that a person is shown, at most.
const DIFF_LINES: usize = 400;

/// The account.
pub(crate) struct Account {
    aim: Aim,
    /// False as long as it is only looked at.
    is_done: bool,
    /// Rows so far.
    pub(crate) screen: Screen,
    /// Files that stayed as they are, and why.
    pub(crate) failed: Vec<Value>,
    /// Files that would change.
    pub(crate) changes: Vec<Change>,
    agents: BTreeMap<AgentKind, PerAgent>,
}

/// A change of one file.
pub(crate) struct Change {
    pub(crate) path: String,
    pub(crate) diff: String,
}

#[derive(Default)]
struct PerAgent {
    outcomes: Vec<(Part, Outcome)>,
    stale: usize,
    skill: Option<Fate>,
    backups: Vec<PathBuf>,
    is_changed: bool,
}

impl Account {
    pub(crate) fn new(aim: Aim) -> Self {
        Self {
            aim,
            is_done: false,
            screen: Screen::new(),
            failed: Vec::new(),
            changes: Vec::new(),
            agents: BTreeMap::new(),
        }
    }

    /// Works out what would be done to an agent.
    pub(crate) fn look(
        &mut self,
        around: &Surroundings,
        kind: AgentKind,
        choice: &Choice,
        with_skill: bool,
    ) {
        let mut own = PerAgent::default();
        for wanted in files(around, kind, choice) {
            match edit::look(&around.store, &wanted, self.aim) {
                Ok(planned) => {
                    if planned.is_change() {
                        own.is_changed = true;
                        let path = around.shown(&wanted.file);
                        let diff = planned.diff(&path);
                        self.changes.push(Change { path, diff });
                    }
                    own.outcomes.extend(planned.outcomes);
                    own.stale += planned.stale;
                }
                Err(untouched) => self.leave(around, kind, &untouched),
            }
        }
        if with_skill {
            let path = kind.skill(&around.homes);
            match skill::look(&around.store, &path, self.aim) {
                Ok(fate) => {
                    if fate.is_change() {
                        own.is_changed = true;
                        self.changes
                            .push(Change { path: around.shown(&path), diff: String::new() });
                    }
                    own.skill = Some(fate);
                }
                Err(untouched) => self.leave(around, kind, &untouched),
            }
        }
        self.rows(around, kind, &own);
        self.agents.insert(kind, own);
    }

    /// Does it.
    pub(crate) fn carry_out(
        &mut self,
        around: &Surroundings,
        kind: AgentKind,
        choice: &Choice,
        with_skill: bool,
    ) {
        self.is_done = true;
        let mut own = PerAgent::default();
        let backups = kind.backups(&around.homes);
        if let Err(untouched) = turn::release_left_over(&around.store) {
            self.leave(around, kind, &untouched);
        }
        for wanted in files(around, kind, choice) {
            match edit::carry_out(&around.store, &backups, &wanted, self.aim) {
                Ok(done) => {
                    own.outcomes.extend(done.outcomes);
                    own.stale += done.stale;
                    own.is_changed |= done.is_changed;
                    own.backups.extend(done.backup);
                }
                Err(untouched) => self.leave(around, kind, &untouched),
            }
        }
        if with_skill {
            match skill::carry_out(&around.store, &kind.skill(&around.homes), self.aim) {
                Ok(fate) => {
                    own.is_changed |= fate.is_change();
                    own.skill = Some(fate);
                }
                Err(untouched) => self.leave(around, kind, &untouched),
            }
        }
        self.rows(around, kind, &own);
        self.agents.insert(kind, own);
    }

    /// True when anything is to be written.
    pub(crate) fn is_change(&self) -> bool {
        !self.changes.is_empty()
    }

    /// How many files.
    pub(crate) fn changed(&self) -> usize {
        self.changes.len()
    }

    /// True when something of an agent was changed.
    pub(crate) fn has_changed(&self, kind: AgentKind) -> bool {
        self.agents.get(&kind).is_some_and(|own| own.is_changed)
    }

    /// Every change, as people read it. Settings belong to others: whatever stands there stays on its line.
    pub(crate) fn show_changes(&self, screen: &mut Screen) {
        for change in &self.changes {
            if change.diff.is_empty() {
                let what =
                    if self.aim == Aim::Put { "the bundled skill is written" } else { "removed" };
                screen.line(Line::new().put(Token::Accent, format!("{}: {what}", change.path)));
                continue;
            }
            for line in change.diff.lines().take(DIFF_LINES) {
                let token = match line.as_bytes() {
                    [b'+', b'+', ..] | [b'-', b'-', ..] => Token::Accent,
                    [b'+', ..] => Token::Ok,
                    [b'-', ..] => Token::Warn,
                    _ => Token::Dim,
                };
                let indent = line.chars().skip(1).take_while(|sign| sign.is_whitespace()).count();
                let (sign, rest) = line.split_at_checked(1).unwrap_or((line, ""));
                let shown = Line::new().put(token, format!("{sign}{}", " ".repeat(indent)));
                screen.line(shown.foreign(token, rest.trim_start()).cut());
            }
        }
        if !self.changes.is_empty() {
            screen.blank();
        }
    }

    /// Copies that were kept.
    pub(crate) fn backups(&self, around: &Surroundings) -> Value {
        let copies = self.agents.values().flat_map(|own| &own.backups);
        copies.map(|copy| around.shown(copy)).collect()
    }

    /// One agent, as programs read it.
    pub(crate) fn document(&self, kind: AgentKind) -> Map<String, Value> {
        let mut map = Map::new();
        let nothing = PerAgent::default();
        let own = self.agents.get(&kind).unwrap_or(&nothing);
        let one = |wanted: Part| {
            let found = own.outcomes.iter().find(|(part, _)| *part == wanted);
            found.map_or(Value::Null, |(_, outcome)| Value::from(word(*outcome)))
        };
        map.insert("mcp".to_owned(), one(Part::Server));
        let hooks: Map<String, Value> = own
            .outcomes
            .iter()
            .filter_map(|(part, outcome)| match part {
                Part::Hook(event) => Some(((*event).to_owned(), Value::from(word(*outcome)))),
                _ => None,
            })
            .collect();
        map.insert("hooks".to_owned(), Value::Object(hooks));
        if kind == AgentKind::Claude {
            let rules = counts(&own.outcomes, |part| *part == Part::Permission);
            map.insert("permissions".to_owned(), json!(rules));
            if self.aim == Aim::Take {
                map.insert("statusLine".to_owned(), one(Part::StatusLine));
            }
        }
        let skill = own.skill.map_or(Value::Null, |fate| Value::from(fate_word(fate)));
        map.insert("skill".to_owned(), skill);
        map
    }

    fn rows(&mut self, around: &Surroundings, kind: AgentKind, own: &PerAgent) {
        let name = kind.agent().name;
        for (what, is_of) in GROUPS {
            for (outcome, count) in counts(&own.outcomes, *is_of) {
                self.row(name, &said(what, count), outcome);
            }
        }
        if own.stale > 0 {
            let dead = counted(own.stale, "dead entry", "dead entries");
            self.row(name, &format!("{dead} of earlier programs"), "removed");
        }
        if let Some(fate) = own.skill {
            self.row(name, "skill", fate_word(fate));
            if fate == Fate::Kept && self.aim == Aim::Put {
                let path = around.shown(&kind.skill(&around.homes));
                self.screen
                    .note(format!("{path} is yours; the new one lies beside it as SKILL.md.new"));
            }
        }
        for copy in &own.backups {
            self.screen.note(format!("copy of what was there: {}", around.shown(copy)));
        }
    }

    fn row(&mut self, name: &str, what: &str, outcome: &str) {
        // What was not there is news to nobody who takes everything away.
        if outcome == ABSENT && what != SERVER {
            return;
        }
        if self.is_done || ["unchanged", "kept", ABSENT].contains(&outcome) {
            self.screen.done(format!("{name}: {what} {outcome}"));
        } else {
            self.screen.note(format!("{name}: {what} would be {outcome}"));
        }
    }

    fn leave(&mut self, around: &Surroundings, kind: AgentKind, untouched: &Untouched) {
        let path = around.shown(&untouched.path);
        let why = claudemesh_protocol::text::sanitized_line(&untouched.why, 300);
        let line = format!("{}: {path} stays as it is", kind.agent().name);
        self.screen.line(Line::new().icon(Icon::Failed).put(Token::Plain, line));
        self.screen.line(Line::new().indent(4).put(Token::Dim, why.clone()));
        if let Some(fix) = &untouched.fix {
            self.screen.line(Line::new().indent(4).icon(Icon::Next).put(Token::Code, fix.clone()));
        }
        self.failed.push(json!({ "path": path, "reason": why, "fix": untouched.fix }));
    }
}

/// Steps of one row, by what they are called.
type Group = (&'static str, fn(&Part) -> bool);

const GROUPS: &[Group] = &[
    (SERVER, |part| *part == Part::Server),
    ("hook", |part| matches!(part, Part::Hook(_))),
    ("status line", |part| *part == Part::StatusLine),
    ("permission rule", |part| *part == Part::Permission),
];

const SERVER: &str = "MCP server";
const ABSENT: &str = "not present";

fn said(what: &str, count: usize) -> String {
    match (what, count) {
        ("hook", _) => counted(count, "hook", "hooks"),
        ("permission rule", _) => counted(count, "permission rule", "permission rules"),
        _ => what.to_owned(),
    }
}

/// How many of these ended how.
fn counts(
    outcomes: &[(Part, Outcome)],
    is_of: impl Fn(&Part) -> bool,
) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (_, outcome) in outcomes.iter().filter(|(part, _)| is_of(part)) {
        *counts.entry(word(*outcome)).or_default() += 1;
    }
    counts
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Added => "added",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "unchanged",
        Outcome::Foreign => "kept",
        Outcome::Removed => "removed",
        Outcome::Absent => ABSENT,
    }
}

const fn fate_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Added => "added",
        Fate::Updated => "updated",
        Fate::Unchanged => "unchanged",
        Fate::Kept => "kept",
        Fate::Removed => "removed",
        Fate::Absent => ABSENT,
    }
}

fn files(around: &Surroundings, kind: AgentKind, choice: &Choice) -> Vec<Wanted> {
    let files = kind.files(&around.homes, &around.program, choice);
    files.into_iter().filter(|wanted| !wanted.entries.is_empty()).collect()
}
