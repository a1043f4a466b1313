//! The verbs: one module each. A verb does its work and gives back a [`Report`]; it prints nothing by itself.

use crate::context::Context;
use crate::failure::Outcome;
use crate::grammar::args::{Command, InboxVerb, MemberVerb, MeshVerb, MessageVerb, PeerVerb};
use crate::output::{Fields, Report};

pub(crate) mod backup;
pub(crate) mod broker;
pub(crate) mod completions;
pub(crate) mod create;
pub(crate) mod daemon;
pub(crate) mod down;
pub(crate) mod inbox;
pub(crate) mod install;
pub(crate) mod join;
pub(crate) mod leave;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod mcp;
pub(crate) mod member;
pub(crate) mod operation;
pub(crate) mod outbox;
pub(crate) mod overview;
pub(crate) mod peer;
pub(crate) mod person;
pub(crate) mod policy;
pub(crate) mod restore;
pub(crate) mod search;
pub(crate) mod send;
pub(crate) mod service;
pub(crate) mod share;
pub(crate) mod skill;
pub(crate) mod status;
pub(crate) mod unblock_loop;
pub(crate) mod uninstall;
pub(crate) mod up;
pub(crate) mod welcome;
pub(crate) mod whoami;

/// Keys of the JSON a command prints.
pub(crate) fn fields(command: &Command) -> Fields<'static> {
    match command {
        Command::Up(_) => up::FIELDS,
        Command::Down(_) => down::FIELDS,
        Command::Mesh(MeshVerb::Create(_)) => create::FIELDS,
        Command::Mesh(MeshVerb::Join(_)) => join::FIELDS,
        Command::Mesh(MeshVerb::List) => list::FIELDS,
        Command::Mesh(MeshVerb::Leave(_)) => leave::FIELDS,
        Command::Mesh(MeshVerb::Share(_)) => share::FIELDS,
        Command::Peer(PeerVerb::List(_)) => peer::FIELDS,
        Command::Peer(PeerVerb::UnblockLoop(_)) => unblock_loop::FIELDS,
        Command::Member(MemberVerb::List(_)) => member::FIELDS,
        Command::Message(MessageVerb::Send(_)) => send::FIELDS,
        Command::Message(MessageVerb::Inbox(inbox)) => match &inbox.verb {
            None => inbox::FIELDS,
            Some(InboxVerb::Search(_)) => search::FIELDS,
            Some(InboxVerb::Flush(_) | InboxVerb::Delete(_)) => inbox::REMOVED_FIELDS,
        },
        Command::Message(MessageVerb::Status(_)) => status::FIELDS,
        Command::Policy(verb) => policy::fields(verb),
        Command::Daemon(verb) => daemon::fields(verb),
        Command::Backup(_) => backup::FIELDS,
        Command::Restore(_) => restore::FIELDS,
        Command::Install(_) => install::FIELDS,
        Command::Uninstall(_) => uninstall::FIELDS,
        Command::Skill => skill::FIELDS,
        Command::Status => overview::FIELDS,
        Command::Whoami => whoami::FIELDS,
        Command::Completions(_)
        | Command::Mcp(_)
        | Command::Hook(_)
        | Command::StatusLine
        | Command::Broker(_) => NO_FIELDS,
    }
}

/// For verbs whose output is no JSON.
const NO_FIELDS: Fields = Fields { names: &[], id: "" };

/// Runs a command.
///
/// # Errors
/// The verb's own failures.
pub(crate) async fn run(command: Command, context: &Context) -> Outcome<Report> {
    match command {
        Command::Up(args) => Box::pin(up::run(context, &args)).await,
        Command::Down(args) => down::run(context, &args).await,
        Command::Mesh(verb) => Box::pin(mesh(verb, context)).await,
        Command::Peer(PeerVerb::List(args)) => peer::run(context, &args).await,
        Command::Peer(PeerVerb::UnblockLoop(args)) => unblock_loop::run(context, &args.peer).await,
        Command::Member(MemberVerb::List(args)) => member::run(context, &args).await,
        Command::Message(verb) => Box::pin(message(verb, context)).await,
        Command::Policy(verb) => policy::run(context, &verb).await,
        Command::Daemon(verb) => Box::pin(daemon::run(verb, context)).await,
        Command::Backup(args) => Box::pin(backup::run(context, &args)).await,
        Command::Restore(args) => Box::pin(restore::run(context, &args)).await,
        Command::Install(args) => Box::pin(install::run(context, &args)).await,
        Command::Uninstall(args) => Box::pin(uninstall::run(context, &args)).await,
        Command::Skill => Ok(skill::run(context)),
        Command::Status => Box::pin(overview::run(context)).await,
        Command::Whoami => whoami::run(context).await,
        Command::Completions(args) => Ok(completions::run(args.shell)),
        Command::Mcp(_) | Command::Hook(_) | Command::StatusLine | Command::Broker(_) => {
            welcome::run(context)
        }
    }
}

async fn mesh(verb: MeshVerb, context: &Context) -> Outcome<Report> {
    match verb {
        MeshVerb::Create(args) => create::run(context, &args).await,
        MeshVerb::Join(args) => join::run(context, &args).await,
        MeshVerb::List => list::run(context).await,
        MeshVerb::Leave(args) => leave::run(context, &args).await,
        MeshVerb::Share(args) => share::run(context, &args).await,
    }
}

async fn message(verb: MessageVerb, context: &Context) -> Outcome<Report> {
    match verb {
        MessageVerb::Send(args) => send::run(context, &args).await,
        MessageVerb::Inbox(args) => match &args.verb {
            None => inbox::run(context, &args).await,
            Some(InboxVerb::Search(search)) => search::run(context, search).await,
            Some(InboxVerb::Flush(flush)) => inbox::flush(context, flush).await,
            Some(InboxVerb::Delete(delete)) => inbox::delete(context, &delete.id).await,
        },
        MessageVerb::Status(args) => status::run(context, &args.id).await,
    }
}
