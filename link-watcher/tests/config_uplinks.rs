//! `[[uplinks]]` that can be run: what they mean, and what is only doubtful about them.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use link_watcher::{
    config::{
        self, FailbackConnections, ForceConfig, HttpTarget, Nat, ProbeConfig, ProbeKind, Protocol, Severity,
        TcpRefusal, UplinksConfig,
    },
    event::Failback,
    health::Share,
};
use support::{Desk, host_with, repository_file, uplinks};

fn group(text: &str) -> UplinksConfig {
    let loaded = Desk::new().parse(text).unwrap();
    assert_eq!(loaded.warnings, []);
    loaded.config.uplinks.into_iter().next().unwrap()
}

fn probe(lines: &str) -> ProbeConfig {
    let text = uplinks("").replace("targets = [\"192.0.2.53\"]", lines);
    group(&text).links.remove(0).probe
}

#[test]
fn what_is_left_out_has_its_documented_default() {
    let wan = group(&uplinks(""));
    assert_eq!((wan.name.as_str(), wan.sticky, wan.fwmark_mask), ("wan", true, 0xff00));
    assert!(wan.fast_path().next().is_none());
    assert_eq!(wan.routes, ["0.0.0.0/0".parse().unwrap()]);
    assert_eq!((wan.rule_priority, wan.table_base), (20_000, 7000));
    assert_eq!((wan.failback, wan.hold_up), (Failback::After(30_000_000_000), Duration::ZERO));
    assert_eq!(wan.failback_connections, FailbackConnections::Stay);
    assert_eq!(wan.force, []);
    let link = &wan.links[0];
    assert_eq!((link.tier, link.weight, link.nat), (1, 1, Nat::Masquerade));
    assert_eq!((link.locals.len(), link.prefixes.len()), (0, 0));
    let second = Duration::from_secs(1);
    let expected = ProbeConfig {
        kind: ProbeKind::Icmp { targets: vec!["192.0.2.53".parse().unwrap()] },
        required: 1,
        interval: second,
        timeout: second,
        fall: 3,
        rise: 5,
        max_loss: None,
        max_rtt: None,
        max_jitter: None,
        window: 60,
    };
    assert_eq!(link.probe, expected);
}

#[test]
fn everything_can_be_said() {
    let desk = Desk::new();
    let text = "[[uplinks]]\nname = \"wan\"\nroutes = [\"0.0.0.0/0\", \"::/0\"]\nlan = []\nsticky = false\nflowtable = true\n\
                masquerade = false\nfwmark = 0xf0\nrule-priority = 1\ntable-base = 256\nfailback = \"manual\"\n\
                failback-connections = \"move\"\nhold-up = \"1m\"\n\
                [uplinks.probe]\ntargets = [\"192.0.2.53\", \"2001:db8::53\"]\nrequired = 2\ninterval = \"500ms\"\n\
                fall = 2\nrise = 1\nmax-loss = \"0.5%\"\nmax-rtt = \"400ms\"\nmax-jitter = \"100ms\"\nwindow = 10\n\
                [[uplinks.force]]\nlink = \"a\"\nprotocol = \"tcp\"\nport = [25, \"8000-8080\"]\n\
                source = \"10.20.20.0/22\"\ndestination = \"198.51.100.0/24\"\nor-others = true\n\
                [[uplinks.link]]\nname = \"a\"\ninterface = \"eth1\"\ngateway = [\"10.248.248.1\", \"2001:db8:1::1\"]\n\
                local = [\"10.248.248.2\", \"2001:db8:1::2\"]\nprefixes = [\"2001:db8:a::/48\"]\n\
                nat = \"203.0.113.7\"\ntier = 0\nweight = 256\n\
                [[uplinks.link]]\nname = \"b\"\ninterface = \"ppp0\"\nnat = \"masquerade\"\n";
    assert_eq!(desk.findings(text), [""; 0]);
    let wan = desk.parse(text).unwrap().config.uplinks.remove(0);
    assert_eq!((wan.routes.len(), wan.lan.len(), wan.sticky, wan.fwmark_mask), (2, 0, false, 0xf0));
    assert_eq!((wan.rule_priority, wan.table_base, wan.failback), (1, 256, Failback::Manual));
    assert_eq!((wan.failback_connections, wan.hold_up), (FailbackConnections::Move, Duration::from_secs(60)));
    assert_eq!(wan.fast_path().collect::<Vec<_>>(), ["eth1", "ppp0"]);
    let force = |ports| ForceConfig {
        link: "a".to_owned(),
        source: Some("10.20.20.0/22".parse().unwrap()),
        destination: Some("198.51.100.0/24".parse().unwrap()),
        protocol: Some(Protocol::Tcp),
        ports: Some(ports),
        or_others: true,
    };
    assert_eq!(wan.force, [force(25..=25), force(8000..=8080)]);
    let [a, b] = &wan.links[..] else { panic!("two links") };
    assert_eq!((a.gateways.len(), a.locals.len(), a.prefixes.len()), (2, 2, 1));
    assert_eq!((a.nat, a.tier, a.weight), (Nat::Source("203.0.113.7".parse().unwrap()), 0, 256));
    assert_eq!((a.probe.required, a.probe.fall, a.probe.rise, a.probe.window), (2, 2, 1, 10));
    // The timeout is never longer than the interval.
    assert_eq!((a.probe.interval, a.probe.timeout), (Duration::from_millis(500), Duration::from_millis(500)));
    assert_eq!((a.probe.max_loss, a.probe.max_rtt), (Some(Share(5_000)), Some(Duration::from_millis(400))));
    assert_eq!(a.probe.max_jitter, Some(Duration::from_millis(100)));
    assert_eq!((b.nat, b.gateways.len()), (Nat::Masquerade, 0));
    assert_eq!(b.probe, a.probe);
}

