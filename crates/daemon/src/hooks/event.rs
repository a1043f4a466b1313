//! What hooks are told (daemon spec §16.1, §16.3): which happenings are events, which hooks hear each, and what they read.
//! Every text in here may be a stranger's: it goes to a hook as JSON on its standard input and nowhere else.

use claudemesh_crypto::hash::sha256;
use claudemesh_ipc::api::{Decrypt, InboxItem};
use claudemesh_protocol::{PublicKey, Timestamp};
use serde_json::{Map, Value, json};

use super::name::{HookName, Stem};
use super::redact::fitted;
use super::section::Section;
use crate::ids;

/// Version of the form of events.
const VERSION: u32 = 1;
/// Metadata key of a message that a hook wrote (wire spec §5.3).
pub(crate) const AUTO_KEY: &str = "cm_auto";
/// What the broker tells and a queue holds, in bytes: 256 of them are 16 MiB.
const TOLD_MAX_BYTES: usize = 64 * 1024;
/// Keeps event ids apart from whatever else is hashed.
const ID_DOMAIN: &str = "claudemesh hook event v1";

/// Something that hooks may hear of.
#[derive(Debug, Clone)]
pub(super) struct Occasion {
    /// The kind in the event's JSON.
    pub(super) kind: &'static str,
    /// The mesh it happened in; `None`: in the daemon.
    pub(super) mesh: Option<String>,
    /// When.
    at: Timestamp,
    /// What a hook reads about it.
    data: Data,
    /// Who wrote it, for messages.
    pub(super) origin: Option<Origin>,
    /// A hook of somebody wrote it.
    is_auto: bool,
    /// More than the broker's word says who wrote it and what.
    is_verified: bool,
    /// The same for each repetition of the same event, and of one length whatever a peer calls its message.
    identity: Identity,
}

/// What a hook reads about an event. It becomes JSON when a hook runs: most events of a crowd never come so far.
#[derive(Debug, Clone)]
enum Data {
    Message(Box<InboxItem>),
    Fields(Map<String, Value>),
}

impl Data {
    fn fields(&self) -> Map<String, Value> {
        match self {
            Self::Fields(fields) => fields.clone(),
            Self::Message(item) => match serde_json::to_value(item) {
                Ok(Value::Object(fields)) => fields,
                _ => Map::new(),
            },
        }
    }
}

/// What makes two events the same.
pub(super) type Identity = [u8; 32];

/// Who is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The key on the wire.
    pub(super) sender: PublicKey,
    /// The member behind it, where it is proved.
    pub(super) member: Option<PublicKey>,
    /// Name of the topic it was posted in.
    pub(super) topic: Option<String>,
    /// Automatic answers before it.
    pub(super) hops: u32,
}

impl Origin {
    /// Whose replies are counted together: a member may have many keys.
    pub(super) fn counted(&self) -> PublicKey {
        self.member.unwrap_or(self.sender)
    }
}

impl Occasion {
    /// A message that came in; `None` when no hook hears of it: it could not be read, or is none of the four kinds.
    pub(super) fn message(item: &InboxItem, now: Timestamp) -> Option<Self> {
        item.body.as_ref().filter(|_| item.decrypt.is_readable())?;
        if !matches!(item.channel.as_str(), "dm" | "group" | "topic" | "broadcast") {
            return None;
        }
        let sender: PublicKey = item.sender_pubkey.parse().ok()?;
        // A text that the broker could read it could also have written.
        let is_sealed = matches!(item.decrypt, Decrypt::Ok | Decrypt::ArchivedKey);
        let auto = item.meta.as_ref().and_then(|meta| meta.get(AUTO_KEY));
        Some(Self {
            kind: "message",
            mesh: Some(item.mesh.clone()),
            at: now,
            data: Data::Message(Box::new(item.clone())),
            origin: Some(Origin {
                sender,
                member: item.sender_member_pubkey.parse().ok().filter(|_| item.sender_verified),
                topic: item.topic.clone().filter(|_| item.channel == "topic"),
                hops: item.hops,
            }),
            is_auto: auto.is_some_and(|auto| *auto != Value::Bool(false)),
            is_verified: item.sender_verified && is_sealed,
            identity: message_identity(item),
        })
    }

    /// An event that the broker told: nothing but its word says that it is true.
    pub(super) fn told_by_broker(
        kind: &'static str,
        mesh: &str,
        data: &Map<String, Value>,
        now: Timestamp,
    ) -> Self {
        let is_small = serde_json::to_vec(data).is_ok_and(|data| data.len() <= TOLD_MAX_BYTES);
        let data = if is_small {
            data.clone()
        } else {
            Map::from_iter([("_truncated".to_owned(), Value::Bool(true))])
        };
        Self { is_verified: false, ..Self::own(kind, Some(mesh), data, now) }
    }

