//! Command words: the canonical form of each, its aliases, its usage line (CLI spec §1.3).

use std::collections::BTreeSet;

use claudemesh_protocol::ops::policy::Gated;
use claudemesh_protocol::ops::{Class, OperationKind};

use super::operations;

/// One verb of the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verb {
    /// Canonical words, as the parser knows them.
    pub(crate) canonical: &'static str,
    /// Other ways to say it; the first is the short one shown in help.
    pub(crate) aliases: &'static [&'static str],
    /// What follows the words; empty for a verb of the operation table, which says it itself.
    usage: &'static str,
    /// True when `--json a,b` may be written with a space, because no positional follows the verb (§1.2).
    pub(crate) takes_spaced_fields: bool,
    /// The operation it runs, when it runs one.
    pub(crate) operation: Option<OperationKind>,
    /// What the policy gate knows about a verb that is no operation; `None` for what is not gated (§1.17).
    gated: Option<Gated>,
}

const fn verb(
    canonical: &'static str,
    aliases: &'static [&'static str],
    usage: &'static str,
) -> Verb {
    Verb { canonical, aliases, usage, takes_spaced_fields: false, operation: None, gated: None }
}

const fn listing(canonical: &'static str, aliases: &'static [&'static str]) -> Verb {
    let mut listing = verb(canonical, aliases, "");
    listing.takes_spaced_fields = true;
    listing
}

/// A verb of the table that is drawn by hand: its words stand there.
const fn drawn(operation: OperationKind, usage: &'static str) -> Verb {
    let mut drawn = match operation.spec().verb {
        Some(declared) => verb(declared.words, declared.aliases, usage),
        None => verb("", &[], usage),
    };
    drawn.takes_spaced_fields = usage.is_empty();
    drawn.operation = Some(operation);
    drawn
}

impl Verb {
    const fn gate(
        mut self,
        resource: &'static str,
        verb: &'static str,
        class: Class,
        reason_to_ask: &'static str,
    ) -> Self {
        self.gated = Some(Gated { resource, verb, class, reason_to_ask });
        self
    }

    /// The verb as the policy gate sees it; `None` for what it lets through unseen.
    pub(crate) fn gated(self) -> Option<Gated> {
        self.gated.or_else(|| self.operation.map(|kind| kind.spec().gated()))
    }

    /// The operation of a verb that nobody draws by hand.
    pub(crate) fn generic(self) -> Option<OperationKind> {
        self.operation.filter(|kind| kind.spec().verb.is_some_and(|verb| !verb.is_drawn_by_hand))
    }

    /// What follows the words.
    pub(crate) fn usage(self) -> String {
        self.generic().map_or_else(|| self.usage.to_owned(), operations::usage)
    }

    /// Every way to say it, the canonical one first.
    pub(crate) fn forms(self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.canonical).chain(self.aliases.iter().copied())
    }
}

/// The verbs that are drawn by hand. Those of the operation table have their words there.
const DRAWN: &[Verb] =
    &[
        verb("up", &[], "[--mesh NAME] [--listen ADDR[:PORT]]"),
        verb("down", &[], "[--broker-only]"),
        verb("mesh create", &["create", "new", "workspace create", "workspace new"], "<name>")
            .gate("mesh", "create", Class::Write, ""),
        verb("mesh join", &["join", "add", "workspace join", "workspace add"], "<invite>").gate(
            "mesh",
            "join",
            Class::Write,
            "",
        ),
        listing("mesh list", &["list", "ls", "workspace list", "workspace ls"]).gate(
            "mesh",
            "list",
            Class::Read,
            "",
        ),
        verb("mesh leave", &["leave", "workspace leave"], "<slug>").gate(
            "mesh",
            "leave",
            Class::Destructive,
            "removes the mesh from this device",
        ),
        verb("mesh share", &["share", "invite", "workspace share", "workspace invite"], "").gate(
            "mesh",
            "share",
            Class::Write,
            "",
        ),
        drawn(OperationKind::PeerList, ""),
        drawn(OperationKind::PeerUnblockLoop, "<peer>"),
        drawn(OperationKind::MemberList, ""),
        drawn(OperationKind::MessageSend, "<to> <text…>"),
        verb("message inbox flush", &["inbox flush"], "--mesh SLUG | --before TIME | --all").gate(
            "message",
            "flush",
            Class::Destructive,
            "deletes local messages",
        ),
        verb("message inbox delete", &["inbox delete", "inbox rm", "message inbox rm"], "<id>")
            .gate("message", "delete", Class::Write, ""),
        verb("message inbox search", &["inbox search", "daemon search"], "<words…>").gate(
            "message",
            "search",
            Class::Read,
            "",
        ),
        drawn(OperationKind::MessageInbox, ""),
        drawn(OperationKind::MessageStatus, "<id>"),
        verb("policy show", &[], ""),
        verb("policy path", &[], ""),
        verb("policy check", &[], "<resource> <verb> [target]"),
        verb("policy init", &[], "[--force]"),
        verb("daemon up", &["daemon start"], "[--foreground] [--ephemeral]"),
        verb("daemon down", &["daemon stop"], ""),
        verb("daemon restart", &[], ""),
        listing("daemon status", &["daemon ps"]),
        listing("daemon version", &[]),
        listing("daemon sessions", &[]),
        verb("daemon events", &[], "[--mesh SLUG] [--kind KINDS]"),
        verb("daemon metrics", &[], ""),
        listing("daemon reload", &[]),
        listing("daemon rotate-token", &[]),
        listing("daemon accept-host", &[]),
        verb("daemon remint", &[], "[--invite INVITE] [--mesh SLUG]"),
        listing("daemon rotate-keypair", &[]),
        verb("daemon trust-broker", &[], "--mesh SLUG"),
        listing("daemon archive-cleanup", &[]),
        verb("daemon logs", &[], "[-f] [--lines N]"),
        verb("daemon install-service", &[], "[--system]"),
        verb("daemon uninstall-service", &[], ""),
        verb("daemon recover", &[], "[--choice CHOICE]"),
        verb("daemon reset", &[], "[--confirm]"),
        verb("daemon uninstall", &[], "[--purge-keys]"),
        listing("daemon outbox list", &["daemon outbox"]),
        verb("daemon outbox inspect", &[], "<id>"),
        verb("daemon outbox requeue", &[], "<id>"),
        verb("daemon outbox drop", &[], "<id>"),
        verb("daemon outbox prune", &[], "--confirm"),
        verb("backup", &["daemon backup"], "[--out FILE]"),
        verb("restore", &["daemon restore"], "--in FILE"),
        verb("install", &[], "[agent…]"),
        verb("uninstall", &[], "[agent…]"),
        listing("skill", &[]),
        listing("status", &[]),
        verb("status-line", &[], ""),
        listing("whoami", &[]),
        verb("completions", &[], "<bash|zsh|fish|powershell>"),
        verb("mcp", &[], ""),
        verb("hook", &[], "[agent] [event]"),
        verb("mcp print-config", &[], "<cursor|codex|vscode|gemini|json>"),
        verb("broker", &[], "<verb>"),
        verb("help", &[], "[command]"),
    ];

