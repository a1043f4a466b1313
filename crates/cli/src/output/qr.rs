//! A link as a QR code of half blocks (CLI spec §3.1: level L, quiet zone 2, indent 2).

use qrcode::{Color, EcLevel, QrCode};

use super::style::cells;

/// Empty modules around the code.
const QUIET: usize = 2;
/// Blanks in front of every line.
const INDENT: usize = 2;

/// The code as lines of text, or `None` when it would not fit `width` cells. Dark modules are blanks and light ones
/// blocks, so that it reads on a dark terminal; most readers take the inverse too.
pub(crate) fn lines(link: &str, width: usize) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    let side = code.width();
    let is_light = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < side);
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => code[(x, y)] == Color::Light,
            _ => true,
        }
    };
    let full = side + 2 * QUIET;
    let rows: Vec<String> = (0..full)
        .step_by(2)
        .map(|top| {
            let cells = (0..full).map(|x| {
                let below_is_light = top + 1 >= full || is_light(x, top + 1);
                match (is_light(x, top), below_is_light) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                }
            });
            format!("{}{}", " ".repeat(INDENT), cells.collect::<String>())
        })
        .collect();
    rows.iter().all(|row| cells(row) <= width).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_square_and_has_a_quiet_zone() {
        let rows = lines("https://mesh.example.org/i/ABCD2345", 80).unwrap();
        let width = cells(&rows[0]) - INDENT;
        assert_eq!(rows.len(), width.div_ceil(2));
        assert!(rows[0].trim_start().chars().all(|cell| cell == '█'));
    }

    #[test]
    fn a_code_that_does_not_fit_is_left_out() {
        assert_eq!(lines("https://mesh.example.org/i/ABCD2345", 20), None);
    }
}
