//! Every mistake in `[[uplinks]]`: where it is reported, what is said to be wrong and what right.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Desk, peer, uplinks};

fn findings(text: &str) -> Vec<String> {
    Desk::new().findings(text)
}

fn one(text: &str) -> String {
    let findings = findings(text);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.into_iter().next().unwrap()
}

/// One mistake in line 4, in a group that is fine otherwise.
fn line_4(line: &str) -> String {
    one(&uplinks(line))
}

/// One mistake in the probe, whose lines begin at line 6.
fn in_probe(lines: &str) -> String {
    one(&uplinks("").replace("targets = [\"192.0.2.53\"]", lines))
}

/// One mistake in lines behind the good link, from line 11.
fn behind(lines: &str) -> String {
    one(&(uplinks("") + lines))
}

const SECOND: &str = "[[uplinks.link]]\nname = \"b\"\ninterface = \"eth2\"\n";

#[test]
fn a_finding_is_shown_with_its_line() {
    let desk = Desk::new();
    let refused = desk.parse(&uplinks("fwmark = \"0xff0f\"")).unwrap_err();
    let file = desk.path("c.toml").display().to_string();
    assert_eq!(
        refused.to_string(),
        format!(
            "\
error: `fwmark` is not a mask of neighbouring bits
 --> {file}:4:10
  |
4 | fwmark = \"0xff0f\"
  |          ^^^^^^^^
  = help: write the bits of the packet mark that are ours, such as \"0xff00\" for eight of them: up to 255 uplinks

{file} is refused: 1 error"
        )
    );
}

#[test]
fn shapes_of_sections() {
    assert_eq!(
        findings("[[uplinks]]\nlan = []\n[[uplinks.link]]\n[[uplinks.force]]\nprotocol = \"udp\"\n"),
        [
            "error 1:1: [[uplinks]] lacks `name` | add a line such as name = \"wan\"",
            "error 3:1: [[uplinks.link]] lacks `name` | add a line such as name = \"provider1\"",
            "error 3:1: [[uplinks.link]] lacks `interface` | add a line such as interface = \"eth1\"",
            "error 3:1: nothing says whom to probe (kind = \"icmp\") | add a line such as targets = [\"9.9.9.9\", \
             \"1.1.1.1\"] to [uplinks.probe]",
            "error 4:1: [[uplinks.force]] lacks `link` | add a line such as link = \"provider1\" (the uplink that they \
             shall use)",
        ]
    );
    assert_eq!(
        one("[[uplinks]]\nname = \"wan\"\nlan = []\n"),
        "error 1:1: [[uplinks]] has no link | add a section [[uplinks.link]] with name and interface"
    );
    assert_eq!(
        behind("gatway = \"10.248.248.2\"\n"),
        "error 11:1: unknown key `gatway` in [[uplinks.link]] | did you mean `gateway`?"
    );
    assert_eq!(line_4("lna = []"), "error 4:1: unknown key `lna` in [[uplinks]] | did you mean `lan`?");
    assert_eq!(
        in_probe("targets = [\"192.0.2.1\"]\nrize = 1"),
        "error 7:1: unknown key `rize` in [uplinks.probe] | did you mean `rise`?"
    );
}

#[test]
fn names() {
    assert_eq!(
        one(&uplinks("").replace("\"a\"", "\"auto\"")),
        "error 8:8: a link cannot be called \"auto\" | `link-watcher switch GROUP auto` lets a group choose by itself: take \
         another name"
    );
    assert_eq!(
        behind(&SECOND.replace("\"b\"", "\"a\"")),
        "error 12:8: two of these uplinks are called \"a\"; the other is at line 8 | give each a name of its own"
    );
    assert_eq!(
        one(&(peer("routes = [\"10.8.0.0/16\"]") + &uplinks("").replace("\"wan\"", "\"hq\""))),
        "error 13:8: two groups are called \"hq\"; the other is at line 2 | give each a name of its own"
    );
}

