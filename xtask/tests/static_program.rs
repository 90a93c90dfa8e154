//! The program that needs no library, in a root directory that has nothing but it: two of it find each other.
//!
//! `cargo xtask test` builds it and names it in `LINK_WATCHER_STATIC`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use link_watcher_lab::Lab;
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::service::Service;
use link_watcher_lab::status::usable;
use link_watcher_programs::CHROOT;
use serde_json::Value;
use support::given;
use support::machine::PATIENCE;

/// The program in its root directory, with these arguments.
fn program(root: &Path, arguments: &[&str]) -> Command {
    let mut command = CHROOT.command();
    command.arg(root).arg("/link-watcher").args(arguments).env_clear();
    command
}

/// Runs it to its end; whether it was content, and both its outputs.
fn says(namespace: &Namespace, root: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = program(root, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = namespace.spawn(&mut command).unwrap().wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn configuration(role: &str, own: u8, other: u8) -> String {
    format!(
        "[daemon]\ncontrol-socket = \"/{role}.sock\"\ninstance = \"{role}\"\nstate-directory = \"/state\"\nrealtime = false\n\
         [[peer]]\nname = \"other\"\nrole = \"{role}\"\nkey-files = [\"/hq.key\"]\nhold-up = \"0s\"\n{}\n\
         [[peer.link]]\nname = \"cable\"\ninterface = \"eth1\"\nlocal = \"192.0.2.{own}\"\nremote = \"192.0.2.{other}\"\n",
        if role == "client" { "routes = [\"203.0.113.0/24\"]" } else { "accept = []" },
    )
}

#[test]
#[ignore = "needs root and the static program: cargo xtask test"]
fn it_runs_where_there_is_nothing_else() {
    let lab = Lab::new().unwrap();
    let root = lab.directory().join("root");
    fs::create_dir(&root).unwrap();
    fs::copy(given("LINK_WATCHER_STATIC"), root.join("link-watcher")).unwrap();
    let [client, server] = ["client", "server"].map(|role| Arc::new(lab.namespace(role).unwrap()));
    client.connect("eth1", &server, "eth1").unwrap();
    let mut services = Vec::new();
    for (namespace, role, own, other) in [(&client, "client", 2, 1), (&server, "server", 1, 2)] {
        namespace.add_address("eth1", format!("192.0.2.{own}/30").parse().unwrap()).unwrap();
        fs::write(root.join(format!("{role}.toml")), configuration(role, own, other)).unwrap();
    }
    let (good, said) = says(&client, &root, &["--version"]);
    assert!(good && said.starts_with("link-watcher "), "{said}");
    let (good, said) = says(&client, &root, &["key", "generate", "/hq.key"]);
    assert!(good, "{said}");
    for (namespace, role) in [(&client, "client"), (&server, "server")] {
        let path = format!("/{role}.toml");
        let (good, said) = says(namespace, &root, &["check", &path]);
        assert!(good && said.contains("is good: 1 peer, 1 link"), "{said}");
        services.push(Service::start(&lab, namespace, role, &mut program(&root, &["run", "--config", &path])).unwrap());
    }
    let meet = || {
        for service in &services {
            service.check()?;
        }
        let said = says(&client, &root, &["status", "--json", "--socket", "/client.sock"]).1;
        let status = serde_json::from_str::<Value>(&said).ok();
        Ok(status.is_some_and(|status| usable(&status, "other") == ["cable"]).then_some(()))
    };
    let met = lab.wait_until("two of it to find each other", PATIENCE, meet);
    assert!(met.is_ok(), "{met:?}\n{}\n{}", services[0].log(), services[1].log());
    let (good, said) = says(&client, &root, &["status", "--socket", "/client.sock"]);
    assert!(good && said.contains("cable"), "{said}");
}
