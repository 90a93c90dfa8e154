//! Every mistake in a configuration: where it is reported, what is said to be wrong and what right.
#![allow(clippy::unwrap_used)]

mod support;

use link_watcher::config::{self, Address, Severity};
use support::{Desk, host, peer, repository_file};

/// One mistake in line 5, in a peer that is fine otherwise.
fn line_5(line: &str) -> String {
    one(Desk::new().peer_findings(line))
}

fn one(findings: Vec<String>) -> String {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.into_iter().next().unwrap()
}

fn in_file(text: &str) -> String {
    one(Desk::new().findings(text))
}

#[test]
fn a_finding_is_shown_with_its_line() {
    let desk = Desk::new();
    let refused = desk.parse(&peer("intervall = \"1s\"\n\tmultiplier = 0")).unwrap_err();
    let file = desk.path("c.toml").display().to_string();
    assert_eq!(
        refused.to_string(),
        format!(
            "\
error: unknown key `intervall` in [[peer]]
 --> {file}:5:1
  |
5 | intervall = \"1s\"
  | ^^^^^^^^^
  = help: did you mean `interval`?

error: `multiplier` is out of range: 0
 --> {file}:6:15
  |
6 | \tmultiplier = 0
  | \t             ^
  = help: it goes from 1 to 255

{file} is refused: 2 errors"
        )
    );
}

#[test]
fn toml_itself() {
    let findings = Desk::new().findings("[daemon]\nengine = auto\n[daemon]\n");
    assert_eq!(
        findings,
        [
            "error 2:10: this text has no quotes: auto | write engine = \"auto\"",
            "error 3:1: there is a section daemon already | the first is at line 1: put both together"
        ]
    );
    assert_eq!(
        in_file("# nothing\n"),
        "error 1:1: there is nothing to watch | add a section [[peer]] or [[uplinks]]; link-watcher \
         generate config shows one"
    );
}

#[test]
fn unknown_keys() {
    assert_eq!(
        line_5("colour = 1"),
        "error 5:1: unknown key `colour` in [[peer]] | known keys are name, role, port, key-files, interval, multiplier, \
         routes, announce, announce-interfaces, announce-routes, accept, max-prefixes, failback, hold-up, when-all-down, max-loss, max-rtt, max-jitter, dampening, table, metric, actuation, table-base, rule-priority, link"
    );
    assert_eq!(
        in_file(&(peer("") + "wieght = 2\n")),
        "error 12:1: unknown key `wieght` in [[peer.link]] | did you mean `weight`?"
    );
    assert_eq!(
        in_file(&("[deamon]\n".to_owned() + &peer(""))),
        "error 1:2: unknown section or key `deamon` | did you mean [daemon]?"
    );
    assert_eq!(
        in_file(&("[daemon]\non_exit = \"keep\"\n".to_owned() + &peer(""))),
        "error 2:1: unknown key `on_exit` in [daemon] | did you mean `on-exit`?"
    );
}

#[test]
fn shapes_of_sections() {
    assert_eq!(
        in_file("[peer]\nname = \"hq\"\n"),
        "error 1:1: `peer` must be a repeated section | begin it with a line [[peer]], in double brackets"
    );
    assert_eq!(
        in_file(&("daemon = 1\n".to_owned() + &peer(""))),
        "error 1:10: `daemon` must be a section | begin it with a line [daemon]"
    );
    let findings = Desk::new().findings("[[peer]]\n[[peer.link]]\n");
    assert_eq!(
        findings,
        [
            "error 1:1: [[peer]] lacks `name` | add a line such as name = \"hq\"",
            "error 1:1: [[peer]] lacks `role` | add a line such as role = \"client\" (chooses the link), and \"server\" \
             (follows) at the other end",
            "error 1:1: [[peer]] lacks `key-files` | add a line such as key-files = [\"hq.key\"]; link-watcher generate \
             key --output hq.key makes one",
            "warning 1:1: this peer has no routes, announce or accept: its links are watched, but no traffic ever moves | \
             say with `routes` what goes through the peer, or with `accept` what it may announce",
            "error 2:1: [[peer.link]] lacks `name` | add a line such as name = \"optic\"",
            "error 2:1: [[peer.link]] lacks `interface` | add a line such as interface = \"eth1\"",
            "error 2:1: [[peer.link]] lacks `remote` | add a line such as remote = \"10.248.248.1\" (the peer's address on \
             this link)",
        ]
    );
    assert_eq!(
        in_file("[[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"hq.key\"]\nroutes = [\"::/0\"]\n"),
        "error 1:1: [[peer]] has no link | add a section [[peer.link]] with name, interface and remote"
    );
}

