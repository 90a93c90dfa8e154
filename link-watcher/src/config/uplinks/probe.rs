//! `[uplinks.probe]` and `[uplinks.link.probe]`: the second replaces single keys of the first.

use std::{ops::RangeInclusive, time::Duration};

use toml::Spanned;

use super::{
    HttpTarget, ProbeConfig, ProbeKind, TcpRefusal,
    force::{Numbers, numbers},
    kind::{KINDS, Kind},
    target::{self, Targets},
};
use crate::{
    config::{
        diagnostic::Findings,
        group,
        reference::{Key, Otherwise, Schema, Takes, words},
        section::Section,
    },
    health::Share,
};

/// Shorter than this a public target takes for an attack; the lab may.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_TARGETS: usize = 64;
const ROUNDS: RangeInclusive<u32> = 1..=1000;
/// One answer out of several targets shows that the uplink works: a target is not the uplink.
const DEFAULT_REQUIRED: u32 = 1;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_FALL: u32 = 3;
const DEFAULT_RISE: u32 = 5;
const DEFAULT_WINDOW: u32 = 60;
/// A redirection is what a provider answers whose customer has to log in or to pay, so it is no success.
const DEFAULT_STATUS: RangeInclusive<u16> = 200..=299;
/// Reserved for such uses (RFC 2606, section 3), and there are addresses for it.
const DEFAULT_QUERY: &str = "example.com";
/// Longest domain name as text (RFC 1035, section 2.3.4), bytes.
const MAX_QUERY_LEN: usize = 253;
/// Longest text that is looked for in a body, bytes.
const MAX_BODY_LEN: usize = 1024;

const REFUSALS: [(&str, TcpRefusal); 2] = [("up", TcpRefusal::Up), ("down", TcpRefusal::Down)];

const KEYS: &[Key] = &[
    Key::new(
        "kind",
        Takes::Words(&words(&KINDS)),
        Otherwise::Text("icmp"),
        "what is sent: an echo request, a TCP connection that is closed at once, a request of HTTP, a query of DNS, ARP or neighbour solicitation",
    ),
    Key::new(
        "targets",
        Takes::List(
            "at most 64 addresses (`icmp`, `arp`), addresses and ports (`tcp`, `dns`), URLs or tables of `url` and `address` (`http`)",
        ),
        Otherwise::Words("demanded; `arp`: the gateway"),
        "who is asked; names are not looked up",
    ),
    Key::new(
        "required",
        Takes::Number(1..=MAX_TARGETS as u32),
        Otherwise::Number(DEFAULT_REQUIRED),
        "targets that must answer in a round",
    ),
    Key::new(
        "interval",
        Takes::Duration(MIN_INTERVAL..=MAX_INTERVAL),
        Otherwise::Duration(DEFAULT_INTERVAL),
        "from one round to the next",
    ),
    Key::new(
        "timeout",
        Takes::Duration(MIN_TIMEOUT..=MAX_TIMEOUT),
        Otherwise::Duration(DEFAULT_TIMEOUT),
        "how long an answer may take; at most `interval`",
    ),
    Key::new("fall", Takes::Number(ROUNDS), Otherwise::Number(DEFAULT_FALL), "bad rounds in a row until it is down"),
    Key::new(
        "rise",
        Takes::Number(ROUNDS),
        Otherwise::Number(DEFAULT_RISE),
        "good rounds in a row until it is up again",
    ),
    group::max_loss_key("beyond this share of lost probes it is `degraded`: used only while no other is up"),
    Key::new(
        "max-rtt",
        Takes::Duration(MIN_TIMEOUT..=MAX_TIMEOUT),
        Otherwise::Words("no limit"),
        "likewise, beyond this median round trip",
    ),
    Key::new(
        "max-jitter",
        Takes::Duration(MIN_TIMEOUT..=MAX_TIMEOUT),
        Otherwise::Words("no limit"),
        "likewise, beyond this mean difference of successive round trips",
    ),
    Key::new(
        "window",
        Takes::Number(ROUNDS),
        Otherwise::Number(DEFAULT_WINDOW),
        "rounds over which these three are measured",
    ),
    Key::new(
        "status",
        Takes::Text("number, or range such as \"200-399\", within 100 to 599"),
        Otherwise::Words("`\"200-299\"`"),
        "what the server must answer",
    )
    .only(Kind::Http.word()),
    Key::new("body", Takes::Text("text of 1 to 1024 bytes"), Otherwise::Words("none"), "what the page must contain")
        .only(Kind::Http.word()),
    Key::new(
        "query",
        Takes::Text("name of 1 to 253 bytes"),
        Otherwise::Text(DEFAULT_QUERY),
        "the name that is asked for",
    )
    .only(Kind::Dns.word()),
    Key::new(
        "tcp-refused",
        Takes::Words(&words(&REFUSALS)),
        Otherwise::Text("up"),
        "what a server's refusal (RST) shows; `down`: only a connection counts",
    )
    .only(Kind::Tcp.word()),
];
/// `[uplinks.probe]`.
pub(in crate::config) static SCHEMA: Schema =
    Schema::new("[uplinks.probe]", "How every uplink of the group is probed.", KEYS);
