//! `link-watcher top` through a real failover: the screen shows it, keys give orders, and the terminal is left as it was.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::routers::CLIENT_GROUP;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::terminal::Terminal;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_programs::own;
use nix::sys::signal::Signal;

fn trial() -> Trial {
    let setup = Setup { interval: Duration::from_millis(50), ..Setup::default() };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

/// `top` of a daemon; it finds the socket through the configuration.
fn top(daemon: &Daemon) -> Terminal {
    let mut terminal = Terminal::open(80, 24).unwrap();
    let mut command = own(daemon.binary());
    command.arg("top").arg("--config").arg(daemon.config_path());
    terminal.run(&mut command, |command| daemon.namespace().spawn(command)).unwrap();
    terminal.wait_text("hq (peer, client): optic active").unwrap();
    terminal
}

/// The line of a link.
fn line<'a>(screen: &'a str, link: &str) -> &'a str {
    let of = |line: &&str| line.get(3..).is_some_and(|rest| rest.split(' ').next() == Some(link));
    screen.lines().find(of).unwrap_or_default()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_failover_is_on_the_screen() {
    let trial = trial();
    let mut terminal = top(&trial.routers.client_daemon);
    // The past of the first link: bars at the end of its line, once it has been watched for two seconds.
    let bars = |screen: &str| line(screen, "optic").ends_with(|c: char| ('▁'..='█').contains(&c));
    terminal.wait_for("bars", bars).unwrap();
    assert!(terminal.text().contains(">* optic"), "{}", terminal.text());
    trial.cut_first().unwrap();
    terminal.wait_text("hq (peer, client): wifi active").unwrap();
    terminal.wait_text("hq: active-changed optic -> wifi").unwrap();
    terminal.wait_for("how long it took", |screen| screen.contains("(took ") && screen.contains("silence ")).unwrap();
    let moved = |screen: &str| {
        line(screen, "optic").starts_with(">- optic")
            && line(screen, "optic").contains(" down ")
            && line(screen, "wifi").starts_with(" * wifi")
    };
    terminal.wait_for("the links' new states", moved).unwrap();
    terminal.wait_for("a gap", |screen| !bars(screen) && line(screen, "optic").contains("100%")).unwrap();
    trial.repair().unwrap();
    terminal.wait_text("hq (peer, client): optic active").unwrap();
    terminal.wait_for("bars again", bars).unwrap();
    terminal.type_in("q").unwrap();
    assert!(terminal.wait_end().unwrap().success());
    terminal.check_restored().unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keys_drain_and_switch_and_sigterm_restores_the_terminal() {
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    let mut terminal = top(daemon);
    terminal.type_in("d").unwrap();
    terminal.wait_text("usable besides: wifi + tunnel").unwrap();
    terminal.type_in("y").unwrap();
    trial.routers.wait_active("wifi", PATIENCE).unwrap();
    terminal.wait_text("drained/up").unwrap();
    terminal.wait_text("hq (peer, client): wifi active").unwrap();
    let status = daemon.status().unwrap();
    let order = &link_watcher_lab::status::group(&status, CLIENT_GROUP).unwrap()["orders"][0];
    assert_eq!((&order["what"], &order["link"]), (&"drain".into(), &"optic".into()), "{order}");
    terminal.type_in("u").unwrap();
    trial.routers.wait_active("optic", PATIENCE).unwrap();
    // The daemon goes, and comes back.
    daemon.stop().unwrap();
    terminal.wait_text("! no daemon answers on").unwrap();
    daemon.start().unwrap();
    terminal.wait_for("the daemon again", |screen| !screen.contains("no daemon answers")).unwrap();
    terminal.signal(Signal::SIGTERM).unwrap();
    assert!(terminal.wait_end().unwrap().success());
    terminal.check_restored().unwrap();
}
