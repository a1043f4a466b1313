//! From the process's arguments to its exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use claudemesh_protocol::error::ErrorCode;

use crate::context::Context;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::{Cli, Command, DaemonUpArgs, DaemonVerb};
use crate::grammar::classify::{Invocation, Words, classify};
use crate::grammar::{self, Invoked, Parsed};
use crate::output::Output;
use crate::{detach, help, hook, hook_run, status_line, verbs};

/// Program name under which this binary is the broker alone.
const BROKER_PROGRAM: &str = "claudemesh-broker";

/// Runs one invocation; the exit code of the process.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments;
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(code) = hook_run::enter(&arguments) {
        return code;
    }
    if let Some(code) = hook::enter(&arguments).or_else(|| status_line::enter(&arguments)) {
        return code;
    }
    let environment = Environment::read();
    let args = match texts(arguments.into_iter()) {
        Ok(args) => args,
        Err(failure) => return refused(&[], &environment, &failure),
    };
    let args = match detach::enter(args) {
        Ok(args) => args,
        Err(failure) => return refused(&[], &environment, &failure),
    };
    let args = for_program(&program, args);
    match classify(&args) {
        Ok(Invocation::Version) => print(&version_line()),
        Ok(Invocation::Help(page)) => {
            let out = Output::new(grammar::scanned_flags(&args), &environment);
            print_page(&out, &help::page(page.as_deref(), out.stdout_style()))
        }
        Ok(Invocation::Bare(flags)) => bare(&flags, environment),
        Ok(Invocation::Command(words)) => command(&words, environment),
        Err(failure) => refused(&args, &environment, &failure),
    }
}

/// `claudemesh 0.1.0`
fn version_line() -> String {
    format!("claudemesh {}\n", env!("CARGO_PKG_VERSION"))
}

fn texts(arguments: impl Iterator<Item = OsString>) -> Outcome<Vec<String>> {
    arguments
        .map(|argument| {
            argument.into_string().map_err(|_| Failure::invalid("arguments must be UTF-8"))
        })
        .collect()
}

/// `claudemesh-broker X` is `claudemesh broker X`.
fn for_program(program: &OsString, args: Vec<String>) -> Vec<String> {
    let name = Path::new(program).file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    if name == BROKER_PROGRAM {
        return std::iter::once("broker".to_owned()).chain(args).collect();
    }
    args
}

fn print(text: &str) -> ExitCode {
    // Nobody reading the help any more is no failure.
    Output::stream(text);
    ExitCode::SUCCESS
}

/// A page of the parser, whose signs are ours too.
fn print_page(out: &Output, text: &str) -> ExitCode {
    print(&out.stdout_style().characters(text))
}

fn refused(args: &[String], environment: &Environment, failure: &Failure) -> ExitCode {
    ExitCode::from(Output::new(grammar::scanned_flags(args), environment).failure(failure))
}

