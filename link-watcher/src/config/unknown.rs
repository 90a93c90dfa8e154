//! Keys that a section does not have: what was probably meant.

use super::{diagnostic::nearest, metrics, notify, peer, uplinks};

/// Sections as they are written, with their keys; near ones close to each other.
const SECTIONS: &[(&str, &[&str])] = &[
    ("[daemon]", super::DAEMON_KEYS),
    ("[metrics]", metrics::KEYS),
    ("[[peer]]", peer::PEER_KEYS),
    ("[[peer.link]]", peer::LINK_KEYS),
    ("[[uplinks]]", uplinks::UPLINKS_KEYS),
    ("[[uplinks.link]]", uplinks::LINK_KEYS),
    ("[uplinks.probe]", uplinks::PROBE_KEYS),
    ("[uplinks.link.probe]", uplinks::PROBE_KEYS),
    ("[[uplinks.force]]", uplinks::FORCE_KEYS),
    ("[[notify]]", notify::KEYS),
];

/// Sections of the whole file, as they are written.
const HEADS: &[(&str, &str)] = &[
    ("daemon", "[daemon]"),
    ("metrics", "[metrics]"),
    ("peer", "[[peer]]"),
    ("uplinks", "[[uplinks]]"),
    ("notify", "[[notify]]"),
];

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

/// What was meant by a key that is not among the `known` ones of a section; the whole file's title is empty.
pub(super) fn meant(key: &str, title: &str, known: &'static [&'static str]) -> Meant {
    let here = |key: &'static str| {
        let help = match HEADS.iter().find(|(head, _)| title.is_empty() && *head == key) {
            Some((_, head)) => format!("did you mean {head}?"),
            None => format!("did you mean `{key}`?"),
        };
        Meant { key: Some(key), elsewhere: false, help }
    };
    let plain = key.to_lowercase().replace('_', "-");
    let has = |word: &str| known.iter().copied().find(|known| *known == word);
    let other_word = || OTHER_WORDS.iter().filter(|(other, _)| *other == plain).find_map(|(_, word)| has(word));
    if let Some(key) = has(&plain).or_else(other_word) {
        return here(key);
    }
    if let Some((section, key)) = elsewhere(&plain, title) {
        let help = match key {
            "link" | "probe" | "force" => {
                let head = format!("{}.{key}", section.trim_matches(['[', ']']));
                let head = SECTIONS.iter().map(|(head, _)| *head).find(|known| known.trim_matches(['[', ']']) == head);
                format!("a section of {section} begins with {}", head.unwrap_or("its name"))
            }
            _ if title.is_empty() => format!("put it behind the head of its section, such as {section}"),
            _ => format!("it belongs to {section}: put it behind that line"),
        };
        return Meant { key: Some(key), elsewhere: true, help };
    }
    match nearest(&plain, known.iter().copied()) {
        Some(word) => here(has(word).unwrap_or_default()),
        None if title.is_empty() => {
            let heads: Vec<_> = HEADS.iter().map(|(_, head)| *head).collect();
            Meant { key: None, elsewhere: false, help: format!("there are {}", heads.join(", ")) }
        }
        None => Meant { key: None, elsewhere: false, help: format!("known keys are {}", known.join(", ")) },
    }
}

/// Another section that has this key: one of the same kind if there is one.
fn elsewhere(key: &str, title: &str) -> Option<(&'static str, &'static str)> {
    let kind = |title: &str| title.trim_matches(['[', ']']).split('.').next().unwrap_or_default().to_owned();
    let found = SECTIONS.iter().filter(|(section, _)| *section != title).filter_map(|(section, keys)| {
        let key = keys.iter().copied().find(|known| *known == key)?;
        Some((*section, key))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(section, _)| kind(section) != kind(title));
    found.first().copied()
}
