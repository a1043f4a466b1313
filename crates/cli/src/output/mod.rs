//! Everything the command line writes: results on stdout, all else on stderr (CLI spec §1.7–§1.11, §8).

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::environment::Environment;
use crate::failure::{Failure, Outcome};

pub(crate) mod document;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod qr;
pub(crate) mod screen;
pub(crate) mod style;
pub(crate) mod table;

pub(crate) use document::{Document, Fields, JsonForm, Shape};
pub(crate) use screen::{Line, Screen};
pub(crate) use style::{Icon, Style, Token};
pub(crate) use table::{Side, Table};

use screen::WithHint;

/// Narrowest terminal that is laid out for (CLI spec §1.10).
const WIDTH_MIN: usize = 40;
/// Widest line of prose (CLI spec §1.10).
const WIDTH_MAX: usize = 100;

/// A result in both forms.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// For programs.
    pub(crate) document: Document,
    /// For people.
    pub(crate) screen: Screen,
    /// Exit code; not 0 for results such as "sent, not confirmed".
    pub(crate) exit: u8,
}

impl Report {
    /// A success.
    pub(crate) fn new(document: Document, screen: Screen) -> Self {
        Self { document, screen, exit: 0 }
    }

    /// With another exit code.
    #[must_use]
    pub(crate) fn exit(mut self, exit: claudemesh_protocol::error::ExitCode) -> Self {
        self.exit = exit as u8;
        self
    }
}

/// What the flags and the environment say about output.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each asked for by name")]
pub(crate) struct Output {
    /// JSON when set.
    json: Option<JsonForm>,
    shape: Shape,
    is_quiet: bool,
    is_verbose: bool,
    is_debug: bool,
    animates: bool,
    may_prompt: bool,
    stdout: Style,
    stderr: Style,
    /// Warnings of this run: none is said twice.
    warned: Arc<Mutex<BTreeSet<String>>>,
    /// How long a person was thinking.
    asked: Arc<Mutex<Duration>>,
}

/// The flags that decide about output; filled from the parsed arguments, or from a plain scan when they do not parse.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the command line")]
pub(crate) struct OutputFlags {
    pub(crate) json: Option<JsonForm>,
    pub(crate) fields: Vec<String>,
    pub(crate) envelope: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    pub(crate) debug: bool,
    pub(crate) no_color: bool,
    pub(crate) no_progress: bool,
    pub(crate) non_interactive: bool,
}

