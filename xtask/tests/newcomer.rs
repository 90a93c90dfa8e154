//! A newcomer with two fresh machines, the package in hand and `docs/install.md` on the screen: from nothing to routers that
//! fail over, mail that tells of it, an upgrade, and nothing again.
//!
//! `cargo xtask test` makes the root directory and two packages, which differ in their version alone. What [`typed`] runs
//! stands in the documentation, word for word.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use link_watcher_lab::meter::Report;
use link_watcher_lab::status::{active, group, link, usable};
use link_watcher_lab::{Direction, monotonic_ns};
use serde_json::Value;
use support::given;
use support::machine::{Machine, PATIENCE};
use support::mail::Mailbox;
use support::site::Site;

const DOCS: &str = include_str!("../../docs/install.md");
/// `MESSAGE_ID` of `link-down`, in docs/operation.md.
const LINK_DOWN: &str = "f30966d639186bee15da9d37eefc65df";
/// Traffic has recovered when every packet has passed for so long.
const STEADY: Duration = Duration::from_millis(300);
/// What a cut may cost at 3 × 100 ms on a machine that is busy otherwise.
const OUTAGE_MAX: Duration = Duration::from_secs(1);
/// Highest exposure that `systemd-analyze security` may find, tenths.
const EXPOSURE_MAX: &str = "30";

/// Types a command of the documentation, which has to succeed.
fn typed(machine: &Machine, line: &str) -> String {
    assert!(is_documented(line), "`{line}` is not in docs/install.md");
    machine.done(line).unwrap()
}

fn is_documented(line: &str) -> bool {
    let documented = |of_docs: &str| of_docs.split("  #").next().unwrap_or_default().trim_end() == line;
    // The packages there are those of amd64.
    DOCS.lines().any(|of_docs| documented(&of_docs.replace("amd64", &architecture())))
}

/// What Debian calls this machine's architecture: from the package's name.
fn architecture() -> String {
    let package = given("LINK_WATCHER_DEB");
    let stem = package.file_stem().unwrap().to_str().unwrap();
    stem.rsplit('_').next().unwrap().to_owned()
}

/// The lines of the documentation that are appended to a configuration.
fn documented_settings() -> &'static str {
    let (_, rest) = DOCS.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// What became of the packets since then, to the server and to the client.
fn reports(meter: &link_watcher_lab::meter::Meter, since_ns: u64) -> [Report; 2] {
    Direction::BOTH.map(|direction| meter.report(direction, since_ns))
}

/// Everything there is in a machine, but for what package managers and a running system keep for themselves.
fn files(machine: &Machine) -> BTreeSet<String> {
    const THEIRS: [&str; 10] =
        ["/dev", "/proc", "/root", "/run", "/sys", "/tmp", "/var/cache", "/var/lib/dpkg", "/var/log", "/var/tmp"];
    let mut find = String::from("find / -xdev");
    for theirs in THEIRS {
        find += &format!(" -path {theirs} -prune -o");
    }
    let found = machine.run(&format!("{find} -print")).unwrap().stdout;
    found
        .lines()
        .filter(|path| !path.starts_with("/var/lib/systemd") && !path.starts_with("/var/lib/apt"))
        .map(str::to_owned)
        .collect()
}