/// No command: flags only, or nothing at all.
fn bare(flags: &[String], environment: Environment) -> ExitCode {
    let words = Words {
        spoken: "claudemesh".to_owned(),
        canonical: "mesh list",
        operation: None,
        is_resource: false,
        args: ["mesh", "list"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain(flags.iter().cloned())
            .collect(),
    };
    let parsed = grammar::parse(&words, false);
    let cli = match parsed {
        Ok(Parsed::Run(cli)) => cli,
        Ok(Parsed::Help(text)) => return print(&text),
        // Its words are none of the operation table.
        Ok(Parsed::Operation(_)) => return ExitCode::SUCCESS,
        Err(failure) => return refused(flags, &environment, &failure),
    };
    let context = match Context::new(cli.global, environment, &words) {
        Ok(context) => context,
        Err(refusal) => return ExitCode::from(refusal.0.failure(&refusal.1)),
    };
    let fields = verbs::welcome::FIELDS;
    finish(&context, fields, verbs::welcome::run(&context))
}

fn command(words: &Words, environment: Environment) -> ExitCode {
    if words.canonical == "broker" {
        return verbs::broker::run(words, &environment);
    }
    let scanned = grammar::scanned_flags(&words.args);
    let out = Output::new(scanned, &environment);
    let parsed = match grammar::parse(words, out.stdout_style().colour) {
        Ok(Parsed::Help(text)) => return print_page(&out, &text),
        Ok(parsed) => parsed,
        Err(failure) => return ExitCode::from(out.failure(&failure)),
    };
    let global = match &parsed {
        Parsed::Run(cli) => cli.global.clone(),
        Parsed::Operation(invoked) => invoked.global.clone(),
        Parsed::Help(text) => return print(text),
    };
    let context = match Context::new(global, environment, words) {
        Ok(context) => context,
        Err(refusal) => return ExitCode::from(refusal.0.failure(&refusal.1)),
    };
    match parsed {
        Parsed::Run(cli) => execute(*cli, context),
        Parsed::Operation(invoked) => operate(&invoked, &context),
        Parsed::Help(text) => print(&text),
    }
}

/// Runs an operation of the table.
fn operate(invoked: &Invoked, context: &Context) -> ExitCode {
    let names = verbs::operation::field_names(invoked.kind);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fields = verbs::operation::fields(&names);
    if let Err(failure) = context.out.check_fields(fields) {
        return ExitCode::from(context.out.failure(&failure));
    }
    let result = current_thread().and_then(|runtime| {
        let work = Box::pin(verbs::operation::run(context, invoked));
        let result = runtime.block_on(to_the_end(context, work));
        runtime.shutdown_background();
        result
    });
    finish(context, fields, result)
}

/// True for verbs that set up or look after the daemon of this home, and for no ephemeral one.
fn means_the_lasting_daemon(command: &Command) -> bool {
    match command {
        Command::Up(_)
        | Command::Down(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Install(_)
        | Command::Uninstall(_) => true,
        Command::Daemon(verb) => match verb {
            DaemonVerb::Up(DaemonUpArgs { start, .. }) | DaemonVerb::Restart(start) => {
                start.persistent
            }
            DaemonVerb::InstallService(_)
            | DaemonVerb::UninstallService
            | DaemonVerb::AcceptHost
            | DaemonVerb::Remint(_)
            | DaemonVerb::Recover(_)
            | DaemonVerb::Reset(_)
            | DaemonVerb::Uninstall(_) => true,
            _ => false,
        },
        _ => false,
    }
}

fn execute(cli: Cli, mut context: Context) -> ExitCode {
    if means_the_lasting_daemon(&cli.command) {
        // Whatever other one was found.
        context.paths = context.paths.persistent();
    }
    match cli.command {
        Command::Mcp(args) => verbs::mcp::run(context, &args),
        Command::Hook(args) => hook::run(&args.words()),
        Command::StatusLine => status_line::run(),
        Command::Daemon(DaemonVerb::Up(up)) if up.foreground => {
            verbs::daemon::foreground(&context, &up.start)
        }
        Command::Daemon(DaemonVerb::Logs(logs)) => {
            ExitCode::from(match verbs::logs::run(&context, &logs) {
                Ok(exit) => exit,
                Err(failure) => context.out.failure(&failure),
            })
        }
        command => {
            let context = &context;
            let fields = verbs::fields(&command);
            if let Err(failure) = context.out.check_fields(fields) {
                return ExitCode::from(context.out.failure(&failure));
            }
            let result = current_thread().and_then(|runtime| {
                let work = Box::pin(verbs::run(command, context));
                let result = runtime.block_on(to_the_end(context, work));
                // Nothing of a one-shot verb may hold up its exit.
                runtime.shutdown_background();
                result
            });
            finish(context, fields, result)
        }
    }
}

/// Does `work`, and closes what it opened to the broker itself.
async fn to_the_end<T>(context: &Context, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let result = within_budget(context, work).await;
    context.end_connections().await;
    result
}

/// Does `work` within `--timeout`, when that is given; time in which a person was asked does not count.
///
/// # Errors
/// Exit 4 when the time is over.
async fn within_budget<T>(context: &Context, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let Some(budget) = context.global.timeout else { return work.await };
    tokio::select! {
        biased;
        result = work => result,
        () = over(context, budget) => {
            let budget = Context::span(budget);
            Err(Failure::new(ErrorCode::Timeout, format!("no answer within {budget}"))
                .detail("it may have happened all the same"))
        }
    }
}

async fn over(context: &Context, budget: Duration) {
    let began = tokio::time::Instant::now();
    loop {
        let end = began + budget + context.out.time_asked();
        if tokio::time::Instant::now() >= end {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

fn current_thread() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(ErrorCode::Internal, "cannot start the runtime").caused_by(&error)
    })
}

fn finish(
    context: &Context,
    fields: crate::output::Fields<'_>,
    result: Outcome<crate::output::Report>,
) -> ExitCode {
    ExitCode::from(match result {
        Ok(report) => context.out.report(&report, fields),
        Err(failure) => context.out.failure(&failure),
    })
}
