//! What each command does.

use std::{
    io::{IsTerminal, stdout},
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::CommandFactory;

use super::{
    Arguments, Command, Exit, Failure,
    arguments::{Destination, KeyAction, OnOff},
    cleanup, doctor, events, explain, generate, man, notify_test,
    output::{Style, document, line, print, say_all},
    report,
    status::{self, Scope},
    top, trace, wait, what_if,
};
use crate::{
    config::{self, Loaded},
    control::{Change, Client, ClientError, ReloadOptions, Reply},
    daemon, log,
};

/// How often `status --watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clears the screen and goes to its corner (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let socket = || socket(&arguments);
    let ordered = |change: Change, reason: Option<String>| -> Result<(), Failure> {
        let said = Client::connect(&socket()?)?.order(change, reason)?;
        print(&format!("{said}\n"))
    };
    match arguments.command.clone().unwrap_or(Command::Run) {
        Command::Run => daemon::run(&arguments.config_path()).map_err(Failure::from),
        Command::Check { path } => check(&path.unwrap_or_else(|| arguments.config_path())),
        Command::Doctor { json } => return doctor::run(&arguments.config_path(), arguments.config.is_some(), json),
        Command::Status { group, link, json, watch: true, .. } => watch(&socket()?, &Scope { group, link }, json),
        Command::Status { group, link, json, exit_code, .. } => {
            let form = if json { Form::Json } else { Form::Text };
            let (text, exit) = look(&socket()?, &Scope { group, link }, form)?;
            print(&text)?;
            return Ok(if exit_code { exit } else { Exit::Done });
        }
        Command::Explain { from, to, port, protocol, json } => {
            let question = explain::Question::new(&from, to, port, protocol)?;
            return explain::run(&question, &socket()?, &arguments.config_path(), json);
        }
        Command::WhatIf { group, link, becomes, json } => what_if::run(&socket()?, group, link, becomes, json),
        Command::Top => top::run(&socket()?),
        Command::TracePackets { group, link, time, json } => {
            trace::run(&socket()?, trace::Options { group, link, time, json })
        }
        Command::Events { follow, json } => show_events(&socket()?, follow, json),
        Command::Report { group, link, since, json } => {
            return report::run(&arguments, &socket()?, &Scope { group, link }, since, json);
        }
        Command::Switch { group, link, force, reason } => {
            ordered(Change::Switch { group, link: Some(link).filter(|link| link != "auto"), force }, reason)
        }
        Command::Failover { state, group, reason } => {
            ordered(Change::Failover { group, on: state == OnOff::On }, reason)
        }
        Command::Drain { group, link, time, reason, wait: waits } => {
            let for_seconds = time.map(|time| time.as_secs());
            let change = Change::Drain { group: group.clone(), link: link.clone(), for_seconds };
            let done = ordered(change, reason);
            if waits { done.and_then(|()| wait::until_empty(&socket()?, &group, &link)) } else { done }
        }
        Command::Undrain { group, link } => ordered(Change::Undrain { group, link }, None),
        Command::Weight { group, link, weight, reason } => {
            ordered(Change::Weight { group, link, weight: weight.ordered() }, reason)
        }
        Command::Cleanup { dry_run, instance } => cleanup::run(&arguments, instance, dry_run),
        Command::Reload { dry_run, force, confirm_within } => {
            let confirm_within_seconds = confirm_within.map(|time| time.as_secs());
            reload(&socket()?, ReloadOptions { dry_run, force, confirm_within_seconds })
        }
        Command::Confirm => ordered(Change::Confirm, None),
        Command::NotifyTest { name } => return notify_test::run(&arguments.config_path(), name.as_deref()),
        Command::Generate { what } => generate::run(what, &arguments.config_path()),
        Command::Key { action: KeyAction::Generate { file } } => {
            generate::key(&Destination { output: file, force: false })
        }
        Command::Key { action: KeyAction::Fingerprint { file } } => generate::fingerprint(&file),
        #[cfg(feature = "demo")]
        Command::Demo { scenario, script, interval, multiplier, engine } => {
            let options = link_watcher_demo::Options { script, interval, multiplier, engine };
            return super::demo::run(scenario, &options);
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "link-watcher", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man { page } => man::run(page.as_deref()),
    }?;
    Ok(Exit::Done)
}

/// The daemon's control socket: what `--socket` says, else what the configuration says, else the default.
fn socket(arguments: &Arguments) -> Result<PathBuf, Failure> {
    if let Some(socket) = &arguments.socket {
        return Ok(socket.clone());
    }
    match (config::control_socket_of(&arguments.config_path()), &arguments.config) {
        (Ok(socket), _) => Ok(socket),
        // Nobody named the file: it need not be there, or not be readable for everybody.
        (Err(_), None) => Ok(PathBuf::from(config::DEFAULT_CONTROL_SOCKET)),
        (Err(refused), Some(_)) => Err((&refused).into()),
    }
}

fn reload(socket: &Path, options: ReloadOptions) -> Result<(), Failure> {
    match Client::connect(socket)?.change(Change::Reload(options)) {
        Ok(said) => print(&format!("{said}\n")),
        // The daemon refuses to reload only for what is wrong with the configuration, and says it as `check` does.
        Err(ClientError::Refused(why)) => Err(Failure::new(Exit::Configuration, why)),
        Err(error) => Err(error.into()),
    }
}

fn check(path: &Path) -> Result<(), Failure> {
    let Loaded { config, warnings, .. } = config::check(path).map_err(|refused| Failure::from(&refused))?;
    say_all(&warnings);
    let links: usize = config.peers.iter().map(|peer| peer.links.len()).sum();
    let uplinks: usize = config.uplinks.iter().map(|group| group.links.len()).sum();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    if !config.peers.is_empty() {
        parts.extend([count(config.peers.len(), "peer"), count(links, "link")]);
    }
    if !config.uplinks.is_empty() {
        parts.push(count(uplinks, "uplink"));
    }
    print(&format!("{} is good: {}\n", path.display(), parts.join(", ")))
}

/// How a status is printed.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
    JsonLine,
}

