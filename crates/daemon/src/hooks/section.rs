//! `hooks.toml` (daemon spec §16.2): one section for each hook, strict, with a wrong value named by its line. A section
//! that does not say `enabled = true` switches nothing on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::limits::{
    HOOK_PRE_SEND_TIMEOUT, HOOK_SECTION_OUTPUT_MAX_BYTES, HOOK_TIMEOUT_MAX,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::name::{HookName, Stem};
use super::redact::RedactPath;
use crate::settings::parse_duration;

/// What `hooks.toml` says about one hook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the switches of hooks.toml")]
pub(super) struct Section {
    /// Whether it runs.
    pub(super) enabled: bool,
    /// Its own time.
    #[serde(deserialize_with = "timeout")]
    timeout: Option<Duration>,
    /// What is kept of either output stream, in bytes.
    #[serde(deserialize_with = "output_limit")]
    output_size_limit: Option<usize>,
    /// What it does not see.
    pub(super) redact_payload: Vec<RedactPath>,
    /// `{"reply": …}` on its standard output is sent.
    pub(super) allow_reply: bool,
    /// It also hears what a hook wrote.
    pub(super) allow_auto: bool,
    /// It also hears what only the broker vouches for.
    pub(super) allow_unverified: bool,
    /// What its capability token is good for; empty: it gets none.
    pub(super) capability_token_scope: Vec<Scope>,
    /// Whether it may use the network.
    pub(super) network_policy: NetworkPolicy,
    /// What it may write.
    pub(super) fs_policy: FsPolicy,
    /// What enforces [`Self::fs_policy`].
    pub(super) sandbox: Sandbox,
    /// It does not run where a policy cannot be enforced.
    pub(super) require_sandbox: bool,
    /// Further variables of its environment.
    #[serde(deserialize_with = "variables")]
    pub(super) env: BTreeMap<String, String>,
    /// The whole group is ended, not the script alone.
    pub(super) killpg_on_timeout: bool,
    /// Its runs are written to the audit file.
    pub(super) audit: bool,
    /// What a crash, a timeout or an unreadable answer of `pre-send` means.
    pub(super) on_error: OnError,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            enabled: false,
            timeout: None,
            output_size_limit: None,
            redact_payload: Vec::new(),
            allow_reply: false,
            allow_auto: false,
            allow_unverified: false,
            capability_token_scope: Vec::new(),
            network_policy: NetworkPolicy::Deny,
            fs_policy: FsPolicy::Readonly,
            sandbox: Sandbox::None,
            require_sandbox: false,
            env: BTreeMap::new(),
            killpg_on_timeout: true,
            audit: true,
            on_error: OnError::Deny,
        }
    }
}

impl Section {
    /// How long the hook may run; `general` is what the daemon's settings say.
    pub(super) fn timeout(&self, stem: &Stem, general: Duration) -> Duration {
        let general = if *stem == Stem::PreSend { HOOK_PRE_SEND_TIMEOUT } else { general };
        self.timeout.unwrap_or(general).min(HOOK_TIMEOUT_MAX)
    }

    /// Bytes kept of either output stream.
    pub(super) fn output_limit(&self, general: usize) -> usize {
        self.output_size_limit.unwrap_or(general).min(HOOK_SECTION_OUTPUT_MAX_BYTES)
    }
}

/// Whether a hook may use the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NetworkPolicy {
    /// No.
    Deny,
    /// Yes.
    Allow,
}

/// What a hook may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FsPolicy {
    /// Nothing but a directory for its temporary files.
    Readonly,
    /// What its user may.
    Rw,
    /// As [`Self::Readonly`], and it does not see its user's files either.
    Sandbox,
}

impl FsPolicy {
    /// The word in `hooks.toml`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Rw => "rw",
            Self::Sandbox => "sandbox",
        }
    }

    /// Reads that word.
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Readonly, Self::Rw, Self::Sandbox].into_iter().find(|policy| policy.as_str() == text)
    }
}

/// What enforces the rules about files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sandbox {
    /// Nothing.
    None,
    /// `bwrap`.
    Bubblewrap,
}

/// What it means that `pre-send` gave no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnError {
    /// The message is not sent.
    Deny,
    /// It is.
    Allow,
}

