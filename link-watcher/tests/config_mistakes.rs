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
    ("set role client", "`set` sets nothing", "write role = \"client\""),
    ("option role 'client'", "`option` sets nothing", "write role = "),
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

/// In `[[peer]]`: habits of other programs and languages, and what a word processor makes of a file.
const HABITS: &[Mistake] = &[
    ("dampening = yes", "this is not how a value is written: yes", "write dampening = true"),
    ("dampening = True", "this is not how a value is written: True", "write dampening = true"),
    ("dampening = off", "this is not how a value is written: off", "write dampening = false"),
    ("dampening = \"true\"", "`dampening` must be true or false, not a string", "write dampening = true"),
    ("dampening = \"no\"", "`dampening` must be true or false, not a string", "write dampening = false"),
    ("dampening = 0", "`dampening` must be true or false, not an integer", "write dampening = false"),
    ("dampening =", "`dampening` has no value", "write dampening = ..."),
    ("interval = \"1,5s\"", "`interval` is not a duration: \"1,5s\"", "write interval = \"1s 500ms\""),
    ("interval = \"0.01\"", "`interval` is not a duration: \"0.01\"", "write interval = \"0.01s\""),
    ("interval = '100'", "`interval` is not a duration: \"100\"", "write interval = \"100ms\""),
    ("interval = \"2 min\"", "`interval` is out of range: 2 min", "it goes from 1ms to 1m"),
    ("interval = 1s", "this text has no quotes: 1s", "write interval = \"1s\""),
    ("interval : 100ms", "a key and its value are joined by =, not by :", "write interval = \"100ms\""),
    ("interval => \"1s\"", "joined by =, not by =>", "write interval = \"1s\""),
    ("interval := \"1s\"", "joined by =, not by :=", "write interval = \"1s\""),
    ("Interval = \"1s\"", "unknown key `Interval` in [[peer]]", "did you mean `interval`?"),
    ("INTERVAL = \"1s\"", "unknown key `INTERVAL` in [[peer]]", "did you mean `interval`?"),
    ("advert_int = 1", "unknown key `advert_int` in [[peer]]", "did you mean `interval`?"),
    ("transmit-interval = 50", "unknown key `transmit-interval` in [[peer]]", "did you mean `interval`?"),
    ("receive_interval = 50", "unknown key `receive_interval` in [[peer]]", "did you mean `interval`?"),
    ("min_rx_interval = \"50ms\"", "unknown key `min_rx_interval` in [[peer]]", "did you mean `interval`?"),
    ("hello-interval = 1", "unknown key `hello-interval` in [[peer]]", "did you mean `interval`?"),
    ("dead_interval = 4", "unknown key `dead_interval` in [[peer]]", "did you mean `multiplier`?"),
    ("detect_mult = 3", "unknown key `detect_mult` in [[peer]]", "did you mean `multiplier`?"),
    ("state = \"MASTER\"", "unknown key `state` in [[peer]]", "did you mean `role`?"),
    ("role = \"MASTER\"", "`role` cannot be \"MASTER\"", "did you mean \"client\"?"),
    ("role = \"BACKUP\"", "`role` cannot be \"BACKUP\"", "did you mean \"server\"?"),
    ("role = \"hub\"", "`role` cannot be \"hub\"", "did you mean \"server\"?"),
    ("role = \"client \"", "`role` cannot be \"client \"", "did you mean \"client\"?"),
    ("role = CLIENT", "this text has no quotes: CLIENT", "write role = \"CLIENT\""),
    ("role = \u{ab}client\u{bb}", "another quotation mark than TOML's", "write role = \"client\""),
    ("role = \"client\u{201d}", "another quotation mark than TOML's", "write role = \"client\""),
    ("role \u{2013} \"client\"", "there is no = behind `role`", "write role = "),
    ("role=client", "this text has no quotes: client", "write role = \"client\""),
    ("role\t=\tclient", "this text has no quotes: client", "write role = \"client\""),
    ("\"role\": \"client\",", "joined by =, not by :", "write role = \"client\""),
    ("role = [\"client\"]", "`role` must be a text in quotes, not an array", "write role = \"client\""),
    ("password = \"secret\"", "unknown key `password` in [[peer]]", "did you mean `key-files`?"),
    ("auth_pass = \"secret\"", "unknown key `auth_pass` in [[peer]]", "did you mean `key-files`?"),
    ("pre-shared-key = \"secret\"", "unknown key `pre-shared-key` in [[peer]]", "did you mean `key-files`?"),
    ("key_files = [\"hq.key\"]", "unknown key `key_files` in [[peer]]", "did you mean `key-files`?"),
    ("keyfile = \"hq.key\"", "unknown key `keyfile` in [[peer]]", "did you mean `key-files`?"),
    ("key-files = [\u{201c}hq.key\u{201d}]", "another quotation mark than TOML's", "write key-files = [\"hq.key\"]"),
    (
        "key-files = \"hq.key\", \"b.key\"",
        "several values of `key-files` are a list",
        "key-files = [\"hq.key\", \"b.key\"]",
    ),
    ("key-files = [\"hq.key\", \"hq.key\"]", "holds the same key", "leave one of them out"),
    ("name = hq", "this text has no quotes: hq", "write name = \"hq\""),
    ("name = \"\"", "this name is empty", "letters, digits, dashes and underscores"),
    ("name = 'h q'", "this name has a space", "letters, digits, dashes and underscores"),
    ("name = \"-hq\"", "this name begins with a dash", "letters, digits, dashes and underscores"),
    ("name = 1", "`name` must be a text in quotes, not an integer", "write name = "),
    ("port = \"udp/46721\"", "`port` must be a number, not a string", "a number from 1 to 65535, without quotes"),
    ("port = 0", "`port` is out of range: 0", "it goes from 1 to 65535"),
    ("port = 46 721", "this is not how a value is written", "write port = 46721"),
    ("table = \"default\"", "`table` must be a number, not a string", "write table = 253"),
    ("table = 255", "table 255 is the kernel's table of local addresses", "254 is the main table"),
    ("metric = \"100\"", "`metric` must be a number, not a string", "write metric = 100"),
    ("failback = \"no\"", "`failback` cannot be \"no\"", "did you mean \"manual\"?"),
    ("failback = false", "`failback` must be a duration in quotes, not a boolean", "write failback = "),
    ("preempt = false", "unknown key `preempt` in [[peer]]", "did you mean `failback`?"),
    ("hold_down = \"3s\"", "unknown key `hold_down` in [[peer]]", "did you mean `hold-up`?"),
    ("hold-up = \"3 seconds, please\"", "`hold-up` is not a duration", "write a number and its unit"),
    ("routes = [\"0.0.0.0\"]", "an entry that is not a prefix: \"0.0.0.0\"", "0.0.0.0/"),
    ("routes = [\"10.0.0.1/0\"]", "has bits set behind its length of 0", "write \"0.0.0.0/0\""),
    ("routes = [\"10.8.0.0 255.255.0.0\"]", "an entry that is not a prefix", "\"10.8.0.0/16\""),
    ("routes = [\"10.8.0.0/0.0.255.255\"]", "an entry that is not a prefix", "\"10.8.0.0/16\""),
    ("routes = [\"10.8.0.0\\\\16\"]", "an entry that is not a prefix", "\"10.8.0.0/16\""),
    ("routes = [\"2001:db8::1/64\"]", "has bits set behind its length of 64", "write \"2001:db8::/64\""),
    ("routes = [\"2001:db8::/129\"]", "an entry that is not a prefix", "goes from 0 to 128"),
    ("routes = [\"eth0\"]", "an entry that is not a prefix: \"eth0\"", "write an address and a length"),
    ("routes = [\"10.8.0.0/16\",,]", "this is no list", "[\"10.8.0.0/16\"]"),
    ("routes = {\"10.8.0.0/16\"}", "this is no list", "write routes = [\"10.8.0.0/16\"]"),
    ("route = \"10.8.0.0/16\"", "unknown key `route` in [[peer]]", "did you mean `routes`?"),
    ("announce = \"eth0\"", "`announce` must be a list, not a string", "write announce = [\"eth0\"]"),
    ("announce = [\"eth0\"]", "an entry that is not a prefix: \"eth0\"", "announce-interfaces"),
    ("announce_interfaces = [\"eth0\"]", "unknown key `announce_interfaces`", "did you mean `announce-interfaces`?"),
    ("announce-interfaces = [\"eth0:\"]", "cannot be the name of an interface", "write \"eth0\""),
    ("announce-interfaces = eth0", "this text has no quotes: eth0", "write announce-interfaces = [\"eth0\"]"),
    ("accept = \"any\"", "`accept` must be a list, not a string", "write accept = "),
    ("accept = [\"*\"]", "an entry that is not a prefix: \"*\"", "write \"0.0.0.0/0\""),
    ("links = [\"eth1\", \"eth2\"]", "unknown key `links` in [[peer]]", "It begins with a line [[peer.link]]"),
    ("remote = \"10.248.248.1\"", "unknown key `remote` in [[peer]]", "it belongs to [[peer.link]]"),
    ("tier = 1", "unknown key `tier` in [[peer]]", "it belongs to [[peer.link]]"),
    ("targets = [\"9.9.9.9\"]", "unknown key `targets` in [[peer]]", "it belongs to [uplinks.probe]"),
    ("on-exit = \"keep\"", "unknown key `on-exit` in [[peer]]", "it belongs to [daemon]"),
    ("max-loss = 0.2", "`max-loss` must be a text in quotes", "write max-loss = \"20%\""),
    ("max-rtt = 400", "`max-rtt` must be a duration in quotes", "write max-rtt = \"400ms\""),
    ("/* the head office */", "/* begins no comment", "write # the head office"),
    ("-- the head office", "-- begins no comment", "write # the head office"),
    ("}", "} ends no section", "leave it out"),
    ("};", "}; ends no section", "leave it out"),
    ("end", "there is no = behind `end`", "="),
    (">>>>>>> theirs", "a merge conflict is left in this file", "keep one of its two sides"),
    ("=======", "a merge conflict is left in this file", "keep one of its two sides"),
    ("- role: client", "- begins no entry of a list", "this file is TOML"),
];