/// One status, rendered, and how good it looks to a script.
fn look(socket: &Path, scope: &Scope, form: Form) -> Result<(String, Exit), Failure> {
    let snapshot = scope.cut(Client::connect(socket)?.status()?);
    let snapshot = snapshot.map_err(|unknown| Failure::new(Exit::Usage, format!("link-watcher: {unknown}")))?;
    let text = match form {
        Form::Text => status::render_scope(&snapshot, scope, SystemTime::now(), Style::for_stdout()),
        Form::Json => document(&snapshot)?,
        Form::JsonLine => line(&snapshot)?,
    };
    Ok((text, scope.exit(&snapshot)))
}

/// Again and again. On a terminal only the first failure ends it; a later one is shown instead, because a daemon that
/// is restarted comes back.
fn watch(socket: &Path, scope: &Scope, json: bool) -> Result<(), Failure> {
    let terminal = stdout().is_terminal();
    let form = if json { Form::JsonLine } else { Form::Text };
    let clear = if terminal && !json { CLEAR } else { "" };
    let mut seen = false;
    loop {
        match look(socket, scope, form) {
            Ok((text, _)) => print(&format!("{clear}{text}"))?,
            Err(failure) if seen && terminal => {
                print(clear)?;
                log::say(&failure.message);
            }
            Err(failure) => return Err(failure),
        }
        seen = true;
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn show_events(socket: &Path, follow: bool, json: bool) -> Result<(), Failure> {
    let style = Style::for_stdout();
    let mut printed = Ok(());
    Client::connect(socket)?.events(follow, |reply| {
        printed = match reply {
            Reply::Event(record) if json => match serde_json::to_string(&record) {
                Ok(line) => print(&format!("{line}\n")),
                Err(error) => Err(Failure::new(Exit::Failed, format!("link-watcher: {error}"))),
            },
            Reply::Event(record) => print(&format!("{}\n", events::render(&record, style))),
            Reply::Lost(lost) => {
                log::say(&format!("link-watcher: {lost} events came faster than they were read and are lost"));
                Ok(())
            }
            _ => Ok(()),
        };
        if printed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    printed
}