#[test]
fn where_metrics_are_served() {
    let desk = Desk::new();
    let findings = |section: &str| desk.findings(&(peer("") + section)).join("\n");
    assert_eq!(
        findings("[metrics]\n"),
        "error 12:1: [metrics] lacks `listen` | add a line such as listen = \"127.0.0.1:9746\""
    );
    for wrong in ["localhost:9746", "127.0.0.1", "9746", "127.0.0.1:65536", "::1:9746"] {
        assert_eq!(
            findings(&format!("[metrics]\nlisten = \"{wrong}\"\n")),
            format!(
                "error 13:10: `listen` is not an address and a port: \"{wrong}\" | write listen = \"127.0.0.1:9746\", \
                 or \"[::1]:9746\" for IPv6; names are not looked up"
            )
        );
    }
    assert_eq!(
        findings("[metrics]\nlisten = \"127.0.0.1:0\"\n"),
        "error 13:10: `listen` has port 0, which nobody could find | it goes from 1 to 65535; 9746 is the usual one"
    );
    assert_eq!(
        findings("[metrics]\nlisten = \"0.0.0.0:9746\"\n"),
        "warning 13:10: whoever reaches 0.0.0.0:9746 can read how this router stands: there is no password and no TLS | \
         listen on 127.0.0.1, or let a firewall say who may come in"
    );
    assert_eq!(findings("[metrics]\nlisten = \"[::1]:9746\"\n"), "");
    assert_eq!(
        findings("[metrics]\nlisten = 9746\nport = 1\n"),
        "error 13:10: `listen` must be a text in quotes, not an integer | write listen = \"127.0.0.1:9746\"\n\
         error 14:1: unknown key `port` in [metrics] | it belongs to [[peer]]: put it behind that line"
    );
}

/// The complete example of the documentation, every section of it.
#[test]
fn the_complete_interface_is_understood() {
    let desk = Desk::new();
    let text = repository_file("tests/support/complete.toml");
    let findings = desk.findings(&text);
    assert_eq!(
        findings,
        [
            "error 8:17: there is no group netadmin here | `getent group` lists those that there are, `groupadd` makes one",
            "error 19:14: key file /nowhere/hq.key does not exist | make one: link-watcher generate key --output /nowhere/hq.key",
            // The example's gateway is none of this machine's.
            "warning 71:13: eth1 has no address in the same prefix as its gateway 1.0.0.1 | it has 10.248.248.2/24; the \
             gateway must answer on this interface all the same",
            "error 81:17: secret file /nowhere/smtp.password does not exist | write the secret to /nowhere/smtp.password, \
             one line, then: chmod 600 /nowhere/smtp.password",
        ]
    );
}

#[test]
fn an_unknown_group_is_an_error_with_its_place_and_at_a_start_a_warning() {
    let desk = Desk::new();
    let text = "[daemon]\ncontrol-group = \"no-such-group\"\n".to_owned() + &peer("");
    assert_eq!(
        in_file(&text),
        "error 2:17: there is no group no-such-group here | `getent group` lists those that there are, `groupadd` makes one"
    );
    let started = config::parse(&desk.path("c.toml"), &text, &support::host(), Severity::Warning).unwrap();
    assert_eq!(started.config.daemon.control_group.unwrap().gid, None);
    assert_eq!(started.warnings[0].message, "there is no group no-such-group here");
    let known = desk.parse(&text.replace("no-such-group", "root")).unwrap().config.daemon.control_group.unwrap();
    assert_eq!((known.name.as_str(), known.gid), ("root", Some(0)));
}

