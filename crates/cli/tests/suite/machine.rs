//! A pseudo-terminal: what a person sees, as far as it differs from a pipe.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, tcgetattr};

use crate::home::{Home, Ran, kill};

/// Longest run on a terminal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Columns of a usual terminal.
pub const COLUMNS: u16 = 80;

/// What a run on a terminal gave.
#[derive(Debug)]
pub struct Talk {
    /// Everything that was written to the terminal.
    pub text: String,
    pub code: i32,
    /// The terminal is as it was: echo, lines, signals.
    pub is_restored: bool,
}

/// Runs the binary on a terminal of 80 columns; everything it wrote, and its exit code.
pub fn on_terminal(home: &Home, words: &[&str], color: bool) -> (String, i32) {
    let talk = converse(home, words, color, None);
    (talk.text, talk.code)
}

/// The same with a person who types `answer` once `question` stands there.
pub fn answered_on_terminal(
    home: &Home,
    words: &[&str],
    question: &str,
    answer: &str,
) -> (String, i32) {
    let talk = asked(home, words, question, answer);
    (talk.text, talk.code)
}

/// The same, with how the terminal was left.
pub fn asked(home: &Home, words: &[&str], question: &str, answer: &str) -> Talk {
    converse(home, words, false, Some((question.to_owned(), answer.to_owned())))
}

/// Runs a command with stdout on a terminal of so many columns, and nothing else on one: nobody can be asked.
pub fn shown_at(mut command: Command, columns: u16) -> Ran {
    let terminal = Terminal::open(columns);
    command
        .stdout(Stdio::from(terminal.line()))
        .stderr(Stdio::piped())
        .env("TERM", "xterm-256color")
        .env("NO_COLOR", "1");
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stderr = child.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let (stdout, code, _) = terminal.watch(child, None);
    Ran { code, stdout: stdout.replace("\r\n", "\n"), stderr: said.join().unwrap() }
}

fn converse(home: &Home, words: &[&str], color: bool, talk: Option<(String, String)>) -> Talk {
    let terminal = Terminal::open(COLUMNS);
    let mut command = home.command(words);
    command
        .stdin(Stdio::from(terminal.line()))
        .stdout(Stdio::from(terminal.line()))
        .stderr(Stdio::from(terminal.line()))
        .env("TERM", "xterm-256color");
    if !color {
        command.env("NO_COLOR", "1");
    }
    let child = command.spawn().unwrap();
    drop(command);
    let (text, code, is_restored) = terminal.watch(child, talk);
    Talk { text, code, is_restored }
}

/// Both ends of a terminal line.
struct Terminal {
    master: OwnedFd,
    name: String,
    line: File,
}

impl Terminal {
    fn open(columns: u16) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().to_str().unwrap().to_owned();
        let line = File::options().read(true).write(true).open(&name).unwrap();
        let size =
            rustix::termios::Winsize { ws_row: 30, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&line, size).unwrap();
        Self { master, name, line }
    }

    fn line(&self) -> File {
        File::options().read(true).write(true).open(&self.name).unwrap()
    }

    /// Reads until the child ends; answers what it asks. What it wrote, its exit code, and whether the line is as it
    /// was.
    fn watch(self, mut child: Child, mut talk: Option<(String, String)>) -> (String, i32, bool) {
        let Self { master, line, .. } = self;
        let before = tcgetattr(&line).unwrap();
        let reader = std::thread::spawn(move || {
            let mut terminal = File::from(master);
            let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
            // Reading a terminal whose other side is closed ends with an error.
            while let Ok(read @ 1..) = terminal.read(&mut chunk) {
                text.extend_from_slice(&chunk[..read]);
                let is_asked =
                    |question: &String| String::from_utf8_lossy(&text).contains(question);
                if let Some((_, answer)) = talk.take_if(|(question, _)| is_asked(question)) {
                    terminal.write_all(answer.as_bytes()).unwrap();
                }
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                kill(child.id());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let is_restored = modes(&before) == modes(&tcgetattr(&line).unwrap());
        drop(line);
        (reader.join().unwrap(), status.code().unwrap_or(-1), is_restored)
    }
}

/// What a program changes to read single keys.
fn modes(line: &Termios) -> String {
    format!("{:?} {:?} {:?}", line.input_modes, line.output_modes, line.local_modes)
}

/// CLI spec §1.10.
#[test]
fn a_terminal_gets_colour_unless_it_is_told_otherwise() {
    let home = Home::new();
    let (text, _) = on_terminal(&home, &["list"], true);
    assert!(text.contains("\u{1b}["), "{text:?}");
    let (text, _) = on_terminal(&home, &["list"], false);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let (text, _) = on_terminal(&home, &["list", "--no-color"], true);
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

/// CLI spec §5.1.
#[test]
fn a_person_without_a_mesh_is_shown_two_commands() {
    let (text, code) = on_terminal(&Home::new(), &[], false);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("claudemesh up") && text.contains("claudemesh join"), "{text}");
}

/// CLI spec §2.3: a config directory that is gone is said once, on a terminal only.
#[test]
fn a_missing_config_directory_is_said_on_a_terminal_only() {
    let home = Home::new().with("CLAUDEMESH_CONFIG_DIR", "/nonexistent/config");
    let (text, _) = on_terminal(&home, &["list"], false);
    assert_eq!(text.matches("unset CLAUDEMESH_CONFIG_DIR").count(), 1, "{text}");
    assert!(home.run(&["list"]).stderr.is_empty());
}
