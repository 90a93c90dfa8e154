//! A message as an HTTP request (RFC 9110). No redirection is followed: where messages go is what the configuration says.

use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use std::time::{Duration, SystemTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use url::{Position, Url};

use super::{
    delivery::{Delivery, DeliveryError, one_line},
    message::Message,
    template::{self, Body},
};
use crate::{config::WebhookConfig, error::chain, tls::server_name};

/// Has the HMAC-SHA256 (RFC 2104) of the body, in hexadecimal digits.
const SIGNATURE: &str = "X-Link-Watcher-Signature";
/// How long one address of several may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is read, bytes.
const MAX_ANSWER: usize = 4096;
/// Most bytes of an answer that wait to be parsed; also bounds its header.
const MAX_BUFFER: usize = 32 * 1024;

pub(super) async fn send(
    delivery: &Delivery,
    config: &WebhookConfig,
    message: &Message,
) -> Result<String, DeliveryError> {
    // The path is not shown: whoever knows it may use it.
    let shown = config.url[..Position::BeforePath].to_owned();
    let Some(body) = template::body(config.template, message, SystemTime::now()) else {
        return Ok("there is nothing to tell it of these events".to_owned());
    };
    let request = request(config, body)?;
    let unreached = |why: String| DeliveryError::unreached(format!("{shown}: {why}"));
    let host = config.url.host_str().unwrap_or_default();
    let stream = connect(&config.url).await.map_err(unreached)?;
    let response = if config.url.scheme() == "https" {
        let tls = async {
            let connector = delivery.tls.connector().await?;
            connector.connect(server_name(host)?, stream).await
        };
        exchange(tls.await.map_err(|error| unreached(format!("TLS: {error}")))?, request).await
    } else {
        exchange(stream, request).await
    };
    let (status, answer, location) = response.map_err(unreached)?;
    let said = if answer.is_empty() { String::new() } else { format!(": {answer}") };
    match status {
        _ if status.is_success() => Ok(format!("{shown} answered {status}{said}")),
        _ if status.is_redirection() => Err(DeliveryError::refused(format!(
            "{shown} answered {status}: it is elsewhere{location}, and no redirection is followed; correct `url`"
        ))),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(DeliveryError::unreached(format!("{shown} answered {status}{said}")))
        }
        _ if status.is_client_error() => Err(DeliveryError::refused(format!("{shown} answered {status}{said}"))),
        _ => Err(DeliveryError::unreached(format!("{shown} answered {status}{said}"))),
    }
}

fn request(config: &WebhookConfig, body: Body) -> Result<Request<Full<Bytes>>, DeliveryError> {
    let url = &config.url;
    let mut request = Request::post(&url[Position::BeforePath..Position::AfterQuery])
        .header(header::HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(header::USER_AGENT, concat!("link-watcher/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, body.content_type)
        .header(header::CONNECTION, "close");
    for (name, value) in &body.headers {
        request = request.header(*name, value.as_bytes());
    }
    if let Some(secret) = &config.secret {
        let secret = secret.read().map_err(|error| DeliveryError::unreached(format!("{error}; {}", error.remedy())))?;
        request = request.header(SIGNATURE, format!("sha256={}", signature(secret.as_bytes(), body.text.as_bytes())));
    }
    request
        .body(Full::new(Bytes::from(body.text)))
        .map_err(|error| DeliveryError::refused(format!("writing the request: {error}")))
}

/// HMAC-SHA256 in hexadecimal digits.
fn signature(secret: &[u8], body: &[u8]) -> String {
    // HMAC takes keys of every length (RFC 2104, section 2), so this cannot fail.
    #[allow(clippy::unwrap_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// To the first address that answers.
async fn connect(url: &Url) -> Result<TcpStream, String> {
    let host = url.host_str().unwrap_or_default();
    // Both schemes have a usual port.
    let port = url.port_or_known_default().unwrap_or(443);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = lookup_host((bare, port)).await.map_err(|error| format!("no address: {error}"))?;
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address}: no answer within {} s", CONNECT_LIMIT.as_secs()),
        }
    }
    Err(why)
}

/// Status, the beginning of the answer, and where else it is.
async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, String, String), String> {
    let failed = |error: hyper::Error| format!("HTTP: {}", chain(&error));
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with this function, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response: Response<Incoming> = sender.send_request(request).await.map_err(failed)?;
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let location = location.map_or_else(String::new, |location| format!(" ({})", one_line(location)));
    let status = response.status();
    // What an answer says beside its status is for people; that it is too long is no fault.
    let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let answer =
        answer.map_or_else(|_| String::new(), |answer| String::from_utf8_lossy(&answer.to_bytes()).into_owned());
    Ok((status, one_line(&answer), location))
}

#[cfg(test)]
mod tests;