    /// An event of the daemon itself.
    pub(super) fn own(
        kind: &'static str,
        mesh: Option<&str>,
        data: Map<String, Value>,
        now: Timestamp,
    ) -> Self {
        Self {
            kind,
            mesh: mesh.map(str::to_owned),
            at: now,
            data: Data::Fields(data),
            origin: None,
            is_auto: false,
            is_verified: true,
            identity: sha256(ids::next().as_bytes()),
        }
    }

    /// What tells it from others.
    pub(super) const fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether a hook with this section hears of it.
    pub(super) fn is_for(&self, section: &Section) -> bool {
        (self.is_verified || section.allow_unverified) && (!self.is_auto || section.allow_auto)
    }

    /// The id under which `hook` is told: a ULID in its form, the same whenever the same event is told again, also after
    /// the daemon was killed, so that a second run cannot send a second reply.
    pub(super) fn id_for(&self, hook: &HookName) -> String {
        let text = format!("{ID_DOMAIN}\0{}\0{hook}", hex::encode(self.identity));
        let hash = sha256(text.as_bytes());
        let half = hash.first_chunk().copied().unwrap_or_default();
        ulid::Ulid::from(u128::from_be_bytes(half)).to_string()
    }

    /// What the hook reads.
    pub(super) fn input(&self, hook: &HookName, section: &Section, limit: usize) -> Vec<u8> {
        let mut data = self.data.fields();
        for path in &section.redact_payload {
            path.hide_in(&mut data);
        }
        let mut event = head(hook, &self.id_for(hook), self.kind, self.mesh.as_deref(), self.at);
        event.insert("data".to_owned(), Value::Object(data));
        fitted(event, "data", limit)
    }
}

/// The first fields of an event.
pub(super) fn head(
    hook: &HookName,
    event_id: &str,
    kind: &str,
    mesh: Option<&str>,
    at: Timestamp,
) -> Map<String, Value> {
    let head = json!({
        "v": VERSION, "hook": hook.stem.to_string(), "event_id": event_id, "kind": kind, "mesh": mesh,
        "ts": at.to_iso(),
    });
    match head {
        Value::Object(head) => head,
        _ => Map::new(),
    }
}

/// What a message is, whichever of our keys it came to and whatever row it has: who sent it, and what the sender calls it.
fn message_identity(item: &InboxItem) -> Identity {
    let parts = [&item.mesh, &item.sender_pubkey, &item.client_message_id];
    sha256(parts.map(String::as_str).join("\0").as_bytes())
}

/// The stems that hear of a message, most specific first.
pub(super) fn stems(item: &InboxItem, is_mention: bool) -> Vec<Stem> {
    let mut stems = Vec::with_capacity(3);
    match (item.channel.as_str(), &item.topic) {
        ("dm", _) => stems.push(Stem::Dm),
        ("topic", Some(topic)) => stems.push(Stem::Topic(topic.clone())),
        _ => {}
    }
    if is_mention {
        stems.push(Stem::Mention);
    }
    stems.push(Stem::Message);
    stems
}

/// Whether a message names one of `names`, in its list or as `@name` in its text. A display name also answers to its
/// handle, in which each run of other characters is a `-` (wire spec §4.8).
pub(super) fn is_mention(item: &InboxItem, names: &[String]) -> bool {
    let names: Vec<String> = names
        .iter()
        .flat_map(|name| [name.to_lowercase(), handle(name)])
        .filter(|name| !name.is_empty())
        .collect();
    let listed = item.mentions.iter().map(|name| name.trim_start_matches('@').to_lowercase());
    if listed.into_iter().any(|name| names.contains(&name)) {
        return true;
    }
    let Some(body) = item.body.as_deref().filter(|body| body.contains('@')) else { return false };
    let body = body.to_lowercase();
    names.iter().any(|name| is_called(&body, name))
}

/// Whether `@name` stands in `body`, not as a part of another word.
fn is_called(body: &str, name: &str) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-');
    body.match_indices('@').any(|(at, _)| {
        let before = body.get(..at).and_then(|text| text.chars().next_back());
        let Some(after) = body.get(at + 1..).and_then(|text| text.strip_prefix(name)) else {
            return false;
        };
        !before.is_some_and(is_word) && !after.chars().next().is_some_and(is_word)
    })
}

