//! An HTTP or HTTPS request (RFC 9110), to an address that is known: no name is looked up, and no redirection followed.
//!
//! An answer is a status in the range, and the text in the body where one is asked for. HTTPS also wants a certificate that
//! the machine trusts for that host: so a captive portal is no answer.

use std::{ops::RangeInclusive, pin::pin, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::socket::{Failure, Way, since, unanswered};
use crate::{
    clock,
    config::HttpTarget,
    tls::{Tls, server_name},
};

/// How much of a body is looked at, bytes.
const MAX_BODY: usize = 64 * 1024;
/// Most bytes of a response that wait to be parsed; also bounds its header.
const MAX_BUFFER: usize = 32 * 1024;

/// What an answer must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) status: &'a RangeInclusive<u16>,
    pub(super) body: Option<&'a str>,
}

/// Asks; gives the time from the first packet to an answer that is as expected.
pub(super) async fn probe(
    way: &Way,
    target: &HttpTarget,
    expected: Expected<'_>,
    tls: &Tls,
) -> Result<Duration, Failure> {
    let request = request(target)?;
    let unsent = |error| Failure::Unsent(format!("TLS: {error}"));
    // Before anything is sent, so that loading certificates is not taken for a slow uplink.
    let tls = if target.tls {
        Some((tls.connector().await.map_err(unsent)?, server_name(&target.host).map_err(unsent)?))
    } else {
        None
    };
    let sent_ns = clock::now_ns();
    let stream = way.connect(target.address).await?;
    match tls {
        None => exchange(stream, request, expected).await?,
        Some((connector, name)) => {
            let stream = connector.connect(name, stream).await.map_err(unanswered("TLS"))?;
            exchange(stream, request, expected).await?;
        }
    }
    Ok(since(sent_ns))
}

fn request(target: &HttpTarget) -> Result<Request<Empty<Bytes>>, Failure> {
    let usual_port = if target.tls { 443 } else { 80 };
    let port = target.address.port();
    let host = if port == usual_port { target.host.clone() } else { format!("{}:{port}", target.host) };
    Request::get(&target.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("link-watcher/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Failure::Unsent(format!("writing the request: {error}")))
}

async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    request: Request<Empty<Bytes>>,
    expected: Expected<'_>,
) -> Result<(), Failure> {
    let failed = |error: hyper::Error| Failure::Unanswered(format!("HTTP: {error}"));
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with this function, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(failed)?;
    let status: StatusCode = response.status();
    if !expected.status.contains(&status.as_u16()) {
        let (from, to) = expected.status.clone().into_inner();
        return Err(Failure::Unanswered(format!("status {status}, expected {from} to {to}")));
    }
    match expected.body {
        None => Ok(()),
        Some(text) if contains(response.into_body(), text.as_bytes()).await.map_err(failed)? => Ok(()),
        Some(text) => {
            Err(Failure::Unanswered(format!("{text:?} is not in the first {} KiB of the body", MAX_BODY / 1024)))
        }
    }
}

/// Whether the text is in the beginning of a body.
async fn contains(body: Incoming, text: &[u8]) -> Result<bool, hyper::Error> {
    let mut body = pin!(body);
    let mut seen = Vec::new();
    while seen.len() < MAX_BODY
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame?.into_data() else { continue };
        // A match may begin in what came before.
        let from = seen.len().saturating_sub(text.len());
        seen.extend_from_slice(&data[..data.len().min(MAX_BODY - seen.len())]);
        if text.is_empty() || seen[from..].windows(text.len()).any(|window| window == text) {
            return Ok(true);
        }
    }
    Ok(text.is_empty())
}

/// Holds a connection against what it must be within.
#[cfg(feature = "fuzzing")]
pub(super) async fn fuzz(stream: tokio::io::DuplexStream) {
    let target = HttpTarget {
        tls: false,
        host: "example.com".to_owned(),
        address: std::net::SocketAddr::from(([198, 51, 100, 1], 80)),
        path: "/".to_owned(),
    };
    let Ok(request) = request(&target) else { return };
    let expected = Expected { status: &(204..=204), body: Some("yes") };
    // A status of 204 has no body (RFC 9110, section 15.3.5).
    assert!(exchange(stream, request, expected).await.is_err(), "no content has no text in it");
}

#[cfg(test)]
mod tests;
