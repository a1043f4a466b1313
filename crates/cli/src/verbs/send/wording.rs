//! The honest wording of a send: one line for people, one `outcome` for programs (CLI spec §3.6).

use std::time::Duration;

use claudemesh_ipc::api::{FanoutEntry, SendReply};
use claudemesh_protocol::error::ExitCode;
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value, json};

use super::target::Kind;
use crate::output::{Document, Icon, Line, Report, Screen, Token};

/// Names printed of those who were left out.
const LEFT_OUT_NAMES: usize = 10;

/// Everything that is known about a send that was taken.
pub(super) struct Said<'a> {
    pub(super) reply: &'a SendReply,
    pub(super) kind: Kind,
    /// What to call the recipient.
    pub(super) name: &'a str,
    /// The broker's word, if it came in time.
    pub(super) sent: Option<&'a Map<String, Value>>,
    /// True when the mesh has its connection.
    pub(super) is_open: bool,
    /// With `--wait`: whether it arrived.
    pub(super) delivered: Option<bool>,
    /// How long `--wait` waited.
    pub(super) waited: Duration,
}

impl Said<'_> {
    /// The report.
    pub(super) fn report(&self) -> Report {
        let mut screen = Screen::new();
        let outcome = match self.kind {
            Kind::Direct => self.direct(&mut screen),
            Kind::Many => self.many(&mut screen),
        };
        let report = Report::new(Document::Object(self.document(outcome)), screen);
        if self.delivered == Some(false) { report.exit(ExitCode::Network) } else { report }
    }

    fn direct(&self, screen: &mut Screen) -> &'static str {
        let reply = self.reply;
        let name = sanitized_line(self.name, 60);
        let short: String = reply.target.chars().take(16).collect();
        let id: String = self.message_id().chars().take(8).collect();
        if self.delivered == Some(true) {
            screen.line(
                Line::new().icon(Icon::Done).put(Token::Plain, format!("delivered to {name}")),
            );
            return "delivered";
        }
        if self.delivered == Some(false) && self.is_open {
            screen.attention(format!("sent, not confirmed within {}s", self.waited.as_secs()));
            return "sent";
        }
        if self.sent.is_none() && !self.is_open {
            screen.attention("queued locally — broker offline; will retry");
            return "queued_local";
        }
        if self.word("rerouted_to").is_some() {
            screen.attention(format!("that session has ended — queued for {name}'s inbox"));
            screen.hint("use the name instead of the session key");
            return "queued";
        }
        if self.recipient_online() == Some(false) {
            screen.attention(format!("queued for {name} — not connected on \"{}\"", reply.mesh));
            return "queued";
        }
        let online = if self.recipient_online() == Some(true) { " (online)" } else { "" };
        let key = if name.starts_with(&short) { String::new() } else { format!(" ({short}…)") };
        let line =
            Line::new().icon(Icon::Done).put(Token::Plain, format!("sent to {name}{key}{online}"));
        screen.line(line.put(Token::Dim, format!("  {id}")));
        "sent"
    }

    fn many(&self, screen: &mut Screen) -> &'static str {
        if self.sent.is_none() && !self.is_open {
            screen.attention("queued locally — broker offline; will retry");
            return "queued_local";
        }
        if self.delivered == Some(false) {
            screen.attention(format!("sent, not confirmed within {}s", self.waited.as_secs()));
            return "sent";
        }
        let count = |key: &str| self.word(key).and_then(Value::as_u64);
        let counted = match (count("recipients"), count("held")) {
            (Some(0), _) => {
                let name = sanitized_line(self.name, 80);
                screen.attention(format!("nobody else is in {name}: the message reached nobody"));
                return "sent";
            }
            (Some(all), Some(held)) => {
                format!(" ({} online, {held} held for absent members)", all.saturating_sub(held))
            }
            (Some(all), None) => format!(" ({all} online)"),
            (None, Some(held)) => format!(" ({held} held for absent members)"),
            (None, None) => String::new(),
        };
        let done = if self.delivered == Some(true) { "delivered to" } else { "sent to" };
        screen.done(format!("{done} {}{counted}", sanitized_line(self.name, 80)));
        for (key, words) in [("unreadable_by", "not readable by"), ("left_out", "left out:")] {
            let names = self.names(key);
            if !names.is_empty() {
                screen.attention(format!("{words} {}", shortened(&names)));
            }
        }
        if self.delivered == Some(true) { "delivered" } else { "sent" }
    }

    fn word(&self, key: &str) -> Option<&Value> {
        self.sent.and_then(|sent| sent.get(key)).filter(|value| !value.is_null())
    }

    fn names(&self, key: &str) -> Vec<String> {
        let listed = self.word(key).and_then(Value::as_array);
        listed
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().or_else(|| name.get("name").and_then(Value::as_str)))
            .map(|name| sanitized_line(name, 40))
            .collect()
    }

    fn message_id(&self) -> &str {
        self.word("broker_message_id")
            .and_then(Value::as_str)
            .or(self.reply.broker_message_id.as_deref())
            .unwrap_or(&self.reply.client_message_id)
    }

    fn recipient_online(&self) -> Option<bool> {
        self.word("recipient_online").and_then(Value::as_bool).or(self.reply.recipient_online)
    }

    fn document(&self, outcome: &str) -> Map<String, Value> {
        let mut map = base(self.reply);
        let status = if self.sent.is_some() { "done" } else { self.status() };
        map.insert("status".to_owned(), status.into());
        map.insert("outcome".to_owned(), outcome.into());
        let id = self.word("broker_message_id").and_then(Value::as_str);
        if let Some(id) = id.or(self.reply.broker_message_id.as_deref()) {
            map.insert("broker_message_id".to_owned(), id.into());
        }
        let online = if self.kind == Kind::Direct { self.recipient_online() } else { None };
        map.insert("recipient_online".to_owned(), online.into());
        let many: &[&str] = if self.kind == Kind::Many { &["recipients"] } else { &[] };
        let said = ["rerouted_to", "held", "unreadable_by", "left_out", "skipped_no_key"];
        for key in many.iter().chain(&said) {
            if let Some(value) = self.word(key) {
                map.insert((*key).to_owned(), value.clone());
            }
        }
        map.insert("via".to_owned(), via(self.reply).into());
        map
    }

    fn status(&self) -> &'static str {
        use claudemesh_ipc::api::RowStatus;
        match self.reply.status {
            RowStatus::Pending => "queued",
            other => other.as_str(),
        }
    }
}

