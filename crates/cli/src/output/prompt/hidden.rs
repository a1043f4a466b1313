//! A question whose answer is not shown. The library that asks the others keeps answers in buffers that nobody wipes.

use std::io::{self, Read, Write as _};
use std::time::Instant;

use claudemesh_protocol::limits::PASSPHRASE_FILE_MAX_BYTES;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::{Zeroize as _, Zeroizing};

use super::super::{Icon, Output, Token};
use crate::failure::{Failure, Outcome};

/// Keys as a terminal sends them when it interprets none.
const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const CTRL_W: u8 = 0x17;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];
const ENTER: [u8; 2] = [b'\n', b'\r'];
const ESCAPE: u8 = 0x1b;

/// What became of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Given,
    Cancelled,
}

impl Output {
    /// Begins to ask for texts that nobody shall see; the caller has checked [`Output::may_prompt`]. The terminal shows
    /// no keys from here on, also those that are typed ahead of a question, until the answer is dropped.
    ///
    /// # Errors
    /// Exit 10 when there is no terminal.
    pub(crate) fn hidden(&self) -> Outcome<Hidden<'_>> {
        let before = unseen().map_err(|error| cannot_read(&error))?;
        Ok(Hidden { out: self, before })
    }
}

/// A terminal without echo, lines and signals. Dropped, also by a panic, it is as it was.
pub(crate) struct Hidden<'a> {
    out: &'a Output,
    before: Termios,
}

impl Hidden<'_> {
    /// Asks once.
    ///
    /// # Errors
    /// Cancelled when the person breaks off; exit 10 when the terminal cannot be read.
    pub(crate) fn ask(&self, question: &str) -> Outcome<Zeroizing<String>> {
        let began = Instant::now();
        let style = self.out.stderr;
        let sign = style.paint(Token::Warn, Icon::Attention.text(style.unicode));
        let mut stderr = io::stderr().lock();
        // A terminal that is gone shows in the read below.
        let _ = write!(stderr, "{sign} {question}: ").and_then(|()| stderr.flush());
        let mut typed = Zeroizing::new(Vec::with_capacity(PASSPHRASE_FILE_MAX_BYTES));
        let answer = read_keys(io::stdin().lock(), &mut typed);
        let _ = writeln!(stderr);
        *self.out.asked.lock() += began.elapsed();
        match answer {
            Ok(Answer::Given) => {}
            Ok(Answer::Cancelled) => {
                let failure = Failure::of_word("cancelled", "cancelled");
                return Err(failure.exit(claudemesh_protocol::error::ExitCode::Cancelled));
            }
            Err(error) => return Err(cannot_read(&error)),
        }
        let text = std::str::from_utf8(&typed);
        text.map(|text| Zeroizing::new(text.to_owned()))
            .map_err(|_| Failure::invalid("what was typed is not UTF-8"))
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that went away.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Switches echo, lines and signals off; how it was.
fn unseen() -> io::Result<Termios> {
    let before = tcgetattr(io::stdin())?;
    let mut unseen = before.clone();
    unseen.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    tcsetattr(io::stdin(), OptionalActions::Now, &unseen)?;
    Ok(before)
}

fn cannot_read(error: &io::Error) -> Failure {
    Failure::io("cannot read the terminal", error)
}

/// Collects keys until Enter. What would not fit is left out: nobody types that much.
fn read_keys(input: impl Read, typed: &mut Vec<u8>) -> io::Result<Answer> {
    #[expect(clippy::unbuffered_bytes, reason = "a buffer would hold secrets that nobody wipes")]
    let mut keys = input.bytes();
    while let Some(key) = keys.next().transpose()? {
        match key {
            key if ENTER.contains(&key) => return Ok(Answer::Given),
            CTRL_C => return Ok(Answer::Cancelled),
            CTRL_D if typed.is_empty() => return Ok(Answer::Cancelled),
            CTRL_U | CTRL_W => typed.zeroize(),
            key if BACKSPACE.contains(&key) => {
                // A character of several bytes goes as a whole.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            ESCAPE => skip_sequence(&mut keys)?,
            key if key < b' ' => {}
            key if typed.len() < typed.capacity() => typed.push(key),
            _ => {}
        }
    }
    Ok(Answer::Cancelled)
}

/// Arrow keys and the marks around pasted text: `ESC [ … letter`.
fn skip_sequence(keys: &mut impl Iterator<Item = io::Result<u8>>) -> io::Result<()> {
    if keys.next().transpose()? == Some(b'[') {
        while let Some(part) = keys.next().transpose()? {
            if (0x40..=0x7e).contains(&part) {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (Answer, String) {
        let mut typed = Vec::with_capacity(16);
        let answer = read_keys(keys, &mut typed).unwrap();
        (answer, String::from_utf8(typed).unwrap())
    }

    #[test]
    fn keys_do_what_they_do_elsewhere() {
        for (keys, answer, text) in [
            ("correct\rmore", Answer::Given, "correct"),
            ("ab\u{7f}c\n", Answer::Given, "ac"),
            ("aä\u{8}c\n", Answer::Given, "ac"),
            ("\u{7f}\u{7f}x\n", Answer::Given, "x"),
            ("wrong\u{15}right\n", Answer::Given, "right"),
            ("a\u{1b}[Ab\n", Answer::Given, "ab"),
            ("\u{1b}[200~pasted\u{1b}[201~\n", Answer::Given, "pasted"),
            ("a\tb\n", Answer::Given, "ab"),
            ("abc\u{3}", Answer::Cancelled, "abc"),
            ("\u{4}", Answer::Cancelled, ""),
            ("cut off", Answer::Cancelled, "cut off"),
            ("0123456789abcdefg\n", Answer::Given, "0123456789abcdef"),
        ] {
            assert_eq!(typed(keys.as_bytes()), (answer, text.to_owned()), "{keys:?}");
        }
    }
}
