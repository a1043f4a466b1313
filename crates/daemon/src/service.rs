//! The daemon under a service manager: the text of its unit, and what the daemon tells its manager (daemon spec §21).
//! Nothing here writes a file or starts a program.

pub mod launchd;
pub(crate) mod notify;
pub mod systemd;

use std::path::{Path, PathBuf};

/// What a unit starts, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Home directory of the user.
    pub home: PathBuf,
    /// Directories the daemon writes to, besides its log.
    pub writes: Vec<PathBuf>,
    /// Where what it prints goes.
    pub log: PathBuf,
    /// Variables the daemon needs besides `PATH` and `HOME`. The unit can be read by everybody: no secrets.
    pub variables: Vec<(String, String)>,
}

/// A path or value that no unit file can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot stand in a service file")]
pub struct Unwritable(pub String);

/// The words behind the program.
const WORDS: [&str; 3] = ["daemon", "up", "--foreground"];

/// Text that fits on one line of a file in UTF-8.
fn one_line(text: &str) -> Result<&str, Unwritable> {
    if text.chars().any(char::is_control) {
        return Err(Unwritable(text.to_owned()));
    }
    Ok(text)
}

fn path_text(path: &Path) -> Result<&str, Unwritable> {
    let text = path.to_str().ok_or_else(|| Unwritable(path.to_string_lossy().into_owned()))?;
    one_line(text)
}

#[cfg(test)]
pub(crate) fn odd_plan() -> Plan {
    Plan {
        program: PathBuf::from("/home/O'Neil & \"Söhne\" <1>/50% $x\\bin/claudemesh"),
        home: PathBuf::from("/home/O'Neil & \"Söhne\" <1>"),
        writes: vec![PathBuf::from("/home/O'Neil & \"Söhne\" <1>/.claudemesh")],
        log: PathBuf::from("/home/O'Neil & \"Söhne\" <1>/.claudemesh/daemon/daemon.log"),
        variables: vec![("CLAUDEMESH_DAEMON_DIR".to_owned(), "/tmp/a b%c \"d\"".to_owned())],
    }
}
