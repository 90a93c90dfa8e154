//! Restarts and reloads with another file: nothing of a former run stands in front of or beside what is wanted now, and
//! what both have in common loses nothing.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::routers::{CLIENT_GROUP, TwoRouters};
use link_watcher_lab::setup::{Family, Setup};
use link_watcher_lab::status::{active, group, link};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::uplinks::Site;
use link_watcher_lab::uplinks::address::router4;
use link_watcher_lab::uplinks::flow::{Fate, Transport};
use link_watcher_lab::uplinks::setup::{GROUP, SiteSetup};
use link_watcher_lab::{End, Lab, monotonic_ns};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Behind the server.
const FAR: &str = "203.0.113.10";

fn routers(client_settings: &str) -> TwoRouters {
    let setup =
        Setup { interval: Duration::from_millis(50), client_settings: client_settings.to_owned(), ..Setup::default() };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    routers.start_daemons().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    routers.wait_all_usable(PATIENCE).unwrap();
    routers
}

fn edit(daemon: &Daemon, change: impl FnOnce(String) -> String) {
    daemon.edit_config(change).unwrap();
}

/// The file without a peer's or group's link.
fn without_link(text: &str, section: &str, link: &str) -> String {
    let mut parts = text.split(section);
    let head = parts.next().unwrap().to_owned();
    let kept = parts.filter(|part| !part.contains(&format!("name = \"{link}\"")));
    kept.fold(head, |text, part| text + section + part)
}

fn ip(namespace: &Namespace, arguments: &str) -> String {
    namespace.ip(arguments).unwrap()
}

/// Waits until the client's kernel sends there through an interface, whatever any daemon says.
fn wait_through(routers: &TwoRouters, interface: &str) {
    let what = format!("{FAR} to be reached through {interface}");
    let through = || ip(&routers.client, &format!("route get {FAR}")).contains(&format!("dev {interface} "));
    routers.lab.wait_until(&what, PATIENCE, || Ok(through().then_some(()))).unwrap();
}

