//! `what-if`: what would follow if a link changed.

use std::{collections::BTreeMap, io, path::Path};

use serde::Serialize;

use super::{
    Failure,
    output::{document, print},
    text::wrapped,
};
use crate::{
    control::{Becomes, Client, ClientError, Course, Forecast, Knowledge, Question},
    netlink::{
        Batch,
        netfilter::{self, Flow},
    },
};

/// Connections that are listed of each uplink.
const FIRST: usize = 5;

/// The daemon's forecast, and what conntrack knows.
#[derive(Debug, Serialize)]
struct Answer {
    becomes: Becomes,
    #[serde(flatten)]
    forecast: Forecast,
    /// By uplink; nothing where conntrack was not asked or does not answer.
    counted: BTreeMap<String, Counted>,
    /// Why connections are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncounted: Option<String>,
}

/// Connections of an uplink.
#[derive(Debug, Serialize)]
struct Counted {
    count: usize,
    /// The first of them, in words.
    first: Vec<String>,
}

pub(super) fn run(socket: &Path, group: String, link: String, becomes: Becomes, json: bool) -> Result<(), Failure> {
    let asked = Client::connect(socket)?.ask(Question::WhatIf { group, link, becomes })?;
    let Knowledge::WhatIf(forecast) = asked else {
        let problem = "another answer than was asked for".to_owned();
        return Err(ClientError::Language { path: socket.to_owned(), problem }.into());
    };
    let (counted, uncounted) = match count(&forecast) {
        Ok(counted) => (counted, None),
        Err(error) => (BTreeMap::new(), Some(why_not(&error))),
    };
    let answer = Answer { becomes, forecast: *forecast, counted, uncounted };
    if json {
        return print(&document(&answer)?);
    }
    print(&render(&answer))
}

/// Why conntrack tells nothing.
pub(super) fn why_not(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the kernel tells of connections to root alone (CAP_NET_ADMIN): run this with sudo".to_owned()
        }
        _ => format!("the kernel does not tell of its connections: {error}"),
    }
}

fn count(forecast: &Forecast) -> io::Result<BTreeMap<String, Counted>> {
    let mut counted = BTreeMap::new();
    if forecast.connections.is_empty() {
        return Ok(counted);
    }
    let (mut requests, mut batch) = (netfilter::open()?, Batch::default());
    for marked in &forecast.connections {
        let wanted = Some((marked.mark, marked.mask));
        let (count, first) = netfilter::flows(&mut requests, &mut batch, wanted, FIRST, |_| true)?;
        counted.insert(marked.link.clone(), Counted { count, first: first.iter().map(in_words).collect() });
    }
    Ok(counted)
}

/// A connection, as its first packet was.
pub(super) fn in_words(flow: &Flow) -> String {
    let end = |address: std::net::IpAddr, port: u16| match (port, address.is_ipv4()) {
        (0, _) => address.to_string(),
        (port, true) => format!("{address}:{port}"),
        (port, false) => format!("[{address}]:{port}"),
    };
    let protocol = match libc::c_int::from(flow.original.protocol) {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => "icmp".to_owned(),
        other => format!("protocol {other}"),
    };
    let original = &flow.original;
    format!(
        "{protocol} {} -> {}",
        end(original.source, original.source_port),
        end(original.destination, original.destination_port)
    )
}

