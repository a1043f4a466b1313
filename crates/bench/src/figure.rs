//! Collecting figures over runs and printing them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

/// One measured number.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// What it says, such as `push p99 ms`.
    pub(crate) what: String,
    /// The number, in the unit `what` names.
    pub(crate) value: f64,
}

impl Figure {
    /// A number with its unit in `what`.
    pub(crate) fn new(what: impl Into<String>, value: f64) -> Self {
        Self { what: what.into(), value }
    }
}

/// p50 and p99 of a set of durations, in milliseconds.
pub(crate) fn latency(what: &str, mut times: Vec<Duration>) -> Vec<Figure> {
    times.sort_unstable();
    [("p50", 0.50), ("p99", 0.99)]
        .into_iter()
        .map(|(name, share)| {
            Figure::new(format!("{what} {name} ms"), millis(quantile(&times, share)))
        })
        .collect()
}

/// The element at `share` of a sorted slice; zero when it is empty.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a slice of far fewer than 2^52 elements, and the share lies in 0..=1"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// Milliseconds as a number.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `count` per second.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// All figures of all runs.
pub(crate) struct Report {
    fdatasync: Vec<Duration>,
    order: Vec<&'static str>,
    targets: BTreeMap<&'static str, &'static str>,
    rows: BTreeMap<&'static str, Vec<(String, Vec<f64>)>>,
}

impl Report {
    /// An empty report that knows the disk.
    pub(crate) fn new(mut fdatasync: Vec<Duration>) -> Self {
        fdatasync.sort_unstable();
        Self { fdatasync, order: Vec::new(), targets: BTreeMap::new(), rows: BTreeMap::new() }
    }

    /// Adds the figures of one run.
    pub(crate) fn add(&mut self, name: &'static str, target: &'static str, figures: Vec<Figure>) {
        if !self.order.contains(&name) {
            self.order.push(name);
            self.targets.insert(name, target);
        }
        let rows = self.rows.entry(name).or_default();
        for figure in figures {
            match rows.iter_mut().find(|(what, _)| *what == figure.what) {
                Some((_, values)) => values.push(figure.value),
                None => rows.push((figure.what, vec![figure.value])),
            }
        }
    }

    /// Prints the table, or JSON.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            let rows: Vec<_> = self.summaries().map(|row| {
                serde_json::json!({
                    "measurement": row.name, "figure": row.what, "median": row.median, "min": row.min, "max": row.max,
                })
            }).collect();
            let document = serde_json::json!({
                "fdatasync_ms": {"p50": millis(quantile(&self.fdatasync, 0.5)), "p99": millis(quantile(&self.fdatasync, 0.99))},
                "figures": rows,
            });
            writeln!(out, "{document:#}")?;
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["measurement", "figure", "median", "min", "max", "target"]);
        for row in self.summaries() {
            let target = if row.is_first { row.target } else { "" };
            let name = if row.is_first { row.name } else { "" };
            table.add_row([
                name.to_owned(),
                row.what.to_owned(),
                shown(row.median),
                shown(row.min),
                shown(row.max),
                target.to_owned(),
            ]);
        }
        for column in 2..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(out, "{table}")?;
        writeln!(
            out,
            "\nfdatasync of 4 KiB on this disk: p50 {:.2} ms, p99 {:.2} ms",
            millis(quantile(&self.fdatasync, 0.5)),
            millis(quantile(&self.fdatasync, 0.99)),
        )?;
        Ok(())
    }

    fn summaries(&self) -> impl Iterator<Item = Summary<'_>> {
        self.order.iter().flat_map(move |name| {
            let rows = self.rows.get(name).map(Vec::as_slice).unwrap_or_default();
            rows.iter().enumerate().map(move |(index, (what, values))| {
                let mut sorted = values.clone();
                sorted.sort_unstable_by(f64::total_cmp);
                Summary {
                    name,
                    what,
                    median: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
                    min: sorted.first().copied().unwrap_or_default(),
                    max: sorted.last().copied().unwrap_or_default(),
                    target: self.targets.get(name).copied().unwrap_or_default(),
                    is_first: index == 0,
                }
            })
        })
    }
}

struct Summary<'a> {
    name: &'static str,
    what: &'a str,
    median: f64,
    min: f64,
    max: f64,
    target: &'static str,
    is_first: bool,
}

fn shown(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
