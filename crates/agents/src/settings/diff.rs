//! What an edit changes, as people read it.

use similar::TextDiff;

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// A unified diff; empty when nothing changes. Line ends of Windows are not shown.
pub fn diff(name: &str, before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let (before, after) = (before.replace("\r\n", "\n"), after.replace("\r\n", "\n"));
    TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(name, name)
        .to_string()
}
