//! `generate`: configurations, keys, and what other programs want of this one.

mod file;
mod pair;

use std::{
    env,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    Exit, Failure,
    arguments::{Destination, End, Example, Generated},
    migrate, nft,
    output::{print, say_all},
};
use crate::keys::{Key, KeyProblem, Secret};

/// The commented examples; a test validates them.
pub(super) const PEER_EXAMPLE: &str = include_str!("../../../examples/link-watcher.toml");
pub(super) const UPLINKS_EXAMPLE: &str = include_str!("../../../examples/uplinks.toml");
/// What packages install.
const UNIT: &str = include_str!("../../../../packaging/link-watcher.service");
/// The program in [`UNIT`].
const PROGRAM_IN_UNIT: &str = "/usr/sbin/link-watcher";
const DASHBOARD: &str = include_str!("../../../examples/dashboard.json");
const ALERTS: &str = include_str!("../../../examples/alerts.yml");
/// What `--from` can convert.
const FAULT_TOLERANT_ROUTER: &str = "fault-tolerant-router";

/// `generate`.
pub(super) fn run(what: Generated, config: &Path) -> Result<(), Failure> {
    match what {
        Generated::Config { example: Some(Example::Pair), role: None, to, .. } => pair::generate(&to),
        Generated::Config { from: Some(from), to, .. } => converted(&from, &to),
        Generated::Config { example, role, to, .. } => {
            let text = match (example.unwrap_or(Example::Peer), role) {
                (Example::Peer, None | Some(End::Client)) => PEER_EXAMPLE.to_owned(),
                (Example::Peer, Some(End::Server)) => pair::server(),
                (Example::Uplinks, None) => UPLINKS_EXAMPLE.to_owned(),
                (Example::Uplinks | Example::Pair, _) => {
                    let why = "link-watcher: --role is for `generate config peer`: a pair has both roles, uplinks none";
                    return Err(Failure::new(Exit::Usage, why));
                }
            };
            put(&text, &to, "an example", "; change it, then: link-watcher check {}")
        }
        Generated::Key { to } => key(&to),
        Generated::Nft { to } => put(&nft::rendered(config)?, &to, "the table", "; nft -f {} loads it"),
        Generated::Unit { to } => put(&unit(), &to, "the unit", "; then: systemctl daemon-reload"),
        Generated::Dashboard { to } => put(DASHBOARD, &to, "the dashboard", "; Grafana imports it"),
        Generated::Alerts { to } => put(ALERTS, &to, "the rules", "; name them in rule_files of prometheus.yml"),
    }
}

/// Prints a text, or writes it to a file and says so; in `next`, {} is the file.
fn put(text: &str, to: &Destination, what: &str, next: &str) -> Result<(), Failure> {
    let Some(path) = &to.output else { return print(text) };
    file::put(path, text, file::PUBLIC, to.force)?;
    let path = path.display().to_string();
    print(&format!("wrote {what} to {path}{}\n", next.replace("{}", &path)))
}

/// What another program's configuration comes to.
fn converted(from: &[PathBuf], to: &Destination) -> Result<(), Failure> {
    let file = match from {
        [format, file] if format.as_os_str() == FAULT_TOLERANT_ROUTER => file,
        words => {
            let format = words.first().map_or_else(String::new, |format| format.display().to_string());
            let why = format!("link-watcher: cannot convert from {format}: FORMAT is {FAULT_TOLERANT_ROUTER}");
            return Err(Failure::new(Exit::Usage, why));
        }
    };
    let converted = migrate::fault_tolerant_router(file)?;
    say_all(&converted.warnings);
    put(&converted.toml, to, "what it comes to", "; change it, then: link-watcher check {}")?;
    match converted.refused {
        Some(refused) => {
            Err(Failure::new(Exit::Configuration, format!("{refused}: change it by hand where it says so")))
        }
        None => Ok(()),
    }
}

/// The packages' unit, for this program where it is.
fn unit() -> String {
    // The file may have been replaced since it was started; then that of the packages is the best guess.
    let own = env::current_exe().ok().filter(|path| path.exists());
    match own.as_deref().and_then(Path::to_str) {
        Some(own) => UNIT.replace(PROGRAM_IN_UNIT, own),
        None => UNIT.to_owned(),
    }
}

/// `generate key`, `key generate`.
pub(super) fn key(to: &Destination) -> Result<(), Failure> {
    let line = fresh_key()?;
    match &to.output {
        None => print(&line),
        Some(path) => {
            file::put(path, &line, file::SECRET, to.force)?;
            print(&format!("wrote a new key to {}, for its owner only; the peer needs the same one\n", path.display()))
        }
    }
}

/// `key fingerprint`.
pub(super) fn fingerprint(path: &Path) -> Result<(), Failure> {
    let key = Key::read(path).map_err(|error| {
        let denied = matches!(error.problem, KeyProblem::Denied);
        let why = format!("link-watcher: {error}; {}", error.remedy());
        Failure::new(if denied { Exit::Privilege } else { Exit::Failed }, why)
    })?;
    print(&format!("{}\n", key.fingerprint()))
}

/// A key file's line.
fn fresh_key() -> Result<Zeroizing<String>, Failure> {
    let secret = Secret::generate().map_err(|error| {
        Failure::new(Exit::Failed, format!("link-watcher: the kernel gives no random bytes: {error}"))
    })?;
    let base64 = secret.to_base64();
    // As long as it gets: what a longer one is copied from would not be wiped.
    let mut line = Zeroizing::new(String::with_capacity(base64.len() + 1));
    line.push_str(&base64);
    line.push('\n');
    Ok(line)
}
