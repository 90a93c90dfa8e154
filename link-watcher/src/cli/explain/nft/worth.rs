//! What a rule's expressions are worth for a packet, and whether they match.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Run, Unknown, Worth, unknown};

/// Flags of TCP (RFC 9293, section 3.1).
const SYN: u64 = 0x02;
const ACK: u64 = 0x10;

/// A flag of TCP by its name.
fn tcp_flag(name: &str) -> Option<u64> {
    match name {
        "fin" => Some(0x01),
        "syn" => Some(SYN),
        "rst" => Some(0x04),
        "psh" => Some(0x08),
        "ack" => Some(ACK),
        "urg" => Some(0x20),
        _ => None,
    }
}

impl Run<'_> {
    pub(super) fn matches(&mut self, body: &Value) -> Result<bool, Unknown> {
        let left = self.worth(&body["left"])?;
        let right = &body["right"];
        // An interface that is not there, or a port that nobody named.
        if left == Worth::Absent {
            return Ok(right == &Value::Bool(false));
        }
        if let Some(wanted) = right.as_bool() {
            // "exists": it does, or it would be absent.
            return Ok(wanted);
        }
        let same = self.is_in(&left, right)?;
        match body["op"].as_str() {
            Some("==" | "in") => Ok(same),
            Some("!=") => Ok(!same),
            _ => Err(unknown(body)),
        }
    }

    /// What a map says of a key. A counter that connections share leads to every value in its turn.
    pub(super) fn look_up(&mut self, key: &Value, data: &Value) -> Result<Option<Value>, Unknown> {
        let entries = self.elements(data)?;
        let pair = |entry: &Value| Some((entry.get(0)?.clone(), entry.get(1)?.clone()));
        let entries: Vec<(Value, Value)> = entries.iter().filter_map(pair).collect();
        if let Some(turns) = key.get("numgen") {
            let of = turns["mod"].as_u64().filter(|of| *of > 0).ok_or_else(|| unknown(key))?;
            let mut shares: Vec<(Option<Value>, f64)> = Vec::new();
            let mut left = of;
            for (slots, value) in entries {
                let ends = match slots["range"].as_array().map(Vec::as_slice) {
                    Some([first, last]) => (first.as_u64(), last.as_u64()),
                    _ => (slots.as_u64(), slots.as_u64()),
                };
                let (Some(first), Some(last)) = ends else { return Err(unknown(&slots)) };
                // Numbers that never come up have no turn.
                let slots = last.min(of - 1).checked_sub(first).map_or(0, |distance| distance + 1).min(left);
                left -= slots;
                let share = slots as f64 / of as f64;
                match shares.iter_mut().find(|(known, _)| known.as_ref() == Some(&value)) {
                    Some((_, known)) => *known += share,
                    None => shares.push((Some(value), share)),
                }
            }
            // What no element is for goes on behind the map.
            if left > 0 {
                shares.push((None, left as f64 / of as f64));
            }
            shares.retain(|(_, share)| *share > 0.0);
            if self.at == self.turns.len() {
                self.turns.push(0);
            }
            let turn = self.turns[self.at];
            self.at += 1;
            self.choices.push(shares.iter().map(|(_, share)| *share).collect());
            return Ok(shares.get(turn).and_then(|(value, _)| value.clone()));
        }
        let worth = self.worth(key)?;
        for (element, value) in entries {
            if self.is_one(&worth, &element)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The elements of a set, named or not.
    fn elements(&self, set: &Value) -> Result<Vec<Value>, Unknown> {
        let named = set.as_str().and_then(|name| self.loaded.sets.get(name.strip_prefix('@')?));
        match named.or_else(|| set.get("set")).unwrap_or(set) {
            Value::Array(elements) => Ok(elements.clone()),
            other => Err(unknown(other)),
        }
    }

    fn is_in(&self, worth: &Worth, right: &Value) -> Result<bool, Unknown> {
        let is_set =
            right.is_array() || right.get("set").is_some() || right.as_str().is_some_and(|s| s.starts_with('@'));
        if !is_set {
            return self.is_one(worth, right);
        }
        for element in self.elements(right)? {
            if self.is_one(worth, &element)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_one(&self, worth: &Worth, element: &Value) -> Result<bool, Unknown> {
        if element.as_str() == Some("*") {
            return Ok(true);
        }
        // With a counter or a comment of its own.
        if let Some(inner) = element.get("elem") {
            return self.is_one(worth, &inner["val"]);
        }
        if let (Worth::Many(parts), Some(elements)) = (worth, element["concat"].as_array()) {
            for (part, element) in parts.iter().zip(elements) {
                if !self.is_one(part, element)? {
                    return Ok(false);
                }
            }
            return Ok(parts.len() == elements.len());
        }
        if let Some([first, last]) = element["range"].as_array().map(Vec::as_slice) {
            return match worth {
                Worth::Number(n) => Ok(first.as_u64() <= Some(*n) && Some(*n) <= last.as_u64()),
                Worth::Address(address) => {
                    let bound = |end: &Value| end.as_str().and_then(|end| end.parse::<IpAddr>().ok());
                    Ok(bound(first).is_some_and(|first| first <= *address)
                        && bound(last).is_some_and(|last| *address <= last))
                }
                Worth::Absent => Ok(false),
                _ => Err(unknown(element)),
            };
        }
        match (worth, element) {
            (Worth::Absent, _) => Ok(false),
            (Worth::Number(n), Value::Number(wanted)) => Ok(wanted.as_u64() == Some(*n)),
            (Worth::Number(n), Value::String(flag)) => {
                tcp_flag(flag).map(|flag| flag == *n).ok_or_else(|| unknown(element))
            }
            (Worth::Text(text), Value::String(wanted)) => Ok(match wanted.strip_suffix('*') {
                Some(begin) => text.starts_with(begin),
                None => text == wanted,
            }),
            (Worth::Address(address), Value::String(wanted)) => {
                wanted.parse::<IpAddr>().map(|wanted| wanted == *address).map_err(|_| unknown(element))
            }
            (Worth::Address(address), Value::Object(_)) => {
                let prefix = &element["prefix"];
                let length = prefix["len"].as_u64().and_then(|length| u8::try_from(length).ok());
                let network = prefix["addr"].as_str().and_then(|network| network.parse::<IpAddr>().ok());
                let prefix = network.zip(length).and_then(|(network, length)| IpNet::new(network, length).ok());
                prefix.map(|prefix| prefix.contains(address)).ok_or_else(|| unknown(element))
            }
            _ => Err(unknown(element)),
        }
    }

    pub(super) fn worth(&mut self, value: &Value) -> Result<Worth, Unknown> {
        if let Some(number) = value.as_u64() {
            return Ok(Worth::Number(number));
        }
        if let Some(flags) = value.as_array() {
            let flag = |value: &Value| tcp_flag(value.as_str().unwrap_or_default()).ok_or_else(|| unknown(value));
            return flags.iter().try_fold(0, |all, name| Ok(all | flag(name)?)).map(Worth::Number);
        }
        let Some((kind, body)) = value.as_object().and_then(|object| object.iter().next()) else {
            return Err(unknown(value));
        };
        let text = |text: &Option<String>| text.clone().map_or(Worth::Absent, Worth::Text);
        let packet = &self.outcome.packet;
        let key = body["key"].as_str().unwrap_or_default();
        match (kind.as_str(), key) {
            ("meta", "iifname" | "iif") => Ok(text(&packet.incoming)),
            ("meta", "oifname" | "oif") => Ok(text(&packet.outgoing)),
            ("meta", "mark") => Ok(Worth::Number(packet.mark.into())),
            ("meta", "nfproto") => {
                Ok(Worth::Text(if packet.destination.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned()))
            }
            ("meta", "l4proto") => Ok(Worth::Text(packet.protocol.to_owned())),
            // To one of our addresses alone.
            ("meta", "pkttype") => Ok(Worth::Text("host".to_owned())),
            ("ct", "state") => Ok(Worth::Text(packet.state.to_owned())),
            ("ct", "direction") => Ok(Worth::Text("original".to_owned())),
            ("ct", "mark") => Ok(Worth::Number(packet.connection_mark.into())),
            ("payload", _) => self.payload(body),
            ("fib", _) => self.fib(body),
            ("concat", _) => {
                let parts = body.as_array().cloned().unwrap_or_default();
                parts.iter().map(|part| self.worth(part)).collect::<Result<Vec<_>, _>>().map(Worth::Many)
            }
            ("&" | "|" | "^" | "<<" | ">>", _) => self.calculated(kind, body),
            _ => Err(unknown(value)),
        }
    }

    fn calculated(&mut self, operator: &str, operands: &Value) -> Result<Worth, Unknown> {
        let mut result: Option<u64> = None;
        for operand in operands.as_array().into_iter().flatten() {
            let next = match self.worth(operand)? {
                Worth::Number(next) => next,
                Worth::Absent => return Ok(Worth::Absent),
                _ => return Err(unknown(operands)),
            };
            result = Some(match (result, operator) {
                (None, _) => next,
                (Some(so_far), "&") => so_far & next,
                (Some(so_far), "|") => so_far | next,
                (Some(so_far), "^") => so_far ^ next,
                (Some(so_far), "<<") => so_far.checked_shl(next as u32).unwrap_or(0) & u64::from(u32::MAX),
                (Some(so_far), _) => so_far.checked_shr(next as u32).unwrap_or(0),
            });
        }
        result.map(Worth::Number).ok_or_else(|| unknown(operands))
    }

    fn payload(&self, body: &Value) -> Result<Worth, Unknown> {
        let packet = &self.outcome.packet;
        let ipv4 = packet.destination.is_ipv4();
        match (body["protocol"].as_str().unwrap_or_default(), body["field"].as_str().unwrap_or_default()) {
            ("ip", _) if !ipv4 => Ok(Worth::Absent),
            ("ip6", _) if ipv4 => Ok(Worth::Absent),
            ("ip", "protocol") | ("ip6", "nexthdr") => Ok(Worth::Text(packet.protocol.to_owned())),
            ("ip" | "ip6", "saddr") => Ok(packet.source.map_or(Worth::Absent, Worth::Address)),
            ("ip" | "ip6", "daddr") => Ok(Worth::Address(packet.destination)),
            (protocol @ ("tcp" | "udp"), "dport") if protocol == packet.protocol => {
                Ok(packet.port.map_or(Worth::Absent, |port| Worth::Number(port.into())))
            }
            (protocol @ ("tcp" | "udp"), "sport") if protocol == packet.protocol && packet.source_port.is_some() => {
                Ok(packet.source_port.map_or(Worth::Absent, |port| Worth::Number(port.into())))
            }
            // The first packet of a connection, or one in its middle.
            ("tcp", "flags") if packet.protocol == "tcp" => {
                Ok(Worth::Number(if packet.state == "new" { SYN } else { ACK }))
            }
            ("tcp" | "udp", _) if body["protocol"].as_str() != Some(packet.protocol) => Ok(Worth::Absent),
            ("icmp", _) if packet.protocol != "icmp" => Ok(Worth::Absent),
            ("icmpv6", _) if packet.protocol != "ipv6-icmp" => Ok(Worth::Absent),
            ("th", "dport") => Ok(packet.port.map_or(Worth::Absent, |port| Worth::Number(port.into()))),
            ("ether", _) => Err(Unknown("who sends it on that interface (its Ethernet address)".to_owned())),
            _ => Err(unknown(body)),
        }
    }

    fn fib(&mut self, body: &Value) -> Result<Worth, Unknown> {
        let flag = |wanted: &str| match &body["flags"] {
            Value::Array(flags) => flags.iter().any(|flag| flag.as_str() == Some(wanted)),
            flag => flag.as_str() == Some(wanted),
        };
        let packet = &self.outcome.packet;
        let address = if flag("saddr") { packet.source } else { Some(packet.destination) };
        let Some(address) = address else { return Ok(Worth::Absent) };
        let interface = if flag("oif") { packet.outgoing.clone() } else { None };
        match body["result"].as_str() {
            Some("oif" | "oifname") => Ok(self.fib.way_out(address).map_or(Worth::Absent, Worth::Text)),
            Some("type") => Ok(Worth::Text(self.fib.kind(address, interface.as_deref()))),
            _ => Err(unknown(body)),
        }
    }
}
