//! The table of operations: what a person, a script or an agent can ask a daemon for, each declared once.
//!
//! From an entry of [`OperationKind`] follow `POST /v1/ops/<name>` of the local API, the MCP tool, the verb of the
//! command line, the reference pages and the completions. A forwarded operation is one frame to the broker and its reply
//! back; its input **is** the frame's struct, and its capability is the frame's. The others are done by the daemon
//! ([`DaemonOperation`]), because they seal, open, resolve, combine several frames or touch the daemon's own databases.
//!
//! Nothing here does anything: the table has no function pointers, no I/O and no secrets.

mod declare;
mod fit;
mod schema;
mod table;

pub mod administration;
pub mod group;
pub mod messaging;
pub mod permission;
pub mod policy;
pub mod profile;

use std::time::Duration;

use serde_json::{Map, Value};

pub use fit::fits;
pub use schema::{ArgumentError, Field, FieldKind};
pub use table::{DaemonOperation, OperationKind};

use crate::capability::Capability;
use crate::wire::{Access, FrameKind};

/// Group of operations that belong together; an MCP server offers whole families (MCP spec §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Messages and who is there.
    Messaging,
    /// What others see of the caller.
    Profile,
    /// Groups.
    Groups,
    /// Shared state.
    State,
    /// The mesh as a whole.
    Mesh,
    /// Whom the caller trusts.
    Security,
    /// Members, bans, permissions, the audit log.
    Administration,
}

impl Family {
    /// Every family, in the order of the catalogue.
    pub const ALL: &'static [Self] = &[
        Self::Messaging,
        Self::Profile,
        Self::Groups,
        Self::State,
        Self::Mesh,
        Self::Security,
        Self::Administration,
    ];

    /// The word for `--tools`, reference pages and `GET /v1/ops`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messaging => "messaging",
            Self::Profile => "profile",
            Self::Groups => "groups",
            Self::State => "state",
            Self::Mesh => "mesh",
            Self::Security => "security",
            Self::Administration => "administration",
        }
    }

    /// The family of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|family| family.as_str() == word)
    }

    /// Whether its tools are among those of the first catalogue, `--tools v1`; the others are in `all` only (MCP spec
    /// §7.22).
    pub const fn is_in_v1(self) -> bool {
        match self {
            Self::Messaging | Self::Profile | Self::Groups | Self::State | Self::Mesh => true,
            Self::Security | Self::Administration => false,
        }
    }

    /// One sentence for people.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Messaging => "Messages, the inbox, and who can be reached.",
            Self::Profile => "What others see of you.",
            Self::Groups => "Routing groups such as @eng or @eng/core.",
            Self::State => "Keys and values that the whole mesh shares, with versions.",
            Self::Mesh => "The mesh as a whole.",
            Self::Security => "Whom you trust, and with what.",
            Self::Administration => "Members, bans, permissions and the audit log.",
        }
    }
}

/// What an operation may change; the policy gate and the annotations of MCP tools follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing.
    Read,
    /// Adds or changes.
    Write,
    /// Takes something away from somebody; asks before it does.
    Destructive,
}

impl Class {
    /// The word in `GET /v1/ops`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destructive => "destructive",
        }
    }
}

/// On whose behalf an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The calling session's presence; without one all own sessions of the mesh, else the member.
    Session,
    /// The member's own connection.
    Member,
    /// Nobody's: the daemon's own data, no broker.
    Local,
}

impl Scope {
    /// The word in `GET /v1/ops`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Member => "member",
            Self::Local => "local",
        }
    }
}

/// Whether only a daemon can do it, or also a program over a connection that lives as long as the call (CLI spec §1.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeedsDaemon {
    /// Any connection to the broker will do.
    Never,
    /// It is about the daemon's own data, or about a presence that would end with the call.
    Always,
    /// As [`NeedsDaemon::Always`], when one of these input fields is given.
    For(&'static [&'static str]),
}

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Run {
    /// One frame to the broker, its reply back.
    Forward(FrameKind),
    /// The daemon.
    Daemon(DaemonOperation),
}

