//! An MCP client over in-memory pipes that checks every notification it receives against what the real one enforces.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_agents::render::read;
use claudemesh_ipc::Paths;
use claudemesh_mcp::{
    Ambient, Channel, Claim, EnsureDaemon, Rules, Server, ToolText, Toolset, output_to, serve,
};
use claudemesh_protocol::ops::policy::ApprovalMode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::Daemon;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server and the client's ends of its pipes.
pub struct Client {
    pub input: Option<DuplexStream>,
    lines: Option<Lines<BufReader<DuplexStream>>>,
    next_id: u64,
    pub cancel: CancellationToken,
    tasks: TaskTracker,
    serving: AbortHandle,
}

/// A session claim without anything.
pub fn claim() -> Claim {
    Claim {
        token: None,
        session_id: None,
        pid: std::process::id(),
        mesh: None,
        ambient_mesh: None,
        ambient: Ambient::Register,
        display_name: "Ben".into(),
        role: None,
        cwd: None,
        caps: None,
    }
}

/// Says that the daemon is there, or why not, as the flag tells.
pub fn always_there() -> EnsureDaemon {
    Arc::new(|| Box::pin(async { Ok(()) }))
}

/// A server without tools, for the daemon in this home.
fn server(home: &std::path::Path) -> Server {
    let paths = Paths::for_home(home);
    Server {
        rules: Rules { path: paths.policy_file(), is_named: false },
        paths,
        claim: claim(),
        channel: Channel::Push,
        tools: Toolset::default(),
        tool_text: ToolText::Json,
        approval: ApprovalMode::Write,
        ensure_daemon: always_there(),
    }
}

impl Client {
    /// A server for `daemon` with an ambient session.
    pub fn start(daemon: &Daemon) -> Self {
        Self::start_with(daemon, claim(), Channel::Push, always_there())
    }

    /// A server with everything chosen.
    pub fn start_with(
        daemon: &Daemon,
        claim: Claim,
        channel: Channel,
        ensure_daemon: EnsureDaemon,
    ) -> Self {
        let mut server = server(&daemon.home());
        server.claim = claim;
        server.channel = channel;
        server.ensure_daemon = ensure_daemon;
        Self::of(server)
    }