#[test]
fn wrong_types() {
    assert_eq!(
        line_5("interval = 100"),
        "error 5:12: `interval` must be a duration in quotes, not an integer | write interval = \"100ms\""
    );
    assert_eq!(
        line_5("multiplier = \"3\""),
        "error 5:14: `multiplier` must be a number, not a string | write multiplier = 3"
    );
    assert_eq!(
        line_5("accept = \"10.0.0.0/8\""),
        "error 5:10: `accept` must be a list, not a string | write accept = [\"10.0.0.0/8\"]"
    );
    assert_eq!(
        line_5("announce-interfaces = [0]"),
        "error 5:24: `announce-interfaces` must be a list of texts in quotes, not an integer | write \
         announce-interfaces = [\"eth0\"]"
    );
    assert_eq!(
        in_file(&("[daemon]\nrealtime = \"yes\"\n".to_owned() + &peer(""))),
        "error 2:12: `realtime` must be true or false, not a string | write realtime = true"
    );
}

#[test]
fn durations() {
    assert_eq!(
        line_5("interval = \"100\""),
        "error 5:12: `interval` is not a duration: \"100\" | write interval = \"100ms\""
    );
    assert_eq!(
        line_5("interval = \"999us\""),
        "error 5:12: `interval` is out of range: 999us | it goes from 1ms to 1m"
    );
    assert_eq!(line_5("interval = \"61s\""), "error 5:12: `interval` is out of range: 61s | it goes from 1ms to 1m");
    assert_eq!(line_5("hold-up = \"2days\""), "error 5:11: `hold-up` is out of range: 2days | it goes from 0s to 1day");
    assert_eq!(
        line_5("failback = \"manul\""),
        "error 5:12: `failback` cannot be \"manul\" | did you mean \"manual\"? Then the traffic \
         stays until somebody switches"
    );
}

#[test]
fn numbers() {
    assert_eq!(line_5("multiplier = 256"), "error 5:14: `multiplier` is out of range: 256 | it goes from 1 to 255");
    assert_eq!(line_5("port = 0"), "error 5:8: `port` is out of range: 0 | it goes from 1 to 65535");
    assert_eq!(line_5("port = 65536"), "error 5:8: `port` is out of range: 65536 | it goes from 1 to 65535");
    assert_eq!(line_5("table = 0"), "error 5:9: `table` is out of range: 0 | it goes from 1 to 4294967295");
    assert_eq!(
        line_5("table = 255"),
        "error 5:9: table 255 is the kernel's table of local addresses | 254 is the main table; any other number from 1 \
         is a table of its own"
    );
    assert_eq!(line_5("metric = -1"), "error 5:10: `metric` is out of range: -1 | it goes from 0 to 4000000000");
    assert_eq!(
        in_file(&(peer("") + "weight = 257\n")),
        "error 12:10: `weight` is out of range: 257 | it goes from 1 to 256"
    );
    assert_eq!(in_file(&(peer("") + "tier = 0\n")), "error 12:8: `tier` is out of range: 0 | it goes from 1 to 65535");
}

#[test]
fn words() {
    assert_eq!(
        in_file(&peer("").replace("\"client\"", "\"slient\"")),
        "error 3:8: `role` cannot be \"slient\" | did you mean \"client\"? It is one of client or server"
    );
    assert_eq!(
        in_file(&("[daemon]\nengine = \"ebpf\"\n".to_owned() + &peer(""))),
        "error 2:10: `engine` cannot be \"ebpf\" | did you mean \"xdp\"? It is one of auto, xdp, tc or socket"
    );
    assert_eq!(
        in_file(&("[daemon]\ninstance = \"../etc\"\n".to_owned() + &peer(""))),
        "error 2:12: `instance` cannot be \"../etc\": it names a directory | it has 1 to 64 letters, digits, dashes, dots \
         and underscores, and does not begin with a dot"
    );
    let long = "x".repeat(108);
    assert_eq!(
        in_file(&(format!("[daemon]\ncontrol-socket = \"/{long}\"\n") + &peer(""))),
        "error 2:18: `control-socket` cannot be a socket's path | it has 1 to 107 bytes"
    );
}

