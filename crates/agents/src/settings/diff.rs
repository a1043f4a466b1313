//! What an edit changes, as people read it.

use std::collections::HashSet;
use std::fmt::Write as _;

use similar::{ChangeTag, TextDiff};

/// Lines around a change.
const CONTEXT_LINES: usize = 3;
/// Lines from this length on are not shown: files on one line hold everything, and settings hold secrets.
const LONGEST_LINE: usize = 240;

/// A unified diff; empty when nothing changes. Line ends of Windows are not shown, nor are the values on lines that stay:
/// keys and tokens of other servers stand there.
pub fn diff(name: &str, before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let (before, after) = (before.replace("\r\n", "\n"), after.replace("\r\n", "\n"));
    let old: HashSet<&str> = before.lines().map(bare).collect();
    let new: HashSet<&str> = after.lines().map(bare).collect();
    let shown = |line: &str| {
        let line = line.trim_end_matches('\n');
        let is_theirs = old.contains(bare(line)) && new.contains(bare(line));
        match line.chars().count() {
            LONGEST_LINE.. => "… (a long line)".to_owned(),
            _ if is_theirs => masked(line),
            _ => line.to_owned(),
        }
    };
    let compared = TextDiff::from_lines(&before, &after);
    let mut text = format!("--- {name}\n+++ {name}\n");
    for hunk in compared.unified_diff().context_radius(CONTEXT_LINES).iter_hunks() {
        let _ = writeln!(text, "{}", hunk.header());
        for change in hunk.iter_changes() {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            let _ = writeln!(text, "{sign}{}", shown(change.value()));
        }
    }
    text
}

/// A line without what an edit of its neighbours may add to it.
fn bare(line: &str) -> &str {
    line.trim().trim_end_matches(',')
}

/// A line with its text values as dots; names of members stay.
fn masked(line: &str) -> String {
    let (mut shown, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once('"') {
        let end = end_of_text(after);
        let (text, behind) = after.split_at(end);
        let behind = behind.strip_prefix('"').unwrap_or(behind);
        let is_name = behind.trim_start().starts_with([':', '=']);
        shown.push_str(before);
        shown.push('"');
        shown.push_str(if is_name || text.is_empty() { text } else { "…" });
        shown.push('"');
        rest = behind;
    }
    shown + rest
}

/// The byte of the quote that ends a text, or the end of the line.
fn end_of_text(text: &str) -> usize {
    let mut is_escaped = false;
    text.char_indices()
        .find(|(_, sign)| {
            let is_end = *sign == '"' && !is_escaped;
            is_escaped = *sign == '\\' && !is_escaped;
            is_end
        })
        .map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_values_are_not_shown() {
        let before = "{\n  \"env\": { \"TOKEN\": \"se\\\"cret\" }\n}\n";
        let after = "{\n  \"env\": { \"TOKEN\": \"se\\\"cret\" },\n  \"x\": \"ours\"\n}\n";
        let shown = diff("f", before, after);
        assert!(
            shown.contains("+  \"env\": { \"TOKEN\": \"…\" },\n+  \"x\": \"ours\"\n"),
            "{shown}"
        );
        assert!(!shown.contains("cret"), "{shown}");
        let one_line = format!("{{\"a\": \"{}\"}}", "s".repeat(300));
        let shown = diff("f", &one_line, &one_line.replace("\"}", "\", \"x\": 1}"));
        assert!(!shown.contains("sss"), "{shown}");
    }
}