/// `[uplinks.link.probe]`.
pub(in crate::config) static LINK_PROBE: Schema = Schema {
    told_by: Some("[uplinks.probe]"),
    ..Schema::new("[uplinks.link.probe]", "One uplink's own probe: it replaces single keys of the group's.", KEYS)
};

/// As it stands in the file: what is not said is nothing.
pub(super) struct Probe<'a> {
    section: Section<'a>,
    /// Its own or the group's; nothing where that cannot be read.
    pub(super) kind: Option<Kind>,
    pub(super) targets: Option<Targets>,
    required: Option<Spanned<u32>>,
    interval: Option<Spanned<Duration>>,
    timeout: Option<Spanned<Duration>>,
    fall: Option<u32>,
    rise: Option<u32>,
    max_loss: Option<Share>,
    max_rtt: Option<Spanned<Duration>>,
    max_jitter: Option<Spanned<Duration>>,
    window: Option<u32>,
    status: Option<RangeInclusive<u16>>,
    body: Option<String>,
    query: Option<String>,
    refused: Option<TcpRefusal>,
}

impl<'a> Probe<'a> {
    /// Reads one, which belongs to an uplink if there is a probe of its group.
    pub(super) fn read(section: Section<'a>, group: Option<&Probe<'a>>) -> Self {
        let kind = match section.get("kind") {
            Some(_) => section.choice("kind", &KINDS),
            None => group.map_or(Some(Kind::Icmp), |group| group.kind),
        };
        for (key, of, span) in kind.map(|kind| section.of_other_kinds(kind.word())).unwrap_or_default() {
            section.findings.error(
                &span,
                format!("`{key}` means nothing for this kind of probe"),
                format!("it is for kind = \"{of}\""),
            );
        }
        let duration = |key: &str, example| {
            let span = section.get(key).map(Spanned::span)?;
            Some(Spanned::new(span, section.duration(key, example)?))
        };
        let count = |key| section.integer(key).map(Spanned::into_inner);
        Self {
            kind,
            targets: kind.and_then(|kind| target::read(&section, kind, MAX_TARGETS)),
            required: section.integer("required"),
            interval: duration("interval", "1s"),
            timeout: duration("timeout", "1s"),
            fall: count("fall"),
            rise: count("rise"),
            max_loss: group::max_loss(&section),
            max_rtt: duration("max-rtt", "400ms"),
            max_jitter: duration("max-jitter", "100ms"),
            window: count("window"),
            status: status(&section),
            body: text(&section, "body", "\"it works\"", MAX_BODY_LEN),
            query: text(&section, "query", "\"example.com\"", MAX_QUERY_LEN),
            refused: section.choice("tcp-refused", &REFUSALS),
            section,
        }
    }

    /// What it says about what is sent is no use for a probe of another kind.
    fn of_kind(&self, kind: Kind) -> Option<&Self> {
        (self.kind == Some(kind)).then_some(self)
    }
}

/// One uplink's probe: its own words, else its group's, else the defaults. Nothing where something is missing, which is
/// reported then.
pub(super) fn resolve(
    group: Option<&Probe<'_>>,
    own: Option<&Probe<'_>>,
    uplink: &Section<'_>,
    gateways: usize,
) -> Option<ProbeConfig> {
    let kind = own.or(group).map_or(Some(Kind::Icmp), |probe| probe.kind)?;
    let said = [own, group];
    let of_kind = [own, group.and_then(|group| group.of_kind(kind))];
    let findings = uplink.findings;

    let targets = first(of_kind, |probe| probe.targets.as_ref());
    if targets.is_none() && kind != Kind::Arp {
        if uplink.excused("targets") || uplink.excused("probe") {
            return None;
        }
        let place = if own.is_some_and(|own| own.section.get("kind").is_some()) { own } else { group };
        let span = place.map_or(uplink.span(), |probe| probe.section.span());
        findings.error(
            &span,
            format!("nothing says whom to probe (kind = \"{}\")", kind.word()),
            format!("add a line such as targets = {} to [uplinks.probe]", target::example(kind)),
        );
        return None;
    }
    // Without targets it is the gateway of each family.
    let count = targets.map_or(0, |targets| targets.entries);
    let count = if count == 0 { gateways.max(1) } else { count };

    let required = first(of_kind, |probe| probe.required.as_ref());
    if let Some(required) = required
        && *required.get_ref() as usize > count
    {
        too_many_required(required, count, targets, findings);
    }
    let interval = first(said, |probe| probe.interval.as_ref());
    let interval_is = interval.map_or(DEFAULT_INTERVAL, |interval| *interval.get_ref());
    let timeout = first(said, |probe| probe.timeout.as_ref());
    if let Some(timeout) = timeout
        && *timeout.get_ref() > interval_is
    {
        findings.error(
            &timeout.span(),
            format!(
                "`timeout` is {}, and `interval` only {}",
                humantime::format_duration(*timeout.get_ref()),
                humantime::format_duration(interval_is)
            ),
            "one round must end before the next begins: make the timeout shorter or the interval longer",
        );
    }
    let timeout_is = timeout.map_or(DEFAULT_TIMEOUT.min(interval_is), |timeout| *timeout.get_ref());
    let max_rtt = first(said, |probe| probe.max_rtt.as_ref());
    let max_jitter = first(said, |probe| probe.max_jitter.as_ref());
    for (key, limit) in [("max-rtt", max_rtt), ("max-jitter", max_jitter)] {
        if let Some(limit) = limit.filter(|limit| *limit.get_ref() > timeout_is) {
            let [limit_is, timeout_is] = [*limit.get_ref(), timeout_is].map(humantime::format_duration);
            findings.warning(
                &limit.span(),
                format!(
                    "`{key}` is {limit_is}, and `timeout` only {timeout_is}: no answer that counts is ever so late"
                ),
                format!("what comes after the timeout is lost: make `{key}` smaller, or `timeout` longer"),
            );
        }
    }
    Some(ProbeConfig {
        kind: probe_kind(kind, targets.map_or(&[], |targets| &targets.list), of_kind),
        required: required.map_or(DEFAULT_REQUIRED, |required| *required.get_ref()) as usize,
        interval: interval_is,
        timeout: timeout_is,
        fall: first(said, |probe| probe.fall).unwrap_or(DEFAULT_FALL),
        rise: first(said, |probe| probe.rise).unwrap_or(DEFAULT_RISE),
        max_loss: first(said, |probe| probe.max_loss),
        max_rtt: max_rtt.map(|limit| *limit.get_ref()),
        max_jitter: max_jitter.map(|limit| *limit.get_ref()),
        window: first(said, |probe| probe.window).unwrap_or(DEFAULT_WINDOW) as usize,
    })
}