#[test]
fn names() {
    let good = "letters, digits, dashes and underscores make a good name";
    let named = |name: &str| in_file(&peer("").replace("\"hq\"", &format!("\"{name}\"")));
    let wrong = "a space, a quote, a backslash or a control character";
    assert_eq!(named("a b"), format!("error 2:8: this name has {wrong} | {good}"));
    assert_eq!(named("a\\\"b"), format!("error 2:8: this name has {wrong} | {good}"));
    assert_eq!(named("a\\nb"), format!("error 2:8: this name has {wrong} | {good}"));
    assert_eq!(named(""), format!("error 2:8: this name is empty | {good}"));
    assert_eq!(named(&"x".repeat(65)), format!("error 2:8: this name is longer than 64 bytes | {good}"));
    assert_eq!(
        named("--all"),
        format!("error 2:8: this name begins with a dash, which commands take for an option | {good}")
    );
    assert_eq!(
        in_file(&peer("").replace("\"optic\"", "\"auto\"")),
        "error 8:8: a link cannot be called \"auto\" | `link-watcher switch GROUP auto` lets a group choose by itself: take \
         another name"
    );
}

#[test]
fn duplicate_names() {
    let other = peer("port = 1\nroutes = [\"10.8.0.0/16\"]").replace("hq.key", "b.key");
    assert_eq!(
        in_file(&(peer("") + &other)),
        "error 13:8: two groups are called \"hq\"; the other is at line 2 | give each a name of its own"
    );
    let link = "[[peer.link]]\nname = \"optic\"\ninterface = \"eth2\"\nremote = \"10.248.249.1\"\n";
    assert_eq!(
        in_file(&(peer("") + link)),
        "error 13:8: two links of this peer are called \"optic\"; the other is at line 8 | give each a name of its own"
    );
}

fn second_link(interface: &str, local: &str, remote: &str) -> String {
    let lines = format!("interface = \"{interface}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n");
    // The places of addresses count here, not whether this machine has them.
    let mut findings = Desk::new().findings(&(peer("") + "[[peer.link]]\nname = \"b\"\n" + &lines));
    findings.retain(|finding| !finding.contains("is no address of"));
    one(findings)
}

#[test]
fn two_links_with_one_address() {
    let own_hop = "each link of a peer needs its own next hop";
    let own_address = "each link of a peer needs its own address";
    let remote = "two links with one address: 10.248.248.1 is `remote` of \"b\", and of \"optic\" at line 11";
    assert_eq!(second_link("eth1", "10.248.248.3", "10.248.248.1"), format!("error 16:10: {remote} | {own_hop}"));
    assert_eq!(second_link("eth2", "10.248.249.2", "10.248.248.1"), format!("error 16:10: {remote} | {own_hop}"));
    let local = "two links with one address: 10.248.248.2 is `local` of \"b\", and of \"optic\" at line 10";
    assert_eq!(second_link("eth1", "10.248.248.2", "10.248.248.3"), format!("error 15:9: {local} | {own_address}"));
    assert_eq!(second_link("eth2", "10.248.248.2", "10.248.249.1"), format!("error 15:9: {local} | {own_address}"));
    assert_eq!(
        second_link("eth2", "10.248.249.2", "10.248.248.2"),
        "error 16:10: 10.248.248.2 is the peer's address here, and this router's own for link \"optic\" at line 10 | \
         `local` is this router's address, `remote` the peer's"
    );
}

