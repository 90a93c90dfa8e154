//! What people are told while a link is cut, as a program of theirs writes it down.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::metrics::{self, scrape, value};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::{PATIENCE, Trial};

/// A program that writes what it is given to files beside it, as its name says; the last one names how often it ran.
fn program(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cut_is_told_and_a_program_that_hangs_or_fails_costs_nothing() {
    let lab = Lab::new().unwrap();
    let directory = lab.directory().to_owned();
    let told = directory.join("told");
    let page = program(&directory, "page", &format!("{{ env; cat; echo END; }} >> {}", told.display()));
    let hangs = program(&directory, "hangs", "sleep 600");
    let fails = program(&directory, "fails", "echo no modem >&2; exit 3");
    let notifier = |name: &str, command: &Path| {
        format!(
            "[[notify]]\nkind = \"exec\"\nname = \"{name}\"\ncommand = [\"{}\", \"--link\"]\nmin-interval = \"0s\"\n",
            command.display()
        )
    };
    let setup = Setup {
        interval: Duration::from_millis(50),
        daemon_settings: format!(
            "{}{}{}{}",
            metrics::SETTINGS,
            notifier("page", &page),
            notifier("hangs", &hangs),
            notifier("fails", &fails)
        ),
        ..Setup::default()
    };
    let trial = Trial::start(lab, setup, &binary().unwrap(), 1000).unwrap();
    let routers = &trial.routers;
    let (first, second) = (routers.setup.links[0].name.clone(), routers.setup.links[1].name.clone());
    trial.cut_first().unwrap();
    let written = |what: &str| {
        let is = || Ok(fs::read_to_string(&told).ok().filter(|text| text.contains(what)));
        routers.lab.wait_until(&format!("the program to be told of {what}"), PATIENCE, is).unwrap()
    };
    // Both daemons write there; each message names the group as its own end does.
    written(&format!("LW_LINK={first}\n"));
    written("LW_EVENT=link-down\n");
    written("LW_NOTIFIER=page\n");
    written(&format!("traffic moved from {first} to {second}"));
    written(&format!("LW_ACTIVE={second}\n"));
    let results = || {
        let text = scrape(&routers.client_daemon)?;
        let of = |name: &str, result: &str| {
            let sample = format!("link_watcher_notifications_total{{notifier=\"{name}\",result=\"{result}\"}}");
            value(&text, &sample)
        };
        Ok((of("page", "sent")? > 0.0 && of("fails", "failed")? > 0.0 && of("hangs", "sent")? == 0.0).then_some(()))
    };
    routers.lab.wait_until("what became of the messages to be counted", PATIENCE, results).unwrap();
    let log = routers.client_daemon.log();
    assert!(log.contains("notifier fails: ") && log.contains("no modem; tried again in 5 s"), "{log}");
    // A program that hangs is no reason to stay.
    assert!(routers.client_daemon.stop().unwrap().success());
}
