//! Beside other programs: the examples of docs/beside.md, with the programs that they are about.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::{
    daemon::binary, netns::Namespace, outside, routers::TwoRouters, service::Service, setup::Setup,
};
use link_watcher_programs::{BIRD, FRR_BGPD, KEEPALIVED, Program};

/// How long routing programs may take to agree.
const PATIENCE: Duration = Duration::from_secs(30);
/// The server's address on the side of its hosts, and the router there.
const SERVER: &str = "203.0.113.1";
const BRANCH: &str = "203.0.113.10";
/// What the client announces.
const ANNOUNCED: [&str; 3] = ["10.20.20.0/22", "172.31.13.0/24", "192.168.12.0/24"];

fn is_here(program: Program) -> bool {
    let here = program.path().is_some();
    if !here {
        let package = program.packages()[0];
        println!("SKIPPED: {} is not tried beside us: it is not here (Debian's package {package})", program.name());
    }
    here
}

fn routers() -> TwoRouters {
    let routers = TwoRouters::build(Setup::cables(2, Duration::from_millis(50), 3), &binary().unwrap()).unwrap();
    routers.start_daemons().unwrap();
    routers.wait_all_usable(Duration::from_secs(10)).unwrap();
    routers
}

/// A router behind the server that takes by BGP whatever the server's routing program says.
fn branch(routers: &TwoRouters) -> Service {
    let config = format!(
        "log stderr all;\nrouter id {BRANCH};\nprotocol device {{ scan time 1; }}\nprotocol kernel {{ ipv4 {{ export all; }}; }}\n\
         protocol bgp server {{ debug {{ routes }}; local {BRANCH} as 65002; neighbor {SERVER} as 65001; passive yes;\n\
         ipv4 {{ import all; export none; }}; }}\n"
    );
    outside::bird(&routers.lab, &routers.server_hosts, "branch", &config).unwrap()
}

/// What its kernel has from BGP.
fn learned(routers: &TwoRouters) -> Vec<String> {
    let text = routers.server_hosts.ip("route show proto bird").unwrap();
    let mut prefixes: Vec<String> = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    prefixes.sort();
    prefixes
}

