//! From what a person typed to the key, group or everybody it means, over one mesh's roster (daemon spec §10.2).
//! Names are compared without regard to case, exactly, never fuzzily.

use std::collections::BTreeMap;

use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::KEY_PREFIX_MIN_CHARS;
use claudemesh_protocol::{GroupName, PublicKey, TargetSpec};

use super::roster::{RosterView, is_addressable, member_of};

/// Names offered when nothing matches (daemon spec §10.2).
const NAMES_OFFERED: usize = 10;
/// Characters of a whole key.
const KEY_CHARS: usize = 64;

/// What a text means in one mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Exactly this.
    One(Resolved),
    /// Several members.
    Ambiguous(Vec<Candidate>),
    /// Nobody.
    None {
        /// Up to ten names that would have been found.
        names: Vec<String>,
        /// The roster is being fetched anew; trying again in a moment may help.
        is_refreshing: bool,
    },
    /// The text can mean nobody at all.
    Refused {
        /// `topic_not_found` or `invalid_target`.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// In wire form.
    pub target: TargetSpec,
    /// For one key: whether a presence of it is known; `None` for groups and before the first roster.
    pub recipient_online: Option<bool>,
    /// It is our own member key.
    pub is_self_member: bool,
    /// It is the calling session's own key.
    pub is_caller: bool,
    /// The roster has this key; a full key need not be known.
    pub is_known: bool,
}

/// Somebody a text may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Display name.
    pub name: String,
    /// Key that would be addressed.
    pub pubkey: PublicKey,
    /// `session` or `member`.
    pub kind: &'static str,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    /// Our member key in the mesh.
    pub member: PublicKey,
    /// The calling session's key.
    pub session: Option<PublicKey>,
}

/// Resolves `text`, which carries no mesh slug any more.
pub(super) fn resolve(text: &str, view: &RosterView, asker: Asker) -> Resolution {
    let text = text.trim();
    if text == "*" || text.starts_with('@') {
        return resolve_group(text);
    }
    if text.starts_with('#') {
        let message = format!("there is no topic {text} in this mesh");
        return Resolution::Refused { code: ErrorCode::TopicNotFound, message };
    }
    if let Some(key) = whole_key(text) {
        return Resolution::One(resolved_key(key, view, asker));
    }
    let found = [by_session_name, by_session_prefix, by_member_name, by_member_prefix]
        .iter()
        .map(|step| step(text, view))
        .find(|matches| !matches.is_empty())
        .unwrap_or_default();
    decide(found, view, asker)
}

fn resolve_group(text: &str) -> Resolution {
    let everyone = text == "*" || text == "@all";
    let target = if everyone {
        TargetSpec::Everyone
    } else {
        match GroupName::parse_lenient(text) {
            Ok(name) => TargetSpec::Group(name),
            Err(error) => {
                return Resolution::Refused {
                    code: ErrorCode::InvalidTarget,
                    message: error.to_string(),
                };
            }
        }
    };
    Resolution::One(Resolved {
        target,
        recipient_online: None,
        is_self_member: false,
        is_caller: false,
        is_known: true,
    })
}

fn whole_key(text: &str) -> Option<PublicKey> {
    if text.len() == KEY_CHARS { PublicKey::parse_any_case(text).ok() } else { None }
}

fn resolved_key(key: PublicKey, view: &RosterView, asker: Asker) -> Resolved {
    Resolved {
        target: TargetSpec::Key(key),
        recipient_online: view.fetched_at.map(|_| view.presences(key).next().is_some()),
        is_self_member: key == asker.member,
        is_caller: asker.session == Some(key),
        is_known: view.knows(key),
    }
}

/// A key that matched, with the member it belongs to.
struct Match {
    key: PublicKey,
    member: PublicKey,
    name: String,
}

fn by_session_name(text: &str, view: &RosterView) -> Vec<Match> {
    sessions(view, |name, _| is_same_name(name, text))
}

fn by_session_prefix(text: &str, view: &RosterView) -> Vec<Match> {
    let Some(prefix) = prefix(text) else { return Vec::new() };
    let mut matches = sessions(view, |_, key| key.to_hex().starts_with(&prefix));
    let members = view.peers.iter().filter(|row| is_addressable(row)).map(member_of);
    for member in members.filter(|key| key.to_hex().starts_with(&prefix)) {
        matches.push(Match { key: member, member, name: member_name(member, view) });
    }
    matches
}