#[test]
fn probes_of_every_kind() {
    let sockets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        probe("kind = \"tcp\"\ntargets = [\"192.0.2.1:443\", \"192.0.2.2:80\"]").kind,
        ProbeKind::Tcp { targets: sockets(&["192.0.2.1:443", "192.0.2.2:80"]), refused: TcpRefusal::Up }
    );
    assert_eq!(
        probe("kind = \"tcp\"\ntargets = [\"192.0.2.1:443\"]\ntcp-refused = \"down\"").kind,
        ProbeKind::Tcp { targets: sockets(&["192.0.2.1:443"]), refused: TcpRefusal::Down }
    );
    assert_eq!(
        probe("kind = \"dns\"\ntargets = [\"192.0.2.1\", \"192.0.2.2:5353\"]").kind,
        ProbeKind::Dns { targets: sockets(&["192.0.2.1:53", "192.0.2.2:5353"]), query: "example.com".to_owned() }
    );
    assert_eq!(
        probe("kind = \"dns\"\ntargets = [\"192.0.2.1\"]\nquery = \"example.net\"").kind,
        ProbeKind::Dns { targets: sockets(&["192.0.2.1:53"]), query: "example.net".to_owned() }
    );
    assert_eq!(probe("kind = \"arp\"").kind, ProbeKind::Arp { targets: vec![] });
    assert_eq!(
        probe("kind = \"arp\"\ntargets = [\"192.0.2.1\"]").kind,
        ProbeKind::Arp { targets: vec!["192.0.2.1".parse().unwrap()] }
    );
    let target = |tls, host: &str, address: &str, path: &str| HttpTarget {
        tls,
        host: host.to_owned(),
        address: address.parse().unwrap(),
        path: path.to_owned(),
    };
    assert_eq!(
        probe(
            "kind = \"http\"\ntargets = [\"http://192.0.2.1\", { url = \"https://www.example.com/a?b\", address = \
             \"192.0.2.2\" }, \"http://192.0.2.3:8080/x\"]"
        )
        .kind,
        ProbeKind::Http {
            targets: vec![
                target(false, "192.0.2.1", "192.0.2.1:80", "/"),
                target(true, "www.example.com", "192.0.2.2:443", "/a?b"),
                target(false, "192.0.2.3", "192.0.2.3:8080", "/x"),
            ],
            status: 200..=299,
            body: None,
        }
    );
    for (status, range) in [("204", 204..=204), ("\"200-399\"", 200..=399)] {
        let lines = format!("kind = \"http\"\ntargets = [\"http://192.0.2.1\"]\nstatus = {status}\nbody = \"ok\"");
        let ProbeKind::Http { status, body, .. } = probe(&lines).kind else { panic!("HTTP") };
        assert_eq!((status, body.as_deref()), (range, Some("ok")));
    }
    let ipv6 = uplinks("routes = [\"::/0\"]")
        .replace("10.248.248.1", "2001:db8:1::1")
        .replace("targets = [\"192.0.2.53\"]", "kind = \"http\"\ntargets = [\"https://[2001:db8::80]:8443/\"]");
    let ProbeKind::Http { targets, .. } = &group(&ipv6).links[0].probe.kind else { panic!("HTTP") };
    assert_eq!(targets[..], [target(true, "2001:db8::80", "[2001:db8::80]:8443", "/")]);
}

