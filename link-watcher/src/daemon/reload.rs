//! Reading the configuration again: what changes is said, what is refused is seen, and what is not confirmed is taken back.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::core::Core;
use crate::{
    clock,
    config::{self, Config, Loaded, Refused},
    control::{EventRecord, ReloadOptions},
    state::{Keeper, Kept, StateFile},
    status::ConfigSnapshot,
};

/// Longest time to confirm in, s.
const MAX_CONFIRM_SECONDS: u64 = 24 * 3600;

/// What became of reloads.
#[derive(Debug)]
pub(super) struct Reloads {
    /// The text of the running configuration.
    text: String,
    /// When the running configuration was taken, ns.
    since_ns: u64,
    /// Why the last one was refused, and when, ns.
    refused: Option<(u64, String)>,
    /// What returns unless somebody confirms.
    unconfirmed: Option<Unconfirmed>,
    /// The text of a file that was taken until somebody confirms it, which nobody has.
    unconfirmed_text: Option<String>,
    /// Whether the last reload is kept, for whoever asked for it.
    written: Option<oneshot::Receiver<Kept>>,
    /// Keeps what somebody stands for, for a start at which the file is refused.
    keeper: Keeper<LastGood>,
}

/// The configuration that ran last, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LastGood {
    /// The file that it was.
    path: PathBuf,
    text: String,
    /// What the file said that was taken instead until somebody confirms it.
    #[serde(default)]
    unconfirmed: Option<String>,
}

/// Why the file is not what runs from the start on.
#[derive(Debug)]
pub(super) enum Aside {
    /// What is wrong with it.
    Refused(String),
    /// Its text: nobody confirmed it.
    Unconfirmed(String),
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Unconfirmed(_) => f.write_str(
                "nobody confirmed the file, which `link-watcher reload --confirm-within` had taken, before the daemon ended: \
                 the former configuration is back, and the file is not what runs",
            ),
        }
    }
}

/// Version of its file, and its longest length, bytes.
const LAST_GOOD: (u32, u64) = (1, 8 << 20);

fn last_good_in(directory: &Path) -> StateFile {
    StateFile::new(directory.join("last-good.json"), LAST_GOOD.0, LAST_GOOD.1)
}

/// Reads the configuration at the start. Where the file is refused, or was taken for a time and never confirmed, what somebody
/// last stood for serves, with the reason why the file does not.
///
/// # Errors
///
/// Everything that is wrong with the file, where nothing ran before.
pub(super) fn load(path: &Path) -> Result<(Loaded, Option<Aside>), Refused> {
    let refused = match config::load(path) {
        Ok(loaded) => {
            let tried = |kept: &LastGood| kept.unconfirmed.as_ref() == Some(&loaded.text) && kept.text != loaded.text;
            let former = kept_for(path).filter(tried).and_then(|kept| config::load_former(path, &kept.text).ok());
            return Ok(match former {
                Some(former) => (former, Some(Aside::Unconfirmed(loaded.text))),
                None => (loaded, None),
            });
        }
        Err(refused) => refused,
    };
    // With more privilege it might be read; and where there is no file, nobody wants anything to run.
    if refused.needs_privilege() {
        return Err(refused);
    }
    let former = kept_for(path).and_then(|kept| config::load_former(path, &kept.text).ok());
    former.map(|loaded| (loaded, Some(Aside::Refused(refused.to_string())))).ok_or(refused)
}

/// What is kept of a file.
fn kept_for(path: &Path) -> Option<LastGood> {
    let directory = config::state_directory_of(path).ok()?;
    last_good_in(&directory).read::<LastGood>().ok().flatten().filter(|kept| kept.path == path)
}

#[derive(Debug)]
struct Unconfirmed {
    until_ns: u64,
    config: Config,
    text: String,
}

impl Reloads {
    /// A daemon that starts with this text, because it is what the file says, or because the file is put `aside`.
    ///
    /// # Errors
    ///
    /// Without another thread.
    pub(super) fn new(text: String, aside: Option<Aside>, directory: &Path) -> anyhow::Result<Self> {
        let now_ns = clock::now_ns();
        let keeper = Keeper::start("lw-config", "the configuration that runs", last_good_in(directory))?;
        let refused = aside.as_ref().map(|aside| (now_ns, aside.to_string()));
        let unconfirmed_text = match aside {
            Some(Aside::Unconfirmed(text)) => Some(text),
            Some(Aside::Refused(_)) | None => None,
        };
        Ok(Self { text, since_ns: now_ns, refused, unconfirmed: None, unconfirmed_text, written: None, keeper })
    }