fn by_member_name(text: &str, view: &RosterView) -> Vec<Match> {
    members(view, |name, _| is_same_name(name, text))
}

fn by_member_prefix(text: &str, view: &RosterView) -> Vec<Match> {
    let Some(prefix) = prefix(text) else { return Vec::new() };
    members(view, |_, key| key.to_hex().starts_with(&prefix))
}

fn sessions(view: &RosterView, is_meant: impl Fn(&str, PublicKey) -> bool) -> Vec<Match> {
    let rows = view.peers.iter().filter(|row| is_addressable(row));
    rows.filter(|row| is_meant(&row.display_name, row.pubkey))
        .map(|row| Match {
            key: row.pubkey,
            member: member_of(row),
            name: row.display_name.clone(),
        })
        .collect()
}

fn members(view: &RosterView, is_meant: impl Fn(&str, PublicKey) -> bool) -> Vec<Match> {
    let rows = view.members.iter().filter(|row| is_meant(&row.display_name, row.pubkey));
    rows.map(|row| Match { key: row.pubkey, member: row.pubkey, name: row.display_name.clone() })
        .collect()
}

fn decide(matches: Vec<Match>, view: &RosterView, asker: Asker) -> Resolution {
    let mut keys: BTreeMap<PublicKey, Match> = BTreeMap::new();
    for found in matches {
        keys.entry(found.key).or_insert(found);
    }
    let mut members: Vec<PublicKey> = keys.values().map(|found| found.member).collect();
    members.sort_unstable();
    members.dedup();
    match (keys.len(), members.as_slice()) {
        (0, _) => Resolution::None { names: names(view), is_refreshing: false },
        (1, _) => match keys.into_keys().next() {
            Some(key) => Resolution::One(resolved_key(key, view, asker)),
            None => Resolution::None { names: names(view), is_refreshing: false },
        },
        (_, [member]) => Resolution::One(resolved_key(*member, view, asker)),
        _ => Resolution::Ambiguous(
            keys.into_values()
                .map(|found| Candidate {
                    kind: if found.key == found.member { "member" } else { "session" },
                    name: found.name,
                    pubkey: found.key,
                })
                .collect(),
        ),
    }
}

fn is_same_name(left: &str, right: &str) -> bool {
    left.trim().to_lowercase() == right.trim().to_lowercase()
}