#[test]
fn numbers_and_words() {
    assert_eq!(
        behind("weight = 0\n"),
        "error 11:10: `weight` is out of range: 0 | it goes from 1 to 256; tier = 0 keeps an uplink for what is forced to \
         it and for what comes in by it"
    );
    assert_eq!(behind("weight = 257\n"), "error 11:10: `weight` is out of range: 257 | it goes from 1 to 256");
    assert_eq!(behind("tier = 65536\n"), "error 11:8: `tier` is out of range: 65536 | it goes from 0 to 65535");
    assert_eq!(
        line_4("rule-priority = 32000"),
        "error 4:17: `rule-priority` is out of range: 32000 | it goes from 1 to 31766"
    );
    assert_eq!(
        line_4("table-base = 252"),
        "error 4:14: tables 252 to 253 are these uplinks', and 253 to 255 are the kernel's own | let them end before or \
         begin behind those, such as table-base = 7000"
    );
    assert_eq!(
        line_4("fwmark = true"),
        "error 4:10: `fwmark` must be a mask, not a boolean | write fwmark = \"0xff00\""
    );
    assert_eq!(
        line_4("failback-connections = \"moves\""),
        "error 4:24: `failback-connections` cannot be \"moves\" | did you mean \"move\"? It is one of stay or move"
    );
    assert_eq!(
        line_4("routes = []"),
        "error 4:10: `routes` is empty: nothing would go through these uplinks | write routes = [\"0.0.0.0/0\"] for the \
         internet, with \"::/0\" as well where the uplinks have IPv6"
    );
    assert_eq!(
        behind("nat = \"masqerade\"\n"),
        "error 11:7: `nat` cannot be \"masqerade\" | did you mean \"masquerade\"? It is none, masquerade or an address"
    );
    assert_eq!(
        behind("nat = \"2001:db8::1\"\n"),
        "error 11:7: `nat` is an IPv6 address: IPv6 is never translated | give the uplink its own IPv6 addresses with \
         `prefixes`"
    );
    assert_eq!(
        one(&uplinks("").replace("\"eth0\"", "\"eth*\"")),
        "error 3:8: \"eth*\" cannot be an interface of uplinks: nftables has no way to write it | name one interface, \
         without quote, star or backslash"
    );
    assert_eq!(
        one(&uplinks("").replace("\"eth0\"", "\"eth0\", \"eth0\"")),
        "error 3:16: eth0 stands twice in `lan`, the first time at line 3 | leave it out"
    );
}

#[test]
fn probes() {
    let too_many = "no more can answer than are asked: name more targets, or require fewer";
    assert_eq!(
        in_probe("targets = [\"192.0.2.1\"]\nrequired = 2"),
        format!("error 7:12: `required` is 2, but there is only 1 target | {too_many}")
    );
    // The uplink's own targets, and what the group requires: said at the later of the two.
    assert_eq!(
        one(&(uplinks("").replace("[\"192.0.2.53\"]", "[\"192.0.2.53\", \"192.0.2.54\"]\nrequired = 2")
            + "[uplinks.link.probe]\ntargets = [\"192.0.2.55\"]\n")),
        format!("error 13:11: `required` is 2, but there is only 1 target | {too_many}")
    );
    assert_eq!(
        in_probe("kind = \"arp\"\nrequired = 2"),
        format!("error 7:12: `required` is 2, but there is only 1 target | {too_many}")
    );
    let round = "one round must end before the next begins: make the timeout shorter or the interval longer";
    assert_eq!(
        in_probe("targets = [\"192.0.2.1\"]\ntimeout = \"2s\""),
        format!("error 7:11: `timeout` is 2s, and `interval` only 1s | {round}")
    );
    assert_eq!(
        in_probe("kind = \"imcp\""),
        "error 6:8: `kind` cannot be \"imcp\" | did you mean \"icmp\"? It is one of icmp, tcp, http, dns or arp"
    );
    assert_eq!(
        in_probe("targets = [\"192.0.2.1\"]\nstatus = 200"),
        "error 7:10: `status` means nothing for this kind of probe | it is for kind = \"http\""
    );
    assert_eq!(
        in_probe("targets = [\"192.0.2.1\"]\ntcp-refused = \"down\""),
        "error 7:15: `tcp-refused` means nothing for this kind of probe | it is for kind = \"tcp\""
    );
    assert_eq!(
        in_probe("kind = \"tcp\"\ntargets = [\"192.0.2.1:443\"]\ntcp-refused = \"no\""),
        "error 8:15: `tcp-refused` cannot be \"no\" | write up or down"
    );
    assert_eq!(
        in_probe("targets = []"),
        "error 6:11: `targets` has 0 entries | it has 1 to 64, such as targets = [\"9.9.9.9\", \"1.1.1.1\"]"
    );
    assert_eq!(
        in_probe("targets = [\"192.0.2.1\", \"192.0.2.1\"]"),
        "error 6:25: this target stands twice in `targets`, the first time at line 6 | leave it out: it is asked once a \
         round"
    );
    assert_eq!(
        in_probe("targets = [\"www.example.com\"]"),
        "error 6:12: `targets` is not an address: \"www.example.com\" | write one address, such as targets = \"9.9.9.9\"; \
         names are not looked up"
    );
    let share = "write a number and a percent sign, such as \"20%\" or \"0.5%\"; leave it out for no limit";
    for wrong in ["20", "0%", "101%", "-1%", "NaN%"] {
        assert_eq!(
            in_probe(&format!("targets = [\"192.0.2.1\"]\nmax-loss = \"{wrong}\"")),
            format!("error 7:12: `max-loss` is not a share between 0% and 100%: \"{wrong}\" | {share}")
        );
    }
}

