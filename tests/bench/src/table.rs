//! The results: one table for people, one document for the record.

use std::fs;

use serde_json::{Value, json};

/// One result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The part of the benchmarks.
    pub(crate) part: &'static str,
    /// What was measured, with its unit.
    pub(crate) name: String,
    /// At most so much; what, if nothing was promised, it is compared with is in its name.
    pub(crate) target: Option<f64>,
    /// Least, median, greatest.
    pub(crate) measured: [f64; 3],
}

impl Row {
    /// Median to target.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let ratio = self.measured[1] / self.target?;
        ratio.is_finite().then_some(ratio)
    }
}

/// All results so far.
pub(crate) struct Table {
    printed: bool,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// `printed`: rows are printed as they come.
    pub(crate) fn new(printed: bool) -> Self {
        Self { printed, rows: Vec::new() }
    }

    /// Adds a row of these values; `what` names it.
    pub(crate) fn add(&mut self, part: &'static str, name: impl Into<String>, target: Option<f64>, values: &mut [f64]) {
        self.add_spread(part, name, target, spread(values));
    }

    /// As [`Table::add`], of values that are least, median and greatest already.
    pub(crate) fn add_spread(
        &mut self,
        part: &'static str,
        name: impl Into<String>,
        target: Option<f64>,
        measured: [f64; 3],
    ) {
        let row = Row { part, name: name.into(), target, measured };
        if self.printed {
            if self.rows.last().is_none_or(|last| last.part != part) {
                println!("\n{part} (load average {})", load_average());
                println!("  {:<58} {:>9} {:>9} {:>9} {:>9} {:>6}", "", "target", "min", "median", "max", "ratio");
            }
            let [min, median, max] = measured.map(number);
            let target = target.map_or_else(|| "-".to_owned(), number);
            let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            println!("  {:<58} {target:>9} {min:>9} {median:>9} {max:>9} {ratio:>6}", row.name);
        }
        self.rows.push(row);
    }

    /// Adds a row of what could not be measured.
    pub(crate) fn miss(&mut self, part: &'static str, name: String, target: Option<f64>) {
        let name = name.lines().next().unwrap_or_default().to_owned();
        self.add_spread(part, name, target, [f64::NAN; 3]);
    }

    /// As one document.
    pub(crate) fn record(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let [min, median, max] = row.measured;
                json!({
                    "part": row.part, "name": row.name, "target": row.target,
                    "min": min, "median": median, "max": max, "ratio": row.ratio(),
                })
            })
            .collect();
        json!({ "version": env!("CARGO_PKG_VERSION"), "load_average": load_average(), "results": rows })
    }
}

/// Three digits that matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "none".to_owned(),
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Least, median, greatest.
pub(crate) fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    match values {
        [] => [0.0; 3],
        [first, ..] => [*first, values[values.len() / 2], values[values.len() - 1]],
    }
}

/// Of the last minute: what else the machine did. Empty where the kernel does not tell.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
