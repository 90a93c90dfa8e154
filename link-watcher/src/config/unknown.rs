//! Keys that a section does not have: what was probably meant.

use super::{
    diagnostic::nearest,
    reference::{Key, SCHEMAS, Schema, Takes},
};

/// What other programs call it, and we. Of several meanings that counts which the section has.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("global", "daemon"),
    ("general", "daemon"),
    ("settings", "daemon"),
    ("prometheus", "metrics"),
    ("neighbor", "peer"),
    ("neighbour", "peer"),
    ("tunnel", "peer"),
    ("wan", "uplinks"),
    ("isp", "uplinks"),
    ("provider", "uplinks"),
    ("providers", "uplinks"),
    ("internet", "uplinks"),
    ("email", "notify"),
    ("mail", "notify"),
    ("webhook", "notify"),
    ("notification", "notify"),
    ("notifications", "notify"),
    ("alert", "notify"),
    ("id", "name"),
    ("label", "name"),
    ("title", "name"),
    ("mode", "role"),
    ("type", "kind"),
    ("key", "key-files"),
    ("keys", "key-files"),
    ("secret", "key-files"),
    ("psk", "key-files"),
    ("iface", "interface"),
    ("dev", "interface"),
    ("device", "interface"),
    ("nic", "interface"),
    ("if", "interface"),
    ("peer", "remote"),
    ("peer-address", "remote"),
    ("remote-address", "remote"),
    ("remote-ip", "remote"),
    ("neighbor", "remote"),
    ("neighbour", "remote"),
    ("address", "remote"),
    ("ip", "remote"),
    ("local-address", "local"),
    ("local-ip", "local"),
    ("source-address", "local"),
    ("source", "local"),
    ("src", "local"),
    ("priority", "tier"),
    ("preference", "tier"),
    ("prio", "tier"),
    ("rank", "tier"),
    ("share", "weight"),
    ("gw", "gateway"),
    ("via", "gateway"),
    ("router", "gateway"),
    ("nexthop", "gateway"),
    ("next-hop", "gateway"),
    ("networks", "routes"),
    ("prefixes", "routes"),
    ("subnets", "routes"),
    ("destinations", "routes"),
    ("advertise", "announce"),
    ("export", "announce"),
    ("import", "accept"),
    ("allow", "accept"),
    ("filter", "accept"),
    ("preempt", "failback"),
    ("hold-time", "hold-up"),
    ("hold-down", "hold-up"),
    ("up-delay", "hold-up"),
    ("detect-multiplier", "multiplier"),
    ("detect-mult", "multiplier"),
    ("retries", "multiplier"),
    ("misses", "multiplier"),
    ("ttl", "max-hops"),
    ("hops", "max-hops"),
    ("route-table", "table"),
    ("routing-table", "table"),
    ("mark", "fwmark"),
    ("snat", "nat"),
    ("masq", "masquerade"),
    ("downlinks", "lan"),
    ("lan-interfaces", "lan"),
    ("interfaces", "lan"),
    ("test", "probe"),
    ("check", "probe"),
    ("tests", "probe"),
    ("hosts", "targets"),
    ("host", "targets"),
    ("servers", "targets"),
    ("ips", "targets"),
    ("down-after", "fall"),
    ("failures", "fall"),
    ("up-after", "rise"),
    ("successes", "rise"),
    ("loss", "max-loss"),
    ("rtt", "max-rtt"),
    ("latency", "max-rtt"),
    ("max-latency", "max-rtt"),
    ("jitter", "max-jitter"),
    ("dport", "port"),
    ("proto", "protocol"),
    ("dst", "destination"),
    ("events", "on"),
    ("recipients", "to"),
    ("recipient", "to"),
    ("sender", "from"),
    ("server", "smtp"),
    ("socket", "control-socket"),
    ("state-dir", "state-directory"),
    ("loglevel", "log"),
    ("logging", "log"),
    ("bind", "listen"),
    // keepalived, FRR, BIRD, strongSwan.
    ("state", "role"),
    ("advert-int", "interval"),
    ("hello-interval", "interval"),
    ("transmit-interval", "interval"),
    ("receive-interval", "interval"),
    ("min-rx-interval", "interval"),
    ("min-tx-interval", "interval"),
    ("dead-interval", "multiplier"),
    ("auth-pass", "key-files"),
    ("password", "key-files"),
    ("passphrase", "key-files"),
    ("shared-secret", "key-files"),
    ("pre-shared-key", "key-files"),
    ("track-interface", "interface"),
    ("gateway", "remote"),
    ("via", "remote"),
    ("nexthop", "remote"),
    ("next-hop", "remote"),
    ("remote-as", "accept"),
    // mwan3, pbr, Fault Tolerant Router and the like.
    ("track-ip", "targets"),
    ("ping-ip", "targets"),
    ("reliability", "required"),
    ("down", "fall"),
    ("up", "rise"),
    ("attempts", "fall"),
    ("metric", "tier"),
    ("order", "tier"),
    ("ratio", "weight"),
    ("percent", "weight"),
    ("monitor", "probe"),
    ("health-check", "probe"),
    ("healthcheck", "probe"),
    ("ping", "probe"),
    ("table-id", "table"),
    ("smtp-server", "smtp"),
    ("mail-server", "smtp"),
    ("webhook-url", "url"),
    ("script", "command"),
    ("exec", "command"),
    ("cmd", "command"),
    ("address", "listen"),
];