#[test]
fn an_uplinks_own_probe_replaces_single_keys() {
    let text = uplinks("")
        .replace("targets = [", "required = 1\nfall = 7\nmax-loss = \"20%\"\ntargets = [\"192.0.2.54\", ")
        + "[uplinks.link.probe]\ninterval = \"10s\"\nrise = 2\n\
           [[uplinks.link]]\nname = \"b\"\ninterface = \"eth2\"\n\
           [uplinks.link.probe]\nkind = \"tcp\"\ntargets = [\"192.0.2.1:443\"]\n";
    let wan = group(&text);
    let [a, b] = &wan.links[..] else { panic!("two links") };
    assert_eq!((a.probe.interval, a.probe.rise, a.probe.fall), (Duration::from_secs(10), 2, 7));
    assert!(matches!(&a.probe.kind, ProbeKind::Icmp { targets } if targets.len() == 2));
    // Of another kind: what the group says about whom to ask is no use, the rest is.
    assert!(matches!(&b.probe.kind, ProbeKind::Tcp { targets, .. } if targets.len() == 1));
    assert_eq!((b.probe.required, b.probe.fall, b.probe.max_loss), (1, 7, Some(Share(200_000))));
}

#[test]
fn peers_and_uplinks_live_side_by_side() {
    let desk = Desk::new();
    let text = support::peer("routes = [\"10.8.0.0/16\"]") + &uplinks("");
    let config = desk.parse(&text).unwrap().config;
    assert_eq!((config.peers.len(), config.uplinks.len()), (1, 1));
    let two = uplinks("")
        + &uplinks("fwmark = \"0xff0000\"\nrule-priority = 21000\ntable-base = 7100\nroutes = [\"198.51.100.0/24\"]")
            .replace("\"wan\"", "\"other\"")
            .replace("eth1", "eth2")
            .replace("10.248.248.1", "10.248.249.1");
    assert_eq!(desk.findings(&two), [""; 0]);
}

#[test]
fn two_uplinks_on_one_interface_have_two_gateways() {
    let text = uplinks("") + "[[uplinks.link]]\nname = \"b\"\ninterface = \"eth1\"\ngateway = \"10.248.248.254\"\n";
    assert_eq!(group(&text).links.len(), 2);
}

#[test]
fn the_examples_uplinks_are_those_of_the_documentation() {
    let desk = Desk::new();
    let text = repository_file("tests/support/complete.toml");
    let uplinks = &text[text.find("[[uplinks]]").unwrap()..text.find("[[notify]]").unwrap()];
    let wan = desk.parse(uplinks).unwrap().config.uplinks.remove(0);
    assert_eq!((wan.links[0].weight, wan.links[0].probe.required), (2, 2));
    assert_eq!(wan.links[0].probe.max_rtt, Some(Duration::from_millis(400)));
}

#[test]
fn doubtful_uplinks_are_warned_about() {
    let desk = Desk::new();
    assert_eq!(
        desk.findings(&uplinks("").replace("lan = [\"eth0\"]", "")),
        ["warning 1:1: these uplinks have no `lan`: only this machine's own connections are spread | name the \
             interfaces that others come in by, such as lan = [\"eth0\"]; lan = [] if there are none"]
    );
    assert_eq!(
        desk.findings(&uplinks("[[uplinks.force]]\nlink = \"a\"")),
        [
            "warning 4:1: this [[uplinks.force]] matches every connection: nothing is spread, and no later one is reached \
             | say which with source, destination, protocol or port"
        ]
    );
    assert_eq!(
        desk.findings(&uplinks("").replace("10.248.248.1", "203.0.113.1")),
        ["warning 10:11: eth1 has no address in the same prefix as its gateway 203.0.113.1 | it has 10.248.248.2/24; \
             the gateway must answer on this interface all the same"]
    );
}

#[test]
fn a_forced_rule_that_an_earlier_one_leaves_nothing_to_is_named() {
    let desk = Desk::new();
    let rules = |earlier: &str, later: &str| {
        let text = format!("[[uplinks.force]]\nlink = \"a\"\n{earlier}[[uplinks.force]]\nlink = \"a\"\n{later}");
        desk.findings(&uplinks(&text))
    };
    let tcp = |ports: &str| format!("protocol = \"tcp\"\nport = {ports}\n");
    let shadowed = [
        ("source = \"10.20.0.0/16\"\n", "source = \"10.20.20.0/24\"\n".to_owned() + &tcp("25")),
        ("destination = \"203.0.113.0/24\"\n", "destination = \"203.0.113.0/24\"\n".to_owned()),
        ("protocol = \"tcp\"\n", tcp("25")),
        (&tcp("[\"1-20\", \"15-30\"]"), tcp("\"2-29\"")),
    ];
    for (earlier, later) in &shadowed {
        let found = rules(earlier, later);
        assert_eq!(found.len(), 1, "{earlier}{later}: {found:?}");
        assert!(found[0].contains("is never reached: the one at line 4 takes every connection"), "{found:?}");
    }
    let reached = [
        ("source = \"10.20.20.0/24\"\n", "source = \"10.20.0.0/16\"\n".to_owned()),
        ("protocol = \"udp\"\n", tcp("25")),
        (&tcp("25"), "protocol = \"tcp\"\n".to_owned()),
        (&tcp("[\"1-20\", \"22-30\"]"), tcp("\"2-29\"")),
        ("protocol = \"tcp\"\nor-others = true\n", tcp("25")),
    ];
    for (earlier, later) in &reached {
        assert_eq!(rules(earlier, later), [""; 0], "{earlier}{later}");
    }
}

