//! The manual pages: complete, and what man(1) takes without a complaint.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Stdio;

use link_watcher_programs::own;
use support::Desk;

fn run(arguments: &[&str]) -> String {
    let output = own(env!("CARGO_BIN_EXE_link-watcher")).args(arguments).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What the program itself names as known in a section, when it refuses another key.
fn known_keys(desk: &Desk, section: &str) -> Vec<String> {
    let file = desk.write("c.toml", &format!("{section}\nqqqqqqqqqqqqqqqq = 1\n"));
    let said = run(&["check", file.to_str().unwrap()]);
    let (_, keys) = said.split_once("known keys are ").unwrap_or_else(|| panic!("{said}"));
    keys.lines().next().unwrap().split(", ").map(str::to_owned).collect()
}

#[test]
fn the_page_of_the_configuration_has_every_key() {
    let desk = Desk::new();
    let page = run(&["man", "link-watcher.toml"]).replace("\\-", "-");
    assert!(page.contains(".TH link-watcher.toml 5"), "{page}");
    let mut asked = 0;
    for section in [
        "[daemon]",
        "[metrics]",
        "[[peer]]",
        "[[peer]]\n[[peer.link]]",
        "[[uplinks]]",
        "[[uplinks]]\n[uplinks.probe]",
        "[[uplinks]]\n[[uplinks.link]]",
        "[[uplinks]]\n[[uplinks.force]]",
        "[[notify]]",
    ] {
        let title = section.lines().last().unwrap();
        let begin = page.find(&format!(".SS {title}")).unwrap_or_else(|| panic!("{title} in {page}"));
        let text = page[begin + 4..].split(".SS").next().unwrap();
        for key in known_keys(&desk, section) {
            assert!(text.contains(&format!("\\fB{key}\\fR = ")), "{title} has a key {key}, which is not told: {text}");
            asked += 1;
        }
    }
    assert!(asked > 60, "{asked}");
}

#[test]
fn the_page_of_the_program_has_every_command() {
    let page = run(&["man"]).replace("\\-", "-");
    let help = run(&["--help"]);
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> =
        names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(page.contains(&format!(".SS \"link-watcher {name}")), "{name} in {page}");
    }
}