/// Waits until nothing of ours mentions any of these.
fn wait_nothing_left(lab: &Lab, namespace: &Namespace, what: &[&str]) {
    let found = || {
        let routes = ip(namespace, "route show table all proto 208");
        let rules = ip(namespace, "rule show");
        let lines = routes.lines().chain(rules.lines()).map(str::to_owned);
        lines.filter(|line| what.iter().any(|what| line.contains(what))).collect::<Vec<_>>()
    };
    let waited = lab.wait_until("nothing to be left", PATIENCE, || Ok(found().is_empty().then_some(())));
    assert!(waited.is_ok(), "{:?}", found());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_left_the_file_while_the_daemon_was_down_carries_nothing() {
    for backend in ["routes", "tables", "nexthop"] {
        let routers = routers(&format!("actuation = \"{backend}\""));
        let daemon = &routers.client_daemon;
        wait_through(&routers, "eth1");
        daemon.stop().unwrap();
        edit(daemon, |text| without_link(&text, "[[peer.link]]", "optic"));
        daemon.start().unwrap();
        routers.wait_active("wifi", PATIENCE).unwrap();
        wait_through(&routers, "vlan10");
        wait_nothing_left(&routers.lab, &routers.client, &["dev eth1"]);
        let status = daemon.status().unwrap();
        assert_eq!(group(&status, CLIENT_GROUP).unwrap()["routes"]["refused"], 0, "{backend}: {status:#}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_peer_with_another_name_or_other_tables_leaves_nothing_of_the_former_ones() {
    for (backend, from, to) in [
        ("tables", format!("name = \"{CLIENT_GROUP}\""), "name = \"another\"".to_owned()),
        ("nexthop", format!("name = \"{CLIENT_GROUP}\""), "name = \"another\"".to_owned()),
        ("tables", "actuation = ".to_owned(), "table-base = 5000\nrule-priority = 31000\nactuation = ".to_owned()),
        ("routes", "actuation = ".to_owned(), "table = 77\nactuation = ".to_owned()),
        ("routes", "actuation = ".to_owned(), "metric = 100\nactuation = ".to_owned()),
    ] {
        let routers = routers(&format!("actuation = \"{backend}\""));
        let daemon = &routers.client_daemon;
        wait_through(&routers, "eth1");
        let before = ip(&routers.client, "rule show");
        let routes_before = ip(&routers.client, "route show table main proto 208");
        daemon.stop().unwrap();
        edit(daemon, |text| text.replace(&from, &to));
        daemon.start().unwrap();
        let name = if to.contains("another") { "another" } else { CLIENT_GROUP };
        let all_usable = || Ok((active(&daemon.status()?, name) == ["optic"]).then_some(()));
        routers.lab.wait_until("optic to be active", PATIENCE, all_usable).unwrap();
        if backend == "tables" {
            // A line each, with the number of a table: none of them stands any more.
            let former: Vec<String> = before
                .lines()
                .filter(|line| line.contains("proto 208"))
                .filter_map(|line| line.split("lookup ").nth(1).map(|table| format!("lookup {}", table.trim())))
                .collect();
            assert!(!former.is_empty(), "{before}");
            let words: Vec<&str> = former.iter().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
            wait_nothing_left(&routers.lab, &routers.client, &words);
        } else if backend == "routes" {
            let of_ours = || ip(&routers.client, "route show table main proto 208");
            assert!(routes_before.contains("dev eth1"), "{routes_before}");
            let gone = || {
                let gone =
                    if to.contains("table = 77") { of_ours().is_empty() } else { !of_ours().contains(&routes_before) };
                Ok(gone.then_some(()))
            };
            assert!(routers.lab.wait_until("the former routes to go", PATIENCE, gone).is_ok(), "{}", of_ours());
        }
        routers.wire("optic").unwrap().cut().unwrap();
        if !to.contains("table = 77") {
            wait_through(&routers, "vlan10");
        }
    }
}

/// A strict filter is loosened for as long as this daemon or its successors use the interface, and strict again after it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn settings_are_as_they_were_also_behind_a_crash() {
    let setup = Setup {
        interval: Duration::from_millis(50),
        daemon_settings: "on-exit = \"remove\"".to_owned(),
        ..Setup::default()
    };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    for interface in ["eth1", "vlan10"] {
        routers.client.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1").unwrap();
    }
    let filter = |interface: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
        routers.client.run(|| fs::read_to_string(path).unwrap()).unwrap().trim().to_owned()
    };
    let daemon = &routers.client_daemon;
    daemon.start().unwrap();
    assert_eq!((filter("eth1"), filter("vlan10")), ("2".to_owned(), "2".to_owned()));
    daemon.kill();
    daemon.start().unwrap();
    edit(daemon, |text| without_link(&text, "[[peer.link]]", "wifi"));
    daemon.command(&["reload"]).unwrap();
    assert_eq!((filter("eth1"), filter("vlan10")), ("2".to_owned(), "1".to_owned()));
    daemon.stop().unwrap();
    assert_eq!(filter("eth1"), "1");
}

fn site(setup: SiteSetup) -> Site {
    Site::start(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap()
}

/// Waits until all uplinks that the daemon has are usable.
fn wait_all_usable(site: &Site) {
    let usable = || {
        let status = site.daemon.status()?;
        let links = group(&status, GROUP).and_then(|group| group["links"].as_array());
        Ok(links.is_some_and(|links| links.iter().all(|link| link["usable"] == true)).then_some(()))
    };
    site.lab.wait_until("all uplinks to be usable", PATIENCE, usable).unwrap();
}

/// The file with its uplinks in another order.
fn reversed(text: &str) -> String {
    let section = "[[uplinks.link]]";
    let mut parts: Vec<&str> = text.split(section).collect();
    parts[1..].reverse();
    parts.join(section)
}

fn assert_all_live(fates: impl IntoIterator<Item = (String, Fate)>, but: &str) {
    for (uplink, fate) in fates {
        if uplink == but {
            assert_eq!(fate.same, 0, "{uplink}: {fate:?}");
        } else {
            assert_eq!(fate.same, fate.total(), "{uplink}: {fate:?}");
        }
    }
}

/// Who is who follows from names: a reload and a restart with the uplinks in another order, or with the first one gone,
/// touch no connection of the others.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_stay_on_their_uplink_wherever_it_stands_in_the_file() {
    for restart in [false, true] {
        for nat in ["", "nat"] {
            let mut setup = SiteSetup::default();
            if !nat.is_empty() {
                for (number, uplink) in setup.uplinks.iter_mut().enumerate() {
                    uplink.settings = format!("nat = \"{}\"\n", router4(number));
                }
            }
            let site = site(setup);
            let mut crowds = [site.open(Transport::Tcp, 60).unwrap(), site.open(Transport::Udp, 60).unwrap()];
            let mut change = |edited: fn(String) -> String, but: &str| {
                if restart {
                    site.daemon.kill();
                }
                edit(&site.daemon, edited);
                if restart {
                    site.daemon.start().unwrap();
                } else {
                    site.daemon.command(&["reload"]).unwrap();
                }
                wait_all_usable(&site);
                for crowd in &mut crowds {
                    assert_all_live(site.fates(crowd.recheck().unwrap()), but);
                }
            };
            change(|text| reversed(&text), "");
            change(|text| without_link(&text, "[[uplinks.link]]", "dsl"), "dsl");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn uplinks_with_other_numbers_or_none_at_all_leave_nothing() {
    for (from, to) in [
        ("routes = [", "rule-priority = 15000\nroutes = ["),
        ("routes = [", "rule-priority = 20500\ntable-base = 9000\nroutes = ["),
    ] {
        let site = site(SiteSetup::default());
        site.daemon.kill();
        edit(&site.daemon, |text| text.replacen(from, to, 1));
        site.daemon.start().unwrap();
        wait_all_usable(&site);
        let words: &[&str] =
            if to.contains("table-base") { &["lookup 700", "table 700"] } else { &["20000:", "20900:"] };
        wait_nothing_left(&site.lab, site.router.namespace(), words);
        assert_eq!(site.open(Transport::Tcp, 30).unwrap().len(), 30);
    }
    // The group itself is gone: a peer, of which nothing is there, is all that is left.
    let site = site(SiteSetup::default());
    site.daemon.kill();
    let key = site.daemon.command(&["generate", "key"]).unwrap();
    let key = site.daemon.write_key("peer.key", key.trim()).unwrap();
    let peer = format!(
        "[[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"{}\"]\nroutes = [\"198.51.100.0/24\"]\n[[peer.link]]\n\
         name = \"only\"\ninterface = \"eth0\"\nremote = \"10.20.20.77\"\n",
        key.display()
    );
    site.daemon.write_config("", &peer).unwrap();
    site.daemon.start().unwrap();
    wait_nothing_left(&site.lab, site.router.namespace(), &["proto 208", "lookup 700", "table 700"]);
    let tables = site.router.namespace().command(&["nft", "list", "tables"], "").unwrap();
    assert!(!tables.contains("link_watcher"), "{tables}");
}

/// Everything that any program can see of the kernel's state that a daemon of ours changes.
fn kernel_state(namespace: &Namespace) -> Vec<String> {
    let commands = [
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule show",
        "ip -6 rule show",
        "ip nexthop show",
        "nft list ruleset",
    ];
    let shown = commands.map(|command| {
        let words: Vec<&str> = command.split(' ').collect();
        namespace.command(&words, "").unwrap()
    });
    let mut settings: Vec<String> = namespace
        .run(|| {
            let interfaces = fs::read_dir("/proc/sys/net/ipv4/conf").unwrap();
            let names = interfaces.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let of = |name: String| {
                ["rp_filter", "src_valid_mark", "ignore_routes_with_linkdown"].map(|key| {
                    let path = format!("/proc/sys/net/ipv4/conf/{name}/{key}");
                    format!("{path} = {}", fs::read_to_string(&path).unwrap())
                })
            };
            names.flat_map(of).collect()
        })
        .unwrap();
    settings.extend(shown.iter().flat_map(|shown| shown.lines()).map(str::to_owned));
    // The kernel promises no order.
    settings.sort();
    settings
}

fn assert_as_before(namespace: &Namespace, before: &[String]) {
    let after = kernel_state(namespace);
    let of_one = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    assert_eq!(
        (of_one(before, &after), of_one(&after, before)),
        (Vec::new(), Vec::new()),
        "what is gone, what is left"
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn cleanup_leaves_the_kernel_as_it_was_without_any_file() {
    for backend in ["routes", "tables", "nexthop"] {
        let setup = Setup {
            interval: Duration::from_millis(50),
            client_settings: format!("actuation = \"{backend}\""),
            ..Setup::default()
        };
        let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
        routers.client.sysctl("net/ipv4/conf/eth1/rp_filter", "1").unwrap();
        let before = kernel_state(&routers.client);
        let daemon = &routers.client_daemon;
        routers.start_daemons().unwrap();
        routers.wait_active("optic", PATIENCE).unwrap();
        wait_through(&routers, "eth1");
        let running = daemon.output(&["cleanup", "--instance", daemon.instance()]).unwrap();
        let said = String::from_utf8_lossy(&running.stderr);
        assert!(!running.status.success() && said.contains("stop it first"), "{said}");
        daemon.kill();
        fs::remove_file(daemon.config_path()).unwrap();
        let dry = daemon.command(&["cleanup", "--instance", daemon.instance(), "--dry-run"]).unwrap();
        assert!(dry.contains("would be removed") && dry.contains("routes"), "{dry}");
        assert_ne!(kernel_state(&routers.client), before);
        daemon.command(&["cleanup", "--instance", daemon.instance()]).unwrap();
        assert_as_before(&routers.client, &before);
        let again = daemon.command(&["cleanup", "--instance", daemon.instance()]).unwrap();
        assert!(again.contains("nothing of link-watcher is left"));
    }
    let site = Site::build(Lab::new().unwrap(), SiteSetup::default(), &binary().unwrap()).unwrap();
    let before = kernel_state(site.router.namespace());
    site.daemon.start().unwrap();
    site.wait_all_up().unwrap();
    site.daemon.kill();
    site.daemon.command(&["cleanup", "--instance", site.daemon.instance()]).unwrap();
    assert_as_before(site.router.namespace(), &before);
}

fn wait_usable(routers: &TwoRouters, name: &str) {
    let usable = || {
        let status = routers.client_daemon.status()?;
        let link = link(&status, CLIENT_GROUP, name).cloned();
        Ok(link.is_some_and(|link| link["usable"] == true).then_some(()))
    };
    let waited = routers.lab.wait_until(&format!("{name} to be usable"), PATIENCE, usable);
    assert!(waited.is_ok(), "{name} is not usable: {}", routers.client_daemon.log_tail());
}

/// As ifdown and ifup do it: the address comes while the interface is down, where nothing can be bound to it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_works_again_whatever_the_order_in_which_its_address_and_interface_come() {
    let routers = routers("");
    for round in 0..2 {
        for interface in ["eth1", "vlan10"] {
            let address = ip(&routers.client, &format!("-4 -br addr show dev {interface}"));
            let address = address.split_whitespace().nth(2).unwrap();
            let steps = [
                format!("addr flush dev {interface}"),
                format!("link set {interface} down"),
                format!("addr add {address} dev {interface}"),
                format!("link set {interface} up"),
            ];
            for step in steps {
                ip(&routers.client, &step);
                if round == 1 {
                    // The daemon has seen each of them.
                    routers.lab.pause(Duration::from_millis(100)).unwrap();
                }
            }
        }
        wait_usable(&routers, "optic");
        wait_usable(&routers, "wifi");
    }
}

/// The unit starts before the network on purpose, and a port may be somebody else's for a moment.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_works_as_soon_as_it_can_be_bound() {
    let setup = Setup { interval: Duration::from_millis(50), ..Setup::default() };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    let local = "10.248.248.2:46721";
    let taken = routers.client.run(|| std::net::UdpSocket::bind(local).unwrap()).unwrap();
    let address = ip(&routers.client, "-4 -br addr show dev vlan10");
    let address = address.split_whitespace().nth(2).unwrap();
    ip(&routers.client, "addr flush dev vlan10");
    routers.start_daemons().unwrap();
    wait_usable(&routers, "tunnel");
    let status = routers.client_daemon.status().unwrap();
    let why = link(&status, CLIENT_GROUP, "optic").unwrap()["suspicion"].as_str().unwrap().to_owned();
    assert!(why.contains("the port free"), "{why}");
    drop(taken);
    wait_usable(&routers, "optic");
    assert!(link(&routers.client_daemon.status().unwrap(), CLIENT_GROUP, "optic").unwrap()["suspicion"].is_null());
    ip(&routers.client, &format!("addr add {address} dev vlan10"));
    wait_usable(&routers, "wifi");
}

/// Duplicate address detection waits for the carrier: an IPv6 address is tentative while the cable is out.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tentative_address_is_waited_for() {
    let setup = Setup { interval: Duration::from_millis(50), family: Family::V6, ..Setup::default() };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    routers.wire("optic").unwrap().cut_carrier(End::Server).unwrap();
    let addresses = ip(&routers.client, "-6 addr show dev eth1 scope global");
    let address = addresses.split_whitespace().find(|word| word.starts_with("2001:")).unwrap().to_owned();
    ip(&routers.client, &format!("addr del {address} dev eth1"));
    // The lab has switched the detection off for speed.
    routers.client.sysctl("net/ipv6/conf/eth1/accept_dad", "1").unwrap();
    routers.client.sysctl("net/ipv6/conf/eth1/dad_transmits", "1").unwrap();
    ip(&routers.client, &format!("addr add {address} dev eth1"));
    assert!(ip(&routers.client, "-6 addr show dev eth1 tentative").contains(&address), "the address is tentative");
    routers.start_daemons().unwrap();
    wait_usable(&routers, "wifi");
    routers.wire("optic").unwrap().mend().unwrap();
    wait_usable(&routers, "optic");
}

/// Its thread of that name.
fn thread_of(daemon: &Daemon, name: &str) -> Pid {
    let tasks = format!("/proc/{}/task", daemon.pid().unwrap());
    let task = fs::read_dir(tasks)
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|task| fs::read_to_string(task.path().join("comm")).unwrap().trim() == name);
    Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap())
}

/// A thread that stands still, as under a debugger, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(thread: Pid) -> Self {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        let stopped = Self(thread);
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

/// A core that stands still decides nothing, however well its links are probed: the far end hears of it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_of_which_one_thread_stands_still_is_silent() {
    for name in ["lw-core", "lw-probe"] {
        let routers = routers("");
        let silence = || {
            let status = routers.client_daemon.status()?;
            Ok(group(&status, CLIENT_GROUP).unwrap()["peer_silence_s"].as_u64())
        };
        let stopped = Stopped::stop(thread_of(&routers.server_daemon, name));
        routers.lab.wait_until("the client to hear that the server's daemon is silent", PATIENCE, silence).unwrap();
        // Its kernel answers, so the paths are known to be alive.
        assert_eq!(active(&routers.client_daemon.status().unwrap(), CLIENT_GROUP), ["optic"], "{name}");
        drop(stopped);
        let back = || Ok(silence()?.is_none().then_some(()));
        routers.lab.wait_until("the server's daemon to be back", PATIENCE, back).unwrap();
    }
}