    /// Tells when what the last reload leaves for the next start is kept.
    pub(super) fn take_written(&mut self) -> Option<oneshot::Receiver<Kept>> {
        self.written.take()
    }

    /// Keeps a configuration as the one that a start falls back to.
    fn keep(&mut self, path: &Path, text: String) {
        let last = LastGood { path: path.to_owned(), text, unconfirmed: self.unconfirmed_text.clone() };
        self.written = Some(self.keeper.keep(last));
    }

    /// Waits, not for long, until what is to be kept is written.
    pub(super) fn stop(self) {
        self.keeper.stop();
    }

    /// When the former configuration returns, ns.
    pub(super) fn next_deadline_ns(&self) -> u64 {
        self.unconfirmed.as_ref().map_or(u64::MAX, |unconfirmed| unconfirmed.until_ns)
    }
}

impl Core {
    /// Reads the configuration again. Gives what changes, for people.
    pub(super) async fn reload(&mut self, options: &ReloadOptions) -> Result<String, String> {
        let result = self.reload_checked(options).await;
        if options.dry_run {
            return result;
        }
        match &result {
            Ok(done) => {
                info!("{}", done.lines().next().unwrap_or_default());
                self.reloads.refused = None;
                self.note("config-reloaded", done.lines().skip(1).map(str::trim).collect::<Vec<_>>().join("; "));
            }
            Err(error) => {
                error!("the configuration stays as it was: {error}");
                self.reloads.refused = Some((clock::now_ns(), error.clone()));
                let last = error.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
                self.note("config-refused", last.to_owned());
            }
        }
        result
    }

    async fn reload_checked(&mut self, options: &ReloadOptions) -> Result<String, String> {
        let read = if options.force {
            config::load(&self.config_path)
        } else {
            config::recheck(&self.config_path, interfaces(&self.config))
        };
        let Loaded { text, config, warnings } = read.map_err(|errors| errors.to_string())?;
        for warning in &warnings {
            warn!("{}", warning.summary());
        }
        if config.daemon != self.config.daemon {
            return Err(
                "[daemon] has changed, which takes a restart: `systemctl restart link-watcher` moves no traffic"
                    .to_owned(),
            );
        }
        if options.confirm_within_seconds.is_some_and(|seconds| !(1..=MAX_CONFIRM_SECONDS).contains(&seconds)) {
            return Err("--confirm-within goes from 1s to 24h".to_owned());
        }
        let mut lines = self.changes(&config, &text)?;
        lines.extend(warnings.iter().map(|warning| format!("warning: {}", warning.summary())));
        let verb = if options.dry_run { "would be read" } else { "read" };
        let (peers, links) = (config.peers.len(), config.peers.iter().map(|peer| peer.links.len()).sum::<usize>());
        let uplinks: usize = config.uplinks.iter().map(|group| group.links.len()).sum();
        let path = self.config_path.display();
        let mut said = format!("{path} {verb}: peers: {peers}, links: {links}, uplinks: {uplinks}");
        if options.dry_run {
            return Ok(lines.iter().fold(said, |said, line| said + "\n  " + line));
        }
        let former = (self.config.clone(), self.reloads.text.clone());
        self.configure(config).await?;
        self.reloads.text = text;
        self.reloads.since_ns = clock::now_ns();
        match options.confirm_within_seconds {
            Some(seconds) => {
                let until_ns = clock::now_ns().saturating_add(seconds * 1_000_000_000);
                // What returns is what somebody last stood for.
                let (config, text) = match self.reloads.unconfirmed.take() {
                    Some(unconfirmed) => (unconfirmed.config, unconfirmed.text),
                    None => former,
                };
                // A daemon that is killed meanwhile begins with that one, too.
                self.reloads.unconfirmed_text = Some(self.reloads.text.clone());
                self.reloads.keep(&self.config_path, text.clone());
                self.reloads.unconfirmed = Some(Unconfirmed { until_ns, config, text });
                lines.push(format!("`link-watcher confirm` within {seconds} s, or the former configuration returns"));
            }
            None => {
                self.reloads.unconfirmed = None;
                self.reloads.unconfirmed_text = None;
                self.keep_last_good();
            }
        }
        for line in lines {
            said += "\n  ";
            said += &line;
        }
        Ok(said)
    }

