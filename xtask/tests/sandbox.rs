//! All that the daemon does works under what its unit forbids: every engine, every kind of probe, every notifier, keys that are
//! systemd's credentials, and what the kernel program logs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use link_watcher_lab::Lab;
use link_watcher_lab::metrics::value;
use link_watcher_lab::status::{link, usable};
use link_watcher_lab::uplinks::host::Host;
use support::given;
use support::machine::Machine;
use support::mail::Mailbox;
use support::site::Site;

const CONFIGURATION: &str = "/etc/link-watcher/link-watcher.toml";

fn install(machine: &Machine) {
    machine.copy_in(&given("LINK_WATCHER_DEB"), "/root/link-watcher.deb").unwrap();
    machine.done("apt install ./link-watcher.deb").unwrap();
}

/// What the daemon was forbidden, as systemd and the kernel say it. Its own complaints are in the same journal.
fn no_complaints(machine: &Machine) {
    let said = machine.done("journalctl -u link-watcher -p warning --no-pager --output cat").unwrap();
    for word in ["not permitted", "Permission denied", "EPERM", "EACCES", "Read-only", "has not come round"] {
        assert!(!said.contains(word), "{said}");
    }
}

#[test]
#[ignore = "needs root and a clean root: cargo xtask test"]
fn every_engine_works_and_the_kernel_program_may_log() {
    let site = Site::build(&given("LINK_WATCHER_ROOT")).unwrap();
    for machine in [&site.client, &site.server] {
        install(machine);
    }
    site.client.done("link-watcher generate config pair --output pair").unwrap();
    fs::create_dir(site.server.path("/root/pair")).unwrap();
    for name in ["/root/pair/server.toml", "/root/pair/hq.key"] {
        site.server.copy_in(&site.client.path(name), name).unwrap();
    }
    for (machine, role) in [(&site.client, "client"), (&site.server, "server")] {
        machine.done(&format!("install -m 644 pair/{role}.toml {CONFIGURATION}")).unwrap();
        machine.done("install -m 600 pair/hq.key /etc/link-watcher/").unwrap();
    }
    for (engine, shown) in [("tc", "tc"), ("xdp", "xdp-generic"), ("socket", "socket")] {
        for machine in [&site.client, &site.server] {
            let text = fs::read_to_string(machine.path(CONFIGURATION)).unwrap();
            let (_, groups) = text.split_once("[[peer]]").unwrap();
            let settings = format!("[daemon]\nengine = \"{engine}\"\nkernel-log = \"debug\"\n\n[[peer]]{groups}");
            fs::write(machine.path(CONFIGURATION), settings).unwrap();
            machine.done("systemctl restart link-watcher").unwrap();
        }
        for (machine, group) in [(&site.client, "hq"), (&site.server, "branch")] {
            let is = |status: &serde_json::Value| usable(status, group).len() == 2;
            let status = machine.wait_status(&format!("two usable links by {engine}"), is).unwrap();
            assert_eq!(link(&status, group, "optic").unwrap()["engine"], shown, "{status:#}");
        }
    }
    site.client.wait_for("journalctl -u link-watcher --no-pager --output cat", "optic on eth1: ").unwrap();
    for machine in [&site.client, &site.server] {
        no_complaints(machine);
    }
}

/// Five ways to the internet, each asked in its own way.
const PROBES: [(&str, &str); 5] = [
    ("icmp", "targets = [\"203.0.113.80\"]"),
    ("tcp", "targets = [\"203.0.113.80:8080\"]"),
    ("http", "targets = [\"http://203.0.113.80:8080/\"]"),
    ("dns", "targets = [\"203.0.113.80\"]"),
    ("arp", ""),
];

/// What is appended to the five.
const NOTIFIERS: &str = r#"
[metrics]
listen = "127.0.0.1:9746"

[[notify]]
kind = "email"
name = "mail"
from = "router@example.com"
to = ["noc@example.com"]
smtp = "smtp://127.0.0.1:25"
min-interval = "0s"

[[notify]]
kind = "webhook"
name = "hook"
url = "http://203.0.113.80:8080/hook"
secret-file = "credential:hook"
min-interval = "0s"

[[notify]]
kind = "exec"
name = "page"
command = ["/usr/local/bin/page"]
min-interval = "0s"
"#;

