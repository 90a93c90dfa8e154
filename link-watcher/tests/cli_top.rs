//! `top` in a terminal, before a daemon that only notes what it is asked: the screen, the keys, and the terminal afterwards.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use link_watcher::control::Change;
use link_watcher_lab::terminal::Terminal;
use link_watcher_programs::own;
use nix::sys::signal::Signal;
use support::{Desk, daemon::FakeDaemon};

fn top(socket: &Path) -> Command {
    let mut command = own(env!("CARGO_BIN_EXE_link-watcher"));
    command.arg("top").arg("--socket").arg(socket).env_remove("NO_COLOR");
    command
}

fn opened(command: &mut Command) -> Terminal {
    let mut terminal = Terminal::open(80, 24).unwrap();
    terminal.run(command, |command| Ok(command.spawn()?)).unwrap();
    terminal
}

/// On the screen with its first picture.
fn watching(socket: &Path) -> Terminal {
    let terminal = opened(&mut top(socket));
    terminal.wait_text(">* optic").unwrap();
    assert_eq!(terminal.modes(), (true, true), "it has the alternate screen, and no cursor on it");
    terminal.check_restored().unwrap_err();
    terminal
}

#[test]
fn keys_order_what_commands_order_and_q_leaves_the_terminal_as_it_was() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    daemon.push(7);
    let mut terminal = watching(&daemon.socket);
    terminal.wait_text("hq optic: link-down: no echo for 7 ms").unwrap();
    terminal.type_in("d").unwrap();
    terminal.wait_text("y: yes    any other key: no").unwrap();
    terminal.type_in("n").unwrap();
    terminal.wait_text("nothing was ordered").unwrap();
    terminal.type_in("a").unwrap();
    terminal.wait_text("done: Switch { group: \"hq\", link: None").unwrap();
    // Down, by its escape sequence.
    terminal.type_in("\x1b[B").unwrap();
    terminal.wait_text(">- wifi").unwrap();
    terminal.type_in("dy").unwrap();
    terminal.wait_text("done: Drain { group: \"hq\", link: \"wifi\"").unwrap();
    let (group, wifi) = ("hq".to_owned(), "wifi".to_owned());
    let asked = [
        Change::Switch { group: group.clone(), link: None, force: false },
        Change::Drain { group, link: wifi, for_seconds: None },
    ];
    assert_eq!(*daemon.asked.lock().unwrap(), asked);
    terminal.type_in("q").unwrap();
    assert!(terminal.wait_end().unwrap().success());
    terminal.check_restored().unwrap();
    assert_eq!(terminal.text(), "", "nothing is left on the screen");
}

#[test]
fn it_waits_for_a_daemon_that_is_away() {
    let desk = Desk::new();
    let socket = desk.path("c.sock");
    let mut terminal = opened(&mut top(&socket));
    terminal.wait_text("! no daemon answers on").unwrap();
    let daemon = FakeDaemon::start(&socket).unwrap();
    daemon.push(1);
    terminal.wait_text("no echo for 1 ms").unwrap();
    terminal.wait_for("the complaint to go", |text| !text.contains("no daemon answers")).unwrap();
    drop(daemon);
    terminal.wait_text("! no daemon answers on").unwrap();
    assert!(terminal.text().contains("below: as it was"), "{}", terminal.text());
    let daemon = FakeDaemon::start(&socket).unwrap();
    daemon.push(2);
    terminal.wait_text("no echo for 2 ms").unwrap();
    assert!(terminal.text().contains("no echo for 1 ms"), "what happened before is not forgotten");
    terminal.type_in("q").unwrap();
    assert!(terminal.wait_end().unwrap().success());
    terminal.check_restored().unwrap();
}

#[test]
fn signals_end_it_and_leave_the_terminal_as_it_was() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let mut terminal = watching(&daemon.socket);
        terminal.signal(signal).unwrap();
        assert!(terminal.wait_end().unwrap().success(), "{signal}");
        terminal.check_restored().unwrap();
    }
    let mut terminal = watching(&daemon.socket);
    terminal.type_in("\x03").unwrap();
    assert!(terminal.wait_end().unwrap().success(), "Ctrl-C");
    terminal.check_restored().unwrap();
}

/// crossterm's reader does not come back from a terminal that has gone.
#[test]
fn it_ends_with_a_terminal_that_is_hung_up() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let mut terminal = watching(&daemon.socket);
    terminal.hang_up();
    assert_eq!(terminal.wait_end().unwrap().code(), Some(1));
}

#[test]
fn it_follows_the_size_of_the_terminal() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let mut terminal = watching(&daemon.socket);
    terminal.resize(60, 20).unwrap();
    terminal.wait_text("60x20 is too small: 80x24 is needed").unwrap();
    terminal.resize(132, 43).unwrap();
    terminal.wait_text(">* optic").unwrap();
    terminal.wait_for("43 lines", |text| text.lines().nth(42).is_some_and(|line| line.contains("q quit"))).unwrap();
}

#[test]
fn there_are_no_colours_with_no_color() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    assert!(watching(&daemon.socket).is_coloured());
    let terminal = opened(top(&daemon.socket).env("NO_COLOR", "1"));
    terminal.wait_text(">* optic").unwrap();
    assert!(!terminal.is_coloured());
}

#[test]
fn without_a_terminal_it_says_what_needs_none() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let output = top(&daemon.socket).stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("`link-watcher status --watch` needs none"), "{complaint}");
}
