//! The configuration: TOML to a validated [`Config`]. Past [`Config`] nothing is optional that the daemon needs, and
//! nothing unchecked.
//!
//! Values are read by hand from the TOML document with their places, and not derived, because a derived reader stops at
//! the first mistake: whoever writes a configuration shall see all of them at once.

mod actuation;
mod advice;
mod control_group;
mod cross;
mod diagnostic;
mod diff;
mod group;
mod host;
mod meant;
mod metrics;
mod model;
mod notify;
mod peer;
mod protocol;
pub mod reference;
mod secret;
mod section;
mod syntax;
mod unknown;
mod uplinks;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml::de::DeTable;

pub(crate) use self::diagnostic::Findings;
pub use self::{
    control_group::ControlGroup,
    diagnostic::{Diagnostic, Place, Refused, Severity},
    diff::diff,
    host::{Address, Host},
    metrics::MetricsConfig,
    model::{
        Config, DaemonConfig, DatapathChoice, KernelLog, LogTarget, OnExit, PeerConfig, PeerLinkConfig, WhenAllDown,
    },
    notify::{EmailConfig, ExecConfig, Means, NotifyConfig, SmtpServer, SmtpTls, Template, WebhookConfig},
    secret::{SecretError, SecretFile},
    uplinks::{
        FailbackConnections, ForceConfig, HttpTarget, Nat, ProbeConfig, ProbeKind, Protocol, RULE_PRIORITIES,
        TcpRefusal, UplinkConfig, UplinksConfig,
    },
};
use self::{
    peer::Peer,
    reference::{Key as Entry, Otherwise, Schema, Takes, words},
    section::Section,
    uplinks::Uplinks,
};

use crate::{ledger::DEFAULT_INSTANCE, trust};

/// Where the configuration is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/link-watcher/link-watcher.toml";
/// Where the control socket is unless the configuration says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/link-watcher/control.sock";
/// Where the daemon keeps what outlives it unless the configuration says otherwise.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/link-watcher";
const ENGINES: [(&str, DatapathChoice); 4] = [
    ("auto", DatapathChoice::Auto),
    ("xdp", DatapathChoice::Xdp),
    ("tc", DatapathChoice::Tc),
    ("socket", DatapathChoice::Socket),
];
const ON_EXIT: [(&str, OnExit); 2] = [("keep", OnExit::Keep), ("remove", OnExit::Remove)];
const LOGS: [(&str, LogTarget); 3] =
    [("auto", LogTarget::Auto), ("syslog", LogTarget::Syslog), ("stderr", LogTarget::Stderr)];
const KERNEL_LOGS: [(&str, Option<KernelLog>); 5] = [
    ("off", None),
    ("error", Some(KernelLog::Error)),
    ("warn", Some(KernelLog::Warn)),
    ("info", Some(KernelLog::Info)),
    ("debug", Some(KernelLog::Debug)),
];
const DEFAULT_REALTIME: bool = true;
/// `[daemon]`.
static DAEMON: Schema = Schema::new(
    "[daemon]",
    "The daemon itself. All of it may be left out.",
    &[
        Entry::new(
            "control-socket",
            Takes::Text("path of at most 107 bytes"),
            Otherwise::Text(DEFAULT_CONTROL_SOCKET),
            "where commands reach the daemon",
        ),
        Entry::new(
            "engine",
            Takes::Words(&words(&ENGINES)),
            Otherwise::Text("auto"),
            "where keepalives are verified; `auto`: the best that works, link by link. What is not to be had is said, and the link is served by \
             a socket",
        ),
        Entry::new(
            "on-exit",
            Takes::Words(&words(&ON_EXIT)),
            Otherwise::Text("keep"),
            "what becomes of our routes, rules and tables when the daemon stops",
        ),
        Entry::new(
            "instance",
            Takes::Text("name of 1 to 64 letters, digits, dashes, dots and underscores"),
            Otherwise::Words("none: `main` in paths"),
            "tells several daemons on one machine apart",
        ),
        Entry::new(
            "realtime",
            Takes::Flag,
            Otherwise::Flag(DEFAULT_REALTIME),
            "the probing thread runs under SCHED_FIFO, with its memory locked",
        ),
        Entry::new(
            "state-directory",
            Takes::Text("path"),
            Otherwise::Text(DEFAULT_STATE_DIRECTORY),
            "orders, history and the last good configuration; below it one directory an instance",
        ),
        Entry::new(
            "control-group",
            Takes::Text("name of a group of users"),
            Otherwise::Words("none: root only"),
            "whose members may ask `status` and `events`; orders stay root's",
        ),
        Entry::new(
            "log",
            Takes::Words(&words(&LOGS)),
            Otherwise::Text("auto"),
            "where the log goes; `auto`: the journal with fields under systemd, else standard error",
        ),
        Entry::new(
            "kernel-log",
            Takes::Words(&words(&KERNEL_LOGS)),
            Otherwise::Text("off"),
            "what the kernel program tells of packets, chosen when it is loaded: `info` what is dropped and why, `debug` also what is good",
        ),
    ],
);
/// Longest configuration, bytes.
const MAX_FILE_LEN: u64 = 8 << 20;
/// Longest path of a Unix socket, bytes: `sun_path` of `unix(7)` without its final zero.
const MAX_SOCKET_PATH_LEN: usize = 107;

