//! Small closed vocabularies of the wire: status, its source, priority, presence role, message mode.

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[doc = $vdoc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema)]
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        pub enum $name {
            $($(#[doc = $vdoc])+ #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on the wire and in the store.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $crate::status::sentence(concat!($($vdoc),+)),)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::status::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::status::UnknownWord> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::status::UnknownWord { what: $what }),
                }
            }
        }
    };
}
pub(crate) use word;

/// The text of a documentation comment without the space after the slashes.
pub(crate) const fn sentence(documentation: &'static str) -> &'static str {
    documentation.split_at(1).1
}

/// A text is none of the words of a closed vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what}")]
pub struct UnknownWord {
    /// The vocabulary.
    pub what: &'static str,
}

word! {
    /// What a peer says it is doing.
    PeerStatus, "status" {
        /// Waiting for input: everything may be delivered.
        Idle = "idle",
        /// In a turn: only `now` may interrupt.
        Working = "working",
        /// Do not disturb: only `now`, and only the peer itself can leave it.
        Dnd = "dnd",
    }
}

word! {
    /// Who reported a status; the order is the rank (wire spec §4.4).
    StatusSource, "status source" {
        /// Inferred from a transcript by a daemon.
        Jsonl = "jsonl",
        /// Set by the peer itself.
        Manual = "manual",
        /// Reported by the agent's hooks.
        Hook = "hook",
    }
}

word! {
    /// How urgently a message wants to be seen.
    Priority, "priority" {
        /// Interrupts.
        Now = "now",
        /// Delivered when the recipient is idle.
        Next = "next",
        /// Never pushed into a turn; waits in the inbox.
        Low = "low",
    }
}

#[expect(
    clippy::derivable_impls,
    reason = "the macro writes the enum, so no variant can carry #[default]"
)]
impl Default for Priority {
    fn default() -> Self {
        Self::Next
    }
}

word! {
    /// What kind of connection a presence is (`peerRole`, wire spec §2.1).
    PeerRole, "peer role" {
        /// A daemon's member-keyed connection; hidden from people.
        ControlPlane = "control-plane",
        /// One launched agent session.
        Session = "session",
        /// A connector, bridge or service identity.
        Service = "service",
    }
}

word! {
    /// A member's role in its mesh.
    MemberRole, "role" {
        /// May invite and administer.
        Admin = "admin",
        /// May talk and share.
        Member = "member",
    }
}

word! {
    /// How a client wants messages handed over; advice for the client, not a gate of the broker.
    MessageMode, "message mode" {
        /// Full text as it arrives.
        Push = "push",
        /// A count only; the text waits in the inbox.
        Inbox = "inbox",
        /// Nothing.
        Off = "off",
    }
}

word! {
    /// How bodies of group and broadcast messages must be written in a mesh (wire spec §5.4).
    GroupEncryption, "group encryption" {
        /// Plaintext always (testing old clients only).
        Off = "off",
        /// Encrypted when every live recipient can read it.
        Preferred = "preferred",
        /// Plaintext is refused.
        Required = "required",
    }
}