/// What a key was meant to be.
pub(super) struct Meant {
    /// The key that is there in another word, here or in another section.
    pub(super) key: Option<&'static str>,
    /// Whether it belongs to another section.
    pub(super) elsewhere: bool,
    /// What would be right.
    pub(super) help: String,
}

/// What was meant by a key that a section does not have; the whole file's title is empty.
pub(super) fn meant(key: &str, schema: &'static Schema) -> Meant {
    let whole_file = schema.title.is_empty();
    let here = |key: &'static Key| {
        let help = match key.takes {
            Takes::Section(head) if whole_file => format!("did you mean {head}?"),
            Takes::Section(head) => format!("did you mean `{}`? It begins with a line {head}", key.name),
            _ => format!("did you mean `{}`?", key.name),
        };
        Meant { key: Some(key.name), elsewhere: false, help }
    };
    let plain = key.to_lowercase().replace('_', "-");
    let other_word = || OTHER_WORDS.iter().filter(|(other, _)| *other == plain).find_map(|(_, word)| schema.key(word));
    if let Some(key) = schema.key(&plain).or_else(other_word) {
        return here(key);
    }
    if let Some((section, key)) = elsewhere(&plain, schema) {
        let help = match key.takes {
            Takes::Section(head) => format!("a section of {} begins with {head}", section.title),
            _ if whole_file => format!("put it behind the head of its section, such as {}", section.title),
            _ => format!("it belongs to {}: put it behind that line", section.title),
        };
        return Meant { key: Some(key.name), elsewhere: true, help };
    }
    match nearest(&plain, schema.names()).and_then(|word| schema.key(word)) {
        Some(key) => here(key),
        None if whole_file => {
            let heads: Vec<_> = schema.keys.iter().filter_map(|key| key.head()).collect();
            Meant { key: None, elsewhere: false, help: format!("there are {}", heads.join(", ")) }
        }
        None => Meant { key: None, elsewhere: false, help: format!("known keys are {}", schema.names().join(", ")) },
    }
}

/// Another section that has this key: one of the same kind if there is one.
fn elsewhere(key: &str, schema: &Schema) -> Option<(&'static Schema, &'static Key)> {
    let kind = |schema: &Schema| schema.path().split('.').next().unwrap_or_default().to_owned();
    let others = SCHEMAS.iter().filter(|other| other.title != schema.title);
    let mut found: Vec<_> = others.filter_map(|other| Some((*other, other.key(key)?))).collect();
    found.sort_by_key(|(other, _)| kind(other) != kind(schema));
    found.first().copied()
}
