//! The daemon's end of the control socket: who is let in.

mod file;
mod readers;
mod serve;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        net::UnixListener as StdListener,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, chmodat, chownat};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

pub use self::file::BindError;
use self::{
    file::{SocketFile, remove_stale},
    readers::{MAX_READERS, Readers},
    serve::{serve, to_line},
};
use super::{History, Order, Reply};
use crate::{linger::until_released, statistics::Statistics};

/// Clients at one time.
const MAX_CLIENTS: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// Pause after an accept that failed, so that a lack of file descriptors does not make a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open control socket. Its file goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: StdListener,
    file: SocketFile,
}

impl Server {
    /// Opens the socket with mode 0600, and its directory with 0755 where there is none. What a dead daemon left behind
    /// is replaced.
    ///
    /// # Errors
    ///
    /// Where somebody answers there, or something else is in its place; the file system's.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |error: io::Error| BindError::Io { path: path.to_owned(), error };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        until_released(|| remove_stale(path), |error| matches!(error, BindError::Live(_)))?;
        let address = SockAddr::unix(path).map_err(failed)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        // The mode of the socket is that of its file (unix_bind in the kernel's net/unix/af_unix.c): set before it is
        // bound, nobody ever finds it open to others.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
        socket.bind(&address).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Self { listener: StdListener::from(socket), file: SocketFile { path: path.to_owned(), inode } })
    }

    /// Lets the members of a group ask; they may order nothing.
    ///
    /// # Errors
    ///
    /// The file system's; without `CAP_CHOWN`, where whoever runs this is no member. The socket stays its owner's then.
    pub fn admit(&self, gid: u32) -> io::Result<()> {
        // Until both is done, nobody else can connect: the group comes before its bits.
        chownat(CWD, &self.file.path, None, Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(chmodat(CWD, &self.file.path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP, AtFlags::empty())?)
    }

    /// Serves clients until it is dropped, and their connections with it. The core's queue carries orders among
    /// whatever else it is asked.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be registered with the runtime.
    pub async fn run<T>(
        self,
        orders: mpsc::Sender<T>,
        history: Arc<History>,
        statistics: Arc<Statistics>,
    ) -> io::Result<()>
    where
        T: From<Order> + Send + 'static,
    {
        let listener = UnixListener::from_std(self.listener)?;
        let _file = self.file;
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        let readers = Arc::new(Readers::default());
        let mut clients = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!("control socket: cannot accept a client: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                // How a client ended is nobody's business; this only keeps the set small.
                Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            };
            // It has gone already, or the kernel does not say who it is.
            let Ok(credentials) = stream.peer_cred() else { continue };
            let client = Client::of(credentials.uid());
            let reading = if client.orders { None } else { Some(Arc::clone(&readers.places).try_acquire_owned()) };
            let place = match (Arc::clone(&places).try_acquire_owned(), reading.transpose()) {
                (Ok(place), Ok(reading)) => (place, reading),
                (Ok(_), Err(_)) => {
                    turn_away(&stream, MAX_READERS);
                    continue;
                }
                (Err(_), _) => {
                    turn_away(&stream, MAX_CLIENTS);
                    continue;
                }
            };
            let (orders, readers) = (orders.clone(), Arc::clone(&readers));
            let past = Past { history: Arc::clone(&history), statistics: Arc::clone(&statistics) };
            clients.spawn(async move {
                let _place = place;
                if let Err(error) = serve(stream, client, &orders, &past, &readers).await {
                    tracing::debug!("control socket: {error}");
                }
            });
        }
    }
}

/// What clients are told without asking the core.
struct Past {
    history: Arc<History>,
    statistics: Arc<Statistics>,
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug)]
struct Client {
    uid: u32,
    /// It may order something, and not only ask.
    orders: bool,
}

impl Client {
    /// Root, and whoever runs the daemon.
    fn of(uid: u32) -> Self {
        Self { uid, orders: uid == 0 || uid == rustix::process::geteuid().as_raw() }
    }
}

/// Tells a client that there is no room; if its buffer is full, it learns it from the connection's end.
fn turn_away(stream: &UnixStream, most: usize) {
    let reply = Reply::Refused(format!("{most} clients are connected already; try again when some have gone"));
    if let Ok(line) = to_line(&reply) {
        let _ = stream.try_write(&line);
    }
}
