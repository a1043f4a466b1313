//! What a verb shows to a person: lines of meaning, turned into text only at the end (CLI spec §8.2).

use claudemesh_protocol::text;

use super::style::{Icon, Style, Token, cells, cut, padded};
use super::table::Table;

/// Blanks before everything we say.
const INDENT: usize = 2;

/// One piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    token: Token,
    text: String,
}

/// One line in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line {
    indent: usize,
    icon: Option<Icon>,
    spans: Vec<Span>,
    /// Cut to the terminal's width instead of wrapping.
    is_cut: bool,
}

impl Line {
    /// An empty line with the usual indent of two blanks.
    pub(crate) fn new() -> Self {
        Self { indent: INDENT, ..Self::default() }
    }

    /// Another indent.
    #[must_use]
    pub(crate) fn indent(mut self, blanks: usize) -> Self {
        self.indent = blanks;
        self
    }

    /// A leading sign.
    #[must_use]
    pub(crate) fn icon(mut self, icon: Icon) -> Self {
        self.icon = Some(icon);
        self
    }

    /// Appends our own text.
    #[must_use]
    pub(crate) fn put(mut self, token: Token, text: impl Into<String>) -> Self {
        self.spans.push(Span { token, text: text.into() });
        self
    }

    /// Appends text of somebody else, on one line and without anything that acts on a terminal.
    #[must_use]
    pub(crate) fn foreign(self, token: Token, text: &str) -> Self {
        let clean = text::sanitized_line(text, FOREIGN_MAX_CHARS);
        self.put(token, clean)
    }

    /// Ends at the terminal's edge.
    #[must_use]
    pub(crate) fn cut(mut self) -> Self {
        self.is_cut = true;
        self
    }

    fn render(&self, style: Style) -> String {
        let mut line = " ".repeat(self.indent);
        let mut used = self.indent;
        if let Some(icon) = self.icon {
            let sign = icon.text(style.unicode);
            line.push_str(&style.paint(icon.token(), sign));
            line.push(' ');
            used += cells(sign) + 1;
        }
        let limit = style.width.filter(|_| self.is_cut).unwrap_or(usize::MAX);
        for span in &self.spans {
            let room = limit.saturating_sub(used);
            if room == 0 {
                break;
            }
            let text = cut(&span.text, room);
            used += cells(&text);
            line.push_str(&style.paint(span.token, &text));
        }
        line.trim_end().to_owned()
    }
}

/// Longest single piece of foreign text on a line, in characters.
const FOREIGN_MAX_CHARS: usize = 400;

/// A line, or several that are laid out together.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Line(Line),
    Table(Table),
}

/// Everything a verb prints for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Screen {
    parts: Vec<Part>,
    hint: Option<String>,
}

impl Screen {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends a line.
    pub(crate) fn line(&mut self, line: Line) -> &mut Self {
        self.parts.push(Part::Line(line));
        self
    }

    /// Appends a table.
    pub(crate) fn table(&mut self, table: Table) -> &mut Self {
        self.parts.push(Part::Table(table));
        self
    }

    /// A blank line.
    pub(crate) fn blank(&mut self) -> &mut Self {
        self.line(Line::default())
    }

    /// `— title` between blank lines.
    pub(crate) fn section(&mut self, title: &str) -> &mut Self {
        self.blank();
        self.line(Line::new().put(Token::Dim, "— ").put(Token::Accent, title));
        self.blank()
    }

    /// `✔ text`.
    pub(crate) fn done(&mut self, text: impl Into<String>) -> &mut Self {
        self.line(Line::new().icon(Icon::Done).put(Token::Plain, text))
    }

    /// `⚠ text`.
    pub(crate) fn attention(&mut self, text: impl Into<String>) -> &mut Self {
        self.line(Line::new().icon(Icon::Attention).put(Token::Plain, text))
    }

    /// A dim line.
    pub(crate) fn note(&mut self, text: impl Into<String>) -> &mut Self {
        self.line(Line::new().put(Token::Dim, text))
    }

    /// Keys and values, the keys padded to the longest.
    pub(crate) fn pairs(&mut self, pairs: &[(&str, String)]) -> &mut Self {
        let width = pairs.iter().map(|(key, _)| cells(key)).max().unwrap_or(0) + 2;
        for (key, value) in pairs {
            let line = Line::new().put(Token::Dim, padded(key, width));
            self.line(line.put(Token::Plain, value.clone()));
        }
        self
    }

    /// The one `→ command` of the output; a second call replaces the first. Not printed under `--quiet`.
    pub(crate) fn hint(&mut self, command: impl Into<String>) -> &mut Self {
        self.hint = Some(command.into());
        self
    }

    /// The text, each line ended by a line feed.
    pub(crate) fn render(&self, style: Style, with_hint: WithHint) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Line(line) => {
                    text.push_str(&line.render(style));
                    text.push('\n');
                }
                Part::Table(table) => text.push_str(&table.render(style, INDENT)),
            }
        }
        if let (Some(hint), WithHint::Yes) = (&self.hint, with_hint) {
            text.push_str(
                &Line::new().icon(Icon::Next).put(Token::Dim, hint.clone()).render(style),
            );
            text.push('\n');
        }
        text
    }
}

/// Whether the hint is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithHint {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colour: false, unicode: true, width: None };

    #[test]
    fn pairs_align_and_hint_comes_last() {
        let mut screen = Screen::new();
        screen.hint("claudemesh share");
        screen.section("created dev");
        screen.pairs(&[("id", "M1".into()), ("local", "joined".into())]);
        assert_eq!(
            screen.render(PLAIN, WithHint::Yes),
            "\n  — created dev\n\n  id     M1\n  local  joined\n  → claudemesh share\n"
        );
        assert!(!screen.render(PLAIN, WithHint::No).contains('→'));
    }

    #[test]
    fn a_hostile_name_cannot_leave_its_line() {
        let mut screen = Screen::new();
        screen.line(
            Line::new()
                .icon(Icon::Online)
                .foreign(Token::Accent, "Mou\n  ✔ fake\u{1b}[2J\u{202e}x")
                .cut(),
        );
        let text = screen.render(Style { width: Some(40), ..PLAIN }, WithHint::No);
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
    }

    #[test]
    fn cut_lines_end_at_the_edge() {
        let mut screen = Screen::new();
        screen.line(Line::new().put(Token::Plain, "x".repeat(100)).cut());
        let text = screen.render(Style { width: Some(40), ..PLAIN }, WithHint::No);
        assert_eq!(cells(text.trim_end_matches('\n')), 40);
    }
}
