//! `announce-routes`: routing protocols, by the names that `ip route` shows or by number.

use toml::{Spanned, de::DeValue};

use super::{diagnostic::nearest, section::Section};
use crate::netlink::PROTOCOL;

/// Names as iproute2 has them (`/etc/iproute2/rt_protos`, linux/rtnetlink.h).
const NAMES: [(&str, u8); 21] = [
    ("redirect", 1),
    ("kernel", 2),
    ("boot", 3),
    ("static", 4),
    ("gated", 8),
    ("ra", 9),
    ("mrt", 10),
    ("zebra", 11),
    ("bird", 12),
    ("xorp", 14),
    ("ntk", 15),
    ("dhcp", 16),
    ("mrouted", 17),
    ("keepalived", 18),
    ("babel", 42),
    ("openr", 99),
    ("bgp", 186),
    ("isis", 187),
    ("ospf", 188),
    ("rip", 189),
    ("eigrp", 192),
];

/// Reads the list of a key.
pub(super) fn read(section: &Section<'_>, key: &str) -> Vec<Spanned<u8>> {
    let example = "[\"static\", \"ospf\"]";
    let Some(value) = section.get(key) else { return Vec::new() };
    let DeValue::Array(array) = value.get_ref() else {
        section.wrong_type(key, value, "a list", example);
        return Vec::new();
    };
    let one = |item: &Spanned<DeValue<'_>>| {
        let text = match item.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => number.as_str(),
            _ => {
                section.wrong_type(key, item, "a list of protocols", example);
                return None;
            }
        };
        let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        let refuse = |message: String, help: &str| {
            section.findings.error(&item.span(), message, help);
            None
        };
        match named.or_else(|| text.parse().ok()) {
            Some(PROTOCOL) => refuse(
                format!("`{key}` cannot have protocol {PROTOCOL}: that is this program's own routes"),
                "leave it out; what is announced to this router is not announced by it again",
            ),
            Some(0) | None => {
                let help = nearest(text, NAMES.map(|(name, _)| name)).map_or_else(
                    || {
                        "write a name that `ip route` shows behind \"proto\", such as \"static\", \"ospf\" or \"bgp\", or a \
                         number from 1 to 255"
                            .to_owned()
                    },
                    |name| format!("did you mean \"{name}\"?"),
                );
                refuse(format!("`{key}` has an entry that is no routing protocol: \"{text}\""), &help)
            }
            Some(number) => Some(Spanned::new(item.span(), number)),
        }
    };
    array.iter().filter_map(one).collect()
}