/// What the result looks like beyond the reply's own fields; every record also says its mesh (daemon spec §9.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Answered by a bare `ack`: `{ok, mesh}` and these fields of the request.
    Done(&'static [&'static str]),
    /// One record.
    Record,
    /// One record that is absent when this field is empty; answered `not_found` then.
    RecordUnlessEmpty(&'static str),
    /// A reply with one list under this name; each of its rows says its mesh.
    List(&'static str),
}

/// The verb of an operation on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verb {
    /// Canonical words, such as `state set`.
    pub words: &'static str,
    /// Other ways to say it, the short one first.
    pub aliases: &'static [&'static str],
    /// Input fields that are given by position, in order. Every other field is a flag in kebab case.
    pub positional: &'static [&'static str],
    /// Input fields whose flag has another name: wire name, flag without its dashes.
    pub flags: &'static [(&'static str, &'static str)],
    /// True when the last positional takes the remaining words, so that quoting is optional.
    pub has_tail: bool,
    /// Input fields of which exactly one is given, although each alone may be left out; empty for no such rule.
    pub one_of: &'static [&'static str],
    /// The text that `--clear` sets to nothing; empty when there is none.
    pub clears: &'static str,
    /// Columns of the table, or lines of the record, that people see; the order counts. Empty shows every scalar.
    pub columns: &'static [&'static str],
    /// The sentence after success, with `{field}` for fields of the result; empty prints the record.
    pub done: &'static str,
    /// The one thing to know or do after success, with `{field}`; empty for nothing.
    pub hint: &'static str,
    /// The sentence for an empty list, and for a record that is not there.
    pub none: &'static str,
    /// Command lines that work, each with what it does.
    pub examples: &'static [(&'static str, &'static str)],
    /// True when the command line draws this verb itself, because no table could say it as well.
    pub is_drawn_by_hand: bool,
    /// Why somebody is asked before it runs; empty for everything that is not asked (CLI spec §1.17).
    pub reason_to_ask: &'static str,
}

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// `<resource>.<verb>`.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// What it does, one sentence.
    pub summary: &'static str,
    /// Who does it.
    pub run: Run,
    /// What it may change.
    pub class: Class,
    /// On whose behalf.
    pub scope: Scope,
    /// Whether it works without a daemon.
    pub needs_daemon: NeedsDaemon,
    /// The session capability it needs; for a forwarded operation the frame's.
    pub access: Access,
    /// How long an answer may take.
    pub timeout: Duration,
    /// True when it may be repeated after a lost answer.
    pub is_idempotent: bool,
    /// True when it has effects on peers or on the web.
    pub is_open_world: bool,
    /// Input fields that are never logged.
    pub redact: &'static [&'static str],
    /// Name of the MCP tool, when it has one.
    pub tool: Option<&'static str>,
    /// Input fields whose name in the tool differs: wire name, tool name.
    pub tool_names: &'static [(&'static str, &'static str)],
    /// The verb on the command line, when it has one.
    pub verb: Option<Verb>,
    /// Shape of the result.
    pub shape: Shape,
}

/// Time for an operation that does not say otherwise (MCP spec §2).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

impl Operation {
    /// A forwarded operation: member scope, a write, not repeatable, no tool, no verb, unless said otherwise.
    pub const fn forwarded(name: &'static str, family: Family, frame: FrameKind) -> Self {
        Self {
            name,
            family,
            summary: "",
            run: Run::Forward(frame),
            class: Class::Write,
            scope: Scope::Member,
            needs_daemon: NeedsDaemon::Never,
            access: frame.spec().access,
            timeout: DEFAULT_TIMEOUT,
            is_idempotent: false,
            is_open_world: false,
            redact: &[],
            tool: None,
            tool_names: &[],
            verb: None,
            shape: Shape::Record,
        }
    }

    /// An operation of the daemon; `access` is what a session needs for it.
    pub const fn daemon(
        name: &'static str,
        family: Family,
        operation: DaemonOperation,
        access: Access,
    ) -> Self {
        let mut entry = Self::forwarded(name, family, FrameKind::Goodbye);
        entry.run = Run::Daemon(operation);
        entry.access = access;
        entry
    }

    /// The one capability a session needs, when its target does not decide.
    pub const fn capability(&self) -> Option<Capability> {
        match self.access {
            Access::Needs(capability) => Some(capability),
            Access::Handshake | Access::Upkeep | Access::ByTarget => None,
        }
    }

    /// Whether it cannot be done without a daemon when these fields are given.
    pub fn needs_daemon_for(&self, arguments: &Map<String, Value>) -> bool {
        match self.needs_daemon {
            NeedsDaemon::Never => false,
            NeedsDaemon::Always => true,
            NeedsDaemon::For(fields) => fields.iter().any(|name| arguments.contains_key(*name)),
        }
    }

    /// Whether it reads all meshes when none is named: a list that says of each row which mesh it is of, and in `errors`
    /// which meshes did not answer (MCP spec §2).
    pub const fn is_aggregating(&self) -> bool {
        matches!((self.class, self.shape), (Class::Read, Shape::List(_)))
    }

    /// The resource and the verb of the policy gate, such as `("state", "set")`.
    pub fn resource_and_verb(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or((self.name, ""))
    }

    /// Name of a field as the tool says it.
    pub fn tool_name<'a>(&self, wire: &'a str) -> &'a str {
        self.tool_names.iter().find(|(name, _)| *name == wire).map_or(wire, |(_, tool)| *tool)
    }
}

impl Verb {
    /// A verb with these words and nothing else.
    pub const fn of(words: &'static str) -> Self {
        Self {
            words,
            aliases: &[],
            positional: &[],
            flags: &[],
            has_tail: false,
            one_of: &[],
            clears: "",
            columns: &[],
            done: "",
            hint: "",
            none: "",
            examples: &[],
            is_drawn_by_hand: false,
            reason_to_ask: "",
        }
    }

    /// A verb that the command line draws itself.
    pub const fn drawn(words: &'static str, aliases: &'static [&'static str]) -> Self {
        let mut verb = Self::of(words);
        verb.aliases = aliases;
        verb.is_drawn_by_hand = true;
        verb
    }
}

#[cfg(test)]
mod tests;