#[test]
fn a_network_that_is_left_out_is_named() {
    let desk = Desk::new();
    let warned = |networks: &[(&str, &str)], lines: &str| {
        let networks: Vec<_> =
            [("eth0", "10.20.20.1/22"), ("eth1", "10.248.248.2/24")].iter().chain(networks).copied().collect();
        let text = uplinks(lines);
        let loaded = config::parse(&desk.path("c.toml"), &text, &host_with(&networks), Severity::Error).unwrap();
        let said = loaded.warnings.into_iter().filter(|warning| warning.message.contains("is not in `lan`"));
        said.map(|warning| format!("{} | {}", warning.message, warning.help.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(
        warned(&[("eth5", "192.168.7.1/24")], ""),
        [
            "eth5 has 192.168.7.0/24, and is not in `lan`: what comes from there leaves with its private source | add \"eth5\" to \
          `lan`, if hosts there use this router for the internet"
        ]
    );
    assert_eq!(warned(&[("eth5", "192.168.7.254/24")], "").len(), 1, "some routers have the last address");
    // A host among others, a public network, a single address, and who translates by itself.
    let none =
        [("eth5", "192.168.7.20/24"), ("eth6", "192.0.2.1/24"), ("wg0", "10.9.0.1/32"), ("docker0", "172.17.0.1/16")];
    assert_eq!(warned(&none, ""), [""; 0]);
    assert_eq!(warned(&[("eth5", "192.168.7.1/24")], "masquerade = false"), [""; 0]);
}

#[test]
fn an_interface_that_comes_and_goes_may_be_absent() {
    let desk = Desk::new();
    let text = uplinks("").replace("\"eth1\"\ngateway = \"10.248.248.1\"", "\"wwan0\"");
    assert_eq!(
        desk.findings(&text),
        ["warning 9:13: there is no interface wwan0 here now | it is used from the moment that it appears"]
    );
    assert_eq!(
        desk.findings(&uplinks("").replace("eth1", "eth9")),
        ["error 9:13: there is no interface eth9 here | did you mean \"eth0\"? there are eth0, eth1, eth2, lo, ppp0"]
    );
}

#[test]
fn the_example_that_is_shipped_can_be_run_and_shows_the_defaults() {
    let desk = Desk::new();
    // The gateway of the documentation is none of this machine's.
    let text = repository_file("examples/uplinks.toml").replace("192.0.2.1\"", "10.248.248.1\"");
    assert_eq!(desk.findings(&text), [""; 0]);
    // Notifiers have no defaults: there are none.
    let text = text.split("# [[notify]]").next().unwrap().to_owned();
    // What would change something: it has no default.
    let without = [
        "instance",
        "listen",
        "max-",
        "prefixes",
        "local",
        "link =",
        "protocol",
        "port",
        "source",
        "destination",
        "or-",
        "status",
        "body",
        "query",
        "tcp-refused",
        "control-group",
    ];
    let spoken: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") && !without.iter().any(|key| setting.starts_with(key)) => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(spoken.contains("\nrequired = 1 "));
    assert_eq!(desk.parse(&spoken).unwrap().config, desk.parse(&text).unwrap().config);
    // And those are right as well, where somebody takes the hash away.
    let force = text.find("# [[uplinks.force]]").unwrap();
    let all: String = text[..force]
        .replace("# [metrics]", "[metrics]")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // These are for other kinds of probes; and the last is a group of the administrator's.
            Some(setting)
                if setting.contains(" = ")
                    && !["local", "status", "body", "query", "tcp-refused", "control-group"]
                        .iter()
                        .any(|key| setting.starts_with(key)) =>
            {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .chain(text[force..].lines().map(|line| format!("{}\n", line.trim_start_matches("# "))))
        .collect();
    let all = all.replace("routes = [\"0.0.0.0/0\"]", "routes = [\"0.0.0.0/0\", \"::/0\"]");
    assert_eq!(desk.findings(&all), [""; 0]);
    assert_eq!(desk.parse(&all).unwrap().config.uplinks[0].force.len(), 1);
}
