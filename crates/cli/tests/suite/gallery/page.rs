//! One page of the gallery: runs of one verb, each under a heading that the walk reads.

use std::fmt::Write as _;
use std::process::Command;

use unicode_width::UnicodeWidthStr as _;

use crate::home::{Home, Ran};
use crate::machine::shown_at;
use crate::words::stored;

/// Widths at which people see a success.
const WIDTHS: [u16; 2] = [80, 60];

/// Headings of the three forms of a success.
pub const SUCCESS: [&str; 3] = ["success at 80", "success at 60", "success as JSON"];

/// Runs of one verb.
pub struct Page {
    verb: String,
    text: String,
}

impl Page {
    pub fn of(verb: &str) -> Self {
        Self { verb: verb.to_owned(), text: String::new() }
    }

    /// A run without a terminal.
    pub fn case(&mut self, name: &str, home: &Home, words: &[&str]) -> Ran {
        self.record(name, words, Ran::from(home.command(words).output().unwrap()))
    }

    /// A run in an environment of its own, such as that of a session.
    pub fn within(&mut self, name: &str, mut command: Command, words: &[&str]) -> Ran {
        self.record(name, words, Ran::from(command.output().unwrap()))
    }

    /// A success in its three forms; `before` makes it possible each time.
    pub fn success(&mut self, home: &Home, words: &[&str], mut before: impl FnMut()) {
        self.success_within(words, || home.command(words), &mut before);
    }

    /// The same in an environment of its own.
    pub fn success_within(
        &mut self,
        words: &[&str],
        command: impl Fn() -> Command,
        mut before: impl FnMut(),
    ) {
        for (width, name) in WIDTHS.into_iter().zip(SUCCESS) {
            before();
            let ran = self.record(name, words, shown_at(command(), width));
            assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
            // A key or an address is not broken.
            let is_wide =
                |line: &&str| line.width() > usize::from(width) && line.trim().contains(' ');
            let wide = ran.stdout.lines().find(is_wide);
            assert_eq!(wide, None, "{words:?} does not fit {width} columns");
        }
        before();
        let mut run = command();
        run.arg("--json");
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let ran = self.record(SUCCESS[2], &words, Ran::from(run.output().unwrap()));
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        let read: Result<serde_json::Value, _> = serde_json::from_str(&ran.stdout);
        assert!(read.is_ok(), "{words:?}: {ran:?}");
    }

    /// One form of a success that cannot be had twice with the same words.
    pub fn form(&mut self, name: &str, home: &Home, words: &[&str]) {
        let width = WIDTHS.into_iter().zip(SUCCESS).find(|(_, own)| *own == name);
        let ran = match width {
            Some((width, _)) => shown_at(home.command(words), width),
            None => Ran::from(home.command(words).arg("--json").output().unwrap()),
        };
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        self.record(name, words, ran);
    }

    /// A join by link, in one of the three forms.
    pub fn joined(&mut self, name: &str, home: &Home, link: &str) {
        let form = SUCCESS[usize::from(name.as_bytes()[0] - b'a')];
        self.form(form, home, &["join", link, "--name", name]);
    }

    /// A success that is no document, at both widths.
    pub fn plain(&mut self, home: &Home, words: &[&str]) {
        for (width, name) in WIDTHS.into_iter().zip(SUCCESS) {
            let ran = self.record(name, words, shown_at(home.command(words), width));
            assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        }
    }

    /// The same for a text of which the first line will do.
    pub fn first_line(&mut self, home: &Home, words: &[&str]) {
        for (width, name) in WIDTHS.into_iter().zip(SUCCESS) {
            let mut ran = shown_at(home.command(words), width);
            let first = ran.stdout.lines().next().unwrap().to_owned();
            ran.stdout = format!("{first}\n…\n");
            self.record(name, words, ran);
        }
    }

    /// A run that was made elsewhere.
    pub fn given(&mut self, name: &str, words: &[&str], ran: Ran) {
        self.record(name, words, ran);
    }

    fn record(&mut self, name: &str, words: &[&str], ran: Ran) -> Ran {
        heading(&mut self.text, &self.verb, name);
        entry(&mut self.text, words, &ran);
        ran
    }

    /// Compares with the stored page.
    pub fn keep(self) {
        let name = self.verb.replace(' ', "-");
        self.keep_as(&name);
    }

    /// The same for a page that took a world of its own.
    pub fn keep_as(self, name: &str) {
        stored("verbs", name, &self.text);
    }
}

/// `## peer kick: success at 80`
pub fn heading(text: &mut String, verb: &str, name: &str) {
    writeln!(text, "## {verb}: {name}").unwrap();
}

/// What was typed, and what came of it.
pub fn entry(text: &mut String, words: &[&str], ran: &Ran) {
    let typed: Vec<String> = words
        .iter()
        .map(|word| {
            let is_plain = !word.is_empty() && !word.contains([' ', '"', '\'']);
            if is_plain { (*word).to_owned() } else { format!("'{word}'") }
        })
        .collect();
    writeln!(text, "$ claudemesh {}", typed.join(" ")).unwrap();
    text.push_str(&ran.stdout);
    if !ran.stderr.is_empty() {
        write!(text, "stderr:\n{}", ran.stderr).unwrap();
    }
    writeln!(text, "exit {}\n", ran.code).unwrap();
}