/// Each uplink inherits the mistake; it is said once.
#[test]
fn a_mistake_of_the_groups_probe_is_said_once() {
    let text =
        uplinks("").replace("targets = [\"192.0.2.53\"]", "targets = [\"192.0.2.53\"]\nrequired = 3\ntimeout = \"5s\"");
    assert_eq!(findings(&(text + SECOND)).len(), 2);
}

#[test]
fn targets_with_ports_and_urls() {
    let with = |kind: &str, target: &str| in_probe(&format!("kind = \"{kind}\"\ntargets = [{target}]"));
    assert_eq!(
        with("tcp", "\"192.0.2.1\""),
        "error 7:12: not an address and a port: \"192.0.2.1\" | add the port: \"192.0.2.1:443\""
    );
    assert_eq!(with("tcp", "\"192.0.2.1:0\""), "error 7:12: there is no port 0 | ports go from 1 to 65535");
    let example = "write a URL such as \"https://192.0.2.80/\" or \"http://192.0.2.80:8080/health\"";
    assert_eq!(
        with("http", "\"https://www.example.com/\""),
        "error 7:12: the host of this URL is a name, and names are not looked up: \"www.example.com\" | say where it is: { \
         url = \"https://www.example.com/\", address = \"192.0.2.80\" }"
    );
    assert_eq!(
        with("http", "\"ftp://192.0.2.1/\""),
        format!("error 7:12: not a URL of http or https: \"ftp://192.0.2.1/\" | {example}")
    );
    assert_eq!(
        with("http", "\"http://192.0.2.1:99999/\""),
        "error 7:12: not a port: \"http://192.0.2.1:99999/\" | ports go from 1 to 65535"
    );
    assert_eq!(
        with("http", "\"http://me@192.0.2.1/\""),
        "error 7:12: the URL has a user in it: \"http://me@192.0.2.1/\" | a probe does not log in: name a page for everybody"
    );
    assert_eq!(
        with("http", "{ address = \"192.0.2.1\" }"),
        "error 7:12: a target lacks `url` | add a line such as url = \"https://www.example.com/\""
    );
    assert_eq!(
        with("http", "80"),
        "error 7:12: `targets` must be a list of URLs, or of tables, not an integer | write targets = [{ url = \
         \"https://www.example.com/\", address = \"192.0.2.80\" }]"
    );
    let status =
        |value: &str| in_probe(&format!("kind = \"http\"\ntargets = [\"http://192.0.2.1\"]\nstatus = {value}"));
    let help = "write status = 200 or status = \"200-399\"; codes go from 100 to 599";
    assert_eq!(status("99"), format!("error 8:10: `status` is out of range | {help}"));
    assert_eq!(status("\"399-200\""), format!("error 8:10: `status` is out of range | {help}"));
    assert_eq!(status("\"ok\""), format!("error 8:10: `status` is neither a code nor a range of codes | {help}"));
}

