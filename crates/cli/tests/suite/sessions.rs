//! Sessions of agents beside the command line: fan-out to siblings, rows of peers, the MCP server's first words.

use claudemesh_ipc::api::{RegisterRequest, StatusReport};
use claudemesh_ipc::{Client, SessionToken};
use claudemesh_protocol::PeerStatus;
use serde_json::{Value, json};

use crate::home::{Home, two_people, until};

/// Runs a call of the local API.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A session of this test process with a token of its own.
pub struct Agent {
    pub client: Client,
    /// Its token, as hex.
    pub token: String,
    id: String,
}

impl Agent {
    pub fn register(home: &Home, number: u8, name: &str) -> Self {
        let token = SessionToken::from_bytes(&[number; 32]);
        let id = format!("00000000-0000-4000-8000-0000000000{number:02}");
        let request = RegisterRequest::stored(
            token.clone(),
            id.clone(),
            "home".into(),
            name.into(),
            std::process::id(),
        );
        let revealed = token.reveal().to_owned();
        let client = Client::new(home.file("daemon/daemon.sock")).with_token(Some(token));
        let reply = wait(client.register_session(&request)).unwrap();
        assert!(reply.ok && reply.presence_accepted, "{reply:?}");
        Self { client, token: revealed, id }
    }

    pub fn is(&self, status: PeerStatus) {
        let report = StatusReport {
            session_id: Some(self.id.clone()),
            status: Some(status),
            ..StatusReport::default()
        };
        let reply = wait(self.client.session_status(&report)).unwrap();
        assert!(reply.ok, "{reply:?}");
    }

    /// A run of the command line inside this session; what it wrote.
    pub fn ok(&self, home: &Home, words: &[&str]) -> String {
        let ran = home.command(words).env("CLAUDEMESH_IPC_TOKEN", &self.token).output().unwrap();
        assert!(ran.status.success(), "{words:?}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }

    pub fn end(&self) {
        wait(self.client.deregister_session()).unwrap();
    }
}

/// CLI spec §3.6: `--self` reaches the other own sessions and not the caller.
#[test]
fn self_reaches_the_sibling_sessions() {
    let (ana, bob) = two_people();
    let tokens: Vec<String> = [(1, "one"), (2, "two"), (3, "three")]
        .into_iter()
        .map(|(number, name)| Agent::register(&ana, number, name).token)
        .collect();
    until("Bob sees all three", || {
        let peers = bob.ok(&["peers"]);
        ["one", "two", "three"].iter().all(|name| peers.contains(name))
    });
    let own = ana.json_ok(&["members"]);
    let own =
        own.as_array().unwrap().iter().find(|row| row["isSelf"] == true).unwrap()["pubkey"].clone();
    let own = own.as_str().unwrap();
    let refused = ana.run(&["send", own, "hi"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    let mut command = ana.command(&["send", "--self", own, "hi", "--json"]);
    let output = command.env("CLAUDEMESH_IPC_TOKEN", &tokens[0]).output().unwrap();
    let sent: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (sent["outcome"].as_str(), output.status.code()),
        (Some("fanout"), Some(0)),
        "{sent}"
    );
    assert_eq!(sent["results"].as_array().unwrap().len(), 2, "{sent}");
    let others = ana.json_ok(&["inbox", "--peek"]);
    assert!(others.as_array().unwrap().iter().all(|item| item["body"] == "hi"));
}

/// CLI spec §3.4.1, §1.13: markers, and the session's own mesh.
#[test]
fn a_session_sees_itself_first() {
    let (ana, _bob) = two_people();
    let token = Agent::register(&ana, 7, "builder").token;
    until("the session is listed", || ana.ok(&["peers"]).contains("builder"));
    let output = ana.command(&["peers"]).env("CLAUDEMESH_IPC_TOKEN", &token).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("builder (this session)"), "{text}");
    let output =
        ana.command(&["whoami", "--json"]).env("CLAUDEMESH_IPC_TOKEN", &token).output().unwrap();
    let me: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(me["session"]["display_name"], "builder", "{me}");
    assert!(!me.to_string().contains(&token) && !me.to_string().contains("secret"));
}

/// The MCP server answers its client and ends with it.
#[test]
fn mcp_speaks_on_stdio() {
    let (ana, _bob) = two_people();
    let hello = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } },
    });
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let ran = ana.feed(&["mcp"], format!("{hello}\n{list}\n").as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    let answers: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0]["id"], 1);
    assert!(
        answers[0]["result"]["capabilities"]["experimental"]["claude/channel"].is_object(),
        "{ran:?}"
    );
    assert_eq!(answers[1]["result"]["tools"], json!([]));
}
