//! The MCP face of claudemesh: a server over standard input and output that pushes what peers write into the agent's
//! conversation as `notifications/claude/channel`, and offers the operations of the table as tools to those who ask for
//! them (MCP spec §1, §3, §4, §6, §9).
//!
//! It talks to the daemon only, through its local API, and never to a broker. It outlives the daemon: clients do not
//! restart an MCP server that exits, so an unreachable daemon is waited for.
//!
//! # Why the JSON-RPC loop is our own
//! The source of the `rmcp` crate (3.9) was read first. Its stdio transport drops a line that is no JSON, or that is too
//! long, without the `-32700` the MCP spec §3 demands (one of its own tests fixes that), answers other misshapen requests
//! without their id, and takes `server/discover` for the start of a revision that cannot carry channel notifications.
//! What remains of MCP is a handshake and a few lists, which [`server`] answers from memory, and calls with cancellation
//! and progress, which are [`jobs`]; the schemas come from the operation table in any case. The official clients in
//! TypeScript and Python and the MCP Inspector talk to it in `make mcp-clients`, the first also in `make demo`.

pub mod channel;
pub mod client_config;
mod tools;
pub mod untrusted;

mod announcement;
mod clock;
mod completion;
mod instructions;
mod jobs;
mod link;
mod listener;
mod log;
mod message;
mod pace;
mod pipe;
mod resource;
mod road;
mod rpc;
mod seen;
mod server;
mod session;
mod stdio;
mod unread;
mod welcome;

use std::io::Write as _;
use std::process::ExitCode;

use claudemesh_ipc::{Paths, env};
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::MCP_FAREWELL;
use claudemesh_protocol::ops::policy::ApprovalMode;
use tokio::io::AsyncBufRead;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::link::EnsureDaemon;
pub use crate::session::{Ambient, Claim};
pub use crate::stdio::{Output, output_to};
pub use crate::tools::{
    Render, Rules, Shown, ToolText, Toolset, UnknownTools, entry as tool_entry,
};

/// Environment form of `--tools` (MCP spec §1).
pub const TOOLS_VARIABLE: &str = "CLAUDEMESH_MCP_TOOLS";
/// `1` asks for every tool (MCP spec §1).
pub const FAT_VARIABLE: &str = "CLAUDEMESH_MCP_FAT";

/// News of the daemon waiting for the pipe.
const NEWS_QUEUE: usize = 64;

/// Whether peers' messages are pushed into the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channel {
    /// They are.
    #[default]
    Push,
    /// `--no-channel`: the session is registered and nothing is pushed.
    Off,
}

/// What `claudemesh mcp` was told.
pub struct Options {
    /// Where the local files lie.
    pub paths: Paths,
    /// `--mesh`: pins the session and its events to one mesh.
    pub mesh: Option<String>,
    /// `--tools`.
    pub tools: Option<String>,
    /// `--caps`.
    pub caps: Option<CapabilitySet>,
    /// `--tool-text`.
    pub tool_text: ToolText,
    /// How much tools may do without a question.
    pub approval: ApprovalMode,
    /// The rules for tools.
    pub rules: Rules,
    /// `--no-channel`.
    pub channel: Channel,
    /// Whether a session without a launch registers itself: `ambient.register` of the daemon's settings.
    pub ambient: Ambient,
    /// `ambient.mesh` of the daemon's settings.
    pub ambient_mesh: Option<String>,
    /// The member's display name, for sessions that were not given one of their own.
    pub display_name: Option<String>,
    /// Makes the daemon run.
    pub ensure_daemon: EnsureDaemon,
}

/// What one server works with; [`run`] fills it from the process.
pub struct Server {
    /// Where the local files lie.
    pub paths: Paths,
    /// Which session it speaks for.
    pub claim: Claim,
    /// Whether it pushes.
    pub channel: Channel,
    /// What it offers.
    pub tools: Toolset,
    /// What stands in the text of their results.
    pub tool_text: ToolText,
    /// How much tools may do without a question.
    pub approval: ApprovalMode,
    /// The rules for tools.
    pub rules: Rules,
    /// Makes the daemon run.
    pub ensure_daemon: EnsureDaemon,
}

/// Serves the client at the other end of this process's standard input and output until it closes, or SIGTERM or SIGINT
/// comes. Exit codes: 0; 3 for a list of tools that does not exist; 10 when the pipes cannot be used.
pub async fn run(options: Options) -> ExitCode {
    let tools = match Toolset::parse(&tool_list(options.tools.as_deref())) {
        Ok(tools) => tools,
        Err(refusal) => {
            // A closed standard error changes nothing about the refusal.
            let _ = writeln!(std::io::stderr(), "{refusal}");
            return ExitCode::from(claudemesh_protocol::error::ExitCode::InvalidArgs as u8);
        }
    };
    log::start(options.paths.mcp_log_file(std::process::id()));
    let mut claim =
        Claim::read(options.mesh, options.ambient, options.ambient_mesh, options.display_name);
    claim.caps = options.caps;
    let server = Server {
        paths: options.paths,
        claim,
        channel: options.channel,
        tools,
        tool_text: options.tool_text,
        approval: options.approval,
        rules: options.rules,
        ensure_daemon: options.ensure_daemon,
    };
    let cancel = CancellationToken::new();
    let serving = async {
        let (input, output) = (stdio::stdin()?, stdio::stdout()?);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = cancel.clone();
        tokio::select! {
            () = serve(server, input, output, cancel) => {}
            () = async {
                tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
                stop.cancel();
                std::future::pending::<()>().await;
            } => {}
        }
        std::io::Result::Ok(())
    };
    match serving.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve on standard input and output");
            ExitCode::from(claudemesh_protocol::error::ExitCode::Io as u8)
        }
    }
}