fn wait_learned(routers: &TwoRouters, services: &[Service], wanted: &[&str]) {
    let logs = || services.iter().map(Service::log).collect::<Vec<_>>().join("\n--\n");
    routers
        .lab
        .wait_until("the branch to know what is announced", PATIENCE, || Ok((learned(routers) == wanted).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", learned(routers), logs()));
}

/// A redistribution of the server's that is up: it follows what the client announces, and a failover is none of its business.
fn assert_follows_announcements_only(routers: &TwoRouters, services: &[Service], branch: &Service) {
    wait_learned(routers, services, &ANNOUNCED);
    let before = routers.server.ip("route show proto 208").unwrap();
    routers.wire("link1").unwrap().cut().unwrap();
    routers.wait_active("link2", Duration::from_secs(5)).unwrap();
    assert_ne!(routers.server.ip("route show proto 208").unwrap(), before);
    // A change of ours that it must see comes behind the failover, so that it has seen that.
    routers.client_daemon.edit_config(|text| text.replace("\"10.20.20.0/22\", ", "")).unwrap();
    routers.client_daemon.command(&["reload"]).unwrap();
    wait_learned(routers, services, &ANNOUNCED[1..]);
    let log = branch.log();
    let withdrawn: Vec<&str> =
        log.lines().filter(|line| line.contains("> removed") || line.contains("> withdraw")).collect();
    assert!(withdrawn.iter().all(|line| line.contains(ANNOUNCED[0])), "{withdrawn:#?}");
    assert!(!withdrawn.is_empty(), "{log}");
    for service in services {
        service.check().unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn bird_spreads_what_a_peer_has_announced() {
    if !is_here(BIRD) {
        return;
    }
    let routers = routers();
    let branch = branch(&routers);
    let config = format!(
        "log stderr all;\nrouter id {SERVER};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel {{ learn; ipv4 {{ import where krt_source = 208; export none; }}; }}\n\
         protocol bgp branch {{ local {SERVER} as 65001; neighbor {BRANCH} as 65002; connect delay time 1;\n\
         connect retry time 1; ipv4 {{ import none; export all; }}; }}\n"
    );
    let services = [outside::bird(&routers.lab, &routers.server, "bird", &config).unwrap()];
    assert_follows_announcements_only(&routers, &services, &branch);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn frr_spreads_what_a_peer_has_announced() {
    if !is_here(FRR_BGPD) || !is_here(BIRD) {
        return;
    }
    let routers = routers();
    let branch = branch(&routers);
    let list: Vec<String> =
        ANNOUNCED.iter().map(|prefix| format!("ip prefix-list announced permit {prefix}\n")).collect();
    let config = format!(
        "log stdout\n{}route-map announced permit 10\n match ip address prefix-list announced\n\
         router bgp 65001\n bgp router-id {SERVER}\n no bgp ebgp-requires-policy\n timers bgp 1 3\n\
         neighbor {BRANCH} remote-as 65002\n neighbor {BRANCH} timers connect 1\n neighbor {BRANCH} advertisement-interval 0\n\
         address-family ipv4 unicast\n  redistribute kernel route-map announced\n exit-address-family\n",
        list.concat()
    );
    let services = outside::frr(&routers.lab, &routers.server, "frr", &[(FRR_BGPD, &config)]).unwrap();
    assert_follows_announcements_only(&routers, &services, &branch);
}

/// The address of the LAN's gateway, which VRRP moves.
const GATEWAY: &str = "10.20.24.1";

/// Whether a router has it.
fn serves(router: &Namespace) -> bool {
    router.ip("-4 -oneline address show dev vrrp0").unwrap().contains(&format!(" {GATEWAY}/"))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalived_gives_the_lan_to_the_router_that_has_a_way() {
    if !is_here(KEEPALIVED) {
        return;
    }
    let routers = routers();
    let other = routers.lab.namespace("other").unwrap();
    routers.client.connect("vrrp0", &other, "vrrp0").unwrap();
    routers.client.add_address("vrrp0", "10.20.24.2/24".parse().unwrap()).unwrap();
    other.add_address("vrrp0", "10.20.24.3/24".parse().unwrap()).unwrap();
    let instance = |priority: u32, track: &str| {
        format!(
            "vrrp_instance lan {{\nstate BACKUP\ninterface vrrp0\nvirtual_router_id 20\npriority {priority}\n\
             virtual_ipaddress {{\n{GATEWAY}/24 dev vrrp0\n}}\n{track}}}\n"
        )
    };
    let daemon = &routers.client_daemon;
    let status =
        format!("{} --socket {} status hq --exit-code", daemon.binary().display(), daemon.socket_path().display());
    let script = format!(
        "vrrp_script way_to_hq {{\nscript \"/bin/sh -c '{status} >/dev/null; test $? -lt 2'\"\ninterval 1\ntimeout 2\n\
         fall 1\nrise 2\nuser root\n}}\n"
    );
    let track = "track_script {\nway_to_hq weight -20\n}\n";
    let services = [
        outside::keepalived(&routers.lab, &routers.client, "vrrp-a", &(script + &instance(110, track))).unwrap(),
        outside::keepalived(&routers.lab, &other, "vrrp-b", &instance(100, "")).unwrap(),
    ];
    let wait =
        |what: &str, ours: bool| {
            routers
                .lab
                .wait_until(what, PATIENCE, || {
                    Ok((serves(&routers.client) == ours && serves(&other) != ours).then_some(()))
                })
                .unwrap_or_else(|error| panic!("{error:#}\n{}\n--\n{}", services[0].log(), services[1].log()));
        };
    wait("the router with two ways to serve the LAN", true);
    routers.wire("link1").unwrap().cut().unwrap();
    routers.wait_active("link2", Duration::from_secs(5)).unwrap();
    routers.lab.pause(Duration::from_secs(4)).unwrap();
    assert!(serves(&routers.client) && !serves(&other), "one way is enough: {}", services[0].log());
    routers.wire("link2").unwrap().cut().unwrap();
    wait("the other router to serve the LAN", false);
    routers.wire("link1").unwrap().mend().unwrap();
    wait("the first to serve it again", true);
}
