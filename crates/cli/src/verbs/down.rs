//! `down`: stops the daemon, then the broker that `up` started (CLI spec §5.6).

use claudemesh_protocol::limits;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::Outcome;
use crate::grammar::args::DownArgs;
use crate::output::{Document, Fields, Report, Screen};
use crate::verbs::daemon::{self, Stopped};
use crate::verbs::up::broker;

/// Keys of the result.
pub(crate) const FIELDS: Fields = Fields { names: &["ok", "daemon", "broker"], id: "" };

/// Runs the verb. Nothing running is fine.
///
/// # Errors
/// Exit 4 when one of the two does not stop in time.
pub(crate) async fn run(context: &Context, args: &DownArgs) -> Outcome<Report> {
    let mut screen = Screen::new();
    let mut map = Map::from_iter([("ok".to_owned(), Value::Bool(true))]);
    if !args.broker_only {
        let work = daemon::stop(context, limits::BROKER_STOP_BUDGET);
        let stopped = context.out.during("stopping the daemon", work).await?;
        map.insert("daemon".to_owned(), said(&mut screen, "daemon", &stopped));
    }
    let dir = broker::data_dir(context)?;
    let stopped = context.out.during("stopping the broker", broker::stop(&dir)).await?;
    map.insert("broker".to_owned(), said(&mut screen, "broker", &stopped));
    screen.hint("start again: claudemesh up");
    Ok(Report::new(Document::Object(map), screen))
}

fn said(screen: &mut Screen, what: &str, stopped: &Stopped) -> Value {
    match stopped {
        Stopped::Was(pid) => {
            let was = pid.map_or_else(String::new, |pid| format!(" (was pid {pid})"));
            screen.done(format!("{what} stopped{was}"));
            json!({ "stopped": true, "pid": pid })
        }
        Stopped::NotRunning => {
            screen.note(format!("{what}: not running"));
            json!({ "stopped": false, "reason": "not_running" })
        }
    }
}