/// In `[[uplinks.link]]`, likewise.
const UPLINK: &[Mistake] = &[
    ("metric = 10", "unknown key `metric` in [[uplinks.link]]", "did you mean `tier`?"),
    ("priority = 1", "unknown key `priority` in [[uplinks.link]]", "did you mean `tier`?"),
    ("ratio = 2", "unknown key `ratio` in [[uplinks.link]]", "did you mean `weight`?"),
    ("percent = 60", "unknown key `percent` in [[uplinks.link]]", "did you mean `weight`?"),
    ("weight = 0", "`weight` is out of range: 0", "tier = 0"),
    ("weight = \"2\"", "`weight` must be a number, not a string", "write weight = 2"),
    ("via = \"10.248.248.1\"", "unknown key `via` in [[uplinks.link]]", "did you mean `gateway`?"),
    ("gateway = \"dhcp\"", "`gateway` is not an address: \"dhcp\"", "leave `gateway` out"),
    ("gateway = \"10.248.248.1/24\"", "`gateway` is not an address", "write it without the prefix length"),
    ("gateway = 10.248.248.1", "this text has no quotes: 10.248.248.1", "write gateway = \"10.248.248.1\""),
    ("gateway = \"0.0.0.0\"", "`gateway` is the unspecified address", "the address of one router"),
    ("nat = true", "`nat` must be a text in quotes, not a boolean", "write nat = \"masquerade\""),
    ("nat = \"masq\"", "`nat`", "masquerade"),
    ("snat = \"10.248.248.2\"", "unknown key `snat` in [[uplinks.link]]", "did you mean `nat`?"),
    ("tier = -1", "`tier` is out of range: -1", "it goes from 0 to 65535"),
    ("interface = \"eth1.\"", "there is no interface eth1. here", "did you mean \"eth1\"?"),
    ("lan = [\"eth0\"]", "unknown key `lan` in [[uplinks.link]]", "it belongs to [[uplinks]]"),
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
    ("gateway = \"10.248.248.1\"", "unknown key `gateway` in [[peer.link]]", "did you mean `remote`?"),
    ("remote_address = \"10.248.248.1\"", "unknown key `remote_address` in [[peer.link]]", "did you mean `remote`?"),
    ("remote = \"10.248.248.1 \"", "`remote` is not an address", "remote = \"10.248.248.1\""),
    (
        "remote = [\"10.248.248.1\"]",
        "`remote` must be a text in quotes, not an array",
        "write remote = \"10.248.248.1\"",
    ),
    ("remote = \"::ffff:10.248.248.1\"", "`remote` is an IPv4-mapped address", "write it as IPv4"),
    ("remote = \"224.0.0.18\"", "`remote` is a multicast address", "the address of one router"),
    ("remote = \"255.255.255.255\"", "`remote` is the broadcast address", "the address of one router"),
    ("remote = \"localhost\"", "`remote` is not an address: \"localhost\"", "names are not looked up"),
    ("local = \"10.248.248.2/24\"", "`local` is not an address", "write it without the prefix length"),
    ("local = \"eth1\"", "`local` is not an address: \"eth1\"", "leave `local` out"),
    ("interface = \"eth1:\"", "cannot be the name of an interface", "write \"eth1\""),
    ("interface = \"eth 1\"", "cannot be the name of an interface", "`ip link` lists the interfaces"),
    ("interface = [\"eth1\"]", "`interface` must be a text in quotes, not an array", "write interface = \"eth1\""),
    ("interface = \"averylonginterfacename\"", "it has 1 to 15 bytes", "`ip link` lists the interfaces"),
    ("track_interface = \"eth1\"", "unknown key `track_interface` in [[peer.link]]", "did you mean `interface`?"),
    ("name = \"auto\"", "a link cannot be called \"auto\"", "take another name"),
    ("tier = \"1\"", "`tier` must be a number, not a string", "write tier = 1"),
    ("tier = 1.5", "`tier` must be a number, not a float", "a number from 1 to 65535"),
    ("weight = 1000", "`weight` is out of range: 1000", "it goes from 1 to 256"),
    ("key-files = [\"hq.key\"]", "unknown key `key-files` in [[peer.link]]", "it belongs to [[peer]]"),
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
    ("track_ip = [\"9.9.9.9\"]", "unknown key `track_ip` in [uplinks.probe]", "did you mean `targets`?"),
    ("reliability = 1", "unknown key `reliability` in [uplinks.probe]", "did you mean `required`?"),
    ("down = 3", "unknown key `down` in [uplinks.probe]", "did you mean `fall`?"),
    ("up = 3", "unknown key `up` in [uplinks.probe]", "did you mean `rise`?"),
    ("targets = [\"example.com\"]", "`targets` is not an address: \"example.com\"", "names are not looked up"),
    ("targets = [\"9.9.9.9:53\"]", "`targets` is not an address: \"9.9.9.9:53\"", "without the port"),
    ("targets = [\"https://9.9.9.9/\"]", "`targets` is not an address", "http"),
    ("targets = [\"9.9.9.9\", \"9.9.9.9\"]", "this target stands twice in `targets`", "leave it out"),
    ("targets = []", "`targets` has 0 entries", "it has 1 to 64"),
    ("targets = 9.9.9.9", "this text has no quotes: 9.9.9.9", "write targets = [\"9.9.9.9\"]"),
    ("kind = icmp", "this text has no quotes: icmp", "write kind = \"icmp\""),
    ("query = \"example.org\"", "`query` means nothing for this kind of probe", "it is for kind = \"dns\""),
    ("status = 200", "`status` means nothing for this kind of probe", "it is for kind = \"http\""),
    ("interval = 5", "`interval` must be a duration in quotes", "\"5s\""),
    ("fall = \"3\"", "`fall` must be a number, not a string", "write fall = 3"),
    ("rise = 0", "`rise` is out of range: 0", "it goes from 1 to 1000"),
    ("max-loss = \"200%\"", "`max-loss` is not a share between 0% and 100%", "such as \"20%\""),
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
    ("routes = [", "routes = []\nroutes = [", "`routes` stands twice in this section", "leave one of them out"),
    (
        "routes = [",
        "link = \"eth1\"\nroutes = [",
        "peer.link is a section here, and has a value in line 6 already",
        "leave line 6 out",
    ),
    ("name = \"wifi\"", "name = \"optic\"", "two links of this peer are called \"optic\"", "a name of its own"),
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
# uplink
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
        "hosts" | "track-ip" => "targets".to_owned(),
        "state" | "\"role\"" | "role=client" | "role\t=\tclient" => "role".to_owned(),
        "password" | "auth-pass" | "pre-shared-key" | "keyfile" => "key-files".to_owned(),
        "route" => "routes".to_owned(),
        "gateway" | "remote-address" if file.contains("[[peer") => "remote".to_owned(),
        "track-interface" => "interface".to_owned(),
        "via" => "gateway".to_owned(),
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
    for (mistakes, file, mark) in [
        (PEER, FILE, "# peer"),
        (HABITS, FILE, "# peer"),
        (LINK, FILE, "# link"),
        (PROBE, UPLINKS, "# probe"),
        (UPLINK, UPLINKS, "# uplink"),
    ] {
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
    assert!(tried > 280, "{tried}");
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
            "error 12:8: all of these uplinks have tier = 0: none is ever chosen for a new connection | give at least one of \
             them tier = 1"
        ]
    );
}
