//! A peer that was named and is not there, or is not the only one of that name: said in the same words by every verb
//! (CLI spec §1.14, error catalogue of §11).

use std::collections::BTreeSet;

use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::text::sanitized_line;
use serde_json::Value;

use crate::failure::Failure;
use crate::grammar::words;

/// Longest name that is repeated, in characters.
const NAME_MAX_CHARS: usize = 60;
/// Characters of a key that name one peer.
const KEY_SHOWN_CHARS: usize = 16;
/// Names that are listed.
const NAMES_MAX: usize = 10;

/// Who is listed beside a name that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Who is connected.
    Online,
    /// Everybody known here, connected or not.
    Known,
    /// Who is banned.
    Banned,
}

impl Listed {
    const fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Known => "known",
            Self::Banned => "banned",
        }
    }

    /// The verb that lists them all.
    const fn verb(self) -> &'static str {
        match self {
            Self::Online => "claudemesh peers",
            Self::Known => "claudemesh members",
            Self::Banned => "claudemesh bans",
        }
    }
}

/// `no peer "Mo" on dev`, and who there is.
pub(crate) fn unknown(
    typed: &str,
    mesh: Option<&str>,
    listed: Listed,
    names: &[String],
    failure: Failure,
) -> Failure {
    let place = mesh.map(|mesh| format!(" on {mesh}")).unwrap_or_default();
    let what = if listed == Listed::Banned { "ban of" } else { "peer" };
    let typed = sanitized_line(typed, NAME_MAX_CHARS);
    let mut failure = Failure {
        message: format!("no {what} \"{typed}\"{place}"),
        details: Vec::new(),
        action: Some(listed.verb().to_owned()),
        exit: ExitCode::NotFound as u8,
        ..failure
    };
    if !names.is_empty() {
        let shown: Vec<String> =
            names.iter().take(NAMES_MAX).map(|name| sanitized_line(name, NAME_MAX_CHARS)).collect();
        let more = names.len().saturating_sub(NAMES_MAX);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        failure.details.push(format!("{}: {}{rest}", listed.word(), shown.join(", ")));
    }
    // Two letters are near to every other two.
    let near = (typed.chars().count() > 2)
        .then(|| words::nearest(&typed, names.iter().map(String::as_str)))
        .flatten();
    if let Some(near) = near {
        let near = sanitized_line(near, NAME_MAX_CHARS);
        failure.details.push(format!("did you mean: {near}"));
    }
    failure
}

/// `"9f3a12cd" matches 2 peers`, and which.
pub(crate) fn ambiguous(typed: &str, failure: Failure) -> Failure {
    let rows = failure.background.extra.get("candidates").and_then(Value::as_array);
    let meshes: BTreeSet<&str> = rows
        .into_iter()
        .flatten()
        .filter_map(|row| row.get("mesh").and_then(Value::as_str))
        .collect();
    let count = rows.map_or(0, Vec::len);
    let key = rows.into_iter().flatten().find_map(|row| row.get("pubkey")?.as_str());
    let key: String = key.unwrap_or_default().chars().take(KEY_SHOWN_CHARS).collect();
    let action = match meshes.first() {
        Some(mesh) if meshes.len() > 1 => {
            let typed = sanitized_line(typed, NAME_MAX_CHARS);
            format!("pass --mesh, or write name@mesh, such as {typed}@{mesh}")
        }
        _ if key.is_empty() => "use a longer prefix".to_owned(),
        _ if is_hex(typed) => format!("use a longer prefix, such as {key}"),
        _ => format!("write the key of the one you mean, such as {key}"),
    };
    let typed = sanitized_line(typed, NAME_MAX_CHARS);
    let message = if count > 1 {
        format!("\"{typed}\" matches {count} peers")
    } else {
        format!("\"{typed}\" matches several peers")
    };
    Failure { message, action: Some(action), ..failure }
}

fn is_hex(typed: &str) -> bool {
    typed.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The daemon's word about a peer that was named, in ours; any other failure as it is.
pub(crate) fn refused(typed: &str, mesh: Option<&str>, failure: Failure) -> Failure {
    match failure.code.as_str() {
        "target_not_found" => {
            let names = candidates(&failure);
            unknown(typed, mesh, Listed::Known, &names, failure)
        }
        "ambiguous_target" => ambiguous(typed, failure),
        "self_target" if failure.details.is_empty() => {
            let typed = sanitized_line(typed, NAME_MAX_CHARS);
            Failure {
                message: format!("\"{typed}\" is you"),
                details: vec!["expected: somebody else".to_owned()],
                exit: ExitCode::InvalidArgs as u8,
                ..failure
            }
        }
        _ => failure,
    }
}

/// The names that a `target_not_found` lists.
fn candidates(failure: &Failure) -> Vec<String> {
    let listed = failure.background.extra.get("candidates").and_then(Value::as_array);
    let name = |value: &Value| {
        let text = value.as_str().or_else(|| value.get("name").and_then(Value::as_str));
        text.map(str::to_owned)
    };
    listed.into_iter().flatten().filter_map(name).collect()
}

/// The one name among `names` that is `typed` but for its capitals: people type names as they remember them, and the
/// broker compares them to the letter.
///
/// # Errors
/// Exit 3 when several names differ only in capitals.
pub(crate) fn spelled<'a>(typed: &str, names: &'a [String]) -> Result<Option<&'a str>, Failure> {
    let lower = typed.to_lowercase();
    let found: BTreeSet<&str> =
        names.iter().map(String::as_str).filter(|name| name.to_lowercase() == lower).collect();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        (Some(first), Some(second)) => Err(Failure::new(
            ErrorCode::AmbiguousTarget,
            format!("\"{}\" matches several peers", sanitized_line(typed, NAME_MAX_CHARS)),
        )
        .detail(sanitized_line(first, NAME_MAX_CHARS))
        .detail(sanitized_line(second, NAME_MAX_CHARS))
        .action("write the name exactly")),
        (None, Some(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure::new(ErrorCode::NotFound, "peer not found")
    }

    #[test]
    fn an_unknown_name_is_repeated_with_who_there_is() {
        let names = ["Mou".to_owned(), "Ana".to_owned()];
        let said = unknown("Mo", Some("dev"), Listed::Online, &names, failure());
        assert_eq!(said.message, "no peer \"Mo\" on dev");
        assert_eq!(said.details, ["online: Mou, Ana"]);
        assert_eq!((said.exit, said.code.as_str()), (5, "not_found"));
        let many: Vec<String> = (0..13).map(|number| format!("p{number}")).collect();
        let said = unknown("x\u{1b}[2J", None, Listed::Banned, &many, failure());
        assert!(said.details[0].ends_with("p9 and 3 more"), "{:?}", said.details);
        assert!(said.message.starts_with("no ban of") && !said.message.contains('\u{1b}'));
    }

    #[test]
    fn capitals_do_not_matter_unless_two_names_differ_in_them() {
        let names = ["Mou".to_owned(), "mou".to_owned(), "Ana".to_owned(), "Ana".to_owned()];
        assert_eq!(spelled("ana", &names).unwrap(), Some("Ana"));
        assert_eq!(spelled("bob", &names).unwrap(), None);
        assert_eq!(spelled("MOU", &names).unwrap_err().exit, 3);
    }
}