#[test]
fn forced_connections() {
    let force = |lines: &str| behind(&format!("[[uplinks.force]]\n{lines}\n"));
    assert_eq!(
        force("link = \"b\"\nprotocol = \"udp\""),
        "error 12:8: there is no uplink \"b\" in this group | did you mean \"a\"? There is a"
    );
    assert_eq!(
        force("link = \"a\"\nport = 25"),
        "error 13:8: `port` needs a protocol that has ports | add protocol = \"tcp\" or \"udp\"; for both write two \
         [[uplinks.force]]"
    );
    let range = "ports go from 1 to 65535, and ranges from the lower to the higher";
    for (port, shown) in [("0", "0"), ("65536", "65536"), ("\"80-79\"", "80-79")] {
        assert_eq!(
            force(&format!("link = \"a\"\nprotocol = \"tcp\"\nport = {port}")),
            format!("error 14:8: `port` is out of range: {shown} | {range}")
        );
    }
    assert_eq!(
        force("link = \"a\"\nprotocol = \"tcp\"\nport = \"smtp\""),
        "error 14:8: `port` is neither a port nor a range | write port = 25, port = \"8000-8080\", or a list of both: port \
         = [25, \"8000-8080\"]"
    );
    assert_eq!(
        force("link = \"a\"\ndestination = \"2001:db8::/32\""),
        "error 13:15: 2001:db8::/32 is IPv6, but `routes` of these uplinks has only IPv4 | add \"::/0\" to `routes`, or \
         leave this out"
    );
    let both = uplinks("routes = [\"0.0.0.0/0\", \"::/0\"]")
        + "[[uplinks.force]]\nlink = \"a\"\nsource = \"10.20.20.0/22\"\ndestination = \"2001:db8::/32\"\n";
    assert_eq!(
        one(&both),
        "error 14:15: `destination` is IPv6, `source` is IPv4: no connection matches | for both families write two \
         [[uplinks.force]]"
    );
}

#[test]
fn families_that_are_not_routed() {
    let say = |place: &str, what: &str| {
        format!(
            "error {place}: {what} is IPv6, but `routes` of these uplinks has only IPv4 | add \"::/0\" to `routes`, or \
             leave this out"
        )
    };
    assert_eq!(in_probe("targets = [\"2001:db8::1\"]"), say("6:12", "target 2001:db8::1"));
    assert_eq!(behind("prefixes = [\"2001:db8::/48\"]\n"), say("11:13", "2001:db8::/48"));
    assert_eq!(behind("local = \"2001:db8:1::2\"\n"), say("11:9", "`local` 2001:db8:1::2"));
}

#[test]
fn addresses_of_uplinks() {
    assert_eq!(
        one(&uplinks("").replace("\"10.248.248.1\"", "[\"10.248.248.1\", \"10.248.248.9\"]")),
        "error 10:28: `gateway` has two IPv4 addresses: 10.248.248.1 and 10.248.248.9 | an uplink has one of each family; \
         another provider's router is another [[uplinks.link]]"
    );
    assert_eq!(
        one(&uplinks("").replace("10.248.248.1", "10.248.248.2")),
        "error 10:11: `gateway` 10.248.248.2 is this machine's own address, on eth1 | name the provider's router; `ip \
         route` shows it where it was learned"
    );
    assert_eq!(
        behind("local = \"10.248.248.7\"\n"),
        "error 11:9: 10.248.248.7 is no address of eth1 | eth1 has 10.248.248.2/24; `ip address add` gives it another"
    );
    let same = SECOND.replace("eth2", "eth1");
    assert_eq!(
        behind(&(same.clone() + "gateway = \"10.248.248.1\"\n")),
        "error 14:11: \"b\" and \"a\" are one uplink: the same interface and the same gateway 10.248.248.1 | leave one of \
         them out, or give it its own gateway"
    );
    assert_eq!(
        behind(&same),
        "error 11:1: several uplinks use the interface eth1, and \"b\" has no `gateway` | uplinks on one interface are \
         told apart by their gateways: name one for each"
    );
    let local = "local = \"10.248.248.2\"\n";
    assert_eq!(
        behind(&(local.to_owned() + &same + "gateway = \"10.248.248.9\"\n" + local)),
        "error 16:9: two uplinks with one address: 10.248.248.2 is `local` of \"b\" and of \"a\" | what comes from an \
         address leaves by one uplink: each needs its own"
    );
    assert_eq!(
        one(&uplinks("").replace("\"eth0\"", "\"eth1\"")),
        "error 3:8: eth1 is in `lan`, and it is the interface of the uplink \"a\" | `lan` is where connections come from \
         that are spread: name the other side"
    );
    let prefixes = |list: &str| format!("prefixes = [{list}]\n");
    assert_eq!(
        behind(&(prefixes("\"203.0.113.0/24\"") + SECOND + &prefixes("\"203.0.113.64/26\""))),
        "error 15:13: overlapping prefixes: 203.0.113.64/26 here, and 203.0.113.0/24 of uplink \"a\" at line 11 | a source \
         address leads to one uplink"
    );
    assert_eq!(
        behind(&prefixes("\"0.0.0.0/0\"")),
        "error 11:13: 0.0.0.0/0 in `prefixes` is every address there is | name what the provider routes to you, such as \
         prefixes = [\"2001:db8:1::/48\"]"
    );
}