/// Threads that a reload starts, and the programs that they run, are under normal scheduling.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn uplinks_that_a_reload_adds_are_served_at_normal_priority() {
    let routers = routers("");
    let daemon = &routers.client_daemon;
    edit(daemon, |text| {
        text + "\n[[uplinks]]\nname = \"wan\"\nlan = [\"eth0\"]\nroutes = [\"198.51.100.0/24\"]\n[uplinks.probe]\n\
                kind = \"icmp\"\ntargets = [\"203.0.113.77\"]\n[[uplinks.link]]\nname = \"a\"\ninterface = \"tun1\"\n"
    });
    daemon.command(&["reload"]).unwrap();
    let policy = |name: &str| {
        let stat = format!("/proc/{}/task/{}/stat", daemon.pid().unwrap(), thread_of(daemon, name));
        let stat = fs::read_to_string(stat).unwrap();
        // Behind the name, which may have spaces: fields 3 and on; the policy is field 41 (proc_pid_stat(5)).
        stat.rsplit(')').next().unwrap().split_whitespace().nth(41 - 3).unwrap().to_owned()
    };
    assert_eq!(policy("lw-core"), "1", "SCHED_FIFO");
    for name in ["lw-uplink-apply", "lw-uplink-probe"] {
        assert_eq!(policy(name), "0", "{name}");
    }
}

