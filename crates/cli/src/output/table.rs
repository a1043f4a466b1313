//! Rows under a header, laid out when the width of the stream is known (CLI spec §8.2).

use super::style::{Style, Token, cells, cut, padded};

/// Blanks between two columns.
const GAP: usize = 2;
/// Narrowest a column becomes on a narrow terminal, in cells.
const COLUMN_MIN: usize = 6;

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table; its texts stand on one line each and hold nothing that acts on a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    columns: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no row.
    pub(crate) fn new(columns: Vec<(String, Side)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Appends a row with one text for each column.
    pub(crate) fn row(&mut self, texts: Vec<String>) {
        self.rows.push(texts);
    }

    /// The lines, each ended by a line feed.
    pub(crate) fn render(&self, style: Style, indent: usize) -> String {
        let widths = self.widths(style.width.map(|width| width.saturating_sub(indent)));
        let header = self.columns.iter().map(|(name, _)| name.as_str());
        let mut text = self.line(header, &widths, indent, |line| style.paint(Token::Dim, line));
        for row in &self.rows {
            let texts = row.iter().map(String::as_str);
            text.push_str(
                &self.line(texts, &widths, indent, |line| style.paint(Token::Plain, line)),
            );
        }
        text
    }

    fn line<'a>(
        &self,
        texts: impl Iterator<Item = &'a str>,
        widths: &[usize],
        indent: usize,
        paint: impl Fn(&str) -> String,
    ) -> String {
        let mut line = String::new();
        for ((text, width), (_, side)) in texts.zip(widths).zip(&self.columns) {
            if !line.is_empty() {
                line.push_str(&" ".repeat(GAP));
            }
            let text = cut(text, *width);
            match side {
                Side::Left => line.push_str(&padded(&text, *width)),
                Side::Right => {
                    line.push_str(&" ".repeat(width.saturating_sub(cells(&text))));
                    line.push_str(&text);
                }
            }
        }
        format!("{}{}\n", " ".repeat(indent), paint(line.trim_end()))
    }

    /// As wide as the widest text; on a terminal the widest columns give way until the row fits.
    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| cells(name)).collect();
        for row in &self.rows {
            for (width, text) in widths.iter_mut().zip(row) {
                *width = (*width).max(cells(text));
            }
        }
        let Some(limit) = limit else { return widths };
        let room = limit.saturating_sub(GAP * widths.len().saturating_sub(1));
        while widths.iter().sum::<usize>() > room {
            match widths.iter_mut().max_by_key(|width| **width) {
                Some(widest) if *widest > COLUMN_MIN => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            ("key".into(), Side::Left),
            ("value".into(), Side::Left),
            ("version".into(), Side::Right),
        ]);
        table.row(vec!["sprint".into(), "14".into(), "3".into()]);
        table.row(vec!["漢字".into(), "x".repeat(90), "12".into()]);
        table
    }

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let mut short = table();
        short.rows.truncate(1);
        let style = Style { colour: false, unicode: true, width: None };
        assert_eq!(short.render(style, 2), "  key     value  version\n  sprint  14           3\n");
    }

    #[test]
    fn rows_fit_every_width_and_are_whole_without_a_terminal() {
        for width in [40, 60, 80, 120] {
            let style = Style { colour: false, unicode: true, width: Some(width) };
            let text = table().render(style, 2);
            assert!(text.lines().all(|line| cells(line) <= width), "{width}:\n{text}");
            assert_eq!(text.lines().count(), 3);
        }
        let style = Style { colour: false, unicode: true, width: None };
        assert!(table().render(style, 2).contains(&"x".repeat(90)));
    }
}