    /// A server that offers `tools`, changed by `change`, after a handshake with these capabilities of the client.
    pub async fn with_tools(
        home: &std::path::Path,
        tools: &str,
        capabilities: Value,
        change: impl FnOnce(&mut Server),
    ) -> Self {
        let mut server = server(home);
        server.tools = Toolset::parse(tools).unwrap();
        server.channel = Channel::Off;
        change(&mut server);
        let mut client = Self::of(server);
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {}});
        client.ask("initialize", params).await;
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        client
    }

    /// A server that offers `tools` and pushes, before the handshake.
    pub fn with_channel(home: &std::path::Path, tools: &str) -> Self {
        let mut server = server(home);
        server.tools = Toolset::parse(tools).unwrap();
        Self::of(server)
    }

    /// A running server.
    pub fn of(server: Server) -> Self {
        let (input, server_input) = tokio::io::duplex(64 * 1024);
        let (server_output, output) = tokio::io::duplex(64 * 1024);
        let (writer, pump) = output_to(server_output);
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(pump);
        let serving = tasks.spawn(Box::pin(serve(
            server,
            BufReader::new(server_input),
            writer,
            cancel.clone(),
        )));
        let serving = serving.abort_handle();
        tasks.close();
        let lines = Some(BufReader::new(output).lines());
        Self { input: Some(input), lines, next_id: 0, cancel, tasks, serving }
    }

    /// Writes raw bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    /// Writes one JSON line.
    pub async fn send(&mut self, value: &Value) {
        self.write(format!("{value}\n").as_bytes()).await;
    }

    /// Asks and returns the answer; notifications in between are dropped.
    pub async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        loop {
            let line = self.line().await;
            if line["id"] == id {
                return line;
            }
        }
    }

    /// Calls a tool and returns the whole answer line.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Calls a tool that must succeed and returns its structured result, which its text repeats.
    pub async fn done(&mut self, tool: &str, arguments: Value) -> Value {
        let reply = self.call(tool, arguments).await;
        let result = &reply["result"];
        assert!(result["isError"].is_null() && reply["error"].is_null(), "{tool}: {reply}");
        let text = result["content"][0]["text"].as_str().unwrap();
        let structured = result["structuredContent"].clone();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), structured);
        structured
    }

    /// Calls a tool that must fail and returns its error.
    pub async fn failed(&mut self, tool: &str, arguments: Value) -> Value {
        let reply = self.call(tool, arguments).await;
        assert_eq!(reply["result"]["isError"], true, "{tool}: {reply}");
        reply["result"]["structuredContent"]["error"].clone()
    }

    /// Begins a tool call and returns its id without waiting.
    pub async fn begin(&mut self, tool: &str, arguments: Value, meta: Value) -> u64 {
        self.next_id += 1;
        let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
        let line =
            json!({"jsonrpc": "2.0", "id": self.next_id, "method": "tools/call", "params": params});
        self.send(&line).await;
        self.next_id
    }

    /// The whole handshake.
    pub async fn shake_hands(&mut self) -> Value {
        let reply = self
            .ask(
                "initialize",
                json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}),
            )
            .await;
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        reply
    }

    /// The next line, whatever it is; strict JSON or the test fails.
    pub async fn line(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.as_mut().unwrap().next_line()).await;
        let line = line.expect("a line in time").unwrap().expect("the server still writes");
        let value: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert_eq!(value["jsonrpc"], "2.0");
        value
    }

    /// The next channel notification, checked; anything else before it is dropped.
    pub async fn pushed(&mut self) -> Push {
        loop {
            let line = self.line().await;
            if line["method"] == "notifications/claude/channel" {
                return Push::check(&line);
            }
        }
    }

    /// The next channel notification that is not the welcome.
    pub async fn pushed_message(&mut self) -> Push {
        loop {
            let push = self.pushed().await;
            if push.kind() != "welcome" {
                return push;
            }
        }
    }

    /// Closes the server's input and waits for its end; panics after a second.
    pub async fn close(mut self) {
        self.input = None;
        let mut lines = self.lines.take().unwrap();
        let drain = async { while let Ok(Some(_)) = lines.next_line().await {} };
        let end = async { tokio::join!(self.tasks.wait(), drain) };
        tokio::time::timeout(Duration::from_secs(1), end).await.expect("gone within a second");
    }

    /// Ends the server where it stands, without a farewell; what it had written is returned.
    pub async fn kill(mut self) -> Vec<Push> {
        self.serving.abort();
        let mut rest = Vec::new();
        let mut lines = self.lines.take().unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["method"] == "notifications/claude/channel" {
                rest.push(Push::check(&line));
            }
        }
        self.tasks.wait().await;
        rest
    }

    /// Closes the server's output.
    pub fn stop_reading(&mut self) {
        self.lines = None;
    }

    /// Waits for the server's end.
    pub async fn ended(&self) {
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("the server ended");
    }
}

/// One channel notification that passed the client's checks.
#[derive(Debug)]
pub struct Push {
    pub content: String,
    pub meta: serde_json::Map<String, Value>,
}

impl Push {
    /// What the real client enforces: content is text, attributes have identifier names and string values.
    fn check(line: &Value) -> Self {
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["jsonrpc", "method", "params"]);
        let content = line["params"]["content"].as_str().expect("content is a string").to_owned();
        assert!(!content.is_empty() && content.len() <= 32 * 1024);
        let meta = line["params"]["meta"].as_object().expect("meta is an object").clone();
        let mut total = content.len();
        for (key, value) in &meta {
            let mut chars = key.chars();
            assert!(chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_'), "{key}");
            assert!(chars.all(|c| c.is_ascii_alphanumeric() || c == '_'), "{key}");
            let value = value.as_str().unwrap_or_else(|| panic!("{key} is not a string"));
            assert!(value.len() <= 1024 && !value.contains('\n'), "{key}");
            total += key.len() + value.len();
        }
        assert!(total <= 48 * 1024);
        Self { content, meta }
    }

    pub fn kind(&self) -> &str {
        self.get("kind")
    }

    /// `<name>: <words>` of the one message that it frames.
    pub fn said(&self) -> String {
        let framed = read(&self.content);
        assert_eq!(framed.len(), 1, "{}", self.content);
        format!("{}: {}", framed[0].name, framed[0].body)
    }

    /// The first line of the frame: who speaks.
    pub fn head(&self) -> &str {
        self.content.lines().next().unwrap()
    }

    pub fn get(&self, key: &str) -> &str {
        self.meta.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}
