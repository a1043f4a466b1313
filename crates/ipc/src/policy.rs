//! The two files of the policy gate: `policy.yaml`, which is read, and `audit.log`, which is appended to
//! (CLI spec §1.17). The decision itself is [`claudemesh_protocol::ops::policy`].

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use claudemesh_protocol::group::Group;
use claudemesh_protocol::limits;
use claudemesh_protocol::limits::KEY_PREFIX_MIN_CHARS;
use claudemesh_protocol::ops::policy::Policy;
use serde::Serialize;

use crate::client::{Client, PeerFilter};
use crate::error::IpcError;

/// A policy file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It cannot be read, or is larger than [`limits::POLICY_FILE_MAX_BYTES`].
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no policy.
    #[error("{path} is no policy: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why, one line.
        reason: String,
    },
}

/// Reads a policy file; `None` when there is none.
///
/// # Errors
/// [`PolicyError`].
pub fn load(path: &Path) -> Result<Option<Policy>, PolicyError> {
    let cannot_read = |source| PolicyError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(error)),
    };
    let mut text = String::new();
    let read = file.take(limits::POLICY_FILE_MAX_BYTES + 1).read_to_string(&mut text);
    let length = read.map_err(cannot_read)?;
    if length as u64 > limits::POLICY_FILE_MAX_BYTES {
        return Err(cannot_read(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    parse(&text).map(Some).map_err(|reason| PolicyError::Parse { path: path.to_owned(), reason })
}

/// Reads a policy: YAML, or JSON, which is YAML too. An empty text is an empty policy.
///
/// # Errors
/// Where and why, on one line.
pub fn parse(text: &str) -> Result<Policy, String> {
    let is_blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    };
    if text.lines().all(is_blank) {
        return Ok(Policy::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        error.lines().next().unwrap_or_default().to_owned()
    })
}

/// Every way to name the target that was typed as `target`: names, keys and `@groups` of the peers and members it may
/// mean, connected or not. Who is named by a session is meant as a member, too, and the other way round: a rule about
/// somebody holds for all of that person's sessions. Rules with `peers` are matched against these.
///
/// # Errors
/// [`IpcError`].
pub async fn names_of(
    client: &Client,
    mesh: Option<&str>,
    target: &str,
) -> Result<Vec<String>, IpcError> {
    let peers = client.peers(mesh, PeerFilter::WithControlPlane).await?.peers;
    let members = client.members(mesh).await?.members;
    let typed = without_mesh(target, mesh).to_lowercase();
    let known: Vec<Known> = peers
        .iter()
        .map(|peer| Known {
            name: &peer.row.display_name,
            keys: std::iter::once(peer.row.pubkey.to_hex())
                .chain(peer.row.member_pubkey.map(claudemesh_protocol::PublicKey::to_hex))
                .collect(),
            groups: &peer.row.groups,
        })
        .chain(members.iter().map(|member| Known {
            name: &member.row.display_name,
            keys: vec![member.row.pubkey.to_hex()],
            groups: &member.row.groups,
        }))
        .collect();
    Ok(names_among(&known, &typed))
}

/// Somebody who may be meant.
struct Known<'a> {
    name: &'a str,
    keys: Vec<String>,
    groups: &'a [Group],
}

impl Known<'_> {
    fn is_called(&self, typed: &str) -> bool {
        let is_prefix = typed.chars().count() >= KEY_PREFIX_MIN_CHARS;
        self.name.to_lowercase() == typed
            || is_prefix && self.keys.iter().any(|key| key.starts_with(typed))
    }
}

/// Names, keys and groups of everybody called `typed`, and of everybody who shares a key with one of these.
fn names_among(known: &[Known<'_>], typed: &str) -> Vec<String> {
    let keys: BTreeSet<&str> = known
        .iter()
        .filter(|one| one.is_called(typed))
        .flat_map(|one| one.keys.iter().map(String::as_str))
        .collect();
    let mut names = Vec::new();
    for one in known.iter().filter(|one| one.keys.iter().any(|key| keys.contains(key.as_str()))) {
        names.push(one.name.to_owned());
        names.extend(one.keys.iter().cloned());
        names.extend(one.groups.iter().map(|group| format!("@{}", group.name)));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// `Mou@dev` and `dev:Mou` without the mesh.
fn without_mesh<'a>(target: &'a str, mesh: Option<&str>) -> &'a str {
    let Some(mesh) = mesh else { return target };
    let behind = target.rsplit_once('@').filter(|(name, slug)| !name.is_empty() && *slug == mesh);
    let before = target.split_once(':').filter(|(slug, name)| !name.is_empty() && *slug == mesh);
    behind.map(|(name, _)| name).or(before.map(|(_, name)| name)).unwrap_or(target)
}

/// One line of the audit log.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditLine<'a> {
    /// When, ISO.
    pub ts: &'a str,
    /// Resource of the canonical words.
    pub resource: &'a str,
    /// Verb of the canonical words.
    pub verb: &'a str,
    /// Slug; null when no mesh was known.
    pub mesh: Option<&'a str>,
    /// What it concerned, as it was typed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'a str>,
    /// Approval mode.
    pub mode: &'a str,
    /// Whether it changes something.
    pub is_write: bool,
    /// allow, prompt or deny.
    pub decision: &'a str,
    /// Number of the rule in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// allowed, denied or cancelled.
    pub outcome: &'a str,
}