#[test]
fn too_many_uplinks_for_the_mask() {
    let links: String = (0..3)
        .map(|i| format!("[[uplinks.link]]\nname = \"p{i}\"\ninterface = \"ppp{i}\"\n").replace("ppp0", "eth2"))
        .collect();
    let mut findings = findings(&(uplinks("fwmark = \"0x30\"") + &links));
    findings.retain(|finding| !finding.contains("here now"));
    assert_eq!(
        findings,
        [
            "error 4:10: these are 4 uplinks, too many for their marks | 2 bits have room for 3: give `fwmark` more of them"
        ]
    );
}

#[test]
fn what_two_groups_claim() {
    let second = |lines: &str| {
        uplinks(lines).replace("\"wan\"", "\"other\"").replace("eth1", "eth2").replace("10.248.248.1", "10.248.249.1")
    };
    assert_eq!(
        findings(&(uplinks("") + &second(""))),
        [
            "error 11:1: the mark bits 0xff00 of these uplinks overlap with 0xff00 of \"wan\" | give each group bits of its \
             own, such as fwmark = \"0xff0000\"",
            "error 11:1: the rules 20000 to 20999 of these uplinks overlap with 20000 to 20999 of \"wan\" | a group has \
             1000 of them: write rule-priority = 21000",
            "error 11:1: the tables 7000 to 7001 of these uplinks overlap with 7000 to 7001 of \"wan\" | a group has one \
             for all, and one for each uplink: give them another `table-base`",
            "error 11:1: 0.0.0.0/0 goes through the uplinks \"wan\" already, at line 1 | make all of them one group, or give \
             each other routes",
        ]
    );
    let apart = "routes = [\"198.51.100.0/24\"]\nfwmark = 0xff0000\nrule-priority = 20999\ntable-base = 7001";
    assert_eq!(
        findings(&(uplinks("") + &second(apart))),
        [
            "error 16:17: the rules 20999 to 21998 of these uplinks overlap with 20000 to 20999 of \"wan\" | a group has \
             1000 of them: write rule-priority = 21000",
            "error 17:14: the tables 7001 to 7002 of these uplinks overlap with 7000 to 7001 of \"wan\" | a group has one \
             for all, and one for each uplink: give them another `table-base`",
        ]
    );
    assert_eq!(
        one(&(peer("table = 7001") + &uplinks(""))),
        "error 12:1: tables 7000 to 7001 are these uplinks', and table 7001 is the one of peer \"hq\" | give one of the two \
         another: `table-base` here, or the peer's `table`"
    );
}

/// However many there are, it is said in no more than a moment.
#[test]
fn too_many_of_everything() {
    let started = std::time::Instant::now();
    let many = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
    let links = many(5_000, &|i| format!("[[uplinks.link]]\nname = \"x{i}\"\ninterface = \"ppp{i}\"\n"));
    let force = many(5_000, &|_| "[[uplinks.force]]\nlink = \"a\"\nprotocol = \"udp\"\n".to_owned());
    let said = findings(&(uplinks("") + &links + &force));
    assert!(
        said.iter().any(|line| line.contains("these are 5001 uplinks, too many for their marks | a")),
        "{}",
        said[0]
    );
    assert!(said.iter().any(|line| line.contains("there are more than 256 [[uplinks.force]]")));
    let groups = many(500, &|i| uplinks("").replace("\"wan\"", &format!("\"wan{i}\"")));
    assert!(findings(&groups).iter().any(|line| line.contains("overlap with 20000 to 20999")));
    let targets = many(50_000, &|i| format!("\"192.0.2.{}:{i}\", ", i % 200));
    let said = in_probe(&format!("kind = \"tcp\"\ntargets = [{}]", targets.replace("\"192.0.2.0:0\", ", "")));
    assert!(said.contains("`targets` has 49999 entries"), "{said}");
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
}
