//! Background processes: how `up` and the auto-spawn start a broker or daemon that outlives them (CLI spec §1.15,
//! §5.6). The child leaves the terminal's session by itself, before it does anything else.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use claudemesh_protocol::error::ErrorCode;

use crate::environment::{CONFIG_DIR, Environment, SESSION_VARIABLES};
use crate::failure::{Failure, Outcome};

/// Hidden first word of a child that becomes the leader of a session of its own.
const DETACHED: &str = "run-detached";

/// Handles the hidden first word: leaves the terminal's session and gives the remaining words.
///
/// # Errors
/// The system refuses a new session.
pub(crate) fn enter(args: Vec<String>) -> Outcome<Vec<String>> {
    if args.first().map(String::as_str) != Some(DETACHED) {
        return Ok(args);
    }
    rustix::process::setsid().map_err(|error| {
        Failure::new(ErrorCode::Internal, "cannot leave the terminal").caused_by(&error)
    })?;
    Ok(args.into_iter().skip(1).collect())
}

/// A command that runs this very program with `words`, in the foreground, without what belongs to one session.
///
/// # Errors
/// The path of this program cannot be found.
pub(crate) fn own_program(words: &[&str], environment: &Environment) -> Outcome<Command> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("cannot find the path of this program", &error))?;
    let mut command = Command::new(program);
    command.args(words);
    for name in SESSION_VARIABLES {
        command.env_remove(name);
    }
    if environment.in_session {
        command.env_remove(CONFIG_DIR);
    }
    Ok(command)
}

/// Starts [`own_program`] in the background: own session, no input, output appended to `log`.
///
/// # Errors
/// The log cannot be opened, or the process cannot be started.
pub(crate) fn start(
    words: &[&str],
    log: &Path,
    environment: &Environment,
    configure: impl FnOnce(&mut Command),
) -> Outcome<Child> {
    let mut all = vec![DETACHED];
    all.extend_from_slice(words);
    let log_file = append_private(log)?;
    let second = log_file
        .try_clone()
        .map_err(|error| Failure::io(format!("cannot open {}", log.display()), &error))?;
    let mut command = own_program(&all, environment)?;
    command.stdin(Stdio::null()).stdout(log_file).stderr(second).current_dir("/");
    configure(&mut command);
    command.spawn().map_err(|error| Failure::io("cannot start a background process", &error))
}

/// Starts [`own_program`] in the background: own session, and what it says on standard error comes back to this process for
/// as long as that reads it. Its input is left to `configure`.
///
/// # Errors
/// The process cannot be started.
pub(crate) fn start_unlogged(
    words: &[&str],
    environment: &Environment,
    configure: impl FnOnce(&mut Command),
) -> Outcome<Child> {
    let all = [&[DETACHED], words].concat();
    let mut command = own_program(&all, environment)?;
    command.stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
    configure(&mut command);
    command.spawn().map_err(|error| Failure::io("cannot start a background process", &error))
}

/// Opens a log for appending; created with mode 0600.
fn append_private(path: &Path) -> Outcome<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Failure::io(format!("cannot open {}", path.display()), &error))
}

/// The last lines of a log that say something went wrong, else its last line; at most `max`.
pub(crate) fn last_words(log: &Path, from: u64, max: usize) -> Vec<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};

    const TAIL_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    chosen_of(&read().unwrap_or_default(), max)
}

/// The lines of a text that say something went wrong, else its last one; at most `max`.
pub(crate) fn chosen_of(text: &str, max: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let says_error = |line: &&&str| {
        let line = line.to_ascii_lowercase();
        line.contains("error") || line.contains("\"level\":\"warn\"") || line.contains("✘")
    };
    let mut chosen: Vec<String> =
        lines.iter().filter(says_error).map(|line| sentence(line)).collect();
    if chosen.is_empty() {
        chosen.extend(lines.last().map(|line| sentence(line)));
    }
    chosen.split_off(chosen.len().saturating_sub(max))
}

/// The message of a JSON log line, else the line itself.
fn sentence(line: &str) -> String {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let field = |name: &str| {
        let value = value.as_ref()?;
        value.get(name).or_else(|| value.get("fields")?.get(name))?.as_str().map(str::to_owned)
    };
    let text = match (field("message").or_else(|| field("msg")), field("error")) {
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(message), None) => message,
        _ => line.trim().to_owned(),
    };
    claudemesh_protocol::text::sanitized_line(&text, 300)
}

/// Length of a log now, so that only what a new process adds is quoted.
pub(crate) fn length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_json_log_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        std::fs::write(&log, concat!(
            "{\"level\":\"INFO\",\"message\":\"starting\"}\n",
            "{\"level\":\"ERROR\",\"message\":\"cannot listen\",\"error\":\"address in use\"}\n",
            "{\"level\":\"INFO\",\"message\":\"bye\"}\n",
        )).unwrap();
        assert_eq!(last_words(&log, 0, 3), ["cannot listen: address in use"]);
        assert_eq!(last_words(&log, length(&log), 3), Vec::<String>::new());
    }

    #[test]
    fn other_words_pass_through() {
        let words = vec!["list".to_owned()];
        assert_eq!(enter(words.clone()).unwrap(), words);
    }
}