/// Where everybody may write, somebody may have been there first.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_directory_for_pins_that_is_somebody_elses_is_not_used() {
    let setup = Setup { interval: Duration::from_millis(50), ..Setup::default() };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    let pins = std::path::Path::new("/sys/fs/bpf/link-watcher").join(routers.client_daemon.instance());
    fs::create_dir_all(&pins).unwrap();
    std::os::unix::fs::chown(&pins, Some(65534), None).unwrap();
    routers.start_daemons().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    let status = routers.client_daemon.status().unwrap();
    let link = link(&status, CLIENT_GROUP, "optic").unwrap();
    let why = link["engine_reason"].as_str().unwrap();
    assert!(
        link["engine"] == "socket" && why.contains("belongs to that user") && why.contains("chown -h root"),
        "{why}"
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_command_says_what_it_waits_for() {
    let routers = routers("");
    let daemon = &routers.client_daemon;
    daemon.signal(Signal::SIGSTOP).unwrap();
    let waiting = std::thread::scope(|scope| {
        let answer = scope.spawn(|| daemon.output(&["status"]).unwrap());
        routers.lab.pause(Duration::from_millis(1500)).unwrap();
        daemon.signal(Signal::SIGCONT).unwrap();
        answer.join().unwrap()
    });
    let said = String::from_utf8(waiting.stderr).unwrap();
    assert!(waiting.status.success() && said.contains("has not answered for 1 s"), "{said}");
}

/// Under another name it is another peer; what it routes goes on without a gap.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_peer_that_a_reload_renames_loses_no_packet() {
    for backend in ["routes", "tables", "nexthop"] {
        let setup = Setup {
            interval: Duration::from_millis(50),
            client_settings: format!("actuation = \"{backend}\""),
            ..Setup::default()
        };
        let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap();
        let since_ns = monotonic_ns();
        let daemon = &trial.routers.client_daemon;
        edit(daemon, |text| text.replace(&format!("name = \"{CLIENT_GROUP}\""), "name = \"another\""));
        daemon.command(&["reload"]).unwrap();
        let usable = || Ok((active(&daemon.status()?, "another") == ["optic"]).then_some(()));
        trial.routers.lab.wait_until("the peer to carry under its new name", PATIENCE, usable).unwrap();
        trial.wait_steady(monotonic_ns()).unwrap();
        for report in trial.reports(since_ns) {
            assert_eq!((report.lost, report.duplicates), (0, 0), "{backend}: {report:?}");
        }
        let status = daemon.status().unwrap();
        assert_eq!(group(&status, "another").unwrap()["routes"]["refused"], 0, "{status:#}");
    }
}