/// The journal's entries that match, as its own program prints them.
fn journal(machine: &Machine, matches: &str) -> Vec<Value> {
    let said = machine.done(&format!("journalctl -u link-watcher -o json {matches}")).unwrap();
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn main_pid(machine: &Machine) -> String {
    machine.done("systemctl show --property MainPID --value link-watcher").unwrap()
}

#[test]
#[ignore = "needs root and a clean root: cargo xtask test"]
fn from_the_package_to_a_pair_that_fails_over_and_back_to_nothing() {
    let site = Site::build(&given("LINK_WATCHER_ROOT")).unwrap();
    let (client, server) = (&site.client, &site.server);
    let machines = [client, server];
    let mails = Mailbox::open(client.namespace(), "127.0.0.1:25").unwrap();
    let before = machines.map(files);
    for machine in machines {
        for package in ["LINK_WATCHER_DEB", "LINK_WATCHER_DEB_NEXT"].map(given) {
            let name = package.file_name().unwrap().to_str().unwrap().to_owned();
            machine.copy_in(&package, &format!("/root/{name}")).unwrap();
        }
        // The administrator's finger on the Y.
        fs::write(machine.path("/root/yes"), "APT::Get::Assume-Yes \"true\";\n").unwrap();
    }

    install(&site);
    configure(&site);

    // Running, and paired: in the kernel, under the unit's sandbox.
    for (machine, group_name) in [(client, "hq"), (server, "branch")] {
        let status = machine.wait_status("two usable links", |status| usable(status, group_name).len() == 2).unwrap();
        assert_eq!(status["engine"], "xdp");
        for name in ["optic", "wifi"] {
            assert_eq!(link(&status, group_name, name).unwrap()["engine"], "xdp-generic", "as on any veth: {status:#}");
        }
        let said = typed(machine, "link-watcher status");
        assert!(said.contains("optic") && said.lines().all(|line| line.chars().count() <= 80), "{said}");
        machine.done(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE_MAX} link-watcher")).unwrap();
    }
    client.wait_status("optic active", |status| active(status, "hq") == ["optic"]).unwrap();
    let acknowledged =
        |status: &Value| group(status, "hq").is_some_and(|group| group["announcements"]["acknowledged"] == true);
    client.wait_status("its announcements acknowledged", acknowledged).unwrap();

    be_told(client, &mails);
    let meter = site.traffic().unwrap();
    meter.wait_steady(&site.lab, monotonic_ns(), STEADY, PATIENCE).unwrap();

    // A link is cut, silently.
    let since_s = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let cut = site.cables[0].cut(&Direction::BOTH).unwrap();
    client.wait_status("wifi active", |status| active(status, "hq") == ["wifi"]).unwrap();
    meter.wait_steady(&site.lab, monotonic_ns(), STEADY, PATIENCE).unwrap();
    for report in reports(&meter, cut.before_ns) {
        assert!(Duration::from_nanos(report.outage_ns) < OUTAGE_MAX, "{report:?}");
    }
    assert!(client.done("link-watcher events").unwrap().contains("optic"));
    let told = site.lab.wait_until("a mail that tells of the failover", PATIENCE, || {
        Ok(mails.find("traffic moved from optic to wifi"))
    });
    let mail = told.unwrap();
    assert!(mail.contains("To: noc@example.com") && mail.contains("Subject: "), "{mail}");
    journald(client, since_s);
    site.cables[0].mend().unwrap();
    client.wait_status("two usable links", |status| usable(status, "hq").len() == 2).unwrap();
    server.wait_status("two usable links", |status| usable(status, "branch").len() == 2).unwrap();

    // A newer version, while 1,000 packets a second pass each way.
    meter.wait_steady(&site.lab, monotonic_ns(), STEADY, PATIENCE).unwrap();
    let since_ns = monotonic_ns();
    for (machine, group_name) in [(client, "hq"), (server, "branch")] {
        let old = main_pid(machine);
        typed_with_yes(machine, &format!("apt install ./link-watcher_0.2.0_{}.deb", architecture()));
        assert_ne!(main_pid(machine), old, "the new program runs");
        machine.wait_status("two usable links", |status| usable(status, group_name).len() == 2).unwrap();
    }
    meter.wait_steady(&site.lab, monotonic_ns(), STEADY, PATIENCE).unwrap();
    for report in reports(&meter, since_ns) {
        assert_eq!((report.lost, report.duplicates), (0, 0), "an upgrade moves no packet: {report:?}");
        assert!(report.sent > 300, "{report:?}");
    }

    reload(client);
    drop(meter);
    remove(&site);
    for (machine, before) in machines.into_iter().zip(before) {
        let left = files(machine);
        assert_eq!(&left - &before, BTreeSet::new(), "left behind");
        assert_eq!(&before - &left, BTreeSet::new(), "taken along");
    }
}

fn typed_with_yes(machine: &Machine, line: &str) -> String {
    assert!(is_documented(line), "`{line}` is not in docs/install.md");
    machine.done(&format!("export APT_CONFIG=/root/yes; {line}")).unwrap()
}

fn install(site: &Site) {
    for machine in [&site.client, &site.server] {
        let package = given("LINK_WATCHER_DEB");
        let said =
            typed_with_yes(machine, &format!("apt install ./{}", package.file_name().unwrap().to_str().unwrap()));
        assert!(
            said.contains("link-watcher is not started: /etc/link-watcher/link-watcher.toml does not exist"),
            "{said}"
        );
        typed(machine, "sysctl -w net.ipv4.ip_forward=1");
        assert_eq!(machine.run("systemctl is-active link-watcher").unwrap().stdout.trim(), "inactive");
    }
}

fn configure(site: &Site) {
    let (client, server) = (&site.client, &site.server);
    typed(client, "link-watcher generate config pair --output pair");
    // As `scp -pr` does it.
    fs::create_dir(server.path("/root/pair")).unwrap();
    for name in ["client.toml", "server.toml", "hq.key"].map(|name| format!("/root/pair/{name}")) {
        server.copy_in(&client.path(&name), &name).unwrap();
    }
    assert_eq!(fs::metadata(server.path("/root/pair/hq.key")).unwrap().permissions().mode() & 0o777, 0o600);
    for (machine, role) in [(client, "client"), (server, "server")] {
        typed(machine, &format!("install -m 644 pair/{role}.toml /etc/link-watcher/link-watcher.toml"));
        typed(machine, "install -m 600 pair/hq.key /etc/link-watcher/");
        typed(machine, "link-watcher check");
        typed(machine, "link-watcher doctor");
        typed(machine, "systemctl enable --now link-watcher");
    }
}

/// Mail, metrics and the page, from the lines of the documentation.
fn be_told(client: &Machine, mails: &Mailbox) {
    let path = client.path("/etc/link-watcher/link-watcher.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "\n" + documented_settings()).unwrap();
    typed(client, "link-watcher check");
    typed(client, "systemctl reload link-watcher");
    assert!(typed(client, "link-watcher notify-test").contains("admin (email): taken: "));
    assert!(mails.find("This is a test of the notifier admin").is_some());
    let metrics = typed(client, "curl http://127.0.0.1:9746/metrics");
    assert!(metrics.contains("link_watcher_link_up{group=\"hq\",link=\"optic\",interface=\"eth1\"} 1"), "{metrics}");
    assert!(client.done("curl http://127.0.0.1:9746/").unwrap().contains("<title>link-watcher</title>"));
    typed(client, "curl http://127.0.0.1:9746/-/healthy");
}

/// What is in the journal of the outage, which was then.
fn journald(client: &Machine, since_s: u64) {
    // Whoever starts before the other end finds its links down, too.
    let entries = journal(client, &format!("--since=@{since_s} LW_EVENT=link-down LW_LINK=optic"));
    let [entry] = &entries[..] else { panic!("one entry an event: {entries:#?}") };
    for (field, value) in [
        ("PRIORITY", "4"),
        ("LW_GROUP", "hq"),
        ("LW_LINK", "optic"),
        ("LW_EVENT", "link-down"),
        ("MESSAGE_ID", LINK_DOWN),
        ("SYSLOG_IDENTIFIER", "link-watcher"),
    ] {
        assert_eq!(entry[field], value, "{field} of {entry:#}");
    }
    let said = typed(client, "journalctl -u link-watcher -p warning");
    assert!(said.contains("optic") && said.contains("wifi"), "what failed, and what moved: {said}");
    // What is no trouble is no warning.
    assert!(journal(client, "-p warning LW_EVENT=link-up").is_empty());
}

/// The exit code of a reload is the daemon's answer.
fn reload(client: &Machine) {
    let path = client.path("/etc/link-watcher/link-watcher.toml");
    let good = fs::read_to_string(&path).unwrap();
    let pid = main_pid(client);
    fs::write(&path, format!("{good}\nnonsense = 1\n")).unwrap();
    let (taken, said) = client.says("systemctl reload link-watcher").unwrap();
    assert!(!taken, "a file that is refused is no success: {said}");
    client.wait_for("journalctl -u link-watcher --no-pager --lines 20", "nonsense").unwrap();
    assert_eq!(client.run("systemctl is-active link-watcher").unwrap().stdout.trim(), "active");
    fs::write(&path, good.replace("min-interval", "# min-interval")).unwrap();
    typed(client, "systemctl reload link-watcher");
    assert_eq!(main_pid(client), pid, "a reload is no restart");
}

/// Removed, then purged; in the kernel there is nothing of it any more.
fn remove(site: &Site) {
    for machine in [&site.client, &site.server] {
        assert!(machine.done("ip route show table all proto 208").unwrap().contains(" via "));
        assert!(machine.done("ip -details link show eth1").unwrap().contains("xdp"));
        typed_with_yes(machine, "apt remove link-watcher");
        assert_eq!(machine.done("ip route show table all proto 208").unwrap(), "");
        assert!(!machine.done("ip -details link show eth1").unwrap().contains("xdp"));
        assert!(!machine.path("/sys/fs/bpf/link-watcher").exists());
        assert_eq!(machine.done("nft list ruleset").unwrap(), "");
        assert!(machine.path("/var/lib/link-watcher").exists(), "what it was told stays until the purge");
        typed_with_yes(machine, "apt purge link-watcher");
        assert!(!machine.path("/var/lib/link-watcher").exists() && !machine.path("/run/link-watcher").exists());
        typed(machine, "rm -r /etc/link-watcher");
        assert!(!machine.done("systemctl list-units --all --no-pager").unwrap().contains("link-watcher"));
    }
}
