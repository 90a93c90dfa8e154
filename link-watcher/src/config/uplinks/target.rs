//! Whom a probe asks.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::kind::Kind;
use crate::config::{
    reference::{Key, Otherwise, Schema, Takes},
    section::Section,
};

/// Domain name service (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;
/// A target that is a table.
static TABLE: Schema = Schema::new(
    "a target",
    "",
    &[
        Key::new("url", Takes::Text("URL of http or https"), Otherwise::Demanded, "the page"),
        Key::new("address", Takes::Text("address"), Otherwise::Words("that in the URL"), "where its host is"),
    ],
);

/// One target, with its place.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) span: Range<usize>,
    /// Address and port; port 0 where the kind has none.
    pub(super) at: SocketAddr,
    pub(super) url: Option<Url>,
}

/// `targets` of one probe.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    pub(super) span: Range<usize>,
    /// How many there are in the file, also those that are wrong.
    pub(super) entries: usize,
    /// Those that can be asked.
    pub(super) list: Vec<Target>,
}

/// A target of HTTP, apart from its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) path: String,
}

/// How targets of a kind are written.
pub(super) fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Icmp | Kind::Dns => "[\"9.9.9.9\", \"1.1.1.1\"]",
        Kind::Arp => "[\"192.0.2.1\"]",
        Kind::Tcp => "[\"9.9.9.9:443\", \"1.1.1.1:443\"]",
        Kind::Http => "[{ url = \"https://www.example.com/\", address = \"192.0.2.80\" }]",
    }
}

/// `targets` of a probe, if it says any.
pub(super) fn read(section: &Section<'_>, kind: Kind, max: usize) -> Option<Targets> {
    let value = section.get("targets")?;
    let mut targets = Targets { span: value.span(), entries: 0, list: Vec::new() };
    let DeValue::Array(array) = value.get_ref() else {
        section.wrong_type("targets", value, "a list", example(kind));
        return Some(targets);
    };
    for item in array.iter() {
        targets.entries += 1;
        if targets.entries > max {
            continue;
        }
        let Some(target) = one(section, kind, item) else { continue };
        match targets.list.iter().find(|other| other.at == target.at && other.url == target.url) {
            Some(first) => section.findings.error(
                &target.span,
                format!(
                    "this target stands twice in `targets`, the first time at line {}",
                    section.findings.line_of(&first.span)
                ),
                "leave it out: it is asked once a round",
            ),
            None => targets.list.push(target),
        }
    }
    if targets.entries > max || (targets.entries == 0 && kind != Kind::Arp) {
        section.findings.error(
            &value.span(),
            format!("`targets` has {} entries", targets.entries),
            format!("it has 1 to {max}, such as targets = {}", example(kind)),
        );
    }
    Some(targets)
}

fn one(section: &Section<'_>, kind: Kind, item: &Spanned<DeValue<'_>>) -> Option<Target> {
    match (kind, item.get_ref()) {
        (Kind::Http, DeValue::Table(table)) => http_table(section, item.span(), table),
        (_, DeValue::String(text)) => {
            let text = Spanned::new(item.span(), text.clone().into_owned());
            match kind {
                Kind::Icmp | Kind::Arp => plain(section, text, 0),
                Kind::Dns if text.get_ref().parse::<SocketAddr>().is_err() => plain(section, text, DNS_PORT),
                Kind::Tcp | Kind::Dns => socket(section, &text, kind),
                Kind::Http => http(section, &text, None),
            }
        }
        _ => {
            let wanted = if kind == Kind::Http { "a list of URLs, or of tables" } else { "a list of texts in quotes" };
            section.wrong_type("targets", item, wanted, example(kind));
            None
        }
    }
}

fn plain(section: &Section<'_>, text: Spanned<String>, port: u16) -> Option<Target> {
    let address = section.checked_address("targets", text, "9.9.9.9")?;
    Some(Target { span: address.span(), at: SocketAddr::new(*address.get_ref(), port), url: None })
}

fn socket(section: &Section<'_>, text: &Spanned<String>, kind: Kind) -> Option<Target> {
    let Ok(at) = text.get_ref().parse::<SocketAddr>() else {
        let help = match text.get_ref().parse::<IpAddr>() {
            Ok(address) => format!("add the port: \"{}\"", SocketAddr::new(address, 443)),
            Err(_) => format!("write targets = {}; names are not looked up", example(kind)),
        };
        section.findings.error(&text.span(), format!("not an address and a port: \"{}\"", text.get_ref()), help);
        return None;
    };
    let address = Spanned::new(text.span(), at.ip().to_string());
    let address = section.checked_address("targets", address, "9.9.9.9")?;
    if at.port() == 0 {
        section.findings.error(&text.span(), "there is no port 0", "ports go from 1 to 65535");
        return None;
    }
    Some(Target { span: text.span(), at: SocketAddr::new(*address.get_ref(), at.port()), url: None })
}

fn http_table(section: &Section<'_>, span: Range<usize>, table: &DeTable<'_>) -> Option<Target> {
    let target = Section::new(&TABLE, span, table, section.findings);
    let url = target.string("url", "\"https://www.example.com/\"");
    if target.get("url").is_none() {
        target.missing("url", "\"https://www.example.com/\"");
    }
    let address = target.address("address", "192.0.2.80");
    if address.is_none() && target.get("address").is_some() {
        return None;
    }
    http(section, &url?, address.map(Spanned::into_inner))
}

fn http(section: &Section<'_>, text: &Spanned<String>, address: Option<IpAddr>) -> Option<Target> {
    let wrong = |message: String, help: &str| {
        section.findings.error(&text.span(), message, help);
        None
    };
    let url = text.get_ref();
    let help = "write a URL such as \"https://192.0.2.80/\" or \"http://192.0.2.80:8080/health\"";
    let uri: http::Uri = match url.parse() {
        Ok(uri) => uri,
        Err(error) => return wrong(format!("not a URL: \"{url}\": {error}"), help),
    };
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return wrong(format!("not a URL of http or https: \"{url}\""), help),
    };
    let (Some(authority), Some(host)) = (uri.authority(), uri.host().filter(|host| !host.is_empty())) else {
        return wrong(format!("not a URL with a host: \"{url}\""), help);
    };
    if authority.as_str().contains('@') {
        return wrong(
            format!("the URL has a user in it: \"{url}\""),
            "a probe does not log in: name a page for everybody",
        );
    }
    let port = match (uri.port_u16(), authority.as_str().len() > host.len()) {
        (Some(0), _) | (None, true) => return wrong(format!("not a port: \"{url}\""), "ports go from 1 to 65535"),
        (Some(port), _) => port,
        (None, false) if tls => 443,
        (None, false) => 80,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let in_url = host.parse::<IpAddr>().ok();
    let address = match (in_url, address) {
        (_, Some(address)) => address,
        (Some(address), None) => {
            let address = Spanned::new(text.span(), address.to_string());
            section.checked_address("targets", address, "192.0.2.80")?.into_inner()
        }
        (None, None) => {
            return wrong(
                format!("the host of this URL is a name, and names are not looked up: \"{host}\""),
                &format!("say where it is: {{ url = \"{url}\", address = \"192.0.2.80\" }}"),
            );
        }
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let url = Url { tls, host: host.to_owned(), path };
    Some(Target { span: text.span(), at: SocketAddr::new(address, port), url: Some(url) })
}
