//! What every verb has at hand: flags, environment, output, paths, the time.

use std::time::Duration;

use claudemesh_ipc::Paths;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::ops::policy::Gated;

use crate::cold::ColdPath;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::Global;
use crate::grammar::classify::Words;
use crate::grammar::{output_flags, words};
use crate::negotiate::Compared;
use crate::output::{Output, OutputFlags};

/// The surroundings of one verb.
pub(crate) struct Context {
    /// Global flags.
    pub(crate) global: Global,
    /// Environment, read once.
    pub(crate) environment: Environment,
    /// Where results and everything else are written.
    pub(crate) out: Output,
    /// Local files.
    pub(crate) paths: Paths,
    /// The verb as it was typed.
    pub(crate) spoken: String,
    /// The verb as the policy gate sees it; `None` for what is not gated.
    pub(crate) gated: Option<Gated>,
    /// Connections of this run, when it has no daemon.
    pub(crate) cold: ColdPath,
    /// Whether the daemon's version was compared with ours.
    pub(crate) compared: Compared,
}

impl Context {
    /// Puts it together. A refusal comes with the output it is to be printed on.
    pub(crate) fn new(
        global: Global,
        environment: Environment,
        words: &Words,
    ) -> Result<Self, Box<(Output, Failure)>> {
        let flags = match output_flags(&global) {
            Ok(flags) => flags,
            Err(failure) => {
                let flags = OutputFlags {
                    json: global.wants_json().then_some(crate::output::JsonForm::Pretty),
                    ..OutputFlags::default()
                };
                return Err(Box::new((Output::new(flags, &environment), failure)));
            }
        };
        let out = Output::new(flags, &environment);
        let paths = match Paths::from_env() {
            Ok(paths) => paths,
            Err(error) => {
                return Err(Box::new((out, Failure::new(ErrorCode::Io, error.to_string()))));
            }
        };
        if let Some(missing) = paths.missing_config_dir()
            && environment.stderr_is_terminal
        {
            out.notice(&format!(
                "CLAUDEMESH_CONFIG_DIR names {}, which is gone: using {} (unset CLAUDEMESH_CONFIG_DIR CLAUDEMESH_IPC_TOKEN_FILE)",
                missing.display(),
                paths.root().display()
            ));
        }
        let paths = crate::ephemeral::found(paths, &out);
        let gated = words::of_canonical(words.canonical).and_then(words::Verb::gated);
        let (spoken, cold) = (words.spoken.clone(), ColdPath::default());
        let compared = Compared::default();
        Ok(Self { global, environment, out, paths, spoken, gated, cold, compared })
    }

    /// Now.
    pub(crate) fn now() -> Timestamp {
        Timestamp::from_millis(chrono::Utc::now().timestamp_millis())
    }

    /// How long ago that was: `12s`, `5m`, `3h`, `2d`.
    pub(crate) fn age_of(at: Timestamp) -> String {
        Self::span(Self::now().since(at))
    }

    /// A span of time in its largest whole unit.
    pub(crate) fn span(time: Duration) -> String {
        let seconds = time.as_secs();
        match seconds {
            0..60 => format!("{seconds}s"),
            60..3600 => format!("{}m", seconds / 60),
            3600..86_400 => format!("{}h", seconds / 3600),
            _ => format!("{}d", seconds / 86_400),
        }
    }

    /// Whether `http://` and `ws://` may leave this machine.
    pub(crate) fn plain_http(&self) -> PlainHttp {
        if self.environment.allow_insecure { PlainHttp::Allowed } else { PlainHttp::LoopbackOnly }
    }

    /// The budget of the operation: `--timeout`, else the verb's own.
    pub(crate) fn budget(&self, usual: Duration) -> Duration {
        self.global.timeout.unwrap_or(usual)
    }

    /// Asks for consent; `-y` gives it.
    ///
    /// # Errors
    /// Exit 7 without a terminal and without `-y`; exit 1 when the person says no.
    pub(crate) fn consent(
        &self,
        question: &str,
        default: crate::output::prompt::Default,
    ) -> Outcome<()> {
        if self.global.yes || self.out.confirm(question, default)? {
            return Ok(());
        }
        let failure = Failure::of_word("cancelled", "cancelled");
        Err(failure.exit(claudemesh_protocol::error::ExitCode::Cancelled))
    }
}
