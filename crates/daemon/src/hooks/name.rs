//! What a hook is called: the stem of its file says which events it hears (daemon spec §16.1).

use std::fmt;

use claudemesh_protocol::slug::Slug;

/// Start of the stem of a hook for one topic.
const ON_TOPIC: &str = "on-topic-";
/// Longest topic name in a stem.
const TOPIC_MAX_CHARS: usize = 64;

/// The stem of a hook's file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Stem {
    /// `on-message`: every message.
    Message,
    /// `on-dm`: a direct message.
    Dm,
    /// `on-mention`: a message that names the member or one of its sessions.
    Mention,
    /// `on-topic-<name>`: a post in that topic.
    Topic(String),
    /// `on-file-share`: somebody shared a file.
    FileShare,
    /// `on-task-assigned`: a task was given to somebody.
    TaskAssigned,
    /// `on-disconnect`: a mesh has been without its connection for a while.
    Disconnect,
    /// `on-reconnect`: it has it again.
    Reconnect,
    /// `on-startup`: the daemon has started.
    Startup,
    /// `pre-send`: a message is about to be accepted.
    PreSend,
}

impl Stem {
    /// Reads a stem; `None` when no hook is called so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "on-message" => Self::Message,
            "on-dm" => Self::Dm,
            "on-mention" => Self::Mention,
            "on-file-share" => Self::FileShare,
            "on-task-assigned" => Self::TaskAssigned,
            "on-disconnect" => Self::Disconnect,
            "on-reconnect" => Self::Reconnect,
            "on-startup" => Self::Startup,
            "pre-send" => Self::PreSend,
            other => {
                let topic = other.strip_prefix(ON_TOPIC)?;
                let is_name = (1..=TOPIC_MAX_CHARS).contains(&topic.len())
                    && topic.bytes().all(|byte| {
                        byte.is_ascii_lowercase()
                            || byte.is_ascii_digit()
                            || matches!(byte, b'_' | b'-')
                    });
                return is_name.then(|| Self::Topic(topic.to_owned()));
            }
        })
    }

    /// The stem of a file's name: what stands before its first dot.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        Self::parse(name.split('.').next().unwrap_or_default())
    }

    /// The kind of its events.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Message | Self::Dm | Self::Mention | Self::Topic(_) => "message",
            Self::FileShare => "file_shared",
            Self::TaskAssigned => "task_assigned",
            Self::Disconnect => "disconnect",
            Self::Reconnect => "reconnect",
            Self::Startup => "startup",
            Self::PreSend => "pre_send",
        }
    }

    /// True for hooks whose events are messages: they have a sender that can be answered.
    pub(super) const fn hears_messages(&self) -> bool {
        matches!(self, Self::Message | Self::Dm | Self::Mention | Self::Topic(_))
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Message => "on-message",
            Self::Dm => "on-dm",
            Self::Mention => "on-mention",
            Self::Topic(name) => return write!(formatter, "{ON_TOPIC}{name}"),
            Self::FileShare => "on-file-share",
            Self::TaskAssigned => "on-task-assigned",
            Self::Disconnect => "on-disconnect",
            Self::Reconnect => "on-reconnect",
            Self::Startup => "on-startup",
            Self::PreSend => "pre-send",
        })
    }
}

/// A hook: its stem, and the mesh when it belongs to one only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HookName {
    /// Slug of its mesh; `None`: it is for all of them.
    pub(super) mesh: Option<String>,
    /// The stem of its file.
    pub(super) stem: Stem,
}

impl HookName {
    /// Reads `<stem>` or `<slug>/<stem>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let Some((slug, stem)) = text.split_once('/') else {
            return Some(Self { mesh: None, stem: Stem::parse(text)? });
        };
        let slug: Slug = slug.parse().ok()?;
        Some(Self { mesh: Some(slug.as_str().to_owned()), stem: Stem::parse(stem)? })
    }

    /// True when it hears events of this mesh; `None`: those of the daemon itself.
    pub(super) fn is_for(&self, mesh: Option<&str>) -> bool {
        self.mesh.is_none() || self.mesh.as_deref() == mesh
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mesh {
            Some(slug) => write!(formatter, "{slug}/{}", self.stem),
            None => self.stem.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_none() {
        for text in ["on-message", "pre-send", "on-topic-a_b-1", "home/on-dm", "ab/on-topic-x"] {
            assert_eq!(HookName::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "on-x",
            "on-topic-",
            "on-topic-A",
            "on-topic-a.b",
            "x/on-dm",
            "../on-dm",
            "/on-dm",
            "home/",
            "home/x/on-dm",
            "ON-DM",
            "on-topic-ä",
        ] {
            assert_eq!(HookName::parse(text), None, "{text}");
        }
        assert_eq!(HookName::parse(&format!("on-topic-{}", "x".repeat(65))), None);
        assert_eq!(Stem::of_file("on-dm.sh.bak"), Some(Stem::Dm));
        assert_eq!(Stem::of_file("on-dm"), Some(Stem::Dm));
        assert_eq!(Stem::of_file(".on-dm.sh"), None);
        assert_eq!(Stem::of_file("hooks.toml"), None);
    }
}
