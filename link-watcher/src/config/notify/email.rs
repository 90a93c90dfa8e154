//! `kind = "email"`.

use std::{net::IpAddr, path::Path};

use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use toml::Spanned;
use url::{Host, Url};

use crate::config::{Severity, secret::SecretFile, section::Section};

const SMTP_EXAMPLE: &str = "\"smtps://user@mail.example.com\"";
const FROM_EXAMPLE: &str = "\"router@example.com\"";
const TO_EXAMPLE: &str = "[\"noc@example.com\"]";
/// Whether TLS is demanded.
pub(super) const TLS: [(&str, bool); 2] = [("required", true), ("none", false)];
/// Most recipients.
const MAX_RECIPIENTS: usize = 32;
// Submission over TLS (RFC 8314), with STARTTLS (RFC 6409), and relay (RFC 5321).
const SMTPS_PORT: u16 = 465;
const SUBMISSION_PORT: u16 = 587;
const SMTP_PORT: u16 = 25;

/// Mail over SMTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailConfig {
    /// Sender.
    pub from: Mailbox,
    /// Recipients, at least one.
    pub to: Vec<Mailbox>,
    /// The server that takes it.
    pub server: SmtpServer,
    /// Who we are to the server, and where our password is.
    pub login: Option<(String, SecretFile)>,
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpServer {
    /// Name or address; one of IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is kept private.
    pub tls: SmtpTls,
}

/// How a connection to a mail server is kept private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// TLS from its first byte.
    Implicit,
    /// By STARTTLS, or no mail is sent.
    StartTls,
    /// Not at all.
    None,
}

pub(super) fn read(section: &Section<'_>, directory: &Path, absent: Severity) -> Option<EmailConfig> {
    for (key, example) in [("from", FROM_EXAMPLE), ("to", TO_EXAMPLE), ("smtp", SMTP_EXAMPLE)] {
        if section.get(key).is_none() {
            section.missing(key, example);
        }
    }
    let from = section.string("from", FROM_EXAMPLE).and_then(|from| mailbox(section, "from", &from));
    let to = section.strings("to", TO_EXAMPLE);
    if let Some(value) = section.get("to")
        && (section.is_empty("to") || to.len() > MAX_RECIPIENTS)
    {
        let help = format!("name 1 to {MAX_RECIPIENTS}; more are reached through a list of the mail server's");
        section.findings.error(&value.span(), format!("`to` has {} recipients", to.len()), help);
    }
    let to = to.iter().filter_map(|to| mailbox(section, "to", to)).collect();
    let password = SecretFile::of(section, "password-file", directory, absent);
    let tls = section.choice("tls", &TLS);
    let text = section.string("smtp", SMTP_EXAMPLE)?;
    let (server, user) = server(section, &text, tls)?;
    let wrong = |message: &str, help: &str| section.findings.error(&text.span(), message, help);
    let login = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (Some(_), None) if section.get("password-file").is_none() => {
            section.missing("password-file", "\"/etc/link-watcher/smtp.password\"");
            None
        }
        (None, Some(_)) => {
            let help = format!("write the user before the server, such as smtp = {SMTP_EXAMPLE}");
            wrong("there is a `password-file`, but `smtp` names no user", &help);
            None
        }
        _ => None,
    };
    if login.is_some() && server.tls == SmtpTls::None && !is_loopback(&server.host) {
        wrong("the password would go over the network for all to read", "leave out tls = \"none\"");
    }
    Some(EmailConfig { from: from?, to, server, login })
}

/// A server and the user there, from a URL.
fn server(section: &Section<'_>, text: &Spanned<String>, tls: Option<bool>) -> Option<(SmtpServer, Option<String>)> {
    let wrong = |message: String, help: &str| section.findings.error(&text.span(), message, help);
    let url = match Url::parse(text.get_ref()) {
        Ok(url) if matches!(url.scheme(), "smtp" | "smtps") => url,
        // Whatever stands in it, it is not repeated: it may hold a password.
        _ => {
            let help = format!("write smtp = {SMTP_EXAMPLE}; smtp:// is for STARTTLS");
            wrong("`smtp` is not the URL of a mail server".to_owned(), &help);
            return None;
        }
    };
    if url.password().is_some() {
        wrong("`smtp` has a password in it".to_owned(), "write it to a file, and name that with `password-file`");
        return None;
    }
    // Schemes that `url` does not know have hosts without any check.
    let host = url.host_str().filter(|host| !host.is_empty());
    let Some(host) = host.and_then(|host| Host::parse(host).ok()) else {
        wrong("`smtp` names no server".to_owned(), &format!("write smtp = {SMTP_EXAMPLE}"));
        return None;
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        wrong("`smtp` has something behind the server".to_owned(), "leave out what follows the server and its port");
    }
    let host = match host {
        Host::Domain(name) => name,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let tls = match (url.scheme(), tls) {
        ("smtps", Some(false)) => {
            wrong("smtps:// is TLS, and tls = \"none\" is none".to_owned(), "write smtp://, or leave out `tls`");
            SmtpTls::Implicit
        }
        ("smtps", _) => SmtpTls::Implicit,
        (_, None) if is_loopback(&host) => SmtpTls::None,
        (_, Some(false)) => SmtpTls::None,
        _ => SmtpTls::StartTls,
    };
    let usual_port = match tls {
        SmtpTls::Implicit => SMTPS_PORT,
        SmtpTls::StartTls => SUBMISSION_PORT,
        SmtpTls::None => SMTP_PORT,
    };
    let port = url.port().unwrap_or(usual_port);
    let user = percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
    Some((SmtpServer { host, port, tls }, Some(user).filter(|user| !user.is_empty())))
}

/// What never leaves this machine needs no TLS.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn mailbox(section: &Section<'_>, key: &str, text: &Spanned<String>) -> Option<Mailbox> {
    let mailbox = text.get_ref().parse::<Mailbox>().ok();
    if mailbox.is_none() {
        section.findings.error(
            &text.span(),
            format!("`{key}` has \"{}\", which is no mail address", text.get_ref()),
            "write \"noc@example.com\", or \"NOC <noc@example.com>\"",
        );
    }
    mailbox
}