fn handle(name: &str) -> String {
    let mut handle = String::new();
    for character in name.to_lowercase().chars() {
        if character.is_ascii_alphanumeric() || matches!(character, '_' | '-') {
            handle.push(character);
        } else if !handle.ends_with('-') {
            handle.push('-');
        }
    }
    handle.trim_matches('-').to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::hooks::trial::sample;

    /// A direct message from a verified member.
    pub(in crate::hooks) fn item(body: &str) -> InboxItem {
        InboxItem {
            client_message_id: "c1".to_owned(),
            sender_pubkey: "ab".repeat(32),
            sender_member_pubkey: "cd".repeat(32),
            sender_name: "Ann".to_owned(),
            body: Some(body.to_owned()),
            created_at: None,
            hops: 3,
            ..sample("home", Timestamp::from_millis(0))
        }
    }

    fn occasion(item: &InboxItem) -> Option<Occasion> {
        Occasion::message(item, Timestamp::from_millis(0))
    }

    fn section(change: impl FnOnce(&mut Section)) -> Section {
        let mut section = Section::default();
        change(&mut section);
        section
    }

    #[test]
    fn only_what_was_opened_and_proved_is_heard() {
        let plain = section(|_| {});
        let trusting = section(|section| section.allow_unverified = true);
        let heard = |change: &dyn Fn(&mut InboxItem)| {
            let mut item = item("hi");
            change(&mut item);
            let occasion = occasion(&item);
            let by = |section| occasion.as_ref().is_some_and(|occasion| occasion.is_for(section));
            (by(&plain), by(&trusting))
        };
        assert_eq!(heard(&|_| {}), (true, true));
        assert_eq!(heard(&|item| item.decrypt = Decrypt::ArchivedKey), (true, true));
        assert_eq!(heard(&|item| item.sender_verified = false), (false, true));
        assert_eq!(heard(&|item| item.decrypt = Decrypt::Plain), (false, true));
        for decrypt in [Decrypt::Failed, Decrypt::NoKey] {
            assert_eq!(heard(&|item| item.decrypt = decrypt), (false, false));
        }
        assert_eq!(heard(&|item| item.body = None), (false, false));
        for channel in ["rpc", "stream", "system", "else"] {
            assert_eq!(heard(&|item| item.channel = channel.to_owned()), (false, false));
        }
    }

    #[test]
    fn what_a_hook_wrote_is_for_those_who_ask_for_it() {
        let mut written = item("hi");
        written.meta = json!({ "cm_auto": true }).as_object().cloned();
        let occasion = occasion(&written).unwrap();
        assert!(!occasion.is_for(&section(|_| {})));
        assert!(occasion.is_for(&section(|section| section.allow_auto = true)));
    }

    #[test]
    fn an_event_told_again_has_its_id_again() {
        let hook = HookName::parse("on-dm").unwrap();
        let first = item("hi");
        let again = InboxItem { id: ids::next(), recipient_kind: None, ..first.clone() };
        let id = occasion(&first).unwrap().id_for(&hook);
        assert_eq!(id, occasion(&again).unwrap().id_for(&hook));
        assert!(ulid::Ulid::from_string(&id).is_ok());
        let other = HookName::parse("home/on-dm").unwrap();
        assert_ne!(id, occasion(&first).unwrap().id_for(&other));
        for change in [
            |item: &mut InboxItem| item.client_message_id = "c2".to_owned(),
            |item: &mut InboxItem| item.sender_pubkey = "ef".repeat(32),
            |item: &mut InboxItem| item.mesh = "work".to_owned(),
        ] {
            let mut other = first.clone();
            change(&mut other);
            assert_ne!(id, occasion(&other).unwrap().id_for(&hook));
        }
    }

    #[test]
    fn the_most_specific_hook_comes_first() {
        let shown = |item: &InboxItem, mention| {
            stems(item, mention).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(&item("hi"), true), ["on-dm", "on-mention", "on-message"]);
        let mut post = item("hi");
        (post.channel, post.topic) = ("topic".to_owned(), Some("ci".to_owned()));
        assert_eq!(shown(&post, false), ["on-topic-ci", "on-message"]);
        post.channel = "group".to_owned();
        assert_eq!(shown(&post, false), ["on-message"]);
    }

    #[test]
    fn mentions_are_words_of_their_own() {
        let names = ["Ann Lee".to_owned(), "dev".to_owned()];
        for body in ["@dev", "hi @Dev!", "(@ann-lee)", "to @ann lee, now", "x\n@DEV"] {
            assert!(is_mention(&item(body), &names), "{body}");
        }
        for body in ["dev", "a@dev", "@devs", "@dev-2", "@dev_x", "@", "@ann", ""] {
            assert!(!is_mention(&item(body), &names), "{body}");
        }
        let mut listed = item("hi");
        listed.mentions = vec!["@Ann-Lee".to_owned()];
        assert!(is_mention(&listed, &names) && !is_mention(&listed, &[]));
        assert!(!is_mention(&item("@ @"), &[String::new(), "?".to_owned()]));
    }

    #[test]
    fn a_hook_reads_one_object_without_what_is_hidden_from_it() {
        let hook = HookName::parse("home/on-dm").unwrap();
        let section = section(|section| {
            section.redact_payload = vec![serde_json::from_value(json!("body.password")).unwrap()];
        });
        let occasion = occasion(&item("{\"password\":\"hunter2\",\"n\":1}")).unwrap();
        let bytes = occasion.input(&hook, &section, 10_000);
        let event: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(event["data"]["body"], "{\"password\":\"[redacted]\",\"n\":1}");
        assert_eq!(event["event_id"], occasion.id_for(&hook));
        let fields: Vec<_> = event.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["v", "hook", "event_id", "kind", "mesh", "ts", "data"]);
        assert_eq!(
            (&event["v"], &event["hook"], &event["kind"]),
            (&json!(1), &json!("on-dm"), &json!("message"))
        );
    }
}