#[test]
fn two_peers_with_one_address() {
    let other = peer("routes = [\"10.8.0.0/16\"]").replace("\"hq", "\"b").replace("optic", "c");
    assert_eq!(
        in_file(&(peer("") + &other)),
        "error 22:10: two links with one address: 10.248.248.1 is `remote` of \"c\", and of \"optic\" at line 11 | give one \
         of the two peers another `port`"
    );
    let elsewhere = other.replace("eth1", "eth2").replace("10.248.248.2", "10.248.249.2");
    assert_eq!(
        in_file(&(peer("") + &elsewhere)),
        "error 22:10: two links with one address: 10.248.248.1 is `remote` of \"c\", and of \"optic\" at line 11 | one \
         address lies behind one interface"
    );
}

#[test]
fn ends_of_a_link() {
    let remote = |address: &str| in_file(&peer("").replace("10.248.248.1", address));
    let example = "write the address of one router, such as remote = \"10.248.248.1\"";
    assert_eq!(
        remote("10.248.248.2"),
        "error 11:10: both ends of this link have the address 10.248.248.2 | `local` is this router's address, `remote` \
         the peer's"
    );
    assert_eq!(
        remote("2001:db8::1"),
        "error 10:9: `local` is IPv4, `remote` is IPv6 | a link's ends have one family; for both families make two links"
    );
    assert_eq!(remote("0.0.0.0"), format!("error 11:10: `remote` is the unspecified address: 0.0.0.0 | {example}"));
    assert_eq!(remote("ff02::1"), format!("error 11:10: `remote` is a multicast address: ff02::1 | {example}"));
    assert_eq!(
        remote("255.255.255.255"),
        format!("error 11:10: `remote` is the broadcast address: 255.255.255.255 | {example}")
    );
    assert_eq!(
        remote("::ffff:10.0.0.1"),
        "error 11:10: `remote` is an IPv4-mapped address: ::ffff:10.0.0.1 | write it as IPv4: remote = \"10.0.0.1\""
    );
    assert_eq!(
        remote("10.248.248.1/24"),
        "error 11:10: `remote` is not an address: \"10.248.248.1/24\" | write it without the prefix length: remote = \
         \"10.248.248.1\""
    );
    assert_eq!(
        remote("router.example"),
        "error 11:10: `remote` is not an address: \"router.example\" | write one address, such as remote = \
         \"10.248.248.1\"; names are not looked up"
    );
}

#[test]
fn prefixes() {
    assert_eq!(
        line_5("routes = [\"10.20.20.1/22\"]"),
        "error 5:11: 10.20.20.1/22 has bits set behind its length of 22 | write \"10.20.20.0/22\", or \"10.20.20.1/32\" for \
         this one address"
    );
    assert_eq!(
        line_5("announce = [\"10.20.20.1\"]"),
        "error 5:13: `announce` has an entry that is not a prefix: \"10.20.20.1\" | add the prefix length: \
         \"10.20.20.1/32\" is this one address"
    );
    assert_eq!(
        line_5("routes = [\"default\"]"),
        "error 5:11: `routes` has an entry that is not a prefix: \"default\" | write \"0.0.0.0/0\", or \"::/0\" for IPv6"
    );
    assert_eq!(
        line_5("accept = [\"10.0.0.0/33\"]"),
        "error 5:11: `accept` has an entry that is not a prefix: \"10.0.0.0/33\" | the length of an IPv4 prefix goes \
         from 0 to 32"
    );
}