/// Appends one line, mode 0600, and rotates before it when the log is full.
///
/// # Errors
/// The directory is missing, or the file cannot be written; callers go on without the line.
pub fn append(path: &Path, line: &AuditLine<'_>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut log = open(path)?;
    if log.metadata()?.len() >= limits::GATE_AUDIT_MAX_BYTES {
        rotate(path, &log)?;
        log = open(path)?;
    }
    // One write: lines of two processes do not mix.
    log.write_all(&text)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// `audit.log` becomes `audit.log.1`, and so on; the oldest goes. Of several processes that find it full one rotates.
fn rotate(path: &Path, full: &File) -> io::Result<()> {
    full.lock()?;
    let is_still_there = fs::metadata(path)
        .is_ok_and(|now| full.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
    if !is_still_there {
        return Ok(());
    }
    for number in (1..limits::GATE_AUDIT_KEPT).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::ops::policy::Decision;

    use super::*;

    const LINE: AuditLine<'_> = AuditLine {
        ts: "2026-01-01T00:00:00.000Z",
        resource: "peer",
        verb: "kick",
        mesh: Some("dev"),
        target: Some("Mou"),
        mode: "write",
        is_write: true,
        decision: "prompt",
        rule: None,
        reason: None,
        outcome: "cancelled",
    };

    #[test]
    fn a_session_is_its_member_and_the_member_its_sessions() {
        let group = Group::parse_lenient("ops").unwrap();
        let known = |name, keys: &[&str], groups| Known {
            name,
            keys: keys.iter().map(|key| key.repeat(32)).collect(),
            groups,
        };
        let groups = [group];
        let all = [
            known("builder", &["aa", "bb"], &groups),
            known("Bob", &["bb"], &[]),
            known("Cleo", &["cc"], &[]),
        ];
        let names = |typed: &str| names_among(&all, typed);
        for typed in ["builder", "bob", &"bb".repeat(32), &"aa".repeat(4)] {
            let names = names(typed);
            for name in ["builder", "Bob", "@ops", &"bb".repeat(32)] {
                assert!(names.iter().any(|known| known == name), "{typed}: {names:?}");
            }
            assert!(!names.iter().any(|known| known == "Cleo"), "{typed}: {names:?}");
        }
        assert_eq!(names("cleo"), ["Cleo".to_owned(), "cc".repeat(32)]);
        assert!(names("nobody").is_empty() && names("bb").is_empty());
        assert_eq!(without_mesh("Bob@dev", Some("dev")), "Bob");
        assert_eq!(without_mesh("dev:Bob", Some("dev")), "Bob");
        assert_eq!(without_mesh("Bob@eng", Some("dev")), "Bob@eng");
        assert_eq!(without_mesh("@dev", Some("dev")), "@dev");
    }

    #[test]
    fn the_documented_file_is_read() {
        let policy = parse(
            "default: allow            # allow | prompt | deny\nrules:\n  - resource: peer\n    verb: kick\n    mesh: dev\n    peers: [\"@admins\"]\n    decision: prompt\n    reason: \"ends a session\"\n",
        )
        .unwrap();
        assert_eq!(policy.default, Decision::Allow);
        let rule = policy.rules.first().unwrap();
        assert_eq!((rule.resource.as_str(), rule.decision), ("peer", Decision::Prompt));
        assert_eq!(rule.peers.as_deref(), Some(&["@admins".to_owned()][..]));
    }

    #[test]
    fn json_is_read_and_an_empty_file_is_an_empty_policy() {
        let json =
            r#"{"default":"prompt","rules":[{"resource":"*","verb":"*","decision":"deny"}]}"#;
        assert_eq!(parse(json).unwrap().default, Decision::Prompt);
        for text in ["", "\n", "# nothing yet\n"] {
            assert_eq!(parse(text).unwrap(), Policy::default());
        }
    }

    /// X9.
    #[test]
    fn what_is_no_policy_is_refused_on_one_line_and_never_panics() {
        for text in [
            "rules: 5",
            "default: maybe",
            "defualt: deny",
            "rules:\n  - resource: peer\n",
            "rules:\n  - {resource: a, verb: b, decision: deny, colour: red}\n",
            ": : :",
            "[",
            "\u{0}",
            "a: &a [*a, *a]",
            "!!python/object:os.system x",
            "- - - -",
            "%YAML 9.9\n---\n",
        ] {
            let reason = parse(text).expect_err(text);
            assert!(!reason.contains('\n'), "{reason:?}");
        }
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nrules: *f\n";
        assert!(parse(bomb).is_err());
    }

    #[test]
    fn an_absent_file_is_none_and_a_huge_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        assert!(load(&path).unwrap().is_none());
        let huge = usize::try_from(limits::POLICY_FILE_MAX_BYTES).unwrap() + 1;
        fs::write(&path, vec![b'#'; huge]).unwrap();
        assert!(matches!(load(&path), Err(PolicyError::Read { .. })));
        fs::write(&path, vec![b'#'; huge - 1]).unwrap();
        assert_eq!(load(&path).unwrap(), Some(Policy::default()));
    }

    #[test]
    fn the_log_is_private_and_rotates_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        append(&path, &LINE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let first: serde_json::Value =
            serde_json::from_str(fs::read_to_string(&path).unwrap().trim()).unwrap();
        assert_eq!((&first["isWrite"], &first["outcome"]), (&true.into(), &"cancelled".into()));
        for round in 1..=5_u64 {
            open(&path).unwrap().set_len(limits::GATE_AUDIT_MAX_BYTES + round).unwrap();
            append(&path, &LINE).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        }
        let sizes: Vec<u64> = (1..=4)
            .map_while(|at| fs::metadata(numbered(&path, at)).ok())
            .map(|file| file.len())
            .collect();
        let full = limits::GATE_AUDIT_MAX_BYTES;
        assert_eq!(sizes, [full + 5, full + 4, full + 3]);
    }
}
