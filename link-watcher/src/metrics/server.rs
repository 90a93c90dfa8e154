//! HTTP for whoever scrapes or looks: read-only, one request a connection, a bounded number of connections.
//!
//! No connection waits for another: where there are too many, one that has not asked anything yet is closed, the oldest first.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{Either, Full};
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Request, Scrape,
    connections::{Asked, Connections},
    page, render,
    stream::{self, Places, Stream},
};
use crate::{control::History, notify::Tally, statistics::Statistics};

/// Longest header of a request, bytes; hyper's least is 8,192.
const MAX_HEADER: usize = 16 * 1024;
/// How long a client may take to send its header.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may last: each is for one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// How long the core may take to answer.
const CORE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, so that a lack of descriptors does not make a busy loop; and the first after a bind that
/// failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after a bind that failed.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// `exposition_formats.md`: the type of the text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
const JSON_TYPE: &str = "application/json";
/// What there is, for who asks for something else.
const PATHS: &str = "there is nothing here; the status page is at /, the metrics are at /metrics; and there are /status.json, \
                     /events.json, /history.json, /stream and /-/healthy\n";

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

    /// Serves on `first`, or where the address says that is watched, and from each change on at the new one, until nobody can
    /// change it any more. An address that cannot be had is tried again, ever more slowly, and said once.
    ///
    /// # Errors
    ///
    /// Where a socket cannot be registered with the runtime.
    pub async fn run<T>(
        first: Option<Self>,
        mut addresses: watch::Receiver<Option<SocketAddr>>,
        faces: Faces<T>,
    ) -> io::Result<()>
    where
        T: From<Request> + Send + 'static,
    {
        let mut first = first;
        let mut served = false;
        let faces = Arc::new(faces);
        loop {
            let wanted = *addresses.borrow_and_update();
            if wanted.is_none() && served {
                info!("metrics are not served any more");
            }
            served = wanted.is_some();
            let first = first.take();
            let serving = async {
                let listener = match (first, wanted) {
                    (Some(listener), _) => listener,
                    (None, Some(address)) => Self::bind_at_last(address).await,
                    (None, None) => std::future::pending().await,
                };
                listener.serve(&faces).await
            };
            tokio::select! {
                ended = serving => ended?,
                changed = addresses.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    async fn bind_at_last(address: SocketAddr) -> Self {
        let mut pause = PAUSE;
        loop {
            match Self::bind(address) {
                Ok(listener) => {
                    info!("metrics are served on {address}");
                    return listener;
                }
                Err(error) if pause == PAUSE => warn!("{error}; all else goes on, and this is tried again"),
                Err(error) => debug!("{error}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Serves connections until it is dropped, and they with it.
    async fn serve<T: From<Request> + Send + 'static>(self, faces: &Arc<Faces<T>>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let mut connections = Connections::default();
        let places = Places::default();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!("metrics: cannot accept a connection: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (faces, places) = (Arc::clone(faces), places.clone());
            connections.add(|asked| async move {
                if let Ok(Err(error)) = timeout(CONNECTION_LIMIT, answer_one(stream, faces, places, asked)).await {
                    debug!("metrics: {error}");
                }
            });
        }
    }
}

/// What the listener shows.
#[derive(Debug)]
pub struct Faces<T> {
    /// Where the core is asked how it stands.
    pub requests: mpsc::Sender<T>,
    /// What has happened.
    pub history: Arc<History>,
    /// What became of notifications.
    pub tally: Arc<Tally>,
    /// How links were.
    pub statistics: Arc<Statistics>,
}

/// Answers one request; whoever asks again connects again.
async fn answer_one<T: From<Request>>(
    stream: TcpStream,
    faces: Arc<Faces<T>>,
    places: Places,
    asked: Asked,
) -> hyper::Result<()> {
    let (faces, places, asked) = (&faces, &places, &asked);
    let service = service_fn(move |request: hyper::Request<Incoming>| async move {
        asked.note();
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), faces, places).await)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Whole, or as it comes.
type Body = Either<Full<Bytes>, Stream>;

async fn answer<T: From<Request>>(method: &Method, path: &str, faces: &Faces<T>, places: &Places) -> Response<Body> {
    if !["/", "/metrics", "/status.json", "/events.json", "/history.json", "/stream", "/-/healthy"].contains(&path) {
        return say(StatusCode::NOT_FOUND, TEXT_TYPE, PATHS);
    }
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refused = say(StatusCode::METHOD_NOT_ALLOWED, TEXT_TYPE, "everything here is read with GET\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/stream" if method == Method::HEAD => return say(StatusCode::OK, stream::TYPE, ""),
        "/stream" => {
            return match Stream::open(&faces.history, places) {
                Some(stream) => with(StatusCode::OK, stream::TYPE, Either::Right(stream)),
                None => say(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, stream::FULL),
            };
        }
        "/" => {
            let mut response = say(StatusCode::OK, "text/html; charset=utf-8", page::HTML.as_str());
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, page::POLICY.clone());
            return response;
        }
        "/events.json" => {
            let recent = faces.history.recent();
            return json(&recent.iter().map(|event| &**event).collect::<Vec<_>>(), serde_json::to_string_pretty);
        }
        "/history.json" => return json(&faces.statistics.last_day(), serde_json::to_string),
        _ => {}
    }
    let scrape = match scrape(faces).await {
        Ok(scrape) => scrape,
        Err(why) => return say(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, why),
    };
    match path {
        "/metrics" => say(StatusCode::OK, METRICS_TYPE, render(&scrape, &faces.tally.all())),
        "/status.json" => json(&scrape.snapshot, serde_json::to_string_pretty),
        _ => health(&scrape),
    }
}

/// 200 where every group has a usable link.
fn health(scrape: &Scrape) -> Response<Body> {
    let groups = scrape.snapshot.groups.iter();
    let cut_off = groups.filter(|group| !group.links.iter().any(|link| link.usable));
    let text: String = cut_off.map(|group| format!("{} has no usable link\n", group.name)).collect();
    if text.is_empty() {
        return say(StatusCode::OK, TEXT_TYPE, "healthy\n");
    }
    say(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, text)
}

async fn scrape<T: From<Request>>(faces: &Faces<T>) -> Result<Scrape, &'static str> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        // A core that has ended does not answer either: both are one to whoever asks.
        faces.requests.send(Request(reply).into()).await.ok()?;
        answer.await.ok()
    };
    match timeout(CORE_LIMIT, asked).await {
        Ok(Some(mut scrape)) => {
            faces.statistics.fill(&mut scrape.snapshot);
            scrape.runs = faces.statistics.runs();
            Ok(scrape)
        }
        Ok(None) => Err("the daemon is stopping\n"),
        Err(_) => Err("the daemon did not answer in time; its log says why\n"),
    }
}

fn json<V: Serialize>(value: &V, write: fn(&V) -> serde_json::Result<String>) -> Response<Body> {
    match write(value) {
        Ok(text) => say(StatusCode::OK, JSON_TYPE, text + "\n"),
        Err(error) => say(StatusCode::INTERNAL_SERVER_ERROR, TEXT_TYPE, format!("{error}\n")),
    }
}

fn say(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    with(status, content_type, Either::Left(Full::new(text.into())))
}

fn with(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
