//! `[metrics]`: where metrics are served.

use std::net::SocketAddr;

use super::{
    reference::{Key, Otherwise, Schema, Takes},
    section::Section,
};

/// `[metrics]`.
pub(super) static SCHEMA: Schema = Schema::new(
    "[metrics]",
    "Metrics for Prometheus (`/metrics`) and a status page (`/`); off without this section.",
    &[Key::new(
        "listen",
        Takes::Text("address and port"),
        Otherwise::Demanded,
        "where they are served; whoever reaches it can read it",
    )],
);
const EXAMPLE: &str = "\"127.0.0.1:9746\"";

/// `[metrics]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Address and port, which is not 0.
    pub listen: SocketAddr,
}

/// Reads the section; nothing where there is none, or where it is wrong.
pub(super) fn read(root: &Section<'_>) -> Option<MetricsConfig> {
    let section = root.section("metrics", &SCHEMA)?;
    if section.get("listen").is_none() {
        section.missing("listen", EXAMPLE);
    }
    let text = section.string("listen", EXAMPLE)?;
    let Ok(listen) = text.get_ref().parse::<SocketAddr>() else {
        section.findings.error(
            &text.span(),
            format!("`listen` is not an address and a port: \"{}\"", text.get_ref()),
            format!("write listen = {EXAMPLE}, or \"[::1]:9746\" for IPv6; names are not looked up"),
        );
        return None;
    };
    if listen.port() == 0 {
        let help = "it goes from 1 to 65535; 9746 is the usual one";
        section.findings.error(&text.span(), "`listen` has port 0, which nobody could find", help);
        return None;
    }
    if !listen.ip().is_loopback() {
        section.findings.warning(
            &text.span(),
            format!("whoever reaches {listen} can read how this router stands: there is no password and no TLS"),
            "listen on 127.0.0.1, or let a firewall say who may come in",
        );
    }
    Some(MetricsConfig { listen })
}
