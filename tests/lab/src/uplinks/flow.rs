//! Connections: many at once, held and asked again, and how they end.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::host::{Host, seen};

/// Connections that are being opened or asked at one time. More would only queue up in the lab's cables.
const AT_ONCE: usize = 64;
/// How often a datagram that gets no answer is sent, evenly spread over the time that it may take.
const DATAGRAM_ATTEMPTS: u32 = 4;

/// What a connection is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection.
    Tcp,
    /// Datagrams from one port to one port.
    Udp,
}

/// Where a connection goes, from where, and for how long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// What it is made of.
    pub transport: Transport,
    /// The source; the kernel's choice if nothing.
    pub source: Option<IpAddr>,
    /// The server.
    pub destination: SocketAddr,
    /// How long opening and each answer may take.
    pub limit: Duration,
}

/// Why a connection is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A packet with RST: whoever uses the connection knows at once.
    Reset,
    /// Nothing came in time: whoever uses the connection waits.
    Silence,
    /// The kernel or a router says that there is no way.
    Unreachable,
    /// Anything else.
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Failure::Reset
            }
            // For datagrams this is ICMP "port unreachable", for TCP a reset in answer to SYN.
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied => Failure::Unreachable,
            io::ErrorKind::TimedOut => Failure::Silence,
            _ => Failure::Other(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Reset => f.write_str("reset"),
            Failure::Silence => f.write_str("no answer"),
            Failure::Unreachable => f.write_str("unreachable"),
            Failure::Other(text) => f.write_str(text),
        }
    }
}

/// An open connection, and the address that its server saw when it was opened.
#[derive(Debug)]
pub struct Flow {
    stream: Stream,
    limit: Duration,
    source: IpAddr,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// Opens a connection and asks once.
    ///
    /// # Errors
    /// Where it does not come about in time.
    pub async fn open(call: Call) -> Result<Flow, Failure> {
        let any = match call.destination {
            SocketAddr::V4(_) => IpAddr::from([0; 4]),
            SocketAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let local = SocketAddr::new(call.source.unwrap_or(any), 0);
        let stream = match call.transport {
            Transport::Tcp => {
                let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                if call.source.is_some() {
                    socket.bind(local)?;
                }
                let stream =
                    timeout(call.limit, socket.connect(call.destination)).await.map_err(|_| Failure::Silence)??;
                stream.set_nodelay(true)?;
                // Closed by a reset: hundreds a second would run out of ports while closed ones wait (RFC 9293, section 3.6).
                stream.set_zero_linger()?;
                Stream::Tcp(stream)
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(local).await?;
                socket.connect(call.destination).await?;
                Stream::Udp(socket)
            }
        };
        let mut flow = Flow { stream, limit: call.limit, source: any };
        flow.source = flow.ask(call.limit).await?;
        Ok(flow)
    }

    /// Asks the server which address it sees now.
    ///
    /// # Errors
    /// Where the answer does not come within `limit`.
    pub async fn ask(&mut self, limit: Duration) -> Result<IpAddr, Failure> {
        let mut answer = [0; 64];
        match &mut self.stream {
            Stream::Tcp(stream) => timeout(limit, async {
                stream.write_all(b"who\n").await?;
                match stream.read(&mut answer).await? {
                    0 => Err(Failure::Reset),
                    len => seen(&answer[..len]).ok_or_else(|| Failure::Other("an answer that is none".to_owned())),
                }
            })
            .await
            .unwrap_or(Err(Failure::Silence)),
            Stream::Udp(socket) => {
                for _ in 0..DATAGRAM_ATTEMPTS {
                    socket.send(b"who").await?;
                    if let Ok(received) = timeout(limit / DATAGRAM_ATTEMPTS, socket.recv(&mut answer)).await {
                        let len = received?;
                        return seen(&answer[..len]).ok_or_else(|| Failure::Other("an answer that is none".to_owned()));
                    }
                }
                Err(Failure::Silence)
            }
        }
    }

    /// The address that the server saw when the connection was opened.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// How long each answer may take, as the call said.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

/// What became of connections that were asked again, by the uplink that they were opened on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    /// Answered, and the server saw the same address as before.
    pub same: usize,
    /// Answered, and the server saw another one: they changed their uplink.
    pub moved: usize,
    /// Reset: whoever used them knew at once.
    pub reset: usize,
    /// Unanswered: whoever uses them waits for a long time.
    pub hung: usize,
    /// Ended otherwise.
    pub other: usize,
}

impl Fate {
    fn note(&mut self, outcome: &Result<IpAddr, Failure>, before: IpAddr) {
        let count = match outcome {
            Ok(source) if *source == before => &mut self.same,
            Ok(_) => &mut self.moved,
            Err(Failure::Reset) => &mut self.reset,
            Err(Failure::Silence) => &mut self.hung,
            Err(_) => &mut self.other,
        };
        *count += 1;
    }

    /// How many there were.
    pub fn total(&self) -> usize {
        self.same + self.moved + self.reset + self.hung + self.other
    }
}

/// Connections that are held open.
#[derive(Debug)]
pub struct Crowd {
    host: Arc<Host>,
    /// Those that were opened; some may have ended since.
    flows: Vec<Flow>,
    /// Why the others could not be opened.
    pub failures: Vec<Failure>,
}

impl Crowd {
    /// Opens `count` connections from a host.
    ///
    /// # Errors
    /// Where the host fails; connections that fail are counted in [`Crowd::failures`].
    pub fn open(host: &Arc<Host>, call: Call, count: usize) -> Result<Crowd> {
        let opened = host.run(side_by_side(vec![(); count], move |()| Flow::open(call)))?;
        let mut crowd = Crowd { host: Arc::clone(host), flows: Vec::new(), failures: Vec::new() };
        for outcome in opened {
            match outcome {
                Ok(flow) => crowd.flows.push(flow),
                Err(failure) => crowd.failures.push(failure),
            }
        }
        Ok(crowd)
    }

    /// How many were opened.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether none was opened.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many were opened from each address, as the servers saw it.
    pub fn by_source(&self) -> BTreeMap<IpAddr, usize> {
        let mut counts = BTreeMap::new();
        for flow in &self.flows {
            *counts.entry(flow.source()).or_default() += 1;
        }
        counts
    }

    /// Asks every connection again; what became of each, by the address that its server saw at first. Connections that
    /// answered are held further, the others are closed and no longer counted.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn recheck(&mut self) -> Result<BTreeMap<IpAddr, Fate>> {
        let flows = std::mem::take(&mut self.flows);
        let asked = self.host.run(side_by_side(flows, |mut flow| async move {
            let outcome = flow.ask(flow.limit()).await;
            (flow, outcome)
        }))?;
        let mut fates: BTreeMap<IpAddr, Fate> = BTreeMap::new();
        for (flow, outcome) in asked {
            fates.entry(flow.source()).or_default().note(&outcome, flow.source());
            if outcome.is_ok() {
                self.flows.push(flow);
            }
        }
        Ok(fates)
    }
}

/// Does the same with many, a bounded number at a time; results in no particular order.
async fn side_by_side<A, T, F>(items: Vec<A>, work: impl Fn(A) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for item in items {
        // The semaphore is never closed, so there always is a permit some time.
        let permit = Arc::clone(&free).acquire_owned().await;
        let one = work(item);
        tasks.spawn(async move {
            let result = one.await;
            drop(permit);
            result
        });
    }
    tasks.join_all().await
}