/// Who handed the message to the broker: a daemon tells later what became of it.
const fn via(reply: &SendReply) -> &'static str {
    if reply.broker_answer.is_some() { "direct" } else { "daemon" }
}

fn base(reply: &SendReply) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("ok".to_owned(), true.into());
    map.insert("client_message_id".to_owned(), reply.client_message_id.as_str().into());
    map.insert("broker_message_id".to_owned(), reply.broker_message_id.clone().into());
    if let Some(id) = &reply.history_id {
        map.insert("history_id".to_owned(), id.as_str().into());
    }
    map.insert("target".to_owned(), reply.target.as_str().into());
    map.insert("mesh".to_owned(), reply.mesh.as_str().into());
    map
}

/// The id stands for a message that was sent before.
pub(super) fn duplicate(reply: &SendReply) -> Report {
    let mut map = base(reply);
    map.insert("status".to_owned(), "done".into());
    map.insert("outcome".to_owned(), "duplicate".into());
    map.insert("recipient_online".to_owned(), reply.recipient_online.into());
    map.insert("duplicate".to_owned(), true.into());
    map.insert("via".to_owned(), via(reply).into());
    let mut screen = Screen::new();
    screen.done("already sent (duplicate)");
    Report::new(Document::Object(map), screen)
}

/// `--self`: one row for each own session.
pub(super) fn fan_out(reply: &SendReply) -> Report {
    let rows = reply.results.as_deref().unwrap_or_default();
    let sent = rows.iter().filter(|row| row.ok).count();
    let mut screen = Screen::new();
    if sent == rows.len() && sent > 0 {
        screen.done(format!("fanned out to {sent} sibling sessions"));
    } else if sent > 0 {
        screen.attention(format!("fanned out {sent}/{}", rows.len()));
    } else {
        screen.line(
            Line::new().icon(Icon::Failed).put(Token::Plain, "no sibling session was reached"),
        );
    }
    for row in rows {
        screen.line(fan_out_row(row));
    }
    let document = json!({
        "ok": sent == rows.len() && sent > 0,
        "outcome": "fanout",
        "mesh": reply.mesh,
        "results": rows,
        "via": via(reply),
    });
    let report = Report::new(Document::object(document), screen);
    match sent {
        0 => report.exit(ExitCode::Network),
        _ if sent < rows.len() => report.exit(ExitCode::Internal),
        _ => report,
    }
}

fn fan_out_row(row: &FanoutEntry) -> Line {
    let icon = if row.ok { Icon::Done } else { Icon::Failed };
    let short: String = row.target.chars().take(16).collect();
    let line = Line::new().indent(4).icon(icon).put(Token::Dim, format!("{short}…"));
    match &row.error {
        Some(error) => line.foreign(Token::Plain, &format!("  {error}")),
        None => line,
    }
}

/// At most ten names, then how many more.
fn shortened(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(LEFT_OUT_NAMES).map(String::as_str).collect();
    match names.len().saturating_sub(LEFT_OUT_NAMES) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