/// A configuration, and what is doubtful about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's text.
    pub text: String,
    /// What can be run.
    pub config: Config,
    /// What probably was not meant; never an error.
    pub warnings: Vec<Diagnostic>,
}

/// Reads the configuration for the daemon. An interface or address that this machine does not have is a warning: it
/// may come later.
///
/// # Errors
///
/// Everything that is wrong, with its place.
pub fn load(path: &Path) -> Result<Loaded, Refused> {
    read(path, Severity::Warning, BTreeSet::new())
}

/// Reads the configuration for whoever just wrote it. An interface or address that this machine does not have is an
/// error, unless the interface is of a kind that comes and goes (PPP, tunnels, modems).
///
/// # Errors
///
/// Everything that is wrong, with its place.
pub fn check(path: &Path) -> Result<Loaded, Refused> {
    read(path, Severity::Error, BTreeSet::new())
}

/// Reads the configuration for a daemon that runs already, with these interfaces. As [`check`], but what was used before may
/// be away.
///
/// # Errors
///
/// Everything that is wrong, with its place.
pub fn recheck(path: &Path, expected: BTreeSet<String>) -> Result<Loaded, Refused> {
    read(path, Severity::Error, expected)
}

fn read(path: &Path, absent: Severity, expected: BTreeSet<String>) -> Result<Loaded, Refused> {
    // Who can change it can have everything that the daemon may do.
    trust::check(path).map_err(|untrusted| about_file(path, untrusted.to_string(), &untrusted.remedy(), false))?;
    let text = read_text(path)?;
    parse(path, &text, &Host { expected, ..this_host(path)? }, absent)
}

fn this_host(path: &Path) -> Result<Host, Refused> {
    Host::read()
        .map_err(|error| about_file(path, format!("the kernel does not list its interfaces: {error}"), "", false))
}

/// Where a configuration wants its control socket, whatever else is wrong with it.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn control_socket_of(path: &Path) -> Result<PathBuf, Refused> {
    let socket = daemon_text(path, "control-socket")?;
    Ok(directory_of(path).join(socket.as_deref().unwrap_or(DEFAULT_CONTROL_SOCKET)))
}

/// The instance that a configuration names, whatever else is wrong with it.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn instance_of(path: &Path) -> Result<Option<String>, Refused> {
    daemon_text(path, "instance")
}

/// Where a configuration wants what outlives its daemon, whatever else is wrong with it.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn state_directory_of(path: &Path) -> Result<PathBuf, Refused> {
    let root = daemon_text(path, "state-directory")?;
    let root = directory_of(path).join(root.as_deref().unwrap_or(DEFAULT_STATE_DIRECTORY));
    Ok(root.join(instance_of(path)?.as_deref().unwrap_or(DEFAULT_INSTANCE)))
}

/// Reads a text that was the configuration at `path` once, as [`load`] reads a file.
///
/// # Errors
///
/// Everything that is wrong, with its place.
pub fn load_former(path: &Path, text: &str) -> Result<Loaded, Refused> {
    parse(path, text, &this_host(path)?, Severity::Warning)
}

/// A text of `[daemon]`.
fn daemon_text(path: &Path, key: &str) -> Result<Option<String>, Refused> {
    let text = read_text(path)?;
    let (document, _) = DeTable::parse_recoverable(&text);
    let value = section::lookup(document.get_ref(), "daemon")
        .and_then(|daemon| section::lookup(daemon.get_ref().as_table()?, key))
        .and_then(|value| value.get_ref().as_str());
    Ok(value.map(str::to_owned))
}

