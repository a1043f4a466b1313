//! A pseudo-terminal: what a person sees, as far as it differs from a pipe.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::home::Home;

/// Runs the binary on a terminal of 80 columns; everything it wrote, and its exit code.
pub fn on_terminal(home: &Home, words: &[&str], color: bool) -> (String, i32) {
    converse(home, words, color, None)
}

/// The same with a person who types `answer` once `question` stands there.
pub fn answered_on_terminal(
    home: &Home,
    words: &[&str],
    question: &str,
    answer: &str,
) -> (String, i32) {
    converse(home, words, false, Some((question, answer)))
}

fn converse(
    home: &Home,
    words: &[&str],
    color: bool,
    mut talk: Option<(&str, &str)>,
) -> (String, i32) {
    let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let slave = open();
    let size = rustix::termios::Winsize { ws_row: 30, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    let mut command = home.command(words);
    command
        .stdin(Stdio::from(open()))
        .stdout(Stdio::from(open()))
        .stderr(Stdio::from(open()))
        .env("TERM", "xterm-256color");
    if !color {
        command.env("NO_COLOR", "1");
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    drop(slave);
    let mut text = Vec::new();
    let mut reader = File::from(master);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut chunk = [0; 4096];
    // Reading a terminal whose other side is closed ends with an error.
    while let Ok(read @ 1..) = reader.read(&mut chunk) {
        text.extend_from_slice(&chunk[..read]);
        let is_asked = |question: &str| String::from_utf8_lossy(&text).contains(question);
        if let Some((_, answer)) = talk.take_if(|(question, _)| is_asked(question)) {
            reader.write_all(answer.as_bytes()).unwrap();
        }
        assert!(Instant::now() < deadline);
    }
    (String::from_utf8_lossy(&text).into_owned(), child.wait().unwrap().code().unwrap_or(-1))
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
