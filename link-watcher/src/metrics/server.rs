//! HTTP for whoever scrapes: `GET /metrics`, and nothing else.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{Request, render};

/// Connections served at one time; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 16;
/// Longest header of a request, bytes; hyper's least is 8,192.
const MAX_HEADER: usize = 16 * 1024;
/// How long a client may take to send its header.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may last: each is for one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// How long the core may take to answer.
const CORE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after an accept or a bind that failed, so that a lack of descriptors or a busy port does not make a busy loop.
const PAUSE: Duration = Duration::from_secs(1);
/// `exposition_formats.md`: the type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {error}{}", remedy(.error))]
pub struct BindError {
    /// The address.
    address: SocketAddr,
    /// What the kernel said.
    error: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; `ss -ltnp` says who listens there, `listen` in [metrics] chooses another port",
        io::ErrorKind::AddrNotAvailable => "; `listen` in [metrics] must be an address of this machine",
        _ => "",
    }
}

/// Where metrics are served.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    ///
    /// Where the port is taken, or the address is not this machine's.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Self { listener })
        });
        bound.map_err(|error| BindError { address, error })
    }

    /// The address, with the port that the kernel chose for port 0.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves on `first`, and from each change on at the address that is watched, until nobody can change it any more.
    /// An address that cannot be had is tried again, and said once.
    ///
    /// # Errors
    ///
    /// Where a socket cannot be registered with the runtime.
    pub async fn run<T>(
        first: Option<Self>,
        mut addresses: watch::Receiver<Option<SocketAddr>>,
        requests: mpsc::Sender<T>,
    ) -> io::Result<()>
    where
        T: From<Request> + Send + 'static,
    {
        let mut listener = first;
        loop {
            if let Some(listener) = listener.take() {
                tokio::select! {
                    served = listener.serve(&requests) => served?,
                    changed = addresses.changed() => if changed.is_err() { return Ok(()) },
                }
            } else if addresses.changed().await.is_err() {
                return Ok(());
            }
            let wanted = *addresses.borrow_and_update();
            let Some(address) = wanted else {
                info!("metrics are not served any more");
                continue;
            };
            tokio::select! {
                bound = Self::bind_at_last(address) => listener = Some(bound),
                // What is wanted now is seen at the next turn.
                changed = addresses.changed() => match changed {
                    Ok(()) => addresses.mark_changed(),
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    async fn bind_at_last(address: SocketAddr) -> Self {
        let mut said = false;
        loop {
            match Self::bind(address) {
                Ok(listener) => {
                    info!("metrics are served on {address}");
                    return listener;
                }
                Err(error) if !said => warn!("{error}"),
                Err(_) => {}
            }
            said = true;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Serves connections until it is dropped, and they with it.
    async fn serve<T: From<Request> + Send + 'static>(self, requests: &mpsc::Sender<T>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!("metrics: cannot accept a connection: {error}");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
                // How a connection ended is nobody's business; this only keeps the set small.
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let requests = requests.clone();
            connections.spawn(async move {
                let _place = place;
                if let Ok(Err(error)) = timeout(CONNECTION_LIMIT, answer_one(stream, requests)).await {
                    debug!("metrics: {error}");
                }
            });
        }
    }
}

/// Answers one request; whoever scrapes again connects again.
async fn answer_one<T: From<Request>>(stream: TcpStream, requests: mpsc::Sender<T>) -> hyper::Result<()> {
    let requests = &requests;
    let service = service_fn(move |request: hyper::Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), requests).await)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer<T: From<Request>>(method: &Method, path: &str, requests: &mpsc::Sender<T>) -> Response<Full<Bytes>> {
    if path != "/metrics" {
        return say(StatusCode::NOT_FOUND, "there is nothing here; the metrics are at /metrics\n");
    }
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refused = say(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n");
        refused.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let (reply, answer) = oneshot::channel();
    let asked = async {
        // A core that has ended does not answer either: both are one to whoever scrapes.
        requests.send(Request(reply).into()).await.ok()?;
        answer.await.ok()
    };
    match timeout(CORE_LIMIT, asked).await {
        Ok(Some(scrape)) => say(StatusCode::OK, render(&scrape)),
        Ok(None) => say(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n"),
        Err(_) => say(StatusCode::SERVICE_UNAVAILABLE, "the daemon did not answer in time; its log says why\n"),
    }
}

fn say(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    response
}
