//! `mcp`: the MCP server on stdio, with this program's way to start a daemon (MCP spec §1, §3).

use std::process::ExitCode;
use std::sync::Arc;

use claudemesh_mcp::{Ambient, Channel, EnsureDaemon, Options};

use crate::context::Context;
use crate::grammar::args::McpArgs;

/// Serves the client until it goes away; the exit code is the server's own.
pub(crate) fn run(context: Context, args: &McpArgs) -> ExitCode {
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
                let failure = crate::failure::Failure::io("cannot start the runtime", &error);
                return ExitCode::from(context.out.failure(&failure));
            }
        };
    let options = Options {
        paths: context.paths.clone(),
        mesh: context.global.mesh.clone(),
        tools: args.tools.clone(),
        channel: if args.no_channel { Channel::Off } else { Channel::Push },
        ambient: if ambient.register { Ambient::Register } else { Ambient::Off },
        ambient_mesh: ambient.mesh.clone(),
        display_name,
        ensure_daemon: ensure_daemon(context),
    };
    runtime.block_on(claudemesh_mcp::run(options))
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
