//! A sender, a recipient's daemon on the files of a home, and an agent whose record is written by hand, as Claude Code
//! 2.1.329 writes it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use claudemesh_agents::render::{Provenance, frame, words};
use claudemesh_daemon::Running;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::session::{DeliveryPath, HookEvent, PathState};
use claudemesh_ipc::api::{InboxItem, RecipientProgress, StatusReply, StatusReport};
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::wire::ReceiptState;
use serde_json::{Value, json};

use crate::local::world::{Home, register};
use crate::mesh::node::{Node, SLUG, World, until};

/// The first session.
pub const FIRST: u8 = 1;

pub struct Stage {
    pub world: World,
    /// Who sends.
    pub ana: Node,
    pub home: Home,
}

/// An agent session of the recipient.
pub struct Agent {
    pub client: Client,
    pub key: PublicKey,
    pub record: Record,
}

impl Stage {
    pub async fn new() -> Self {
        let world = World::new(2).await;
        let ana = Node::open(world.entry(0)).await;
        let home = Home::new();
        home.join_as(world.entry(1));
        Self { world, ana, home }
    }

    /// The recipient's member key.
    pub fn member(&self) -> PublicKey {
        self.world.key(1)
    }

    /// A session with a record that is there and empty.
    pub async fn agent(&self, running: &Running, byte: u8) -> Agent {
        let (client, reply) = register(running, SLUG, byte, |_| {}).await;
        let record = Record::new(self.home.path(), &format!("record-{byte}"));
        record.append(&[]);
        let key = reply.session_pubkey.unwrap();
        let agent = Agent { client, key, record };
        agent.is_open().await;
        agent
    }

    /// Sends to this key; answers the sender's id once the recipient has it.
    pub async fn send(&self, running: &Running, to: PublicKey, text: &str) -> String {
        let id = self.ana.send_to_key(to, text).await;
        let inbox = &running.daemon().context().inbox;
        until("it has arrived", async || {
            let found = inbox.by_message_id(SLUG, &id).await.unwrap();
            !found.is_empty()
        })
        .await;
        id
    }

    /// How far the sender knows its message to have come, at the first recipient it heard of.
    pub async fn progress(&self, id: &str) -> Option<RecipientProgress> {
        progress(&self.ana, id).await
    }

    /// Waits until the sender knows that.
    pub async fn comes(&self, id: &str, state: ReceiptState) -> RecipientProgress {
        comes(&self.ana, id, state).await
    }
}

pub async fn progress(sender: &Node, id: &str) -> Option<RecipientProgress> {
    let mut rows = sender.outbox.by_id(id).await.unwrap();
    if rows.is_empty() { None } else { rows.remove(0).receipts.into_iter().next() }
}

pub async fn comes(sender: &Node, id: &str, state: ReceiptState) -> RecipientProgress {
    until(&format!("the sender hears of {}", state.as_str()), async || {
        progress(sender, id).await.is_some_and(|progress| progress.state == state)
    })
    .await;
    progress(sender, id).await.unwrap()
}

impl Agent {
    async fn is_open(&self) {
        until("the session is connected", async || {
            let session = self.client.session().await.unwrap();
            session.broker_status == Some(claudemesh_ipc::api::MeshStatus::Open)
        })
        .await;
    }

    /// A hook of it reports, and takes what it may.
    pub async fn hook(&self, event: HookEvent) -> StatusReply {
        self.hook_naming(event, &self.record.path).await
    }

    /// A hook that names another record.
    pub async fn hook_naming(&self, event: HookEvent, record: &Path) -> StatusReply {
        let report = StatusReport {
            event: Some(event),
            take: true,
            agent: Some("claude".to_owned()),
            transcript: Some(record.to_str().unwrap().to_owned()),
            ..StatusReport::default()
        };
        let reply = self.client.session_status(&report).await.unwrap();
        assert_eq!(reply.matched, 1);
        reply
    }

    /// A hook that takes exactly this message.
    pub async fn takes(&self, event: HookEvent, text: &str) -> InboxItem {
        let mut messages = self.hook(event).await.messages;
        assert_eq!(messages.len(), 1, "{messages:?}");
        let item = messages.remove(0);
        assert_eq!(item.body.as_deref(), Some(text));
        item
    }

    pub async fn path(&self, path: DeliveryPath) -> Option<PathState> {
        let paths = self.client.session().await.unwrap().paths;
        paths.into_iter().find(|view| view.path == path).map(|view| view.state)
    }

    pub async fn record_is(&self, state: PathState) {
        until(&format!("the record is {state:?}"), async || {
            self.path(DeliveryPath::Record).await == Some(state)
        })
        .await;
    }
}

/// A transcript.
pub struct Record {
    pub path: PathBuf,
}

impl Record {
    pub fn new(home: &Path, name: &str) -> Self {
        let dir = home.join(".claude/projects/-work");
        std::fs::create_dir_all(&dir).unwrap();
        Self { path: dir.join(format!("{name}.jsonl")) }
    }

    pub fn append(&self, entries: &[Value]) {
        self.append_text(&lines(entries));
    }

    pub fn append_text(&self, text: &str) {
        let mut options = std::fs::File::options();
        let mut file = options.create(true).append(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

pub fn lines(entries: &[Value]) -> String {
    let lines: Vec<String> = entries.iter().map(|entry| format!("{entry}\n")).collect();
    lines.concat()
}

/// A hook's context that holds a message.
pub fn shown(item: &InboxItem) -> Value {
    let text = frame(&Provenance::of(item, &[]), words(item), usize::MAX);
    json!({ "type": "attachment", "uuid": "0a1b2c3d-0000-4000-8000-000000000000", "isSidechain": false,
            "timestamp": "2026-01-01T00:00:00.000Z",
            "attachment": { "type": "hook_additional_context", "hookEvent": "UserPromptSubmit",
                            "content": [format!("claudemesh: 1 unread\n{text}")] } })
}

/// The model is asked.
pub fn asked() -> Value {
    json!({ "type": "api-request", "querySource": "repl_main_thread" })
}

/// The turn is over.
pub fn ended() -> Value {
    json!({ "type": "system", "subtype": "turn_duration", "isSidechain": false })
}

/// Something else.
pub fn noise() -> Value {
    json!({ "type": "file-history-snapshot", "messageId": "x" })
}
