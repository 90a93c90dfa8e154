//! rustup, where it is there: which toolchains it has, and adding to them without ever waiting for long.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// How long rustup may take to begin a download. Behind a filter that drops packets it would go on for minutes.
const FIRST_SIGN: Duration = Duration::from_secs(20);

/// The nightlies that are installed, as name and directory, the plain `nightly` first and then the newest date first.
pub(crate) fn nightlies() -> Vec<(String, PathBuf)> {
    let Some(home) = home() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(home.join("toolchains")) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| name.starts_with("nightly"))
        .collect();
    // A date begins with a digit, and digits sort before the letters of a target triple.
    found.sort_by(|a, b| b.0.cmp(&a.0));
    found
}

fn home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".rustup")))
}

/// The targets that the active toolchain can build for.
pub(crate) fn targets() -> Vec<String> {
    let listed = command(&["target", "list", "--installed"]).ok().and_then(|mut command| exec::output(&mut command));
    listed.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The program, if this machine has rustup at all.
pub(crate) fn program() -> Option<PathBuf> {
    link_watcher_programs::find("rustup").or_else(|| {
        let bin = env::home_dir()?.join(".cargo/bin/rustup");
        bin.exists().then_some(bin)
    })
}

/// The command that rustup would be given.
pub(crate) fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program().context("there is no rustup here")?);
    exec::forget_toolchain(&mut command).args(arguments);
    Ok(command)
}

/// Runs rustup for at most `limit`, and stops it earlier if no download has begun after 20 s.
///
/// # Errors
///
/// Where rustup fails or was stopped; with its own last complaint.
pub(crate) fn download(arguments: &[&str], limit: Duration) -> Result<()> {
    let mut command = command(arguments)?;
    eprintln!("$ {}", exec::render(&command));
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run rustup")?;
    let result = follow(&mut child, limit);
    if result.is_err() {
        // Either may fail where rustup has ended meanwhile, and then there is nothing to stop.
        let _ = child.kill();
        let _ = child.wait();
    }
    result
}

fn follow(child: &mut Child, limit: Duration) -> Result<()> {
    let stderr = child.stderr.take().context("rustup's messages cannot be read")?;
    let (lines, received) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let begin = Instant::now();
    let mut deadline = begin + limit.min(FIRST_SIGN);
    let mut complaint = String::new();
    loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if line.contains("downloading") {
                    deadline = begin + limit;
                }
                if line.starts_with("error") {
                    complaint.clone_from(&line);
                }
                eprintln!("  {line}");
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => bail!("rustup had fetched nothing after {} s", begin.elapsed().as_secs()),
        }
    }
    let status = child.wait().context("rustup's end cannot be awaited")?;
    if !status.success() {
        bail!("rustup failed ({status}): {complaint}");
    }
    Ok(())
}