/// Every verb: those drawn by hand, then those that follow from the operation table. Parser, completions and
/// `help all` are tested against it.
pub(crate) fn verbs() -> impl Iterator<Item = Verb> {
    DRAWN.iter().copied().chain(operations::kinds().map(|(kind, declared)| Verb {
        takes_spaced_fields: declared.positional.is_empty(),
        operation: Some(kind),
        ..verb(declared.words, declared.aliases, "")
    }))
}

/// The verb with these canonical words.
pub(crate) fn of_canonical(words: &str) -> Option<Verb> {
    verbs().find(|verb| verb.canonical == words)
}

/// Words that stand for a group of verbs, and do nothing alone unless they are an alias too.
pub(crate) fn resources() -> BTreeSet<&'static str> {
    verbs()
        .flat_map(Verb::forms)
        .filter_map(|form| form.split_once(' '))
        .map(|(first, _)| first)
        .collect()
}

/// The verb that `words` begin with, and how many of them name it; the longest form wins.
pub(crate) fn find(words: &[&str]) -> Option<(Verb, usize)> {
    verbs()
        .flat_map(|verb| verb.forms().map(move |form| (verb, form)))
        .filter_map(|(verb, form)| {
            let length = form.split(' ').count();
            let is_named =
                words.len() >= length && form.split(' ').eq(words.iter().copied().take(length));
            is_named.then_some((verb, length))
        })
        .max_by_key(|(_, length)| *length)
}

/// Every word that may stand first.
pub(crate) fn first_words() -> Vec<&'static str> {
    let mut words: Vec<&'static str> =
        verbs().flat_map(Verb::forms).filter_map(|form| form.split(' ').next()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// The nearest of `candidates` within two edits.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_form_wins() {
        let canonical = |words: &[&str]| find(words).map(|(verb, used)| (verb.canonical, used));
        assert_eq!(canonical(&["inbox", "flush"]), Some(("message inbox flush", 2)));
        assert_eq!(canonical(&["inbox"]), Some(("message inbox", 1)));
        assert_eq!(canonical(&["peer", "list"]), Some(("peer list", 2)));
        assert_eq!(canonical(&["peer"]), Some(("peer list", 1)));
        assert_eq!(canonical(&["send", "Mou", "hi"]), Some(("message send", 1)));
        assert_eq!(canonical(&["mesh"]), None);
        assert_eq!(canonical(&["status", "set", "dnd"]), Some(("profile status set", 2)));
        assert_eq!(canonical(&["peer", "kick", "x"]), Some(("peer kick", 2)));
    }

    #[test]
    fn no_form_names_two_verbs() {
        let mut forms: Vec<&str> = verbs().flat_map(Verb::forms).collect();
        let all = forms.len();
        forms.sort_unstable();
        forms.dedup();
        assert_eq!(forms.len(), all);
    }

    /// X1: no verb of the table is missing, and none has its words in two places.
    #[test]
    fn every_verb_of_the_operation_table_is_a_verb_here() {
        for kind in OperationKind::ALL {
            let Some(declared) = kind.spec().verb else { continue };
            let here: Vec<Verb> = verbs().filter(|verb| verb.operation == Some(*kind)).collect();
            assert_eq!(here.len(), 1, "{}", declared.words);
            assert_eq!((here[0].canonical, here[0].aliases), (declared.words, declared.aliases));
        }
    }

    #[test]
    fn resources_are_the_first_of_several_words() {
        let resources = resources();
        for word in ["mesh", "peer", "state", "grant", "audit", "profile", "daemon", "workspace"] {
            assert!(resources.contains(word), "{word}");
        }
        assert!(!resources.contains("send"));
    }

    #[test]
    fn typos_within_two_edits_get_a_suggestion() {
        assert_eq!(nearest("sned", first_words()), Some("send"));
        assert_eq!(nearest("jion", first_words()), Some("join"));
        assert_eq!(nearest("xyzzy", first_words()), None);
    }
}