/// What somebody ordered holds until he takes it back, whatever becomes of the daemon; and says who, when and why.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn orders_outlive_a_crash_a_restart_and_a_reload() {
    let routers = routers("");
    let daemon = &routers.client_daemon;
    daemon.command(&["drain", CLIENT_GROUP, "optic", "--reason", "splicing", "--for", "2h"]).unwrap();
    daemon.command(&["switch", CLIENT_GROUP, "tunnel"]).unwrap();
    daemon.command(&["weight", CLIENT_GROUP, "wifi", "7"]).unwrap();
    let assert_ordered = |after: &str| {
        routers.wait_active("tunnel", PATIENCE).unwrap();
        let status = daemon.status().unwrap();
        let group = group(&status, CLIENT_GROUP).unwrap();
        assert_eq!(group["pinned"], "tunnel", "after {after}");
        assert_eq!(link(&status, CLIENT_GROUP, "optic").unwrap()["drained"], true, "after {after}");
        assert_eq!(link(&status, CLIENT_GROUP, "wifi").unwrap()["weight"], 7, "after {after}");
        let orders = group["orders"].as_array().unwrap();
        let drain = orders.iter().find(|order| order["what"] == "drain").unwrap();
        assert_eq!((&drain["link"], &drain["reason"]), (&"optic".into(), &"splicing".into()), "after {after}: {drain}");
        assert!(drain["by"] == "root" && drain["at"].is_string() && drain["until"].is_string(), "{drain}");
    };
    assert_ordered("the order");
    // What has happened is written within a second or two.
    let events = daemon.orders_path().with_file_name("events.json");
    let written = || Ok(fs::read_to_string(&events).is_ok_and(|text| text.contains("pinned to tunnel")).then_some(()));
    routers.lab.wait_until("the events to be written", PATIENCE, written).unwrap();
    daemon.kill();
    daemon.start().unwrap();
    assert_ordered("a crash");
    assert!(daemon.command(&["events"]).unwrap().contains("hq is pinned to tunnel"), "so does what has happened");
    daemon.stop().unwrap();
    daemon.start().unwrap();
    assert_ordered("a restart");
    // Which makes its links new ones to the engine.
    edit(daemon, |text| text.replace("interval = \"50ms\"", "interval = \"60ms\""));
    daemon.command(&["reload"]).unwrap();
    assert_ordered("a reload");
    daemon.command(&["switch", CLIENT_GROUP, "auto"]).unwrap();
    daemon.command(&["undrain", CLIENT_GROUP, "optic"]).unwrap();
    daemon.command(&["weight", CLIENT_GROUP, "wifi", "file"]).unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    daemon.kill();
    daemon.start().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    let status = daemon.status().unwrap();
    assert!(group(&status, CLIENT_GROUP).unwrap()["orders"].as_array().is_none_or(Vec::is_empty), "{status:#}");
}

