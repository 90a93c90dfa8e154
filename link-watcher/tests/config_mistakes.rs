//! Ordinary mistakes, each alone in a file that is right otherwise: each is one message, at its line, with what was meant.
#![allow(clippy::unwrap_used)]

mod support;

use support::Desk;

/// A line that somebody wrote, what the message has in it, and what its help has in it.
type Mistake = (&'static str, &'static str, &'static str);

/// In `[[peer]]`, in place of the line with the same key or beside the others.
const PEER: &[Mistake] = &[
    ("multiplier = \"3\"", "`multiplier` must be a number, not a string", "write multiplier = 3"),
    ("multiplier = 3.0", "`multiplier` must be a number, not a float", "write multiplier = 3"),
    ("multiplier = \"three\"", "`multiplier` must be a number", "a number from 1 to 255, without quotes"),
    ("multiplier = 0", "`multiplier` is out of range: 0", "it goes from 1 to 255"),
    ("multiplier = true", "`multiplier` must be a number, not a boolean", "a number from 1 to 255"),
    ("multiplier = 3.", "this is not how a value is written: 3.", "write multiplier = 3"),
    ("port = \"46721\"", "`port` must be a number, not a string", "write port = 46721"),
    ("port = 467210", "`port` is out of range: 467210", "it goes from 1 to 65535"),
    ("port = 46,721", "this is not how a value is written: 46,721", "write port = 46721"),
    ("port = 046721", "this is not how a value is written: 046721", "write port = 46721"),
    ("table = \"main\"", "`table` must be a number, not a string", "write table = 254"),
    ("table = \"254\"", "`table` must be a number, not a string", "write table = 254"),
    ("table = main", "this text has no quotes: main", "write table = \"main\""),
    ("metric = -1", "`metric` is out of range: -1", "it goes from 0"),
    ("max-prefixes = 1000000", "`max-prefixes` is out of range", "it goes from 1 to 65536"),
    ("interval = 100", "`interval` must be a duration in quotes, not an integer", "write interval = \"100ms\""),
    ("interval = 5", "`interval` must be a duration in quotes", "write interval = \"5ms\" or \"5s\""),
    ("interval = 0.1", "`interval` must be a duration in quotes, not a float", "write interval = \"100ms\""),
    ("interval = 100ms", "this text has no quotes: 100ms", "write interval = \"100ms\""),
    ("interval = \"100\"", "`interval` is not a duration: \"100\"", "write interval = \"100ms\""),
    ("interval = \"0,5s\"", "`interval` is not a duration: \"0,5s\"", "write interval = \"500ms\""),
    ("interval = \"fast\"", "`interval` is not a duration: \"fast\"", "write a number and its unit"),
    ("interval = \"1us\"", "`interval` is out of range: 1us", "it goes from 1ms to 1m"),
    (
        "interval = \"10ms\" // fast",
        "something stands behind the value of `interval`",
        "write interval = \"10ms\" # fast",
    ),
    ("failback = \"never\"", "`failback` cannot be \"never\"", "did you mean \"manual\"?"),
    ("failback = \"off\"", "`failback` cannot be \"off\"", "did you mean \"manual\"?"),
    ("failback = never", "this text has no quotes: never", "write failback = \"manual\""),
    ("failback = 30", "`failback` must be a duration in quotes", "write failback = \"30ms\" or \"30s\""),
    ("hold-up = \"none\"", "`hold-up` is not a duration: \"none\"", "write hold-up = \"0s\" for none"),
    ("hold_up = \"3s\"", "unknown key `hold_up` in [[peer]]", "did you mean `hold-up`?"),
    ("hold-time = \"3s\"", "unknown key `hold-time` in [[peer]]", "did you mean `hold-up`?"),
    ("Port = 46721", "unknown key `Port` in [[peer]]", "did you mean `port`?"),
    ("detect-multiplier = 3", "unknown key `detect-multiplier`", "did you mean `multiplier`?"),
    ("mulitplier = 3", "unknown key `mulitplier`", "did you mean `multiplier`?"),
    ("when-all-down = \"remove\"", "`when-all-down` cannot be \"remove\"", "did you mean \"withdraw\"?"),
    ("when-all-down = \"Keep\"", "`when-all-down` cannot be \"Keep\"", "did you mean \"keep\"?"),
    ("actuation = \"table\"", "`actuation` cannot be \"table\"", "did you mean \"tables\"?"),
    ("role: client", "a key and its value are joined by =, not by :", "write role = \"client\""),
    ("role = client", "this text has no quotes: client", "write role = \"client\""),
    ("role client", "there is no = behind `role`", "write role = \"client\""),
    ("role == \"client\"", "joined by =, not by ==", "write role = \"client\""),
    ("role = \"client\";", "something stands behind the value of `role`: ;", "write role = \"client\""),
    ("role = \"client\",", "something stands behind the value of `role`: ,", "write role = \"client\""),
    ("role = \"client", "this text has no \" at its end", "write role = \"client\""),
    ("role = \u{201c}client\u{201d}", "another quotation mark than TOML's", "write role = \"client\""),
    ("role = \u{2018}client\u{2019}", "another quotation mark than TOML's", "write role = \"client\""),
    ("role = \u{201e}client\u{201c}", "another quotation mark than TOML's", "write role = \"client\""),
    ("role = `client`", "another quotation mark than TOML's", "write role = \"client\""),
    ("role\u{a0}= \"client\"", "a character that only looks like a space", "write an ordinary space"),
    ("role = \"Client\"", "`role` cannot be \"Client\"", "did you mean \"client\"?"),
    ("role = \"master\"", "`role` cannot be \"master\"", "did you mean \"client\"?"),
    ("role = \"slave\"", "`role` cannot be \"slave\"", "did you mean \"server\"?"),
    ("role =", "`role` has no value", "write role = ..."),
    ("mode = \"client\"", "unknown key `mode` in [[peer]]", "did you mean `role`?"),
    ("name = \"head office\"", "this name has a space", "letters, digits, dashes and underscores"),
    ("id = \"hq\"", "unknown key `id` in [[peer]]", "did you mean `name`?"),
    ("key = \"hq.key\"", "unknown key `key` in [[peer]]", "did you mean `key-files`?"),
    ("key-file = \"hq.key\"", "unknown key `key-file` in [[peer]]", "did you mean `key-files`?"),
    ("key-files = \"hq.key\"", "`key-files` must be a list, not a string", "write key-files = [\"hq.key\"]"),
    ("key-files = [hq.key]", "this is no list: [hq.key]", "write key-files = [\"hq.key\"]"),
    ("key-files = (\"hq.key\")", "this is no list", "write key-files = [\"hq.key\"]"),
    ("key-files = []", "`key-files` is empty", "name at least one file"),
    ("key-files = [\"hp.key\"]", "does not exist", "make one: link-watcher generate key"),
    ("routes = \"10.8.0.0/16\"", "`routes` must be a list, not a string", "write routes = [\"10.8.0.0/16\"]"),
    (
        "routes = \"10.8.0.0/16, 10.9.0.0/16\"",
        "`routes` must be a list, not a string",
        "write routes = [\"10.8.0.0/16\", \"10.9.0.0/16\"]",
    ),
    ("routes = [\"10.8.0.0/16, 10.9.0.0/16\"]", "an entry that is not a prefix", "\"10.8.0.0/16\", \"10.9.0.0/16\""),
    ("routes = [\"10.8.0.0/16\" \"10.9.0.0/16\"]", "this is no list", "[\"10.8.0.0/16\", \"10.9.0.0/16\"]"),
    ("routes = [10.8.0.0/16]", "this is no list: [10.8.0.0/16]", "write routes = [\"10.8.0.0/16\"]"),
    ("routes = 10.8.0.0/16", "this text has no quotes: 10.8.0.0/16", "write routes = [\"10.8.0.0/16\"]"),
    ("routes = [\"10.8.0.0/16\"", "this list has no end", "wants a ] behind its last entry"),
    ("routes = [\"default\"]", "an entry that is not a prefix: \"default\"", "write \"0.0.0.0/0\""),
    ("routes = [\"any\"]", "an entry that is not a prefix: \"any\"", "write \"0.0.0.0/0\""),
    ("routes = [\"10.8.0.1\"]", "an entry that is not a prefix", "\"10.8.0.1/32\" is this one address"),
    ("routes = [\"10.8.0.1/16\"]", "has bits set behind its length of 16", "write \"10.8.0.0/16\""),
    ("routes = [\"10.8.0.0/255.255.0.0\"]", "an entry that is not a prefix", "\"10.8.0.0/16\""),
    ("routes = [\"10.8.0.0/33\"]", "an entry that is not a prefix", "goes from 0 to 32"),
    ("routes = [\"10.8/16\"]", "an entry that is not a prefix", "write all four numbers: \"10.8.0.0/16\""),
    ("routes = [\"10.8.0.0-10.8.255.255\"]", "an entry that is not a prefix", "a range is written as prefixes"),
    ("routes = [\" 10.8.0.0/16\"]", "an entry that is not a prefix", "without the space: \"10.8.0.0/16\""),
    ("routes = [\"10.248.248.0/24\"]", "10.248.248.0/24 is the link's own prefix", "leave it out"),
    ("routes = [\"10.248.248.1/32\"]", "10.248.248.1/32 is the link's own prefix", "leave it out"),
    ("routes = [\"::/0\"]", "::/0 is IPv6, and no link of this peer is", "leave it out"),
    ("networks = [\"10.8.0.0/16\"]", "unknown key `networks` in [[peer]]", "did you mean `routes`?"),
    ("announce-interfaces = \"eth0\"", "must be a list, not a string", "write announce-interfaces = [\"eth0\"]"),
    ("announce-interfaces = [\"eth7\"]", "there is no interface eth7 here", "did you mean \"eth0\"?"),
    (
        "announce-routes = [\"static\"]",
        "`announce-routes` without `announce-interfaces`",
        "announce-interfaces = [\"eth0\"]",
    ),
    ("interface = \"eth1\"", "unknown key `interface` in [[peer]]", "it belongs to [[peer.link]]"),
    ("engine = \"xdp\"", "unknown key `engine` in [[peer]]", "it belongs to [daemon]"),
    ("listen = \"127.0.0.1:9746\"", "unknown key `listen` in [[peer]]", "it belongs to [metrics]"),
    ("// the head office", "// begins no comment", "write # the head office"),
    ("; the head office", "; begins no comment", "write # the head office"),
    ("- name: hq", "- begins no entry of a list", "this file is TOML"),
    ("<<<<<<< HEAD", "a merge conflict is left in this file", "keep one of its two sides"),
    ("peer {", "`peer {` begins no section", "a section begins with [peer] or [[peer]]"),
];

/// In `[[peer.link]]`, likewise.
const LINK: &[Mistake] = &[
    ("weight = \"60%\"", "`weight` must be a number, not a string", "write weight = 60"),
    ("weight = 60%", "this is not how a value is written: 60%", "write weight = 60"),
    ("weight = 0.6", "`weight` must be a number, not a float", "a number from 1 to 256"),
    ("tier = 0", "`tier` is out of range: 0", "it goes from 1"),
    ("priority = 1", "unknown key `priority` in [[peer.link]]", "did you mean `tier`?"),
    ("remote = \"fe80::1%eth2\"", "`remote` is not an address: \"fe80::1%eth2\"", "write it without the interface"),
    ("remote = \"10.248.248.1/24\"", "`remote` is not an address", "write it without the prefix length"),
    ("remote = \"10.248.248.1:46721\"", "`remote` is not an address", "write it without the port"),
    ("remote = \"[2001:db8:1::1]\"", "`remote` is not an address", "remote = \"2001:db8:1::1\""),
    ("remote = \" 10.248.248.1\"", "`remote` is not an address", "remote = \"10.248.248.1\""),
    ("remote = \"10.248.248\"", "`remote` is not an address", "has four numbers"),
    ("remote = \"10.248.248.256\"", "`remote` is not an address", "go from 0 to 255"),
    ("remote = \"10.248.248.01\"", "`remote` is not an address", "no zeros before them"),
    ("remote = \"10,248,248,1\"", "`remote` is not an address", "have dots between them"),
    ("remote = \"hq.example.com\"", "`remote` is not an address", "names are not looked up"),
    ("remote = 10.248.248.1", "this text has no quotes: 10.248.248.1", "write remote = \"10.248.248.1\""),
    (
        "remote = \"10.248.248.2\"",
        "`remote` 10.248.248.2 is this machine's own address",
        "`remote` is the peer's address",
    ),
    ("remote = \"10.20.20.1\"", "10.20.20.1 is this machine's own address, on eth0", "`remote` is the peer's address"),
    ("remote = \"10.248.248.0\"", "is the network address of 10.248.248.0/24", "eth1 has 10.248.248.2/24"),
    ("remote = \"10.248.248.255\"", "is the broadcast address of 10.248.248.0/24", "eth1 has 10.248.248.2/24"),
    ("remote = \"10.99.0.1\"", "eth1 has no address in the same prefix", "name one with `local`"),
    ("local = \"dhcp\"", "`local` is not an address: \"dhcp\"", "leave `local` out"),
    ("address = \"10.248.248.1\"", "unknown key `address` in [[peer.link]]", "did you mean `remote`?"),
    ("device = \"eth1\"", "unknown key `device` in [[peer.link]]", "did you mean `interface`?"),
    ("interface = \"eth1:0\"", "cannot be the name of an interface", "write \"eth1\""),
    ("interface = \"eth1@if7\"", "there is no interface eth1@if7 here", "did you mean \"eth1\"?"),
    ("interface = \"/dev/eth1\"", "cannot be the name of an interface", "write \"eth1\""),
    ("interface = \"Eth1\"", "there is no interface Eth1 here", "did you mean \"eth1\"?"),
    ("interface = eth1", "this text has no quotes: eth1", "write interface = \"eth1\""),
    ("port = 46721", "unknown key `port` in [[peer.link]]", "it belongs to [[peer]]"),
    ("max-hops = 0", "`max-hops` is out of range: 0", "it goes from 1 to 255"),
    ("ttl = 1", "unknown key `ttl` in [[peer.link]]", "did you mean `max-hops`?"),
];

/// In `[uplinks.probe]`, likewise.
const PROBE: &[Mistake] = &[
    ("kind = \"ping\"", "`kind` cannot be \"ping\"", "did you mean \"icmp\"?"),
    ("kind = \"ICMP\"", "`kind` cannot be \"ICMP\"", "did you mean \"icmp\"?"),
    ("type = \"icmp\"", "unknown key `type` in [uplinks.probe]", "did you mean `kind`?"),
    ("hosts = [\"9.9.9.9\"]", "unknown key `hosts` in [uplinks.probe]", "did you mean `targets`?"),
    ("targets = \"9.9.9.9\"", "`targets` must be a list, not a string", "targets = ["),
    ("targets = [\"127.0.0.1\"]", "target 127.0.0.1 is a loopback address", "name something in the internet"),
    ("targets = [\"10.248.249.2\"]", "is this machine's own address, on eth2", "name something in the internet"),
    ("targets = [\"10.20.20.9\"]", "is in the LAN 10.20.20.0/22 on eth0", "name something in the internet"),
    ("targets = [\"10.248.248.1\"]", "only the provider's router is asked", "name something behind it"),
    ("max-loss = 20", "`max-loss` must be a text in quotes", "write max-loss = \"20%\""),
    ("max-loss = \"20\"", "`max-loss` is not a share", "such as \"20%\""),
    ("max-loss = 20%", "this text has no quotes: 20%", "write max-loss = \"20%\""),
    ("max-rtt = \"2s\"", "`max-rtt` is 2s, and `timeout` only 1s", "make `max-rtt` smaller"),
    ("max-jitter = \"2s\"", "`max-jitter` is 2s, and `timeout` only 1s", "make `max-jitter` smaller"),
    ("timeout = \"2s\"", "`timeout` is 2s, and `interval` only 1s", "make the timeout shorter"),
    ("required = 3", "`required` is 3, but there is only 1 target", "name more targets"),
    ("latency = \"1s\"", "unknown key `latency` in [uplinks.probe]", "did you mean `max-rtt`?"),
];

/// What replaces one text of a whole file by another.
const WHOLE: &[(&str, &str, &str, &str)] = &[
    ("[[peer]]", "[[peers]]", "unknown section or key `peers`", "did you mean [[peer]]?"),
    ("[[peer]]", "[peer]", "`peer` must be a repeated section", "begin it with a line [[peer]]"),
    ("[[peer]]", "[[peer]", "this is not the head of a section", "write [[peer]]"),
    ("[[peer.link]]", "[[peer.links]]", "unknown key `links` in [[peer]]", "did you mean `link`?"),
    ("[[peer.link]]", "[peer.link]", "there is a section peer.link already", "write [[peer.link]], in double brackets"),
    ("[[peer.link]]", "[[link]]", "unknown section or key `link`", "a section of [[peer]] begins with [[peer.link]]"),
    ("[[uplinks]]", "[[uplink]]", "unknown section or key `uplink`", "did you mean [[uplinks]]?"),
    ("[uplinks.probe]", "[uplinks.probes]", "unknown key `probes` in [[uplinks]]", "did you mean `probe`?"),
    ("[uplinks.probe]", "[probe]", "unknown section or key `probe`", "begins with [uplinks.probe]"),
];

/// The file, and a line that is known to be right in it for each place.
const FILE: &str = "\
[[peer]]
name = \"hq\"
role = \"client\"
key-files = [\"hq.key\"]
announce = [\"10.20.20.0/22\"]
routes = [\"172.16.0.0/12\"]
# peer
[[peer.link]]
name = \"optic\"
interface = \"eth1\"
remote = \"10.248.248.1\"
# link
[[peer.link]]
name = \"wifi\"
interface = \"eth2\"
remote = \"10.248.249.1\"
";
const UPLINKS: &str = "\
[[uplinks]]
name = \"wan\"
lan = [\"eth0\"]
[uplinks.probe]
targets = [\"192.0.2.53\"]
# probe
[[uplinks.link]]
name = \"a\"
interface = \"eth1\"
gateway = \"10.248.248.1\"
";

/// The file with the line in place of the one that says the same thing, or behind the others of its section.
fn with(file: &str, mark: &str, line: &str) -> (String, usize) {
    let key = |line: &str| line.split([' ', '\u{a0}', ':']).next().unwrap().to_lowercase().replace('_', "-");
    // What is meant by another word stands in place of it, so that nothing is said twice.
    let meant = match key(line).as_str() {
        "mode" => "role".to_owned(),
        "id" => "name".to_owned(),
        "key" | "key-file" => "key-files".to_owned(),
        "networks" => "routes".to_owned(),
        "address" => "remote".to_owned(),
        "device" => "interface".to_owned(),
        "hosts" => "targets".to_owned(),
        "role" => "role".to_owned(),
        other => other.to_owned(),
    };
    let lines: Vec<&str> = file.lines().collect();
    let end = lines.iter().position(|line| *line == mark).unwrap();
    let begin = lines[..end].iter().rposition(|line| line.starts_with('[')).unwrap();
    let at = (begin..end).find(|at| key(lines[*at]) == meant && lines[*at].contains('=')).unwrap_or(end);
    let mut lines: Vec<&str> = lines;
    lines[at] = line;
    (lines.join("\n") + "\n", at + 1)
}

fn check(desk: &Desk, file: &str, line: Option<usize>, message: &str, help: &str) -> Option<String> {
    let findings = desk.findings(file);
    let [finding] = findings.as_slice() else { return Some(format!("{message}: {findings:#?}\n{file}")) };
    let (said, helped) = finding.split_once(" | ").unwrap();
    let at = said.split([' ', ':']).nth(1).unwrap().parse::<usize>().unwrap();
    let good = said.contains(message) && helped.contains(help) && line.is_none_or(|line| line == at);
    (!good).then(|| format!("line {line:?}, {message} | {help}: {finding}"))
}

#[test]
fn each_ordinary_mistake_is_one_message_that_helps() {
    let desk = Desk::new();
    // The files themselves are right; of one uplink only the spare is missing.
    assert_eq!(desk.findings(FILE), [""; 0]);
    assert_eq!(desk.findings(UPLINKS), [""; 0]);
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (mistakes, file, mark) in [(PEER, FILE, "# peer"), (LINK, FILE, "# link"), (PROBE, UPLINKS, "# probe")] {
        for (line, message, help) in mistakes {
            let (text, at) = with(file, mark, line);
            wrong.extend(check(&desk, &text, Some(at), message, help));
            tried += 1;
        }
    }
    for (right, mistake, message, help) in WHOLE {
        let file = if FILE.contains(right) { FILE } else { UPLINKS };
        let text = file.replacen(right, mistake, if right.contains("link]") { usize::MAX } else { 1 });
        wrong.extend(check(&desk, &text, None, message, help));
        tried += 1;
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 150, "{tried}");
}

#[test]
fn what_has_no_spare_or_is_never_chosen() {
    let desk = Desk::new();
    let warnings = |text: &str| -> Vec<String> {
        desk.parse_whole(text).unwrap().warnings.into_iter().map(|warning| warning.message).collect()
    };
    assert_eq!(warnings(FILE), [""; 0]);
    assert_eq!(warnings(&support::peer("")), ["this peer has one link, and so no spare: its failure is an outage"]);
    assert_eq!(warnings(UPLINKS), ["these uplinks are one, and so without a spare: its failure is an outage"]);
    let server = FILE.replace("\"client\"", "\"server\"").replace("routes =", "# routes =");
    assert!(warnings(&server)[0].starts_with("this server has no `accept`"), "{:?}", warnings(&server));
    assert_eq!(warnings(&server.replace("# peer", "accept = [\"10.0.0.0/8\"]")), [""; 0]);
    let findings = desk.findings(&(UPLINKS.to_owned() + "tier = 0\n"));
    assert_eq!(
        findings,
        [
            "error 11:8: all of these uplinks have tier = 0: none is ever chosen for a new connection | give at least one of \
             them tier = 1"
        ]
    );
}
