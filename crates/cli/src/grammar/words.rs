//! Command words: the canonical form of each, its aliases, its usage line (CLI spec §1.3).

/// One verb of the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verb {
    /// Canonical words, as the parser knows them.
    pub(crate) canonical: &'static str,
    /// Other ways to say it; the first is the short one shown in help.
    pub(crate) aliases: &'static [&'static str],
    /// What follows the words.
    pub(crate) usage: &'static str,
    /// True when `--json a,b` may be written with a space, because no positional follows the verb (§1.2).
    pub(crate) takes_spaced_fields: bool,
}

const fn verb(
    canonical: &'static str,
    aliases: &'static [&'static str],
    usage: &'static str,
) -> Verb {
    Verb { canonical, aliases, usage, takes_spaced_fields: false }
}

const fn listing(canonical: &'static str, aliases: &'static [&'static str]) -> Verb {
    Verb { canonical, aliases, usage: "", takes_spaced_fields: true }
}

/// Every verb. Parser, completions and `help all` are tested against it.
pub(crate) const VERBS: &[Verb] = &[
    verb("up", &[], "[--mesh NAME] [--listen ADDR[:PORT]]"),
    verb("down", &[], "[--broker-only]"),
    verb("mesh create", &["create", "new", "workspace create", "workspace new"], "<name>"),
    verb("mesh join", &["join", "add", "workspace join", "workspace add"], "<invite>"),
    listing("mesh list", &["list", "ls", "workspace list", "workspace ls"]),
    verb("mesh leave", &["leave", "workspace leave"], "<slug>"),
    verb("mesh share", &["share", "invite", "workspace share", "workspace invite"], ""),
    listing("peer list", &["peers", "peer"]),
    verb("peer unblock-loop", &[], "<peer>"),
    listing("member list", &["members list", "members", "member"]),
    verb("message send", &["send"], "<to> <text…>"),
    verb("message inbox flush", &["inbox flush"], "--mesh SLUG | --before TIME | --all"),
    verb("message inbox delete", &["inbox delete", "inbox rm", "message inbox rm"], "<id>"),
    listing("message inbox", &["inbox"]),
    verb("message status", &["msg-status"], "<id>"),
    verb("group join", &[], "<group>"),
    verb("group leave", &[], "<group>"),
    verb("daemon up", &["daemon start"], "[--foreground]"),
    verb("daemon down", &["daemon stop"], ""),
    verb("daemon restart", &[], ""),
    listing("daemon status", &["daemon ps"]),
    verb("daemon logs", &[], "[-f] [--lines N]"),
    listing("daemon outbox list", &["daemon outbox"]),
    verb("daemon outbox inspect", &[], "<id>"),
    verb("daemon outbox requeue", &[], "<id>"),
    verb("daemon outbox drop", &[], "<id>"),
    verb("daemon outbox prune", &[], "--confirm"),
    listing("whoami", &[]),
    verb("completions", &[], "<bash|zsh|fish|powershell>"),
    verb("mcp", &[], ""),
    verb("broker", &[], "<verb>"),
    verb("help", &[], "[command]"),
];

/// Words that stand for a group of verbs and do nothing alone.
pub(crate) const RESOURCES: &[&str] =
    &["mesh", "peer", "member", "message", "group", "daemon", "workspace"];

/// The verb that `words` begin with, and how many of them name it; the longest form wins.
pub(crate) fn find(words: &[&str]) -> Option<(&'static Verb, usize)> {
    VERBS
        .iter()
        .flat_map(|verb| {
            std::iter::once(verb.canonical)
                .chain(verb.aliases.iter().copied())
                .map(move |form| (verb, form))
        })
        .filter_map(|(verb, form)| {
            let parts: Vec<&str> = form.split(' ').collect();
            words.starts_with(&parts).then_some((verb, parts.len()))
        })
        .max_by_key(|(_, length)| *length)
}

/// Every word that may stand first.
pub(crate) fn first_words() -> Vec<&'static str> {
    let mut words: Vec<&'static str> = VERBS
        .iter()
        .flat_map(|verb| std::iter::once(verb.canonical).chain(verb.aliases.iter().copied()))
        .filter_map(|form| form.split(' ').next())
        .collect();
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
    }

    #[test]
    fn no_form_names_two_verbs() {
        let mut forms: Vec<&str> = VERBS
            .iter()
            .flat_map(|verb| std::iter::once(verb.canonical).chain(verb.aliases.iter().copied()))
            .collect();
        let all = forms.len();
        forms.sort_unstable();
        forms.dedup();
        assert_eq!(forms.len(), all);
    }

    #[test]
    fn typos_within_two_edits_get_a_suggestion() {
        assert_eq!(nearest("sned", first_words()), Some("send"));
        assert_eq!(nearest("jion", first_words()), Some("join"));
        assert_eq!(nearest("xyzzy", first_words()), None);
    }
}