/// A file that is refused at the start does not leave the router without a daemon.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_ran_last_serves_where_the_file_is_refused() {
    let routers = routers("");
    let daemon = &routers.client_daemon;
    daemon.kill();
    edit(daemon, |text| text.replace("multiplier = 3", "multiplier = \"three\""));
    daemon.start().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status["config"]["last_reload_successful"], false);
    assert!(status["config"]["problem"].as_str().unwrap().contains("multiplier"), "{status:#}");
    assert!(daemon.log().contains("the configuration that ran last serves"));
    assert_eq!(daemon.output(&["reload"]).unwrap().status.code(), Some(78));
    edit(daemon, |text| text.replace("multiplier = \"three\"", "multiplier = 4"));
    daemon.command(&["reload"]).unwrap();
    assert_eq!(daemon.status().unwrap()["config"]["last_reload_successful"], true);
}

/// Somebody else's route with a worse metric carries the traffic while all links of the peer are dead, where that is wanted.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn routes_are_withdrawn_while_all_links_are_dead_where_that_is_wanted() {
    for backend in ["routes", "tables", "nexthop"] {
        let routers = routers(&format!("actuation = \"{backend}\"\nwhen-all-down = \"withdraw\""));
        ip(&routers.client, "route add default via 10.20.20.10 dev eth0 metric 500");
        wait_through(&routers, "eth1");
        for wire in &routers.wires {
            wire.cut().unwrap();
        }
        wait_through(&routers, "eth0");
        for wire in &routers.wires {
            wire.mend().unwrap();
        }
        wait_usable(&routers, "optic");
        routers.wait_active("optic", PATIENCE).unwrap();
        wait_through(&routers, "eth1");
    }
}

/// A group that is served already is not taken over anew by a reload: what it leaves out is removed, and not taken for somebody
/// else's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_a_reload_leaves_out_leaves_nothing() {
    for backend in ["routes", "tables", "nexthop"] {
        let routers = routers(&format!("actuation = \"{backend}\""));
        edit(&routers.client_daemon, |text| without_link(&text, "[[peer.link]]", "tunnel"));
        routers.client_daemon.command(&["reload"]).unwrap();
        wait_nothing_left(&routers.lab, &routers.client, &["dev tun1"]);
    }
}