impl Output {
    /// Puts flags and environment together.
    pub(crate) fn new(flags: OutputFlags, environment: &Environment) -> Self {
        let colour_allowed = !flags.no_color && !environment.no_color && !environment.dumb_terminal;
        let style = |is_terminal: bool| Style {
            colour: is_terminal && colour_allowed,
            unicode: environment.unicode,
            width: is_terminal.then(terminal_width),
        };
        let is_json = flags.json.is_some();
        Self {
            animates: environment.stderr_is_terminal
                && !flags.quiet
                && !is_json
                && !flags.no_progress
                && !environment.is_ci
                && !environment.dumb_terminal,
            may_prompt: environment.stdin_is_terminal
                && environment.stderr_is_terminal
                && !flags.non_interactive
                && !is_json
                && !environment.is_ci,
            json: flags.json,
            shape: Shape {
                fields: flags.fields,
                has_envelope: flags.envelope || environment.json_envelope,
            },
            is_quiet: flags.quiet,
            is_verbose: flags.verbose,
            is_debug: flags.debug || environment.debug,
            stdout: style(environment.stdout_is_terminal),
            stderr: style(environment.stderr_is_terminal),
            warned: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// True when stdout carries JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// Full ids instead of prefixes.
    pub(crate) fn is_verbose(&self) -> bool {
        self.is_verbose
    }

    /// How long questions stood on the terminal so far: time that no budget counts.
    pub(crate) fn time_asked(&self) -> Duration {
        *self.asked.lock()
    }

    /// True when a question may be asked (CLI spec §1.11).
    pub(crate) fn may_prompt(&self) -> bool {
        self.may_prompt
    }

    /// True when a spinner may turn.
    pub(crate) fn animates(&self) -> bool {
        self.animates
    }

    /// How stdout is written.
    pub(crate) fn stdout_style(&self) -> Style {
        self.stdout
    }

    /// How stderr is written.
    pub(crate) fn stderr_style(&self) -> Style {
        self.stderr
    }

    /// Refuses field names the verb does not have, before anything is done.
    pub(crate) fn check_fields(&self, fields: Fields<'_>) -> Outcome<()> {
        fields.check(&self.shape.fields)
    }

    /// Prints a result; the exit code of the process.
    pub(crate) fn report(&self, report: &Report, fields: Fields<'_>) -> u8 {
        let text = match (self.json, &report.document) {
            (Some(form), document) => document::render(document, fields, &self.shape, form),
            (None, Document::Raw(text)) => text.clone(),
            (None, _) => {
                let with_hint = if self.is_quiet { WithHint::No } else { WithHint::Yes };
                report.screen.render(self.stdout, with_hint)
            }
        };
        match write_stdout(&text) {
            Written::All => report.exit,
            Written::ReaderGone => 0,
            Written::Failed => claudemesh_protocol::error::ExitCode::Io as u8,
        }
    }

    /// Prints one item of a stream, on one line; false when nobody reads any more.
    pub(crate) fn item(&self, report: &Report, fields: Fields<'_>) -> bool {
        let text = match self.json {
            Some(_) => document::render(&report.document, fields, &self.shape, JsonForm::Lines),
            None => report.screen.render(self.stdout, WithHint::No),
        };
        Self::stream(&text)
    }

    /// Prints a failure; the exit code of the process.
    pub(crate) fn failure(&self, failure: &Failure) -> u8 {
        if let Some(form) = self.json {
            if let Written::ReaderGone = write_stdout(&document::failure(failure, form)) {
                return 0;
            }
        } else {
            write_stderr(&self.failure_screen(failure).render(self.stderr, WithHint::Yes));
        }
        failure.exit
    }

    fn failure_screen(&self, failure: &Failure) -> Screen {
        let mut screen = Screen::new();
        screen.line(Line::new().icon(Icon::Failed).put(Token::Plain, one_line(&failure.message)));
        for detail in &failure.details {
            screen.line(Line::new().indent(4).put(Token::Dim, one_line(detail)));
        }
        if let Some(action) = &failure.action {
            let line = Line::new().indent(4).icon(Icon::Next);
            screen.line(line.put(Token::Code, one_line(action)));
        }
        if self.is_debug {
            for cause in &failure.background.causes {
                let line =
                    Line::new().indent(4).put(Token::Dim, format!("cause: {}", one_line(cause)));
                screen.line(line);
            }
        }
        screen
    }

    /// One informative line on stderr; not under `--quiet` or `--json`.
    pub(crate) fn notice(&self, text: &str) {
        if !self.is_quiet && !self.is_json() {
            let mut screen = Screen::new();
            screen.note(one_line(text));
            write_stderr(&screen.render(self.stderr, WithHint::No));
        }
    }

    /// One warning on stderr; also under `--json`, never on stdout. The same words come once in a run.
    pub(crate) fn warning(&self, text: &str) {
        if !self.warned.lock().insert(text.to_owned()) {
            return;
        }
        let mut screen = Screen::new();
        screen.attention(one_line(text));
        write_stderr(&screen.render(self.stderr, WithHint::No));
    }

    /// Lines on stderr that belong to a question or a refusal.
    pub(crate) fn aside(&self, screen: &Screen) {
        if !self.is_json() {
            write_stderr(&screen.render(self.stderr, WithHint::No));
        }
    }

    /// Writes text as it is, for streams such as logs; false when nobody reads any more.
    pub(crate) fn stream(text: &str) -> bool {
        matches!(write_stdout(text), Written::All)
    }
}

/// Messages may quote what strangers wrote.
fn one_line(text: &str) -> String {
    claudemesh_protocol::text::sanitized_line(text, 1000)
}

/// Hands a text to the clipboard of the terminal at the other end of the connection (OSC 52).
pub(crate) fn copy_through_terminal(text: &str) -> bool {
    let encoded = claudemesh_protocol::encoding::b64(text.as_bytes());
    write_stderr(&format!("\u{1b}]52;c;{encoded}\u{7}"));
    true
}

enum Written {
    All,
    ReaderGone,
    Failed,
}

fn write_stdout(text: &str) -> Written {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Written::All,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Written::ReaderGone,
        Err(_) => Written::Failed,
    }
}

/// A stderr that cannot be written to leaves nobody to tell.
fn write_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn terminal_width() -> usize {
    let columns = rustix::termios::tcgetwinsize(io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stderr()))
        .map_or(80, |size| usize::from(size.ws_col));
    if columns == 0 { 80 } else { columns.clamp(WIDTH_MIN, WIDTH_MAX) }
}