#[test]
fn overlapping_prefixes() {
    assert_eq!(
        line_5("accept = [\"10.8.0.0/16\",\n\"10.9.0.0/16\", \"10.8.0.0/16\"]"),
        "error 6:16: 10.8.0.0/16 stands twice in `accept`, the first time at line 5 | leave it out"
    );
    assert_eq!(
        line_5("routes = [\"10.8.1.0/24\", \"10.9.0.0/16\", \"10.8.0.0/16\"]"),
        "error 5:11: overlapping prefixes in `routes`: 10.8.1.0/24 is inside of 10.8.0.0/16 at line 5 | leave it out: the \
         longer list changes nothing"
    );
    assert_eq!(
        line_5("announce = [\"0.0.0.0/0\"]"),
        "error 5:13: 0.0.0.0/0 is announced to the peer, and routed through it at line 6 | it would go round in circles: it \
         is behind one of the two routers, not behind both"
    );
    let between = |one: &str, two: &str| {
        let routes = |prefix: &str| peer(&format!("routes = [\"{prefix}\"]"));
        in_file(&(routes(one) + &routes(two).replace("\"hq", "\"b").replace("\"10.248.248.1\"", "\"10.248.248.3\"")))
    };
    let help = "one table has one way for each prefix: change one, or give a peer another `table` than 254";
    assert_eq!(
        between("::/0", "::/0"),
        format!("error 16:11: ::/0 goes through peer \"hq\" already, at line 5 | {help}")
    );
    assert_eq!(
        between("10.8.1.0/24", "10.8.0.0/16"),
        format!(
            "error 16:11: overlapping prefixes: 10.8.0.0/16 here, and 10.8.1.0/24 through peer \"hq\" at line 5 | {help}"
        )
    );
}

#[test]
fn interfaces() {
    assert_eq!(
        in_file(&peer("").replace("eth1", "eth9")),
        "error 9:13: there is no interface eth9 here | did you mean \"eth0\"? there are eth0, eth1, eth2, lo, ppp0"
    );
    assert_eq!(
        line_5("announce-interfaces = [\"wlan0\"]"),
        "error 5:24: there is no interface wlan0 here | there are eth0, eth1, eth2, lo, ppp0"
    );
    assert_eq!(
        in_file(&peer("").replace("eth1", "abcdefghijklmnop")),
        "error 9:13: \"abcdefghijklmnop\" cannot be the name of an interface: it has 1 to 15 bytes | `ip link` lists the \
         interfaces"
    );
    assert_eq!(
        in_file(&peer("").replace("eth1", "eth0/1")),
        "error 9:13: \"eth0/1\" cannot be the name of an interface: it has no space, no slash and no colon | `ip link` lists \
         the interfaces"
    );
    assert_eq!(
        in_file(&peer("").replace("10.248.248.2", "10.248.248.7")),
        "error 10:9: 10.248.248.7 is no address of eth1 | eth1 has 10.248.248.2/24; `ip address add` gives it another"
    );
    let without_local = peer("").replace("local = \"10.248.248.2\"\n", "").replace("248.1", "247.1");
    assert_eq!(
        in_file(&without_local),
        "error 10:10: eth1 has no address in the same prefix as 10.248.247.1 | it has 10.248.248.2/24, 2001:db8:1::2/64, \
         fe80::1/64; name one with `local`, or give the interface one"
    );
}

