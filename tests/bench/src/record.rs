//! The history: a section in `performance.md` for each recorded run, and a chart of the newest one that was whole.

use std::{fmt::Write as _, fs, path::Path, time::SystemTime};

use anyhow::{Context as _, Result};

use crate::table::{Row, Table, load_average, number};

/// Newer runs come right behind this line.
const MARK: &str = "<!-- newest first -->\n";
const CHART: &str = "performance.svg";

pub(crate) fn write(directory: &Path, table: &Table, whole: bool) -> Result<()> {
    let path = directory.join("performance.md");
    let before = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, older) = before.split_once(MARK).with_context(|| format!("{} lacks the line {MARK}", path.display()))?;
    fs::write(&path, format!("{head}{MARK}\n{}{older}", section(table)))
        .and_then(|()| if whole { fs::write(directory.join(CHART), chart(&table.rows)) } else { Ok(()) })
        .with_context(|| format!("cannot write to {}", directory.display()))
}

fn section(table: &Table) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = format!(
        "## {}, version {}\n\nLinux {}, load average at the end {}.\n",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        env!("CARGO_PKG_VERSION"),
        kernel.trim(),
        load_average()
    );
    let mut part = "";
    for row in &table.rows {
        if row.part != part {
            part = row.part;
            // Writing to a string cannot fail, here and below.
            let _ = write!(text, "\n| {part} | target | min | median | max | ratio |\n|---|--:|--:|--:|--:|--:|\n");
        }
        let [min, median, max] = row.measured.map(number);
        let target = row.target.map_or_else(String::new, number);
        let ratio = row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "| {} | {target} | {min} | {median} | {max} | {ratio} |", row.name);
    }
    text.push('\n');
    text
}

const ROW_HEIGHT: usize = 20;
const NAMES_WIDTH: usize = 420;
/// Width of a bar at its target.
const TARGET_WIDTH: f64 = 250.0;
/// Longer bars end here.
const MOST: f64 = 2.0;

/// Each row with a target as a bar: median, as a share of the target, with a whisker up to the greatest.
fn chart(rows: &[Row]) -> String {
    let rows: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.ratio()?))).collect();
    let (width, height) = (NAMES_WIDTH + (TARGET_WIDTH * MOST) as usize + 80, (rows.len() + 2) * ROW_HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let place = |share: f64| NAMES_WIDTH as f64 + share.min(MOST) * TARGET_WIDTH;
    let _ = writeln!(
        svg,
        "<text x=\"{0:.0}\" y=\"14\" text-anchor=\"middle\">target</text>\n\
         <line x1=\"{0:.0}\" y1=\"20\" x2=\"{0:.0}\" y2=\"{height}\" stroke=\"black\" stroke-dasharray=\"4\"/>",
        place(1.0)
    );
    for (number_of, (row, ratio)) in rows.iter().enumerate() {
        let y = (number_of + 1) * ROW_HEIGHT + 4;
        let middle = y + 7;
        let colour = if *ratio <= 1.0 { "#2a7" } else { "#d62" };
        let greatest = row.measured[2] / row.measured[1] * ratio;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES_WIDTH}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            NAMES_WIDTH - 6,
            y + 11,
            row.name,
            ratio.min(MOST) * TARGET_WIDTH,
            place(*ratio),
            place(greatest),
            place(greatest.max(*ratio)) + 6.0,
            y + 11,
            number(row.measured[1]),
        );
    }
    svg.push_str("</svg>\n");
    svg
}