fn prefix(text: &str) -> Option<String> {
    let is_prefix = (KEY_PREFIX_MIN_CHARS..KEY_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_prefix.then(|| text.to_ascii_lowercase())
}

fn member_name(member: PublicKey, view: &RosterView) -> String {
    view.member(member).map_or_else(|| member.short(16), |row| row.display_name.clone())
}

/// Names of sessions first, then of members, each once.
fn names(view: &RosterView) -> Vec<String> {
    let sessions = view.peers.iter().filter(|row| is_addressable(row)).map(|row| &row.display_name);
    let members = view.members.iter().map(|row| &row.display_name);
    let mut names: Vec<String> = Vec::new();
    for name in sessions.chain(members) {
        if names.len() == NAMES_OFFERED {
            break;
        }
        if !name.is_empty() && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::roster::fixture::{daemon, key, member, session, view};
    use super::*;

    const ASKER: Asker = Asker { member: PublicKey::from_bytes([1; 32]), session: None };

    fn one(text: &str, view: &RosterView) -> Option<PublicKey> {
        match resolve(text, view, ASKER) {
            Resolution::One(Resolved { target: TargetSpec::Key(key), .. }) => Some(key),
            _ => None,
        }
    }

    /// Daemon spec §10 Accept 6: `to:"dana"` where member dana has only a daemon, or is away for a day, or has two sessions; with a
    /// live session of another member beside them it is ambiguous.
    #[test]
    fn a_name_finds_a_session_else_the_member() {
        let only_daemon = view(vec![daemon("dana", 2)], vec![member("dana", 2)]);
        assert_eq!(one("dana", &only_daemon), Some(key(2)));
        let away = view(vec![], vec![member("dana", 2)]);
        assert_eq!(one("Dana", &away), Some(key(2)));
        let one_session =
            view(vec![daemon("dana", 2), session("dana", 20, 2)], vec![member("dana", 2)]);
        assert_eq!(one("DANA ", &one_session), Some(key(20)));
        let two =
            view(vec![session("dana", 20, 2), session("dana", 21, 2)], vec![member("dana", 2)]);
        assert_eq!(one("dana", &two), Some(key(2)));
    }

    #[test]
    fn sessions_of_two_members_are_ambiguous() {
        let peers = vec![session("dana", 20, 2), session("dana", 21, 2), session("dana", 30, 3)];
        let seen = view(peers, vec![member("dana", 2), member("eve", 3)]);
        let Resolution::Ambiguous(candidates) = resolve("dana", &seen, ASKER) else { panic!() };
        assert_eq!(
            candidates.iter().map(|c| c.pubkey).collect::<Vec<_>>(),
            [key(20), key(21), key(30)]
        );
        let namesakes = view(vec![], vec![member("dana", 2), member("Dana", 3)]);
        assert!(matches!(resolve("dana", &namesakes, ASKER), Resolution::Ambiguous(_)));
    }

    /// Daemon spec §10 Accept 5: `to:"deadbeef"` with a peer named so and another whose key starts so: goes to the name; `cafe12` is
    /// too short for a prefix.
    #[test]
    fn names_win_over_prefixes_of_at_least_eight_characters() {
        let seen = view(
            vec![session("deadbeef", 20, 2), session("x", 0xde, 3)],
            vec![member("dana", 2), member("eve", 3)],
        );
        assert_eq!(one("deadbeef", &seen), Some(key(20)));
        assert_eq!(one("dededede", &seen), Some(key(0xde)));
        assert_eq!(one("DEDEDEDE", &seen), Some(key(0xde)));
        assert!(matches!(resolve("dedede", &seen, ASKER), Resolution::None { .. }));
        assert_eq!(one(&"03".repeat(5), &seen), Some(key(3)), "a member key of a live session");
    }

    #[test]
    fn whole_keys_need_not_be_known() {
        let empty = RosterView::default();
        let Resolution::One(resolved) = resolve(&"AB".repeat(32), &empty, ASKER) else { panic!() };
        assert_eq!(resolved.target, TargetSpec::Key(key(0xab)));
        assert_eq!((resolved.recipient_online, resolved.is_known), (None, false));
        let seen = view(vec![daemon("dana", 2)], vec![member("dana", 2), member("eve", 3)]);
        let online = |byte: u8| match resolve(&key(byte).to_hex(), &seen, ASKER) {
            Resolution::One(resolved) => resolved.recipient_online,
            _ => None,
        };
        assert_eq!((online(2), online(3)), (Some(true), Some(false)));
    }

    #[test]
    fn groups_and_everybody() {
        let empty = RosterView::default();
        let target = |text| match resolve(text, &empty, ASKER) {
            Resolution::One(resolved) => Some(resolved.target.to_string()),
            _ => None,
        };
        assert_eq!(target("*").as_deref(), Some("*"));
        assert_eq!(target("@all").as_deref(), Some("*"));
        assert_eq!(target("@ops/core").as_deref(), Some("@ops/core"));
        assert!(matches!(
            resolve("@o'ps", &empty, ASKER),
            Resolution::Refused { code: ErrorCode::InvalidTarget, .. }
        ));
        assert!(matches!(
            resolve("#general", &empty, ASKER),
            Resolution::Refused { code: ErrorCode::TopicNotFound, .. }
        ));
    }

    #[test]
    fn own_keys_are_marked() {
        let seen = view(vec![session("me", 10, 1)], vec![member("me", 1)]);
        let asker = Asker { member: key(1), session: Some(key(10)) };
        let Resolution::One(caller) = resolve("me", &seen, asker) else { panic!() };
        assert!(caller.is_caller && !caller.is_self_member);
        let Resolution::One(own) = resolve(&key(1).to_hex(), &seen, asker) else { panic!() };
        assert!(own.is_self_member && !own.is_caller);
    }

    #[test]
    fn nobody_is_answered_with_up_to_ten_names() {
        let members = (0..20).map(|n| member(&format!("name{n}"), n)).collect();
        let seen = view(vec![session("zoe", 200, 0), daemon("hidden", 1)], members);
        let Resolution::None { names, .. } = resolve("nobody", &seen, ASKER) else { panic!() };
        assert_eq!(names.len(), 10);
        assert_eq!(names[0], "zoe");
        assert!(!names.contains(&"hidden".to_owned()));
    }
}