/// What the first that says something says.
fn first<'p, 'a: 'p, T>(probes: [Option<&'p Probe<'a>>; 2], said: impl Fn(&'p Probe<'a>) -> Option<T>) -> Option<T> {
    probes.into_iter().flatten().find_map(said)
}

fn probe_kind(kind: Kind, targets: &[target::Target], probes: [Option<&Probe<'_>>; 2]) -> ProbeKind {
    let addresses = || targets.iter().map(|target| target.at.ip()).collect();
    let sockets = || targets.iter().map(|target| target.at).collect();
    match kind {
        Kind::Icmp => ProbeKind::Icmp { targets: addresses() },
        Kind::Arp => ProbeKind::Arp { targets: addresses() },
        Kind::Tcp => ProbeKind::Tcp {
            targets: sockets(),
            refused: first(probes, |probe| probe.refused).unwrap_or(TcpRefusal::Up),
        },
        Kind::Dns => ProbeKind::Dns {
            targets: sockets(),
            query: first(probes, |probe| probe.query.clone()).unwrap_or_else(|| DEFAULT_QUERY.to_owned()),
        },
        Kind::Http => ProbeKind::Http {
            targets: targets
                .iter()
                .filter_map(|target| {
                    let url = target.url.as_ref()?;
                    Some(HttpTarget {
                        tls: url.tls,
                        host: url.host.clone(),
                        address: target.at,
                        path: url.path.clone(),
                    })
                })
                .collect(),
            status: first(probes, |probe| probe.status.clone()).unwrap_or(DEFAULT_STATUS),
            body: first(probes, |probe| probe.body.clone()),
        },
    }
}

fn too_many_required(required: &Spanned<u32>, count: usize, targets: Option<&Targets>, findings: &Findings<'_>) {
    // The later of the two is the one that was written with the other in view.
    let span = match targets {
        Some(targets) if targets.span.start > required.span().start => targets.span.clone(),
        _ => required.span(),
    };
    findings.error(
        &span,
        format!(
            "`required` is {}, but there {} only {count} target{}",
            required.get_ref(),
            if count == 1 { "is" } else { "are" },
            if count == 1 { "" } else { "s" }
        ),
        "no more can answer than are asked: name more targets, or require fewer",
    );
}

fn status(section: &Section<'_>) -> Option<RangeInclusive<u16>> {
    let value = section.get("status")?;
    let help = "write status = 200 or status = \"200-399\"; codes go from 100 to 599";
    let message = match numbers(value.get_ref()) {
        Numbers::Range(first, last) if (100..=599).contains(&first) && (first..=599).contains(&last) => {
            return Some(first as u16..=last as u16);
        }
        Numbers::Range(..) => "`status` is out of range",
        Numbers::Neither => "`status` is neither a code nor a range of codes",
        Numbers::WrongType => {
            section.wrong_type("status", value, "a number, or a range in quotes", "200");
            return None;
        }
    };
    section.findings.error(&value.span(), message, help);
    None
}

/// A text that is not empty.
fn text(section: &Section<'_>, key: &str, example: &str, max_len: usize) -> Option<String> {
    let text = section.string(key, example)?;
    if text.get_ref().is_empty() || text.get_ref().len() > max_len {
        section.findings.error(
            &text.span(),
            format!("`{key}` has {} bytes", text.get_ref().len()),
            format!("it has 1 to {max_len}"),
        );
        return None;
    }
    Some(text.into_inner())
}
