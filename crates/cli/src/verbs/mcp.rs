//! `mcp`: the MCP server on stdio, with this program's way to start a daemon (MCP spec §1, §3).

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use claudemesh_ipc::SessionToken;
use claudemesh_mcp::client_config::Program;
use claudemesh_mcp::{Ambient, Channel, EnsureDaemon, Options, Rules, ToolText};
use claudemesh_protocol::capability::{Capability, CapabilitySet};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{McpArgs, McpVerb, ToolTextWord};

mod tool_text;

/// Serves the client until it goes away; the exit code is the server's own.
pub(crate) fn run(context: Context, args: &McpArgs) -> ExitCode {
    if let Some(McpVerb::PrintConfig(wanted)) = &args.verb {
        return print_config(&context, wanted.client);
    }
    let (path, is_named) = context.policy_path();
    if is_named && !path.exists() {
        let failure = Failure::not_found(format!("policy file {} not found", path.display()))
            .action("claudemesh policy init");
        return ExitCode::from(context.out.failure(&failure));
    }
    let rules = Rules { path, is_named };
    let approval = match context.approval_mode() {
        Ok(approval) => approval,
        Err(failure) => return ExitCode::from(context.out.failure(&failure)),
    };
    let caps = match restriction(args) {
        Ok(caps) => caps,
        Err(failure) => return ExitCode::from(context.out.failure(&failure)),
    };
    let settings = claudemesh_daemon::settings::Settings::read(&context.paths.settings_file());
    let ambient = settings.as_ref().map(|settings| settings.ambient.clone()).unwrap_or_default();
    let config = context.config().ok();
    let display_name = config.and_then(|config| {
        let own = config.display_name().map(str::to_owned);
        own.or_else(|| config.meshes().next().map(|mesh| mesh.name.clone()))
    });
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let failure = Failure::io("cannot start the runtime", &error);
                return ExitCode::from(context.out.failure(&failure));
            }
        };
    let options = Options {
        paths: context.paths.clone(),
        mesh: context.global.mesh.clone(),
        tools: args.tools.clone(),
        caps,
        tool_text: match args.tool_text {
            ToolTextWord::Json => ToolText::Json,
            ToolTextWord::Human => ToolText::Human(Arc::new(tool_text::of)),
        },
        approval,
        rules,
        channel: if args.no_channel { Channel::Off } else { Channel::Push },
        ambient: if ambient.register { Ambient::Register } else { Ambient::Off },
        ambient_mesh: ambient.mesh.clone(),
        display_name,
        ensure_daemon: ensure_daemon(context),
    };
    runtime.block_on(claudemesh_mcp::run(options))
}

/// What the session may do at most (CLI spec §4.6). A launched session has its capabilities from its launch.
///
/// # Errors
/// Exit 3 for a word that is no capability, and inside a launched session.
fn restriction(args: &McpArgs) -> Outcome<Option<CapabilitySet>> {
    let Some(list) = &args.caps else { return Ok(None) };
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let caps = CapabilitySet::parse(words).map_err(|_| {
        let known: Vec<&str> = Capability::ALL.iter().map(|word| word.as_str()).collect();
        Failure::invalid(format!("mcp: --caps \"{list}\""))
            .detail(format!("expected: a list of {}", known.join(", ")))
    })?;
    if SessionToken::from_env().is_some() {
        return Err(Failure::invalid("mcp: --caps inside a session")
            .detail("a launched session has its capabilities from its launch"));
    }
    Ok(Some(caps))
}

/// Settings on standard output, and on standard error the file they go into. The program is named by its path: editors
/// that were not started by a shell do not know the shell's search path.
fn print_config(context: &Context, program: Program) -> ExitCode {
    let command = std::env::current_exe()
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| "claudemesh".to_owned());
    if let Err(error) = std::io::stdout().write_all(program.settings(&command).as_bytes()) {
        let failure = Failure::io("cannot write the settings", &error);
        return ExitCode::from(context.out.failure(&failure));
    }
    // A closed standard error changes nothing about what was printed.
    let _ = writeln!(std::io::stderr(), "# goes into {}", program.file());
    ExitCode::SUCCESS
}

/// The auto-spawn of every verb, without a word on stdout, which belongs to the protocol.
fn ensure_daemon(context: Context) -> EnsureDaemon {
    let context = Arc::new(context);
    Arc::new(move || {
        let context = Arc::clone(&context);
        Box::pin(async move {
            let started = Box::pin(context.start_daemon()).await;
            started.map(|_| ()).map_err(|failure| failure.message)
        })
    })
}