/// What a capability token is good for (daemon spec §16.4). There are no wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Messages to where the event came from.
    ReplyEvent,
    /// Direct messages to the event's sender.
    DmSender,
    /// Direct messages to exactly this key.
    Dm(PublicKey),
    /// Posts in the event's topic.
    TopicEvent,
    /// Posts in exactly this topic.
    Topic(String),
}

impl Scope {
    /// The word for figures, without the key or the name.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::ReplyEvent => "reply:event",
            Self::DmSender | Self::Dm(_) => "dm:send",
            Self::TopicEvent | Self::Topic(_) => "topic:post",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "reply:event" => return Some(Self::ReplyEvent),
            "dm:send:sender" => return Some(Self::DmSender),
            "topic:event:post" => return Some(Self::TopicEvent),
            _ => {}
        }
        if let Some(key) = text.strip_prefix("dm:send:") {
            return key.parse().ok().map(Self::Dm);
        }
        let name = text.strip_prefix("topic:")?.strip_suffix(":post")?;
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        is_name.then(|| Self::Topic(name.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no scope; scopes are reply:event, dm:send:sender, dm:send:<64 hex>, topic:event:post and \
                 topic:<name>:post"
            ))
        })
    }
}

/// All of `hooks.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sections(BTreeMap<HookName, Section>);

/// `hooks.toml` cannot be used; names the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub(super) struct SectionError {
    file: String,
    line: usize,
    reason: String,
}

impl Sections {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`SectionError`].
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, SectionError> {
        let wrong =
            |line, reason: String| SectionError { file: file.display().to_string(), line, reason };
        let line_at =
            |at: usize| bytes.get(..at).unwrap_or_default().split(|byte| *byte == b'\n').count();
        let text = std::str::from_utf8(bytes)
            .map_err(|error| wrong(line_at(error.valid_up_to()), "not UTF-8".to_owned()))?;
        let named: BTreeMap<toml::Spanned<String>, Section> =
            toml::from_str(text).map_err(|error| {
                let at = error.span().map_or(0, |span| span.start);
                wrong(line_at(at), error.message().to_owned())
            })?;
        let mut sections = BTreeMap::new();
        for (name, section) in named {
            let line = line_at(name.span().start);
            let Some(hook) = HookName::parse(name.get_ref()) else {
                return Err(wrong(line, format!("no hook is called {:?}", name.get_ref())));
            };
            sections.insert(hook, section);
        }
        Ok(Self(sections))
    }

    /// What is said about a hook: a section with its mesh before one without.
    pub(super) fn of(&self, name: &HookName) -> Option<&Section> {
        let general = HookName { mesh: None, stem: name.stem.clone() };
        self.0.get(name).or_else(|| self.0.get(&general))
    }

    /// Hooks that are switched on.
    pub(super) fn enabled(&self) -> impl Iterator<Item = &HookName> {
        self.0.iter().filter(|(_, section)| section.enabled).map(|(name, _)| name)
    }
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse_duration(&text)
        .ok_or_else(|| D::Error::custom("a duration looks like 250ms, 30s or 10m"))?;
    if time.is_zero() || time > HOOK_TIMEOUT_MAX {
        return Err(D::Error::custom("a hook has at least 1ms and at most 10m"));
    }
    Ok(Some(time))
}

fn output_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let bytes = usize::deserialize(deserializer)?;
    if bytes > HOOK_SECTION_OUTPUT_MAX_BYTES {
        let message = format!("output_size_limit is at most {HOOK_SECTION_OUTPUT_MAX_BYTES}");
        return Err(D::Error::custom(message));
    }
    Ok(Some(bytes))
}

fn variables<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let given = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (name, value) in &given {
        let starts_well =
            name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let is_name =
            starts_well && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || value.contains('\0') {
            return Err(D::Error::custom(format!("{name:?} is no variable")));
        }
        if is_refused(name) {
            return Err(D::Error::custom(format!("a hook's env may not set {name}")));
        }
    }
    Ok(given)
}

