//! Counting what the test runner reports, and the table at the end.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::exec;

/// The outcome of a lane.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that could not run here. What the runner calls ignored belongs to another lane, and is not among them.
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn skipped(tests: u64) -> Self {
        Self { skipped: tests, ..Self::default() }
    }

    /// Adds what a line of the runner's output reports, if it is a summary.
    fn add_line(&mut self, line: &str) {
        let Some((_, summary)) = line.split_once("test result: ") else { return };
        let count = |what: &str| {
            summary.split("; ").find_map(|part| {
                let number = part.strip_suffix(what)?;
                number.rsplit(' ').next()?.parse::<u64>().ok()
            })
        };
        self.passed += count(" passed").unwrap_or(0);
        self.failed += count(" failed").unwrap_or(0);
    }
}

/// A lane that is done.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    pub(crate) counts: Counts,
    pub(crate) took: Duration,
    /// Why it did not run, or what it did not do.
    pub(crate) remark: String,
}

impl Lane {
    pub(crate) fn skipped(name: &'static str, tests: u64, why: &str) -> Self {
        println!("SKIPPED: {why}");
        Self { name, counts: Counts::skipped(tests), took: Duration::ZERO, remark: format!("SKIPPED: {why}") }
    }
}

/// Runs a test command, shows its output as it comes and counts its tests.
///
/// # Errors
///
/// Where the command cannot be started or read. Failing tests are no error but a count.
pub(crate) fn run(name: &'static str, command: &mut Command) -> Result<Lane> {
    run_until(name, command, |status| status.success())
}

/// As [`run`], for a command that says in its own way that it has come to its end.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_until(
    name: &'static str,
    command: &mut Command,
    ended_well: impl Fn(ExitStatus) -> bool,
) -> Result<Lane> {
    println!("$ {}", exec::render(command));
    let begin = Instant::now();
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{}`", exec::render(command)))?;
    let stdout = child.stdout.take().context("the tests' output cannot be read")?;
    let mut counts = show_and_count(stdout, &mut io::stdout())?;
    let status = child.wait().context("the tests' end cannot be awaited")?;
    let mut remark = String::new();
    if !ended_well(status) && counts.failed == 0 {
        // It did not compile, or a test took the whole runner down before the summary.
        counts.failed = 1;
        remark = format!("it ended with {status} and no failed test: see its message above");
    }
    Ok(Lane { name, counts, took: begin.elapsed(), remark })
}

/// Passes output on as it comes and not line by line: the runner prints a test's name before the test runs.
fn show_and_count(mut output: impl Read, terminal: &mut impl Write) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = output.read(&mut buffer).context("the tests' output cannot be read")?;
        if length == 0 {
            return Ok(counts);
        }
        terminal.write_all(&buffer[..length]).and_then(|()| terminal.flush()).context("the terminal is gone")?;
        for &byte in &buffer[..length] {
            if byte == b'\n' {
                counts.add_line(&without_colours(&String::from_utf8_lossy(&line)));
                line.clear();
            } else if line.len() < 4096 {
                line.push(byte); // a summary is short; of a longer line only the beginning matters
            }
        }
    }
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

/// The table of the lanes, and the closing line.
pub(crate) fn report(lanes: &[Lane]) -> String {
    let width = lanes.iter().map(|lane| lane.name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>6}  {:>6}  {:>7}  {:>6}\n", "lane", "passed", "failed", "skipped", "took");
    let mut total = Counts::default();
    for lane in lanes {
        let Counts { passed, failed, skipped } = lane.counts;
        let row = format!(
            "{:width$}  {passed:>6}  {failed:>6}  {skipped:>7}  {:>4} s  {}",
            lane.name,
            lane.took.as_secs(),
            lane.remark
        );
        text.push_str(row.trim_end());
        text.push('\n');
        total.passed += passed;
        total.failed += failed;
        total.skipped += skipped;
    }
    text + &format!("\n{} passed, {} failed, {} skipped\n", total.passed, total.failed, total.skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up_and_other_lines_do_not_count() {
        let mut counts = Counts::default();
        for line in [
            "running 7 tests",
            "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.00s",
            &without_colours("test result: \u{1b}[31mFAILED\u{1b}[0m. 10 passed; 2 failed; 0 ignored; 0 measured"),
            "3 passed; 3 failed",
        ] {
            counts.add_line(line);
        }
        assert_eq!(counts, Counts { passed: 15, failed: 2, skipped: 0 });
    }

    #[test]
    fn the_closing_line_stands_alone() {
        let lane = |name, passed, skipped| Lane {
            name,
            counts: Counts { passed, failed: 0, skipped },
            took: Duration::from_secs(3),
            remark: String::new(),
        };
        let text = report(&[lane("1 a", 12, 0), lane("2 b", 0, 4)]);
        assert_eq!(text.lines().last(), Some("12 passed, 0 failed, 4 skipped"));
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn output_is_passed_on_unchanged_and_counted() {
        let output = "test a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let mut seen = Vec::new();
        let counts = show_and_count(output.as_bytes(), &mut seen).expect("memory reads and writes");
        assert_eq!(seen, output.as_bytes());
        assert_eq!(counts, Counts { passed: 1, failed: 0, skipped: 0 });
    }

    #[test]
    fn a_runner_that_dies_without_a_summary_counts_as_a_failure() {
        let lane = run("x", Command::new("sh").args(["-c", "exit 3"])).expect("sh runs");
        assert_eq!(lane.counts, Counts { passed: 0, failed: 1, skipped: 0 });
        assert!(!lane.remark.is_empty());
    }
}
