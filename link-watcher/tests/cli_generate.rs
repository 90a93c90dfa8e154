//! What `generate` prints and writes: each is good for the program that it is for.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
};

use link_watcher::config::{self, Host, Loaded, Severity};
use link_watcher_programs::{PROMTOOL, own};
use serde_json::Value;
use support::{Desk, host, host_with, repository_file};

fn run(arguments: &[&str]) -> Output {
    own(env!("CARGO_BIN_EXE_link-watcher")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What it prints.
fn generated(arguments: &[&str]) -> String {
    let output = run(&[&["generate"], arguments].concat());
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaint.is_empty(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The machine of the pair's other end.
fn servers_host() -> Host {
    host_with(&[("eth0", "10.30.0.1/16"), ("eth1", "10.248.248.1/24"), ("eth2", "10.248.249.1/24")])
}

fn good(path: &Path, text: &str, host: &Host) -> Loaded {
    let loaded = config::parse(path, text, host, Severity::Error).unwrap_or_else(|refused| panic!("{refused}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded
}

#[test]
fn the_examples_are_printed_and_pass_the_check_without_a_word() {
    let desk = Desk::new();
    let client = generated(&["config"]);
    assert_eq!(client, repository_file("examples/link-watcher.toml"));
    assert_eq!(client, generated(&["config", "peer"]));
    assert_eq!(client, generated(&["config", "peer", "--role", "client"]));
    good(&desk.path("c.toml"), &client, &host());
    let server = generated(&["config", "peer", "--role", "server"]);
    good(&desk.path("c.toml"), &server, &servers_host());
    let uplinks = generated(&["config", "uplinks"]);
    assert_eq!(uplinks, repository_file("examples/uplinks.toml"));
    let on = host_with(&[("eth0", "10.20.20.1/22"), ("eth1", "192.0.2.2/24"), ("ppp0", "203.0.113.2/32")]);
    good(&desk.path("c.toml"), &uplinks, &on);
}

/// The ends of a pair belong together: addresses, port, role, and one key.
#[test]
fn a_pair_is_two_ends_and_one_key() {
    let desk = Desk::new();
    let directory = desk.path("not/there/yet");
    let directory_text = directory.to_str().unwrap();
    generated(&["config", "pair", "--output", directory_text]);
    let key = directory.join("hq.key");
    assert_eq!(mode(&key), 0o600);
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let client = good(&directory.join("client.toml"), &read("client.toml"), &host()).config;
    let server = good(&directory.join("server.toml"), &read("server.toml"), &servers_host()).config;
    let (client, server) = (&client.peers[0], &server.peers[0]);
    assert_ne!(client.role, server.role);
    assert_eq!((client.port, &client.keys), (server.port, &server.keys));
    assert_eq!(client.links.len(), server.links.len());
    for (here, there) in client.links.iter().zip(&server.links) {
        assert_eq!(here.name, there.name);
        assert_ne!(here.remote, there.remote);
    }
    for announced in &client.announce {
        assert!(server.accept.iter().any(|accepted| accepted.contains(announced)), "{announced}");
    }

    let again = run(&["generate", "config", "pair", "--output", directory_text]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("client.toml exists already, and nothing is written"));
    let former = read("hq.key");
    generated(&["config", "pair", "--force", "--output", directory_text]);
    assert_ne!(read("hq.key"), former);
    assert_eq!(mode(&key), 0o600);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 3, "no drafts are left");

    let printed = generated(&["config", "pair"]);
    let heads: Vec<_> = printed.lines().filter(|line| line.starts_with("######## ")).collect();
    assert_eq!(heads.len(), 3, "{heads:?}");
    assert!(printed.contains(&read("client.toml")) && printed.contains(&read("server.toml")));
}

#[test]
fn a_file_is_written_with_its_directories_and_never_over_another() {
    let desk = Desk::new();
    let path = desk.path("etc/link-watcher/link-watcher.toml");
    let text = path.to_str().unwrap();
    generated(&["config", "peer", "--output", text]);
    assert_eq!(fs::read_to_string(&path).unwrap(), repository_file("examples/link-watcher.toml"));
    fs::write(&path, "mine").unwrap();
    let refused = run(&["generate", "config", "peer", "--output", text]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("exists already and is left as it is"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    generated(&["alerts", "--force", "--output", text]);
    assert_eq!(fs::read_to_string(&path).unwrap(), repository_file("examples/alerts.yml"));
}

#[test]
fn the_unit_is_the_packages_for_this_program() {
    let program = fs::canonicalize(env!("CARGO_BIN_EXE_link-watcher")).unwrap();
    let unit = generated(&["unit"]);
    assert!(unit.contains(&format!("\nExecStart={} run\n", program.display())), "{unit}");
    let packaged = unit.replace(program.to_str().unwrap(), "/usr/sbin/link-watcher");
    assert_eq!(packaged, repository_file("../packaging/link-watcher.service"));
}

/// Names of our metrics, with what a histogram's series end in taken off.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = text.split(word).filter(|name| name.starts_with("link_watcher_"));
    names
        .map(|name| ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name))
        .collect()
}

#[test]
fn dashboard_and_rules_ask_only_for_metrics_that_exist() {
    let served = repository_file("tests/support/metrics.txt");
    let known: BTreeSet<&str> =
        served.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let dashboard: Value = serde_json::from_str(&generated(&["dashboard"])).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 8, "{}", panels.len());
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    let variables: String = dashboard["templating"]["list"].to_string();
    let rules = generated(&["alerts"]);
    for (what, text) in [("dashboard", queries.join("\n")), ("its variables", variables), ("rules", rules)] {
        let asked = metrics_in(&text);
        assert!(!asked.is_empty(), "{what}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{what}: {unknown:?}");
    }
    // Every sum keeps the routers apart.
    for query in queries.iter().filter(|query| query.contains("sum by")) {
        assert!(query.contains("instance, group"), "{query}");
    }
}

#[test]
fn the_documentation_has_the_same_rules() {
    let page = repository_file("../docs/metrics.md");
    let block = page.split("```yaml\n").find(|block| block.starts_with("# Alert rules")).unwrap();
    assert_eq!(block.split("```").next().unwrap(), generated(&["alerts"]));
}

#[test]
fn prometheus_takes_the_rules_and_each_fires_where_it_should() {
    if PROMTOOL.path().is_none() {
        eprintln!("SKIPPED: the alert rules are not tried: there is no promtool here (Debian's package prometheus)");
        return;
    }
    let at = |path: &str| format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    for arguments in
        [["check", "rules", &at("examples/alerts.yml")], ["test", "rules", &at("tests/support/alerts_test.yml")]]
    {
        let output = PROMTOOL.command().args(arguments).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
    // Every rule is tried.
    let tests = repository_file("tests/support/alerts_test.yml");
    for name in repository_file("examples/alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(tests.contains(&format!("alertname: {name}")), "{name}");
    }
}
