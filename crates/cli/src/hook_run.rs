//! The process of a user's hook (daemon spec §16.3): the daemon starts this program with a hidden first word, and it becomes
//! the hook. Looked at before anything else, so that there is neither a thread nor an open file yet.

use std::ffi::OsString;
use std::process::ExitCode;

use claudemesh_daemon::hooks::{RUN_HOOK, become_hook};

/// Becomes the hook that the arguments describe; the exit code when it cannot, `None` when they describe none.
pub(crate) fn enter(arguments: &[OsString]) -> Option<ExitCode> {
    let (first, words) = arguments.split_first()?;
    (first == RUN_HOOK).then(|| ExitCode::from(become_hook(words.iter().cloned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_pass_by() {
        for words in [&[][..], &["list"], &["--", RUN_HOOK]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(enter(&words).is_none());
        }
    }
}