fn render(answer: &Answer) -> String {
    let Forecast { group, link, refused, now, then, prefixes, first_prefixes, .. } = &answer.forecast;
    let becomes = match answer.becomes {
        Becomes::Down => "went down",
        Becomes::Drained => "were drained",
        Becomes::Up => "came up",
    };
    let mut out =
        wrapped("", &format!("If {link} of {group} {becomes}, and nothing else happened (nothing is changed):"));
    let mut line = |text: String| out += &wrapped("  ", &text);
    line(format!("now: {} ({})", carried_by(now), now.reason));
    if let Some(why) = refused {
        line(format!("the order would be refused: {why}"));
        return out;
    }
    for course in then {
        let when = if course.after_s > 0.0 { format!("after {:.1} s", course.after_s) } else { "at once".to_owned() };
        line(format!("{when}: {} ({})", carried_by(course), course.reason));
    }
    let last = then.last().unwrap_or(now);
    let moves = then.iter().any(|course| course.active != now.active);
    let shown: Vec<String> = first_prefixes.iter().map(ToString::to_string).collect();
    let more = prefixes.saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match (last.without_a_way, moves) {
        (true, _) if last.withdrawn => {
            line(format!("its routes would be withdrawn; without a way of this group: {}{more}", shown.join(", ")));
        }
        (true, _) => line(format!("left without a way: {}{more}", shown.join(", "))),
        (false, true) => line(format!("what would move: new traffic to {}{more}", shown.join(", "))),
        (false, false) => line("nothing would move".to_owned()),
    }
    match (last.without_a_way, last.spares.as_slice()) {
        (true, _) => {}
        (false, []) if last.active.len() < 2 => line("no other link would be left to fail over to".to_owned()),
        (false, []) => {}
        (false, spares) => line(format!("would stand by: {}", spares.join(", "))),
    }
    for marked in &answer.forecast.connections {
        let Some(counted) = answer.counted.get(&marked.link) else { continue };
        let count = match counted.count {
            0 => format!("no connection uses {} now", marked.link),
            1 => format!("1 connection of {}", marked.link),
            count => format!("{count} connections of {}", marked.link),
        };
        line(match (counted.count, marked.released) {
            (0, _) => count,
            (_, true) => format!("{count} would be released, and find another link (TCP is reset):"),
            (_, false) => format!("{count} would stay on it until they end:"),
        });
        for first in &counted.first {
            line(format!("  {first}"));
        }
        if counted.count > counted.first.len() {
            line(format!("  and {} more", counted.count - counted.first.len()));
        }
    }
    if let Some(why) = &answer.uncounted {
        line(format!("connections are not counted: {why}"));
    }
    for forced in &answer.forecast.forced {
        let then = if forced.others_take_it { "the others would take it" } else { "it would be refused" };
        line(format!("forced to {link}: {}: {then}", forced.what));
    }
    out
}

fn carried_by(course: &Course) -> String {
    let share = |share: &crate::control::Share| format!("{} {:.0} %", share.link, share.share * 100.0);
    let links: Vec<String> = course.active.iter().map(share).collect();
    match (links.is_empty(), course.without_a_way) {
        (true, _) => "no link carries the traffic".to_owned(),
        (false, true) => format!("the routes stay on {}, which does not work", links.join(", ")),
        (false, false) => format!("by {}", links.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Forced, Marked, Share};

    fn course(after_s: f64, links: &[(&str, f64)]) -> Course {
        let share = |(link, share): &(&str, f64)| Share { link: (*link).to_owned(), share: *share };
        Course {
            after_s,
            active: links.iter().map(share).collect(),
            reason: "lowest tier with a usable link".to_owned(),
            ..Course::default()
        }
    }

    fn answer(forecast: Forecast) -> Answer {
        let forecast = Forecast { group: "wan".to_owned(), link: "dsl".to_owned(), prefixes: 1, ..forecast };
        let counted = Counted { count: 7, first: vec!["tcp 10.20.20.10:40000 -> 192.0.2.129:443".to_owned()] };
        let counted = BTreeMap::from([("dsl".to_owned(), counted)]);
        Answer { becomes: Becomes::Down, forecast, counted, uncounted: None }
    }

    #[test]
    fn it_says_what_moves_and_what_is_released() {
        let text = render(&answer(Forecast {
            now: course(0.0, &[("fibre", 0.625), ("dsl", 0.375)]),
            then: vec![course(0.0, &[("fibre", 1.0)])],
            first_prefixes: vec!["0.0.0.0/0".parse().unwrap_or_default()],
            connections: vec![Marked { link: "dsl".to_owned(), mark: 0x200, mask: 0xff00, released: true }],
            forced: vec![Forced { what: "tcp port 25".to_owned(), others_take_it: false }],
            ..Forecast::default()
        }));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in [
            "If dsl of wan went down",
            "now: by fibre 62 %, dsl 38 %",
            "at once: by fibre 100 %",
            "what would move: new traffic to 0.0.0.0/0",
            "no other link would be left to fail over to",
            "7 connections of dsl would be released, and find another link (TCP is reset):",
            "tcp 10.20.20.10:40000 -> 192.0.2.129:443 and 6 more",
            "forced to dsl: tcp port 25: it would be refused",
        ] {
            assert!(words.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn it_says_what_is_left_without_a_way() {
        let dead = Course { without_a_way: true, ..course(0.0, &[("dsl", 1.0)]) };
        let prefixes = vec!["0.0.0.0/0".parse().unwrap_or_default()];
        let text = render(&answer(Forecast {
            now: course(0.0, &[("dsl", 1.0)]),
            then: vec![dead],
            first_prefixes: prefixes,
            ..Forecast::default()
        }));
        assert!(text.contains("the routes stay on dsl 100 %, which does not work"), "{text}");
        assert!(text.contains("left without a way: 0.0.0.0/0"), "{text}");
        let refused = Some("nothing would be left".to_owned());
        let text = render(&answer(Forecast { refused, now: course(0.0, &[("dsl", 1.0)]), ..Forecast::default() }));
        assert!(text.contains("the order would be refused: nothing would be left"), "{text}");
    }
}