    /// Keeps the running configuration as the one that a start falls back to.
    pub(super) fn keep_last_good(&mut self) {
        let text = self.reloads.text.clone();
        self.reloads.keep(&self.config_path, text);
    }

    /// What another configuration changes, a line each.
    fn changes(&self, config: &Config, text: &str) -> Result<Vec<String>, String> {
        let mut lines = config::diff(&self.reloads.text, text);
        for peer in &config.peers {
            let known = self.config.peers.iter().find(|known| known.name == peer.name);
            if known.is_some_and(|known| known.keys != peer.keys) {
                lines.push(format!("~ peer {}: other keys", peer.name));
            }
        }
        let fresh = self.registry.fresh(config, self.slots)?;
        if !fresh.is_empty() {
            lines.push(format!("begin anew, without a verdict: {}", fresh.join(", ")));
        }
        if lines.is_empty() {
            lines.push("nothing changes".to_owned());
        }
        Ok(lines)
    }

    /// Somebody stands for the running configuration.
    pub(super) fn confirm(&mut self) -> Result<String, String> {
        match self.reloads.unconfirmed.take() {
            Some(_) => {
                self.reloads.unconfirmed_text = None;
                self.keep_last_good();
                self.note("config-confirmed", String::new());
                Ok("confirmed: the configuration stays".to_owned())
            }
            None => {
                Err("no configuration waits to be confirmed; `link-watcher reload --confirm-within 60s` makes one \
                         wait"
                    .to_owned())
            }
        }
    }

    /// Returns to the former configuration where nobody confirmed the present one in time.
    pub(super) async fn revert_unconfirmed(&mut self) {
        if clock::now_ns() < self.reloads.next_deadline_ns() {
            return;
        }
        let Some(Unconfirmed { config, text, .. }) = self.reloads.unconfirmed.take() else { return };
        let why = "nobody confirmed the configuration in time: the former one is back, and the file is not what runs";
        warn!("{why}");
        self.note("config-reverted", why.to_owned());
        self.reloads.refused = Some((clock::now_ns(), why.to_owned()));
        match self.configure(config).await {
            Ok(()) => (self.reloads.text, self.reloads.since_ns) = (text, clock::now_ns()),
            Err(error) => error!("the former configuration could not be taken back: {error}"),
        }
    }

    /// An event of the daemon itself.
    fn note(&self, what: &str, why: String) {
        let time = clock::rfc3339(clock::now_ns());
        let group = "link-watcher".to_owned();
        self.history.push(EventRecord { time, group, what: what.to_owned(), why, ..EventRecord::default() });
    }

    /// How the configuration stands, for the status.
    pub(super) fn config_snapshot(&self) -> ConfigSnapshot {
        let refused = self.reloads.refused.as_ref();
        ConfigSnapshot {
            path: self.config_path.display().to_string(),
            since: clock::rfc3339(self.reloads.since_ns),
            since_unix_s: clock::unix_seconds(self.reloads.since_ns),
            last_reload_successful: refused.is_none(),
            refused_at: refused.map(|(at_ns, _)| clock::rfc3339(*at_ns)),
            problem: refused.map(|(_, why)| why.clone()),
            unconfirmed_until: self
                .reloads
                .unconfirmed
                .as_ref()
                .map(|unconfirmed| clock::rfc3339(unconfirmed.until_ns)),
            ledger_problem: self.ledger.lock().problem().map(str::to_owned),
        }
    }
}

/// Interfaces that a configuration names.
fn interfaces(config: &Config) -> BTreeSet<String> {
    let peers = config.peers.iter().flat_map(|peer| {
        let links = peer.links.iter().map(|link| &link.interface);
        links.chain(&peer.announce_interfaces)
    });
    let uplinks = config.uplinks.iter().flat_map(|group| {
        let links = group.links.iter().map(|link| &link.interface);
        links.chain(&group.lan)
    });
    peers.chain(uplinks).cloned().collect()
}