/// Variables that say where programs are found, or that make an interpreter run something else first.
fn is_refused(name: &str) -> bool {
    const PREFIXES: [&str; 7] =
        ["CLAUDEMESH_", "LD_", "DYLD_", "PYTHON", "BASH_FUNC_", "PERL5", "RUBY"];
    const NAMES: [&str; 13] = [
        "PATH",
        "HOME",
        "SHELL",
        "BASH_ENV",
        "ENV",
        "IFS",
        "SHELLOPTS",
        "BASHOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "NODE_OPTIONS",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
    ];
    let name = name.to_ascii_uppercase();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Sections, String> {
        Sections::parse(Path::new("hooks.toml"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn name(text: &str) -> HookName {
        HookName::parse(text).unwrap()
    }

    #[test]
    fn nothing_is_on_unless_it_says_so() {
        let sections = parse("[on-dm]\nallow_reply = true\n").unwrap();
        assert!(!sections.of(&name("on-dm")).unwrap().enabled);
        assert_eq!(sections.of(&name("on-message")), None);
        assert_eq!(sections.enabled().count(), 0);
        assert_eq!(parse("").unwrap(), Sections::default());
    }

    #[test]
    fn a_section_of_a_mesh_goes_before_the_general_one() {
        let text = "[on-dm]\nenabled = true\n[\"home/on-dm\"]\nenabled = false\n";
        let sections = parse(text).unwrap();
        assert!(!sections.of(&name("home/on-dm")).unwrap().enabled);
        assert!(sections.of(&name("work/on-dm")).unwrap().enabled);
        assert_eq!(sections.enabled().map(ToString::to_string).collect::<Vec<_>>(), ["on-dm"]);
    }

    #[test]
    fn times_and_sizes_have_their_defaults_and_bounds() {
        let section = Section::default();
        let general = Duration::from_secs(30);
        assert_eq!(section.timeout(&Stem::Dm, general), general);
        assert_eq!(section.timeout(&Stem::PreSend, general), Duration::from_secs(5));
        let own = parse("[pre-send]\ntimeout = \"10m\"\noutput_size_limit = 10").unwrap();
        let own = own.of(&name("pre-send")).unwrap();
        assert_eq!(own.timeout(&Stem::PreSend, general), Duration::from_mins(10));
        assert_eq!((own.output_limit(9), section.output_limit(9)), (10, 9));
    }

    /// §16 Accept 3, its last part: `dm:send:*` is a config error at load.
    #[test]
    fn wrong_values_are_refused_with_their_line() {
        for (text, line) in [
            ("[on-dm]\nenabled = 1", 2),
            ("[on-dm]\nunknown = 1", 2),
            ("\n[on-dmm]\nenabled = true", 2),
            ("enabled = true", 1),
            ("[on-dm]\ntimeout = \"11m\"", 2),
            ("[on-dm]\ntimeout = \"0s\"", 2),
            ("[on-dm]\noutput_size_limit = 1048577", 2),
            ("[on-dm]\ncapability_token_scope = [\"dm:send:*\"]", 2),
            ("[on-dm]\ncapability_token_scope = [\"*\"]", 2),
            ("[on-dm]\ncapability_token_scope = [\"topic:*:post\"]", 2),
            ("[on-dm]\ncapability_token_scope = [\"inbox:read\"]", 2),
            ("[on-dm]\nredact_payload = [\"a..b\"]", 2),
            ("[on-dm]\nenv = { PATH = \"/tmp\" }", 2),
            ("[on-dm]\nenv = { LD_PRELOAD = \"x\" }", 2),
            ("[on-dm]\nenv = { CLAUDEMESH_X = \"x\" }", 2),
            ("[on-dm]\nenv = { BASH_ENV = \"x\" }", 2),
            ("[on-dm]\nenv = { PYTHONPATH = \"x\" }", 2),
            ("[on-dm]\nenv = { \"a=b\" = \"x\" }", 2),
            ("[on-dm]\nnetwork_policy = \"maybe\"", 2),
            ("[on-dm", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("hooks.toml:{line}: ")), "{text}: {error}");
        }
    }

    #[test]
    fn scopes_are_the_ones_of_the_table() {
        let key = "ab".repeat(32);
        let text = format!(
            "[on-dm]\ncapability_token_scope = [\"reply:event\", \"dm:send:sender\", \"dm:send:{key}\", \
             \"topic:event:post\", \"topic:ci:post\"]\nenv = {{ LANG = \"de\", MY_X = \"1\" }}"
        );
        let sections = parse(&text).unwrap();
        let scopes = &sections.of(&name("on-dm")).unwrap().capability_token_scope;
        let labels: Vec<_> = scopes.iter().map(Scope::label).collect();
        assert_eq!(labels, ["reply:event", "dm:send", "dm:send", "topic:post", "topic:post"]);
    }
}
