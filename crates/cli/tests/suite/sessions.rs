//! Sessions of agents beside the command line: fan-out to siblings, rows of peers, the MCP server's first words.

use claudemesh_ipc::api::{RegisterRequest, StatusReport};
use claudemesh_ipc::{Client, SessionToken};
use claudemesh_protocol::PeerStatus;
use claudemesh_protocol::capability::CapabilitySet;
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
        Self::with(home, number, name, None)
    }

    /// A session that may do no more than this.
    pub fn restricted(home: &Home, number: u8, name: &str, caps: CapabilitySet) -> Self {
        Self::with(home, number, name, Some(caps))
    }

    fn with(home: &Home, number: u8, name: &str, caps: Option<CapabilitySet>) -> Self {
        let token = SessionToken::from_bytes(&[number; 32]);
        let id = format!("00000000-0000-4000-8000-0000000000{number:02}");
        let mut request = RegisterRequest::stored(
            token.clone(),
            id.clone(),
            "home".into(),
            name.into(),
            std::process::id(),
        );
        request.caps = caps;
        let revealed = token.reveal().to_owned();
        let client = Client::new(home.file("daemon/daemon.sock")).with_token(Some(token));
        let reply = wait(client.register_session(&request)).unwrap();
        assert!(reply.ok && reply.presence_accepted, "{reply:?}");
        Self { client, token: revealed, id }
    }

    /// Its session id.
    pub fn id(&self) -> &str {
        &self.id
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

    /// The command line inside this session.
    pub fn command(&self, home: &Home, words: &[&str]) -> std::process::Command {
        let mut command = home.command(words);
        command.env("CLAUDEMESH_IPC_TOKEN", &self.token);
        command
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

/// An MCP client on stdio: asks for these tools, and leaves when every call is answered. The results, by order of the
/// calls; of an error of the protocol that.
fn called(home: &Home, words: &[&str], calls: &[(&str, Value)]) -> Vec<Value> {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::Stdio;

    let mut child =
        home.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let hello = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } },
    });
    writeln!(input, "{hello}").unwrap();
    writeln!(input, "{}", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
        .unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let results = calls
        .iter()
        .zip(2_u32..)
        .map(|((tool, arguments), id)| {
            let call = json!({
                "jsonrpc": "2.0", "id": id, "method": "tools/call",
                "params": { "name": tool, "arguments": arguments },
            });
            writeln!(input, "{call}").unwrap();
            loop {
                let answer: Value =
                    serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
                if answer["id"] == id {
                    let kind = if answer["error"].is_null() { "result" } else { "error" };
                    break answer[kind].clone();
                }
            }
        })
        .collect();
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    results
}

/// CLI spec §4.6: a person restricts a session; it stays visible, and what it may not do is refused with the word that is
/// missing. An unknown word is refused before anything starts.
#[test]
fn an_mcp_session_is_restricted_by_its_person() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let words = ["mcp", "--tools", "v1", "--caps", "dm,read", "--mesh", "home"];
    let results = called(
        &ana,
        &words,
        &[
            ("list_peers", json!({})),
            ("send_message", json!({ "to": "Bob", "message": "hello" })),
            ("set_state", json!({ "key": "k", "value": 1 })),
            ("send_message", json!({ "to": "@all", "message": "hello" })),
        ],
    );
    for allowed in &results[..2] {
        assert_ne!(allowed["isError"], true, "{allowed}");
    }
    for (refused, capability) in results[2..].iter().zip(["state-write", "broadcast"]) {
        assert_eq!(refused["isError"], true, "{refused}");
        assert!(refused.to_string().contains(capability), "{refused}");
    }
    let ran = ana.run(&["mcp", "--caps", "dm,fly"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("expected: a list of") && ran.stderr.contains("state-write"));
    let agent = Agent::register(&ana, 9, "builder");
    let ran = agent.command(&ana, &["mcp", "--caps", "dm"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
}

/// A server that is restricted and cannot have its session speaks for nobody: with two meshes and none chosen there is
/// no session to register, and the member is not its substitute.
#[test]
fn a_restricted_server_never_falls_back_to_the_member() {
    let ana = Home::new();
    ana.up();
    ana.ok(&["create", "Second"]);
    let write = ("set_state", json!({ "key": "k", "value": 1, "mesh": "home" }));
    let results = called(&ana, &["mcp", "--tools", "v1", "--caps", ""], &[write]);
    let is_refused = results[0]["isError"] == true || results[0]["code"].is_i64();
    assert!(is_refused, "{results:?}");
    assert_eq!(ana.run(&["state", "get", "k", "--mesh", "home"]).code, 5);
}