/// Validates the text of a configuration. Relative paths in it are relative to the directory of `path`. `absent` says
/// how bad it is if something is not on this `host`.
///
/// # Errors
///
/// Everything that is wrong, with its place.
pub fn parse(path: &Path, text: &str, host: &Host, absent: Severity) -> Result<Loaded, Refused> {
    let findings = Findings::new(path, text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    syntax::report(text, &syntax_errors, &findings);
    let config =
        if syntax_errors.is_empty() { check_document(document.get_ref(), host, absent, &findings) } else { None };
    let (diagnostics, omitted) = findings.into_sorted();
    match config {
        Some(config) if diagnostics.iter().all(|diagnostic| diagnostic.severity == Severity::Warning) => {
            Ok(Loaded { text: text.to_owned(), config, warnings: diagnostics })
        }
        _ => Err(Refused { file: path.to_owned(), diagnostics, omitted }),
    }
}

fn check_document(document: &DeTable<'_>, host: &Host, absent: Severity, findings: &Findings<'_>) -> Option<Config> {
    let root = Section::new(&reference::FILE, 0..0, document, findings);
    let directory = directory_of(findings.file());
    let daemon = check_daemon(&root, directory, absent);
    let mut peers: Vec<Peer<'_>> =
        root.sections("peer", &peer::PEER).into_iter().map(|section| Peer::read(section, directory)).collect();
    let uplinks: Vec<Uplinks<'_>> =
        root.sections("uplinks", &uplinks::UPLINKS).into_iter().map(Uplinks::read).collect();
    // A section whose name is wrong is not missed as well.
    if root.get("peer").is_none() && root.get("uplinks").is_none() && !findings.any_error() {
        findings.error(
            &(0..0),
            "there is nothing to watch",
            "add a section [[peer]] or [[uplinks]]; link-watcher generate config shows one",
        );
    }
    let metrics = metrics::read(&root);
    let notifiers = notify::read(&root, directory, absent);
    cross::check(&peers, &uplinks, findings);
    actuation::resolve(&mut peers, &uplinks, findings);
    host::check(&peers, host, absent, findings);
    uplinks::check_host(&uplinks, &peers, host, absent, findings);
    advice::check(&peers, &uplinks, findings);
    // Both are built before either is missed: building reports what only shows when values are put together.
    let peers: Vec<Option<PeerConfig>> = peers.into_iter().map(Peer::build).collect();
    let uplinks: Vec<Option<UplinksConfig>> = uplinks.into_iter().map(Uplinks::build).collect();
    Some(Config {
        daemon,
        peers: peers.into_iter().collect::<Option<_>>()?,
        uplinks: uplinks.into_iter().collect::<Option<_>>()?,
        metrics,
        notifiers,
    })
}

fn check_daemon(root: &Section<'_>, directory: &Path, absent: Severity) -> DaemonConfig {
    let mut daemon = DaemonConfig {
        control_socket: PathBuf::from(DEFAULT_CONTROL_SOCKET),
        engine: DatapathChoice::Auto,
        on_exit: OnExit::Keep,
        instance: None,
        realtime: DEFAULT_REALTIME,
        state_directory: PathBuf::from(DEFAULT_STATE_DIRECTORY),
        control_group: None,
        log: LogTarget::Auto,
        kernel_log: None,
    };
    let Some(section) = root.section("daemon", &DAEMON) else { return daemon };
    if let Some(socket) = section.string("control-socket", "\"/run/link-watcher/control.sock\"") {
        daemon.control_socket = directory.join(socket.get_ref());
        if daemon.control_socket.as_os_str().len() > MAX_SOCKET_PATH_LEN || socket.get_ref().is_empty() {
            section.findings.error(
                &socket.span(),
                "`control-socket` cannot be a socket's path",
                format!("it has 1 to {MAX_SOCKET_PATH_LEN} bytes"),
            );
        }
    }
    daemon.engine = section.choice("engine", &ENGINES).unwrap_or(daemon.engine);
    daemon.on_exit = section.choice("on-exit", &ON_EXIT).unwrap_or(daemon.on_exit);
    daemon.realtime = section.boolean("realtime").unwrap_or(daemon.realtime);
    daemon.log = section.choice("log", &LOGS).unwrap_or(daemon.log);
    daemon.kernel_log = section.choice("kernel-log", &KERNEL_LOGS).unwrap_or(daemon.kernel_log);
    if let Some(state) = section.string("state-directory", "\"/var/lib/link-watcher\"") {
        if state.get_ref().is_empty() {
            let help = format!("it is a path, such as {DEFAULT_STATE_DIRECTORY}");
            section.findings.error(&state.span(), "`state-directory` is empty", help);
        }
        daemon.state_directory = directory.join(state.get_ref());
    }
    daemon.control_group = control_group::read(&section, absent);
    if let Some(instance) = section.string("instance", "\"main\"") {
        let text = instance.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(allowed) {
            section.findings.error(
                &instance.span(),
                format!("`instance` cannot be \"{text}\": it names a directory"),
                "it has 1 to 64 letters, digits, dashes, dots and underscores, and does not begin with a dot",
            );
        }
        daemon.instance = Some(instance.into_inner());
    }
    daemon
}

/// The directory that relative paths in a configuration are relative to.
fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// A refusal because of the file itself; an empty `help` is none.
fn about_file(path: &Path, message: String, help: &str, needs_privilege: bool) -> Refused {
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        file: path.to_owned(),
        place: None,
        message,
        help: Some(help.to_owned()).filter(|help| !help.is_empty()),
        needs_privilege,
    };
    Refused { file: path.to_owned(), diagnostics: vec![diagnostic], omitted: 0 }
}

fn read_text(path: &Path) -> Result<String, Refused> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => about_file(
            path,
            "there is no such file".to_owned(),
            "link-watcher generate config prints one to begin with; --config PATH names another",
            false,
        ),
        io::ErrorKind::PermissionDenied => {
            about_file(path, "it cannot be read: permission denied".to_owned(), "run this as root", true)
        }
        _ => about_file(path, format!("it cannot be read: {error}"), "", false),
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(about_file(path, format!("it is longer than {MAX_FILE_LEN} bytes"), "", false));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        about_file(path, format!("it is not UTF-8, first at line {line}"), "save it as UTF-8", false)
    })
}
