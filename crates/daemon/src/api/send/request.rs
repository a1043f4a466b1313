//! The body of a send, checked field by field (daemon spec §10.1).

use std::time::Duration;

use axum::extract::Request;
use claudemesh_ipc::api::{IDEMPOTENCY_HEADER, SendRequest};
use claudemesh_protocol::limits::{
    BODY_META_MAX_BYTES, CLIENT_MESSAGE_ID_MAX_CHARS, MENTIONS_MAX, REPLY_TO_MAX_CHARS,
    TARGET_MAX_CHARS,
};
use claudemesh_protocol::{ErrorCode, Priority, body};
use serde_json::{Map, Value};

use crate::api::failure::Failure;
use crate::api::input;
use crate::hooks::{AUTO_KEY, Grant, HookLetter};

/// What is to be sent.
#[derive(Clone)]
pub(crate) struct Letter {
    pub(crate) to: String,
    pub(super) message: String,
    pub(super) priority: Priority,
    pub(super) meta: Option<Map<String, Value>>,
    pub(super) reply_to_id: Option<String>,
    pub(super) mentions: Vec<String>,
    pub(crate) client_message_id: String,
    pub(super) mesh: Option<String>,
    pub(super) to_self: bool,
    pub(super) expires_in: Option<Duration>,
    /// Set when a hook wrote it.
    pub(super) auto: Option<Auto>,
}

/// What distinguishes the letter of a hook (wire spec §4.10, §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Auto {
    /// Automatic answers before it, and this one.
    pub(crate) hops: u32,
}

impl Letter {
    pub(super) async fn read(request: Request) -> Result<Self, Failure> {
        let header = match request.headers().get(IDEMPOTENCY_HEADER) {
            None => None,
            Some(value) => Some(value.to_str().map(str::to_owned).map_err(|_| bad_id())?),
        };
        let body: SendRequest = input::json(request, input::MESSAGE).await?;
        Self::checked(body, header)
    }

    pub(crate) fn checked(body: SendRequest, header: Option<String>) -> Result<Self, Failure> {
        let client_message_id = chosen_id(header, body.client_message_id)?;
        if body.to.is_empty() || body.to.len() > TARGET_MAX_CHARS {
            return Err(Failure::field("to", format!("\"to\" has 1 to {TARGET_MAX_CHARS} bytes")));
        }
        check_message(&body.message)?;
        if body.subtype.is_some() {
            return Err(Failure::field("subtype", "\"subtype\" is not for clients"));
        }
        if body.reply_to_id.as_ref().is_some_and(|id| id.len() > REPLY_TO_MAX_CHARS) {
            return Err(Failure::field("reply_to_id", "\"reply_to_id\" is too long"));
        }
        if body.mentions.len() > MENTIONS_MAX {
            return Err(Failure::field("mentions", format!("at most {MENTIONS_MAX} mentions")));
        }
        if body.expires_in_s == Some(0) {
            return Err(Failure::field("expires_in_s", "\"expires_in_s\" is at least 1"));
        }
        if let Some(meta) = &body.meta {
            check_meta(meta)?;
        }
        Ok(Self {
            to: body.to,
            message: body.message,
            priority: body.priority.unwrap_or_default(),
            meta: body.meta,
            reply_to_id: body.reply_to_id,
            mentions: body.mentions,
            client_message_id,
            mesh: body.mesh,
            to_self: body.to_self,
            expires_in: body.expires_in_s.map(Duration::from_secs),
            auto: None,
        })
    }

    /// The reply of a hook.
    pub(crate) fn of_hook(letter: HookLetter) -> Self {
        let HookLetter { to, message, priority, mesh, client_message_id, hops } = letter;
        Self {
            to,
            message,
            priority,
            meta: None,
            reply_to_id: None,
            mentions: Vec::new(),
            client_message_id,
            mesh: Some(mesh),
            to_self: false,
            expires_in: None,
            auto: Some(Auto { hops }),
        }
    }

    /// The same with other words, which are looked at like the first ones.
    pub(super) fn with_message(&self, message: String) -> Result<Self, Failure> {
        check_message(&message)?;
        Ok(Self { message, ..self.clone() })
    }

    /// Makes it the letter of a hook, in the one mesh that its token is good for.
    pub(super) fn write_as(&mut self, grant: &Grant) -> Result<(), Failure> {
        if self.mesh.as_deref().is_some_and(|mesh| mesh != grant.mesh()) {
            let message = "the hook's token is not for this mesh";
            return Err(Failure::new(ErrorCode::ScopeMissing, message));
        }
        self.mesh = Some(grant.mesh().to_owned());
        self.auto = Some(Auto { hops: grant.next_hops() });
        Ok(())
    }

    /// The metadata as it travels: the user's, and what says that a hook wrote it. The fingerprint covers the user's alone.
    pub(super) fn sent_meta(&self) -> Option<Map<String, Value>> {
        let mut meta = self.meta.clone();
        if self.auto.is_some() {
            meta.get_or_insert_default().insert(AUTO_KEY.to_owned(), Value::Bool(true));
        }
        meta
    }
}

fn check_message(message: &str) -> Result<(), Failure> {
    if message.is_empty() {
        return Err(Failure::field("message", "\"message\" is empty"));
    }
    Ok(())
}

/// The header wins, then the body, then a fresh one; both and different is a mistake.
fn chosen_id(header: Option<String>, body: Option<String>) -> Result<String, Failure> {
    let id = match (header, body) {
        (Some(header), Some(body)) if header != body => {
            return Err(Failure::new(
                ErrorCode::IdempotencyKeyConflict,
                "the header and \"client_message_id\" differ",
            ));
        }
        (Some(id), _) | (None, Some(id)) => id,
        (None, None) => return Ok(crate::ids::next()),
    };
    check_id(id)
}

/// An id as a client may choose it.
pub(in crate::api) fn check_id(id: String) -> Result<String, Failure> {
    let is_valid = (1..=CLIENT_MESSAGE_ID_MAX_CHARS).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'));
    if is_valid { Ok(id) } else { Err(bad_id()) }
}

fn bad_id() -> Failure {
    Failure::field(
        "client_message_id",
        format!("an id has 1 to {CLIENT_MESSAGE_ID_MAX_CHARS} of A-Z a-z 0-9 . _ : -"),
    )
}

fn check_meta(meta: &Map<String, Value>) -> Result<(), Failure> {
    if let Some(key) = body::reserved_meta_key(meta) {
        return Err(Failure::field("meta", format!("the key {key:?} is reserved")));
    }
    let bytes = claudemesh_protocol::canonical::jcs(&Value::Object(meta.clone()))
        .map_err(|_| {
            Failure::field("meta", "\"meta\" holds a number that JSON cannot carry exactly")
        })?
        .len();
    if bytes > BODY_META_MAX_BYTES {
        return Err(Failure::field(
            "meta",
            format!("\"meta\" has {bytes} bytes, at most {BODY_META_MAX_BYTES}"),
        ));
    }
    Ok(())
}
