//! Values that cannot be read: what was probably meant.

use std::{net::IpAddr, net::Ipv4Addr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use toml::de::DeValue;

use super::diagnostic::{either, nearest};

/// Words for a choice that other programs have, and ours. Of several meanings that counts which can be chosen.
const OTHER_CHOICES: &[(&str, &str)] = &[
    ("ping", "icmp"),
    ("echo", "icmp"),
    ("https", "http"),
    ("web", "http"),
    ("url", "http"),
    ("connect", "tcp"),
    ("resolve", "dns"),
    ("neighbour", "arp"),
    ("neighbor", "arp"),
    ("nd", "arp"),
    ("master", "client"),
    ("primary", "client"),
    ("active", "client"),
    ("initiator", "client"),
    ("slave", "server"),
    ("secondary", "server"),
    ("backup", "server"),
    ("passive", "server"),
    ("responder", "server"),
    ("spoke", "client"),
    ("hub", "server"),
    ("masq", "masquerade"),
    ("snat", "masquerade"),
    ("off", "none"),
    ("no", "none"),
    ("ebpf", "xdp"),
    ("bpf", "xdp"),
    ("native", "xdp"),
    ("skb", "tc"),
    ("udp", "socket"),
    ("user", "socket"),
    ("delete", "remove"),
    ("flush", "remove"),
    ("clear", "remove"),
    ("leave", "keep"),
    ("remove", "withdraw"),
    ("delete", "withdraw"),
    ("nothing", "keep"),
    ("journal", "auto"),
    ("journald", "auto"),
    ("stdout", "stderr"),
    ("console", "stderr"),
    ("default", "auto"),
    ("mail", "email"),
    ("smtp", "email"),
    ("http", "webhook"),
    ("script", "exec"),
    ("command", "exec"),
];

/// Numbers by their names: routing tables (`/etc/iproute2/rt_tables`).
const TABLES: [(&str, u32); 3] = [("main", 254), ("default", 253), ("local", 255)];

/// A number that is written as something else.
pub(super) fn number(key: &str, value: &DeValue<'_>, range: &RangeInclusive<u32>) -> Option<u32> {
    let text = match value {
        DeValue::String(text) => text.trim().to_owned(),
        DeValue::Float(float) => float.as_str().to_owned(),
        _ => return None,
    };
    let table = TABLES.iter().find(|(name, _)| key == "table" && *name == text.to_lowercase()).map(|(_, table)| *table);
    let plain = text.trim_end_matches('%').trim_end();
    let plain = plain.strip_suffix(".0").unwrap_or(plain);
    table.or_else(|| plain.parse().ok()).filter(|number| range.contains(number))
}

/// Yes or no in other words.
pub(super) fn boolean(value: &DeValue<'_>) -> Option<bool> {
    let text = match value {
        DeValue::String(text) => text.to_lowercase(),
        DeValue::Integer(integer) => integer.as_str().to_owned(),
        _ => return None,
    };
    match text.trim() {
        "true" | "yes" | "on" | "1" | "enable" | "enabled" => Some(true),
        "false" | "no" | "off" | "0" | "disable" | "disabled" | "none" => Some(false),
        _ => None,
    }
}

/// The durations that a number without a unit may mean, as they are written.
pub(super) fn durations(number: &str, range: &RangeInclusive<Duration>) -> Option<String> {
    let number = number.trim();
    let possible = ["ms", "s"].map(|unit| format!("{number}{unit}"));
    let good: Vec<String> = possible
        .into_iter()
        .filter(|text| humantime::parse_duration(text).is_ok_and(|duration| range.contains(&duration)))
        .map(|text| format!("\"{text}\""))
        .collect();
    (!good.is_empty()).then(|| either(&good.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// What a text that is no duration was meant to be.
pub(super) fn duration(text: &str, range: &RangeInclusive<Duration>) -> Option<String> {
    let plain = text.trim().to_lowercase().replace(',', ".");
    if let Some(good) = durations(&plain, range) {
        return Some(good);
    }
    if ["none", "never", "off", "no", "instant", "immediate", "immediately"].contains(&plain.as_str()) {
        return range.contains(&Duration::ZERO).then(|| "\"0s\" for none".to_owned());
    }
    // A fraction: "0.5s".
    let unit = plain.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = plain[..unit].trim().parse().ok()?;
    let unit = humantime::parse_duration(&format!("1{}", &plain[unit..])).ok()?;
    let duration = Duration::try_from_secs_f64(number * unit.as_secs_f64()).ok()?;
    let duration = Duration::from_micros(duration.as_micros() as u64);
    Some(format!("\"{}\"", humantime::format_duration(duration)))
}

/// A choice in another word, or one that is nearly it.
pub(super) fn choice<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let plain = text.trim().to_lowercase().replace('_', "-");
    let has = |word: &str| words.iter().copied().find(|known| *known == word);
    let other = || OTHER_CHOICES.iter().filter(|(other, _)| *other == plain).find_map(|(_, word)| has(word));
    has(&plain).or_else(other).or_else(|| nearest(&plain, words.iter().copied()))
}

/// How a text that is no address is put right.
pub(super) fn address(key: &str, text: &str, example: &str) -> String {
    let is = |text: &str| text.parse::<IpAddr>().is_ok();
    let plain = text.trim();
    let bare = plain.trim_matches(['[', ']']);
    if bare != text && is(bare) {
        return format!("write it without what stands around it: {key} = \"{bare}\"");
    }
    if let Some((address, _)) = plain.split_once('/').filter(|(address, _)| is(address)) {
        return format!("write it without the prefix length: {key} = \"{address}\"");
    }
    if let Some((address, _)) = plain.split_once('%').filter(|(address, _)| is(address)) {
        return format!("write it without the interface, which `interface` names: {key} = \"{address}\"");
    }
    if let Some((address, _)) = plain.rsplit_once(':').filter(|(address, _)| is(address.trim_matches(['[', ']']))) {
        let address = address.trim_matches(['[', ']']);
        return format!("write it without the port: {key} = \"{address}\"");
    }
    if ["auto", "dhcp", "any", "none", "dynamic"].contains(&plain.to_lowercase().as_str()) && key != "remote" {
        return format!("leave `{key}` out: then the interface says it");
    }
    if plain.contains("://") {
        return format!("write one address, such as {key} = \"{example}\"; a URL is for kind = \"http\"");
    }
    if key == "local" && is_interface(plain) {
        return "write an address of it, or leave `local` out: then it is the one that `interface` has".to_owned();
    }
    if let Some(why) = dotted(plain) {
        return format!("{why}, such as {key} = \"{example}\"");
    }
    format!("write one address, such as {key} = \"{example}\"; names are not looked up")
}

/// What is wrong with four numbers and dots.
fn dotted(text: &str) -> Option<&'static str> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',') {
        return None;
    }
    let parts: Vec<&str> = text.split(['.', ',']).collect();
    Some(if parts.len() != 4 {
        "an IPv4 address has four numbers with dots between them"
    } else if text.contains(',') {
        "the numbers of an IPv4 address have dots between them"
    } else if parts.iter().any(|part| part.len() > 1 && part.starts_with('0')) {
        "the numbers of an IPv4 address have no zeros before them"
    } else {
        "the numbers of an IPv4 address go from 0 to 255"
    })
}

/// How a text that is no prefix is put right.
pub(super) fn prefix(key: &str, text: &str) -> String {
    let plain = text.trim();
    if key == "announce" && is_interface(plain) {
        return format!("the networks of an interface are announced by announce-interfaces = [\"{plain}\"]");
    }
    if let Ok(address) = plain.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!("add the prefix length: \"{}\" is this one address", IpNet::from(address));
    }
    if plain != text && plain.parse::<IpNet>().is_ok() {
        return format!("write it without the space: \"{plain}\"");
    }
    if ["default", "any", "all", "internet", "*", "0/0"].contains(&plain.to_lowercase().as_str()) {
        return "write \"0.0.0.0/0\", or \"::/0\" for IPv6".to_owned();
    }
    let several: Vec<&str> = plain.split([',', ' ', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
    if several.len() > 1 && several.iter().all(|part| part.parse::<IpNet>().is_ok()) {
        let quoted: Vec<_> = several.iter().map(|part| format!("\"{part}\"")).collect();
        return format!("give each its own quotes: {}", quoted.join(", "));
    }
    if let Some((first, last)) =
        plain.split_once('-').filter(|(a, b)| a.trim().parse::<IpAddr>().is_ok() && b.trim().parse::<IpAddr>().is_ok())
    {
        let (first, last) = (first.trim(), last.trim());
        return format!("a range is written as prefixes, such as \"10.20.20.0/22\", not from {first} to {last}");
    }
    let Some((address, length)) = plain.split_once(['/', ' ', '\\']) else {
        return "write an address and a length, such as \"10.20.20.0/22\" or \"2001:db8::/32\"".to_owned();
    };
    if let (Ok(address), Ok(mask)) = (address.parse::<Ipv4Addr>(), length.trim().parse::<Ipv4Addr>()) {
        // Access lists of some routers have it the other way round.
        let masks = [mask, !mask].map(|mask| ipnet::Ipv4Net::with_netmask(address, mask));
        if let Some(net) = masks.into_iter().flatten().next() {
            return format!("write the mask as a length: \"{}\"", net.trunc());
        }
    }
    if let Ok(net) = format!("{address}/{length}").parse::<IpNet>() {
        return format!("an address and its length are joined by /: \"{}\"", net.trunc());
    }
    if let (Ok(address), Ok(_)) = (address.parse::<IpAddr>(), length.parse::<u32>()) {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        return format!("the length of an {family} prefix goes from 0 to {most}");
    }
    // As some routers show it: "10.8/16".
    let numbers = address.split('.').count();
    if (1..4).contains(&numbers) {
        let whole = format!("{address}{}/{length}", ".0".repeat(4 - numbers));
        if whole.parse::<IpNet>().is_ok() {
            return format!("write all four numbers: \"{whole}\"");
        }
    }
    "write an address and a length, such as \"10.20.20.0/22\" or \"2001:db8::/32\"".to_owned()
}

/// Whether a text may be the name of an interface, and hardly anything else.
fn is_interface(text: &str) -> bool {
    let named = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.ends_with(|c: char| c.is_ascii_digit());
    named && text.len() <= 15 && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The entries that a text holds in place of a list.
pub(super) fn list(value: &DeValue<'_>) -> Option<String> {
    let DeValue::String(text) = value else { return None };
    let entries = text.split([',', ' ', ';']).map(str::trim).filter(|entry| !entry.is_empty());
    let entries: Vec<_> = entries.map(|entry| format!("\"{entry}\"")).collect();
    (!entries.is_empty()).then(|| format!("[{}]", entries.join(", ")))
}

/// How a text that cannot be the name of an interface is put right.
pub(super) fn interface(text: &str) -> String {
    let plain = text.trim();
    let plain = plain.strip_prefix("/dev/").or_else(|| plain.strip_prefix("/sys/class/net/")).unwrap_or(plain);
    // `ip address` shows eth0@if3, and ifconfig eth0:1.
    let plain = plain.split(['@', ':']).next().unwrap_or_default();
    let good = !plain.is_empty() && plain.len() <= 15 && !plain.contains(['/', ':', ',']) && !plain.contains(' ');
    if good && plain != text {
        format!("write \"{plain}\"; `ip link` lists the interfaces")
    } else {
        "`ip link` lists the interfaces".to_owned()
    }
}