/// Serves one client until its input ends, it stops reading, or `cancel` is cancelled; then everything that was started
/// is stopped within [`MCP_FAREWELL`].
pub async fn serve<R>(server: Server, input: R, output: Output, cancel: CancellationToken)
where
    R: AsyncBufRead + Unpin,
{
    let (client_tx, client_rx) = watch::channel(server::Client::Unknown);
    let (news_tx, news_rx) = mpsc::channel(NEWS_QUEUE);
    let (marks, carry_marks) = seen::marks();
    let (watched_tx, watcher) = resource::subscription();
    let (served_tx, served_rx) = watch::channel(None);
    let pipe = pipe::Pipe::new(pipe::Parts {
        output: output.clone(),
        news_rx,
        client_rx: client_rx.clone(),
        served_rx: served_rx.clone(),
        marks,
        mesh: server.claim.mesh.clone(),
        channel: server.channel,
        watcher,
    });
    let (road_works, road) = road::road();
    let tally = tools::Tally::default();
    let reporting = tally.clone().keep_reporting(road.clone());
    let runner = tools::Runner {
        gate: tools::Gate {
            mode: server.approval,
            rules: server.rules,
            audit_file: server.paths.audit_file(),
        },
        road,
        questions: tools::Questions::new(output.clone()),
        text: server.tool_text,
        tally: tally.clone(),
    };
    let mesh = server.claim.mesh.clone();
    let face = server::Face::new(server.channel, server.tools, mesh, watched_tx, served_tx);
    let tasks = TaskTracker::new();
    let link = link::Link {
        paths: server.paths,
        ensure_daemon: server.ensure_daemon,
        registrar: session::Registrar::new(server.claim, clock::now()),
        news_tx,
        client_rx,
        served_rx,
        road: road_works,
        tally,
        marking: tasks.spawn(carry_marks),
        cancel: cancel.clone(),
    };
    let jobs = jobs::Jobs::new(runner, output.clone(), tasks.clone(), cancel.clone());
    let pipe_cancel = cancel.clone();
    tasks.spawn(async move {
        pipe_cancel.run_until_cancelled(Box::pin(pipe.run())).await;
    });
    let reporting_cancel = cancel.clone();
    tasks.spawn(async move {
        reporting_cancel.run_until_cancelled(reporting).await;
    });
    tasks.spawn(link.run());
    tasks.close();

    // A dropped call stops what it started, as an ended one does.
    let _stop_all = cancel.clone().drop_guard();
    let answering = answer_lines(input, &output, &client_tx, face, &jobs);
    tokio::select! {
        () = answering => {}
        () = output.closed() => {}
        () = cancel.cancelled() => {}
    }
    cancel.cancel();
    if tokio::time::timeout(MCP_FAREWELL, tasks.wait()).await.is_err() {
        tracing::info!("the daemon did not take the farewell in time");
    }
}

async fn answer_lines<R: AsyncBufRead + Unpin>(
    input: R,
    output: &Output,
    client_tx: &watch::Sender<server::Client>,
    mut face: server::Face,
    jobs: &jobs::Jobs,
) {
    let mut lines = stdio::Lines::new(input);
    loop {
        let answer = match lines.next().await {
            Ok(Some(read)) => face.answer(&read),
            Ok(None) => return,
            Err(error) => {
                tracing::info!(%error, "standard input cannot be read");
                return;
            }
        };
        let reply = match answer.step {
            server::Step::Nothing => None,
            server::Step::Reply(reply) => Some(reply),
            server::Step::Begin(job) => jobs.begin(*job),
            server::Step::Cancel(id) => {
                jobs.cancel(&id);
                None
            }
            server::Step::Answered { id, result } => {
                jobs.answer(&id, result);
                None
            }
        };
        if let Some(reply) = reply
            && output.write(&reply).await.is_err()
        {
            return;
        }
        if answer.client == server::Client::Ready {
            client_tx.send_if_modified(|client| {
                std::mem::replace(client, answer.client) != answer.client
            });
        }
    }
}

/// The list of tools: the flag, else the environment; nothing when neither speaks.
fn tool_list(flag: Option<&str>) -> String {
    let fat = env::is_on(FAT_VARIABLE).then(|| "all".to_owned());
    flag.map(str::to_owned).or_else(|| env::text(TOOLS_VARIABLE)).or(fat).unwrap_or_default()
}
