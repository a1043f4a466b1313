//! Colours, icons and widths: the only module that knows an escape code (CLI spec §1.10, §8.1).

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What a piece of text means; the palette decides how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Plain,
    /// Names, section titles.
    Accent,
    Ok,
    Warn,
    Err,
    /// Commands, addresses.
    Code,
    /// Secondary text, ids, hints.
    Dim,
}

/// A sign with a word-like meaning, and its form for terminals without Unicode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Icon {
    Done,
    Failed,
    Attention,
    Next,
    Online,
    Busy,
    Offline,
    Unread,
    Brand,
}

impl Icon {
    /// The sign.
    pub(crate) const fn text(self, unicode: bool) -> &'static str {
        let (wide, plain) = match self {
            Self::Done => ("✔", "[OK]"),
            Self::Failed => ("✘", "[X]"),
            Self::Attention => ("⚠", "[!]"),
            Self::Next => ("→", "->"),
            Self::Online | Self::Unread => ("●", "*"),
            Self::Busy => ("◐", "o"),
            Self::Offline => ("○", "."),
            Self::Brand => ("◇", "<>"),
        };
        if unicode { wide } else { plain }
    }

    /// Its colour.
    pub(crate) const fn token(self) -> Token {
        match self {
            Self::Done | Self::Online | Self::Unread => Token::Ok,
            Self::Failed => Token::Err,
            Self::Attention | Self::Busy => Token::Warn,
            Self::Next | Self::Offline => Token::Dim,
            Self::Brand => Token::Accent,
        }
    }
}

/// Signs in our sentences, and how they are written without Unicode.
const SIGNS: [(char, &str); 6] =
    [('—', "-"), ('…', "..."), ('·', "|"), ('→', "->"), ('≥', ">="), ('◇', "<>")];

/// How one stream is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) colour: bool,
    pub(crate) unicode: bool,
    /// Cells per line; `None` for a stream that is no terminal: nothing is cut.
    pub(crate) width: Option<usize>,
}

impl Style {
    /// `text` in the colour of `token`.
    pub(crate) fn paint(self, token: Token, text: &str) -> String {
        let code = match token {
            Token::Plain => "",
            Token::Accent => "38;5;173",
            Token::Ok => "32",
            Token::Warn => "33",
            Token::Err => "31",
            Token::Code => "36",
            Token::Dim => "2",
        };
        if !self.colour || code.is_empty() || text.is_empty() {
            return self.characters(text);
        }
        format!("\u{1b}[{code}m{}\u{1b}[0m", self.characters(text))
    }

    /// Our own signs in plain letters when the terminal has no Unicode; text of other people stays as it is.
    pub(crate) fn characters(self, text: &str) -> String {
        if self.unicode || text.is_ascii() {
            return text.to_owned();
        }
        let mut plain = String::with_capacity(text.len());
        for character in text.chars() {
            match SIGNS.iter().find(|(sign, _)| *sign == character) {
                Some((_, ascii)) => plain.push_str(ascii),
                None => plain.push(character),
            }
        }
        plain
    }

    /// How to move in a list.
    pub(crate) const fn pick_help(self) -> &'static str {
        if self.unicode {
            "↑↓ to move, Enter to choose, type to filter"
        } else {
            "arrows to move, Enter to choose, type to filter"
        }
    }
}

/// Cells a text takes on a terminal.
pub(crate) fn cells(text: &str) -> usize {
    text.width()
}

/// Cuts a text to `max` cells, an ellipsis included; wide characters are never split.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if cells(text) <= max {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for character in text.chars() {
        let wide = character.width().unwrap_or(0);
        if used + wide + 1 > max {
            break;
        }
        used += wide;
        kept.push(character);
    }
    kept.push('…');
    kept
}

/// A text followed by blanks up to `width` cells.
pub(crate) fn padded(text: &str, width: usize) -> String {
    let blanks = width.saturating_sub(cells(text));
    format!("{text}{}", " ".repeat(blanks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_count_two_cells_and_are_never_split() {
        assert_eq!(cells("漢字"), 4);
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("漢字漢字", 4), "漢…");
        assert_eq!(padded("漢", 4), "漢  ");
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn without_colour_no_escape_is_written() {
        let style = Style { colour: false, unicode: true, width: None };
        assert_eq!(style.paint(Token::Err, "bad"), "bad");
        let style = Style { colour: true, ..style };
        assert_eq!(style.paint(Token::Err, "bad"), "\u{1b}[31mbad\u{1b}[0m");
        assert_eq!(style.paint(Token::Plain, "bad"), "bad");
    }

    #[test]
    fn without_unicode_our_signs_are_ascii() {
        for icon in [
            Icon::Done,
            Icon::Failed,
            Icon::Attention,
            Icon::Next,
            Icon::Online,
            Icon::Busy,
            Icon::Offline,
            Icon::Unread,
            Icon::Brand,
        ] {
            assert!(icon.text(false).is_ascii());
        }
        let style = Style { colour: false, unicode: false, width: None };
        assert_eq!(style.paint(Token::Dim, "— a… · b"), "- a... | b");
    }
}