#[test]
fn two_addresses_that_could_be_ours() {
    let desk = Desk::new();
    let mut host = host();
    let second = Address { network: "10.248.248.3/24".parse().unwrap(), peer: None };
    host.interfaces.get_mut("eth1").unwrap().push(second);
    let warned = |text: &str| {
        let loaded = config::parse(&desk.path("c.toml"), text, &host, Severity::Error).unwrap();
        let said = loaded.warnings.into_iter().filter(|warning| warning.message.contains("several addresses"));
        said.map(|warning| format!("{} | {}", warning.message, warning.help.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(
        warned(&peer("").replace("local = \"10.248.248.2\"\n", "")),
        [
            "eth1 has several addresses in the same prefix as 10.248.248.1: 10.248.248.2, 10.248.248.3 | name the one that the \
          peer has as `remote`: local = \"10.248.248.2\" or local = \"10.248.248.3\"; with the other one the peer takes our \
          keepalives for a stranger's"
        ]
    );
    assert_eq!(warned(&peer("")), [""; 0], "`local` says which");
}

#[test]
fn key_files() {
    let desk = Desk::new();
    let with = |files: &str| {
        let text = peer("").replace("[\"hq.key\"]", files);
        one(desk.findings(&text))
    };
    let good = std::fs::read_to_string(desk.path("hq.key")).unwrap();
    assert_eq!(
        with("[]"),
        "error 4:13: `key-files` is empty | name at least one file; link-watcher generate key --output hq.key makes one"
    );
    assert_eq!(
        with("[\"none\"]"),
        "error 4:14: key file DIR/none does not exist | make one: link-watcher generate key --output DIR/none"
    );
    desk.write_key("open", 0o644, &good);
    assert_eq!(
        with("[\"open\"]"),
        "error 4:14: key file DIR/open has mode 0644: others than its owner can use it, or it can be executed | chmod 600 \
         DIR/open"
    );
    desk.write_key("group", 0o620, &good);
    assert_eq!(
        with("[\"group\"]"),
        "error 4:14: key file DIR/group has mode 0620: others than its owner can use it, or it can be executed | chmod 600 \
         DIR/group"
    );
    std::fs::create_dir(desk.path("directory")).unwrap();
    assert_eq!(
        with("[\"directory\"]"),
        "error 4:14: key file DIR/directory is not a regular file | name a file with one line of base64"
    );
    desk.write_key("weak", 0o400, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert_eq!(
        with("[\"weak\"]"),
        "error 4:14: key file DIR/weak is weak: all its bytes are equal | remove it and make a random one: link-watcher \
         generate key --output DIR/weak; the peer needs the same"
    );
    desk.write_key("text", 0o600, "correct horse\n");
    assert_eq!(
        with("[\"text\"]"),
        "error 4:14: key file DIR/text is not base64 | remove it and make a random one: link-watcher generate key --output \
         DIR/text; the peer needs the same"
    );
    desk.write_key("same", 0o600, &good);
    assert_eq!(
        with("[\"hq.key\", \"same\"]"),
        "error 4:24: key file DIR/same holds the same key as DIR/hq.key | leave one of them out, or make another key"
    );
}

#[test]
fn a_key_of_somebody_else_is_refused() {
    let desk = Desk::new();
    // Only root can give a file away.
    if std::os::unix::fs::chown(desk.path("hq.key"), Some(12345), None).is_err() {
        return;
    }
    assert_eq!(
        one(desk.findings(&peer(""))),
        "error 4:14: key file DIR/hq.key belongs to user 12345, who can read it | chown root DIR/hq.key"
    );
}

#[test]
fn no_more_errors_are_shown_than_anybody_reads() {
    let desk = Desk::new();
    let routes: String = (0..20_000).map(|_| "\n\"203.0.113.0/24\",").collect();
    let refused = desk.parse(&peer(&format!("routes = [{routes}]"))).unwrap_err();
    assert_eq!((refused.diagnostics.len(), refused.omitted, refused.errors()), (100, 19_899, 19_999));
    assert!(refused.to_string().contains("\n19899 more errors are not shown\n"));
}

/// Whatever is in the file, it is read or refused: 2,000 mutations of each example, the same each time.
#[test]
fn no_text_makes_it_panic() {
    for example in ["examples/link-watcher.toml", "examples/uplinks.toml"] {
        mutate(&repository_file(example));
    }
}

fn mutate(text: &str) {
    let desk = Desk::new();
    // Lehmer's generator (Park and Miller 1988).
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random * 48_271 % 0x7fff_ffff;
        random as usize % below
    };
    for _ in 0..2_000 {
        let mut characters: Vec<char> = text.chars().filter(|c| *c != '#').collect();
        for _ in 0..1 + next(6) {
            let (at, length) = (next(characters.len()), next(40));
            let end = (at + length).min(characters.len());
            match next(3) {
                0 => drop(characters.drain(at..end)),
                1 => characters[at] = ['"', '[', ']', '\n', '=', '\u{e4}', '\u{1f980}', '\t', '0', '.', '/'][next(11)],
                _ => {
                    let part: Vec<char> = characters[at..end].to_vec();
                    let to = next(characters.len());
                    characters.splice(to..to, part);
                }
            }
        }
        let mutated: String = characters.into_iter().collect();
        if let Err(refused) = desk.parse(&mutated) {
            assert!(refused.errors() > 0 && !refused.to_string().is_empty());
        }
    }
}

#[test]
fn tables_and_rules_of_peers() {
    assert!(line_5("actuation = \"table\"").contains("did you mean \"tables\"?"));
    assert!(line_5("actuation = \"nexthop\"\nrule-priority = 100").contains("`rule-priority` means nothing"));
    assert!(line_5("actuation = \"tables\"\ntable = 100").starts_with("error 5:13: `actuation` cannot be \"tables\""));
    assert!(
        line_5("table-base = 250").contains("tables 250 to 313 are this peer's, and 253 to 255 are the kernel's own")
    );
    assert!(line_5("rule-priority = 32700").contains("out of range"));
    let uplinks = "[[uplinks]]\nname = \"wan\"\nlan = []\n[[uplinks.link]]\nname = \"p\"\ninterface = \"eth2\"\n\
                   [uplinks.probe]\nkind = \"icmp\"\ntargets = [\"192.0.2.1\"]\n";
    let both = |line: &str| in_file(&(peer(line) + uplinks));
    assert!(both("table-base = 6950").contains("and 7000 to 7001 are those of the uplinks \"wan\""));
    assert!(both("rule-priority = 19950").contains("those of the uplinks begin at 20000"));
}

#[test]
fn two_peers_with_one_secret_are_refused_whatever_their_files_are_called() {
    let desk = Desk::new();
    let good = std::fs::read_to_string(desk.path("hq.key")).unwrap();
    desk.write_key("copy.key", 0o600, &format!(" {good}\n"));
    let second = |key: &str| {
        peer("port = 46722")
            .replace("hq.key", key)
            .replace("\"hq\"", "\"office\"")
            .replace("0.0.0.0/0", "192.0.2.0/24")
            .replace("eth1", "eth2")
            .replace("248.248.", "248.249.")
    };
    for key in ["copy.key", "hq.key"] {
        assert_eq!(
            one(desk.findings(&(peer("") + &second(key)))),
            format!(
                "error 15:14: peers \"hq\" and \"office\" have one secret: key files DIR/hq.key and DIR/{key} hold the same | \
                 each peer needs a key of its own: link-watcher key generate FILE, at both ends of one of the two"
            )
        );
    }
    desk.write_key("own.key", 0o600, link_watcher::keys::Secret::generate().unwrap().to_base64().as_str());
    assert_eq!(desk.findings(&(peer("") + &second("own.key"))), [""; 0]);
}

#[test]
fn a_key_that_others_can_replace_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let desk = Desk::new();
    let good = std::fs::read_to_string(desk.path("hq.key")).unwrap();
    std::fs::create_dir(desk.path("open")).unwrap();
    desk.write_key("open/key", 0o600, &good);
    std::fs::set_permissions(desk.path("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    symlink("../hq.key", desk.path("open/link")).unwrap();
    symlink("open/link", desk.path("innocent")).unwrap();
    for file in ["open/key", "open/link", "innocent"] {
        assert_eq!(
            one(desk.findings(&peer("").replace("hq.key", file))),
            format!(
                "error 4:14: key file DIR/{file} is not safe: others can change it: directory DIR/open has mode 0777 | \
                 chmod go-w DIR/open"
            )
        );
    }
}

#[test]
fn hops_have_a_range() {
    let with = |hops: &str| peer("") + "max-hops = " + hops + "\n";
    let loaded = Desk::new().parse(&with("2")).unwrap();
    assert_eq!(loaded.config.peers[0].links[0].max_hops, Some(2));
    for hops in ["0", "256"] {
        assert_eq!(
            in_file(&with(hops)),
            format!("error 12:12: `max-hops` is out of range: {hops} | it goes from 1 to 255")
        );
    }
}