#[test]
#[ignore = "needs root and a clean root: cargo xtask test"]
fn every_probe_and_every_notifier_works() {
    let lab = Lab::new().unwrap();
    let [router, internet] = ["router", "internet"].map(|role| Arc::new(lab.namespace(role).unwrap()));
    internet.sysctl("net/ipv4/ip_forward", "1").unwrap();
    internet.add_address("lo", "203.0.113.80/32".parse().unwrap()).unwrap();
    let mut text = String::from(
        "[[uplinks]]\nname = \"wan\"\nlan = []\n[uplinks.probe]\ninterval = \"200ms\"\ntimeout = \"200ms\"\nfall = 2\nrise = 2\n",
    );
    for (number, (kind, targets)) in PROBES.into_iter().enumerate() {
        let interface = format!("eth{}", number + 1);
        internet.connect(&interface, &router, &interface).unwrap();
        internet.add_address(&interface, format!("198.51.100.{}/28", 16 * number + 1).parse().unwrap()).unwrap();
        router.add_address(&interface, format!("198.51.100.{}/28", 16 * number + 2).parse().unwrap()).unwrap();
        text += &format!(
            "[[uplinks.link]]\nname = \"{kind}\"\ninterface = \"{interface}\"\ngateway = \"198.51.100.{}\"\n\
             [uplinks.link.probe]\nkind = \"{kind}\"\n{targets}\n",
            16 * number + 1
        );
    }
    let host = Host::start(&internet).unwrap();
    host.serve_http(8080).unwrap();
    host.serve_dns("203.0.113.80:53".parse().unwrap()).unwrap();
    let mails = Mailbox::open(&router, "127.0.0.1:25").unwrap();

    let machine = Machine::boot(&lab, &router, &given("LINK_WATCHER_ROOT"), "router").unwrap();
    install(&machine);
    fs::write(machine.path(CONFIGURATION), text + NOTIFIERS).unwrap();
    let page = machine.path("/usr/local/bin/page");
    fs::write(&page, "#!/bin/sh\necho \"$LW_EVENT $LW_LINK\" >>/run/link-watcher/told\n").unwrap();
    fs::set_permissions(page, fs::Permissions::from_mode(0o755)).unwrap();
    // As `systemctl edit link-watcher` leaves it.
    fs::create_dir(machine.path("/etc/systemd/system/link-watcher.service.d")).unwrap();
    let drop_in = "[Service]\nLoadCredential=hook:/etc/link-watcher/hook.key\n";
    fs::write(machine.path("/etc/systemd/system/link-watcher.service.d/hook.conf"), drop_in).unwrap();
    machine.done("link-watcher key generate /etc/link-watcher/hook.key").unwrap();
    machine.done("systemctl daemon-reload && systemctl start link-watcher").unwrap();

    machine.wait_status("five usable uplinks", |status| usable(status, "wan").len() == PROBES.len()).unwrap();
    internet.set_up("eth1", false).unwrap();
    machine.wait_status("four usable uplinks", |status| usable(status, "wan").len() == PROBES.len() - 1).unwrap();
    let told = lab.wait_until("all three to be told", support::machine::PATIENCE, || {
        let metrics = machine.run("curl --silent http://127.0.0.1:9746/metrics")?.stdout;
        let sent = |name: &str| {
            let sample = format!("link_watcher_notifications_total{{notifier=\"{name}\",result=\"sent\"}}");
            value(&metrics, &sample).unwrap_or_default() > 0.0
        };
        Ok(["mail", "hook", "page"].into_iter().all(sent).then_some(()))
    });
    if told.is_err() {
        println!("{}", machine.done("journalctl -u link-watcher --no-pager").unwrap());
    }
    told.unwrap();
    assert!(mails.find("icmp").is_some());
    machine.wait_for("cat /run/link-watcher/told", "link-down icmp").unwrap();
    assert!(machine.done("nft list ruleset").unwrap().contains("link_watcher"));
    // Longer than any thread may be at one thing.
    let late = |status: &serde_json::Value| status["uptime_s"].as_f64() > Some(8.0);
    machine.wait_status("run for 8 s", late).unwrap();
    no_complaints(&machine);
}
