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
    /// Column of the lines that follow when it is wrapped; behind indent and sign when nothing is said.
    hang: Option<usize>,
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

    /// When it does not fit, it goes on at this column.
    #[must_use]
    pub(crate) fn hanging(mut self, column: usize) -> Self {
        self.hang = Some(column);
        self
    }

    fn render(&self, style: Style) -> String {
        match style.width {
            Some(width) if !self.is_cut && !self.is_command() => self.wrapped(style, width),
            _ => self.on_one_line(style),
        }
    }

    /// Commands and addresses are copied from the screen: a line break of ours would end up in them. A line that says
    /// where it goes on has its text behind the command.
    fn is_command(&self) -> bool {
        self.hang.is_none() && self.spans.iter().any(|span| span.token == Token::Code)
    }

    /// Broken at blanks where it would pass the edge; a word that is wider than the terminal stays whole.
    fn wrapped(&self, style: Style, width: usize) -> String {
        let mut text = " ".repeat(self.indent);
        let mut used = self.indent;
        if let Some(icon) = self.icon {
            let sign = icon.text(style.unicode);
            text.push_str(&style.paint(icon.token(), sign));
            text.push(' ');
            used += cells(sign) + 1;
        }
        let hang = self.hang.unwrap_or(used);
        let hang = if hang > width / 2 { self.indent } else { hang };
        let mut is_fresh = true;
        for span in &self.spans {
            let shown = style.characters(&span.text);
            let mut run = String::new();
            for word in shown.split_inclusive(' ') {
                let bare = word.trim_end_matches(' ');
                if used + cells(bare) > width && !is_fresh {
                    text.push_str(&style.paint(span.token, run.trim_end()));
                    run.clear();
                    let kept = text.trim_end().len();
                    text.truncate(kept);
                    text.push('\n');
                    text.push_str(&" ".repeat(hang));
                    (used, is_fresh) = (hang, true);
                }
                if is_fresh && bare.is_empty() && used == hang && text.contains('\n') {
                    continue;
                }
                run.push_str(word);
                used += cells(word);
                is_fresh &= bare.is_empty();
            }
            text.push_str(&style.paint(span.token, &run));
        }
        text.trim_end().to_owned()
    }

    fn on_one_line(&self, style: Style) -> String {
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

    /// Appends what another screen says; its hint counts when it has one.
    pub(crate) fn append(&mut self, other: Self) -> &mut Self {
        self.parts.extend(other.parts);
        self.hint = other.hint.or(self.hint.take());
        self
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
            let line = Line::new().hanging(INDENT + width).put(Token::Dim, padded(key, width));
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
    fn prose_is_wrapped_below_its_beginning() {
        let style = Style { width: Some(24), ..PLAIN };
        let mut screen = Screen::new();
        screen.done("Bob may now: read, dm, broadcast, state-read");
        screen.pairs(&[("value", "one two three four five".into())]);
        let text = screen.render(style, WithHint::No);
        assert_eq!(
            text,
            "  ✔ Bob may now: read,\n    dm, broadcast,\n    state-read\n  value  one two three\n         four five\n"
        );
        assert!(text.lines().all(|line| cells(line) <= 24));
        let whole = screen.render(PLAIN, WithHint::No);
        assert_eq!(whole.lines().count(), 2, "without a terminal nothing is wrapped");
        let mut screen = Screen::new();
        screen.line(Line::new().put(Token::Code, "claudemesh join http://example.org/i/abcdef"));
        screen.line(Line::new().put(Token::Dim, "x".repeat(40)));
        assert_eq!(screen.render(style, WithHint::No).lines().count(), 2);
        let colour = Style { colour: true, ..style };
        let mut screen = Screen::new();
        screen.line(
            Line::new().put(Token::Dim, "name ").put(Token::Accent, "a b c d e f g h i j k l m"),
        );
        let text = screen.render(colour, WithHint::No);
        assert_eq!(text.matches("\u{1b}[0m").count(), 3, "{text:?}");
    }

    #[test]
    fn cut_lines_end_at_the_edge() {
        let mut screen = Screen::new();
        screen.line(Line::new().put(Token::Plain, "x".repeat(100)).cut());
        let text = screen.render(Style { width: Some(40), ..PLAIN }, WithHint::No);
        assert_eq!(cells(text.trim_end_matches('\n')), 40);
    }
}
