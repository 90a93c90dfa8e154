//! Sockets that use one uplink and no other, and what can go wrong with a probe.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream, UdpSocket},
};

use crate::clock;

/// Why a probe has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It could not leave.
    Unsent(String),
    /// It left, and was refused, answered wrongly or not at all.
    Unanswered(String),
}

impl Failure {
    /// With the target's name.
    pub(super) fn about(self, target: &str) -> Self {
        match self {
            Self::Unsent(why) => Self::Unsent(format!("{target}: {why}")),
            Self::Unanswered(why) => Self::Unanswered(format!("{target}: {why}")),
        }
    }
}

/// For `map_err`: the probe could not leave; `what` says what was tried.
pub(super) fn unsent(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Unsent(format!("{what}: {error}"))
}

/// For `map_err`: the probe has left.
pub(super) fn unanswered(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Unanswered(format!("{what}: {error}"))
}

/// Time since `from_ns`.
pub(super) fn since(from_ns: u64) -> Duration {
    Duration::from_nanos(clock::now_ns().saturating_sub(from_ns))
}

/// Random bytes that nobody can guess: an answer that carries them answers this probe.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Unsent(format!("random numbers: {error}")))?;
    Ok(bytes)
}

/// The way of one family through one uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) interface: String,
    /// Our address there; nothing: the kernel chooses.
    pub(super) source: Option<IpAddr>,
    /// Mark of what is sent; 0: none.
    pub(super) mark: u32,
}

impl Way {
    /// A socket that sends through this uplink, and receives only what came in by its interface (`SO_BINDTODEVICE`, which
    /// holds for raw sockets too).
    pub(super) fn open(&self, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = self.open_unbound(domain, kind, protocol)?;
        socket.bind_device(Some(self.interface.as_bytes()))?;
        Ok(socket)
    }

    /// The same for address families that know no `SO_BINDTODEVICE`.
    pub(super) fn open_unbound(&self, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        Ok(socket)
    }

    /// Binds a socket to our address, with a port of the kernel's choice.
    pub(super) fn bind(&self, socket: &Socket) -> io::Result<()> {
        self.source.map_or(Ok(()), |source| socket.bind(&SockAddr::from(SocketAddr::new(source, 0))))
    }

    /// Connects to a server through this uplink.
    pub(super) async fn connect(&self, to: SocketAddr) -> Result<TcpStream, ConnectError> {
        let socket = self.open(Domain::for_address(to), Type::STREAM, Protocol::TCP).map_err(ConnectError::Unsent)?;
        self.bind(&socket).map_err(ConnectError::Unsent)?;
        // Then the kernel keeps what routers say of the connection, and it can be told from what the server says.
        let keep = if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
        };
        keep.map_err(|error| ConnectError::Unsent(error.into()))?;
        let errors = socket.try_clone().map_err(ConnectError::Unsent)?;
        let stream = TcpSocket::from_std_stream(socket.into()).connect(to).await;
        stream.map_err(|error| {
            let from_router = || errors.recv_with_flags(&mut [], libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT).is_ok();
            if error.kind() == io::ErrorKind::ConnectionRefused && !from_router() {
                ConnectError::Reset
            } else {
                ConnectError::Failed(error)
            }
        })
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// Nothing was sent.
    Unsent(io::Error),
    /// The server itself refused it (RFC 9293, section 3.5.2: a reset), not a router on the way (ICMP).
    Reset,
    /// Anything else.
    Failed(io::Error),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unsent(error) => Self::Unsent(format!("opening a TCP socket: {error}")),
            ConnectError::Reset => Self::Unanswered("connecting: the server refuses".to_owned()),
            ConnectError::Failed(error) => Self::Unanswered(format!("connecting: {error}")),
        }
    }
}

/// A socket of datagrams, for this runtime. Whatever their family, the kernel's calls are those of a UDP socket.
pub(super) struct Datagrams(UdpSocket);

impl Datagrams {
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        UdpSocket::from_std(socket.into()).map(Self)
    }

    /// For sending, which never waits: a full queue is an error.
    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    /// Takes the next datagram, as much of it as the buffer holds.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer).await
    }

    /// The same with a function that takes it without waiting.
    pub(super) async fn receive_with<T>(&self, mut take: impl FnMut(&Socket) -> io::Result<T>) -> io::Result<T> {
        self.0.async_io(Interest::READABLE, || take(&self.socket())).await
    }
}
