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

    /// As wide as the widest text; on a terminal beginnings of keys give way first, then the widest columns, until the
    /// row fits.
    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| cells(name)).collect();
        for row in &self.rows {
            for (width, text) in widths.iter_mut().zip(row) {
                *width = (*width).max(cells(text));
            }
        }
        let Some(limit) = limit else { return widths };
        let room = limit.saturating_sub(GAP * widths.len().saturating_sub(1));
        let mut too_wide = widths.iter().sum::<usize>().saturating_sub(room);
        // What is a beginning already may be a shorter one; a number that is compared may not.
        for (at, width) in widths.iter_mut().enumerate() {
            if self.is_abbreviated(at) {
                let cut = too_wide.min(width.saturating_sub(COLUMN_MIN));
                *width -= cut;
                too_wide -= cut;
            }
        }
        while too_wide > 0 {
            match widths.iter_mut().max_by_key(|width| **width) {
                Some(widest) if *widest > COLUMN_MIN => *widest -= 1,
                _ => break,
            }
            too_wide -= 1;
        }
        widths
    }

    /// Every text of this column is the beginning of something.
    fn is_abbreviated(&self, column: usize) -> bool {
        let mut texts =
            self.rows.iter().filter_map(|row| row.get(column)).filter(|text| !text.is_empty());
        texts.clone().next().is_some() && texts.all(|text| text.ends_with('…'))
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
    fn the_beginning_of_a_key_gives_way_to_a_number_that_is_compared() {
        let mut table =
            Table::new(vec![("safety number".into(), Side::Left), ("key".into(), Side::Left)]);
        table.row(vec!["12345 ".repeat(6).trim_end().into(), "0123456789abcdef…".into()]);
        let style = Style { colour: false, unicode: true, width: Some(46) };
        let text = table.render(style, 2);
        assert!(text.contains("12345 12345 12345 12345 12345 12345"), "{text}");
        assert!(text.contains("012345…") || text.contains("01234…"), "{text}");
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
