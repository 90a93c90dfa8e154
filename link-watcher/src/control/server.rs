//! The daemon's end of the control socket.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, chmodat, chownat};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, Semaphore, broadcast::error::RecvError, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{Author, History, MAX_REQUEST_LEN, Order, Reply, Request, TraceLine, Traced, author};
use crate::{
    linger::until_released,
    statistics::{Day, Statistics},
    status::Snapshot,
};

/// Clients at one time.
const MAX_CLIENTS: usize = 32;
/// Those of them who may only ask: they never keep out somebody who orders.
const MAX_READERS: usize = 16;
/// How old what they are shown may be: however often they ask, the core is asked no more often.
const READERS_STALE: Duration = Duration::from_millis(200);
/// How many questions of theirs in a row are put to the core; then one each [`READERS_STALE`].
const READERS_QUESTIONS: u32 = 10;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// How long a client may be silent before its connection is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to read an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long the core may take to carry out an order: a reload may load kernel programs.
const CORE_LIMIT: Duration = Duration::from_secs(20);
/// Pause after an accept that failed, so that a lack of file descriptors does not make a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another daemon answers on {}: stop it, or give this one a `control-socket` and an `instance` of its own",
        .0.display()
    )]
    Live(PathBuf),
    /// Something else is in its place.
    #[error("{} exists and is not a socket: remove it, or choose another `control-socket`", .0.display())]
    NotSocket(PathBuf),
    /// The file system's error.
    #[error("cannot open the control socket {}: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The open control socket. Its file goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: StdListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
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

/// Those who may only ask.
#[derive(Debug)]
struct Readers {
    places: Arc<Semaphore>,
    /// What they were shown last, and when.
    shown: Mutex<Option<(Instant, Snapshot)>>,
    /// Questions of theirs that the core may still be asked.
    questions: std::sync::Mutex<Allowance>,
}

/// How often something may be done: [`READERS_QUESTIONS`] times at once, and once more each [`READERS_STALE`].
#[derive(Debug, Default)]
struct Allowance {
    /// When all of it may be used again.
    full: Option<Instant>,
}

impl Allowance {
    /// Uses one of them; `false`: there is none left.
    fn take(&mut self, now: Instant) -> bool {
        let from = self.full.map_or(now, |full| full.max(now));
        let left = from.duration_since(now) <= READERS_STALE * (READERS_QUESTIONS - 1);
        if left {
            self.full = Some(from + READERS_STALE);
        }
        left
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_READERS)),
            shown: Mutex::default(),
            questions: std::sync::Mutex::default(),
        }
    }
}

impl Readers {
    /// What is so, at most [`READERS_STALE`] old. Who asks meanwhile waits for the same answer.
    async fn status<T: From<Order>>(&self, orders: &mpsc::Sender<T>, statistics: &Statistics) -> Reply {
        let mut shown = self.shown.lock().await;
        if let Some((at, snapshot)) = &*shown
            && at.elapsed() < READERS_STALE
        {
            return Reply::Status(snapshot.clone());
        }
        let reply = status(orders, statistics).await;
        if let Reply::Status(snapshot) = &reply {
            *shown = Some((Instant::now(), snapshot.clone()));
        }
        reply
    }

    /// Whether a question of one of them may be put to the core now; each is answered anew.
    fn may_ask(&self) -> bool {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only while it is ours: a successor may have put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error: io::Error| BindError::Io { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotSocket(path.to_owned())),
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
        // A full backlog is somebody's backlog.
        Ok(()) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Tells a client that there is no room; if its buffer is full, it learns it from the connection's end.
fn turn_away(stream: &UnixStream, most: usize) {
    let reply = Reply::Refused(format!("{most} clients are connected already; try again when some have gone"));
    if let Ok(line) = to_line(&reply) {
        let _ = stream.try_write(&line);
    }
}

/// What is so, as the core says now.
async fn status<T: From<Order>>(orders: &mpsc::Sender<T>, statistics: &Statistics) -> Reply {
    let (reply, answer) = oneshot::channel();
    match ask(orders, Order::Status(reply), answer).await {
        Ok(mut snapshot) => {
            statistics.fill(&mut snapshot);
            Reply::Status(snapshot)
        }
        Err(why) => Reply::Unavailable(why),
    }
}

async fn serve<T: From<Order>>(
    stream: UnixStream,
    client: Client,
    orders: &mpsc::Sender<T>,
    Past { history, statistics }: &Past,
    readers: &Readers,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let Ok(line) = timeout(IDLE_LIMIT, read_line(&mut read)).await else { return Ok(()) };
        let Some(line) = line? else { return Ok(()) };
        match serde_json::from_str(&line) {
            Ok(Request::Status) => {
                let reply = if client.orders {
                    status(orders, statistics).await
                } else {
                    readers.status(orders, statistics).await
                };
                send(&mut write, &reply).await?;
            }
            Ok(Request::Change { .. } | Request::TracePackets { .. }) if !client.orders => {
                let who = author::user_name(client.uid).await;
                send(&mut write, &Reply::Denied(denied(&who))).await?;
            }
            Ok(Request::Ask(_) | Request::Days { .. }) if !client.orders && !readers.may_ask() => {
                send(&mut write, &Reply::Refused(too_many_questions())).await?;
            }
            Ok(Request::Ask(question)) => {
                let (reply, answer) = oneshot::channel();
                let answer = ask(orders, Order::Ask(question, reply), answer).await;
                send(&mut write, &answered(answer, Reply::Known)).await?;
            }
            Ok(Request::Change { change, reason, sudo_user }) => {
                let (reply, answer) = oneshot::channel();
                let reply = match Author::new(author::user_name(client.uid).await, sudo_user, reason) {
                    Err(why) => Reply::Refused(why),
                    Ok(author) => {
                        answered(ask(orders, Order::Change(change, author, reply), answer).await, Reply::Done)
                    }
                };
                send(&mut write, &reply).await?;
            }
            Ok(Request::TracePackets { trace, sudo_user }) => {
                let (reply, answer) = oneshot::channel();
                let refused = match Author::new(author::user_name(client.uid).await, sudo_user, None) {
                    Err(why) => Reply::Refused(why),
                    Ok(author) => match ask(orders, Order::Trace(trace, author, reply), answer).await {
                        Ok(Ok(traced)) => return pass_on(read, write, traced).await,
                        Ok(Err(why)) => Reply::Refused(why),
                        Err(why) => Reply::Unavailable(why),
                    },
                };
                send(&mut write, &refused).await?;
            }
            Ok(Request::Days { since }) => send_days(&mut write, statistics, since).await?,
            Ok(Request::Events { follow: false }) => {
                for record in history.recent() {
                    send(&mut write, &Reply::Event(Arc::unwrap_or_clone(record))).await?;
                }
                send(&mut write, &Reply::End).await?;
            }
            Ok(Request::Events { follow: true }) => return follow(read, write, history).await,
            Err(error) => send(&mut write, &Reply::Refused(format!("this is no request: {error}"))).await?,
        }
    }
}

/// What the core says, or why not; `good` is the reply that it is where all is well.
fn answered<A>(answer: Result<Result<A, String>, String>, good: impl FnOnce(A) -> Reply) -> Reply {
    match answer {
        Ok(Ok(said)) => good(said),
        Ok(Err(why)) => Reply::Refused(why),
        Err(why) => Reply::Unavailable(why),
    }
}

/// To somebody who may only ask.
fn denied(who: &str) -> String {
    format!(
        "{who} may ask (`status`, `events`), for `[daemon] control-group` says so; orders are root's: run this with sudo"
    )
}

/// To somebody who may only ask, and asks too often.
fn too_many_questions() -> String {
    format!(
        "all who may only ask have {} questions (`explain`, `what-if`, `report`) a second, and {READERS_QUESTIONS} at once: try again in a \
         second, or with sudo",
        Duration::from_secs(1).as_millis() / READERS_STALE.as_millis()
    )
}

/// Asks the core, and waits for no longer than [`CORE_LIMIT`].
async fn ask<T: From<Order>, A>(
    orders: &mpsc::Sender<T>,
    order: Order,
    answer: oneshot::Receiver<A>,
) -> Result<A, String> {
    let asked = async {
        orders.send(order.into()).await.map_err(|_| "the daemon is stopping".to_owned())?;
        answer.await.map_err(|_| "the daemon is stopping".to_owned())
    };
    let late = || format!("the daemon did not answer within {} s; its log says why", CORE_LIMIT.as_secs());
    timeout(CORE_LIMIT, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Every day by itself: together they may be long.
async fn send_days(write: &mut OwnedWriteHalf, statistics: &Arc<Statistics>, since: Day) -> io::Result<()> {
    for day in statistics.days(since) {
        let statistics = Arc::clone(statistics);
        // It waits for the disk.
        let read = tokio::task::spawn_blocking(move || statistics.day(day)).await.map_err(io::Error::other)?;
        match read {
            Ok(record) => send(write, &Reply::Day(day, record)).await?,
            // The other days are worth something without it.
            Err(error) => tracing::warn!("a report lacks a day: {error}"),
        }
    }
    send(write, &Reply::End).await
}

async fn follow(mut read: BufReader<OwnedReadHalf>, mut write: OwnedWriteHalf, history: &History) -> io::Result<()> {
    let (recent, mut coming) = history.follow();
    for record in recent {
        send(&mut write, &Reply::Event(Arc::unwrap_or_clone(record))).await?;
    }
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            record = coming.recv() => match record {
                Ok(record) => send(&mut write, &Reply::Event(Arc::unwrap_or_clone(record))).await?,
                Err(RecvError::Lagged(lost)) => send(&mut write, &Reply::Lost(lost)).await?,
                Err(RecvError::Closed) => return Ok(()),
            },
            // It has nothing more to say; that it has gone shows here.
            gone = read.read(&mut ignored) => if gone? == 0 { return Ok(()) },
        }
    }
}

/// Hands a trace over until it or the client ends. With `traced` it is over.
async fn pass_on(mut read: BufReader<OwnedReadHalf>, mut write: OwnedWriteHalf, mut traced: Traced) -> io::Result<()> {
    send(&mut write, &Reply::Tracing(traced.said)).await?;
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            line = traced.lines.recv() => match line {
                Some(TraceLine::Packet(record)) => send(&mut write, &Reply::Packet(record)).await?,
                Some(TraceLine::LeftOut(count)) => send(&mut write, &Reply::LeftOut(count)).await?,
                None if traced.cut_short.load(Ordering::Acquire) => {
                    let why = "the trace was ended before its time: the daemon stops";
                    return send(&mut write, &Reply::Refused(why.to_owned())).await;
                }
                None => return send(&mut write, &Reply::End).await,
            },
            gone = read.read(&mut ignored) => if gone? == 0 { return Ok(()) },
        }
    }
}

/// One line without its end; nothing at the end of the stream.
async fn read_line(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<String>> {
    let mut line = String::new();
    // One byte more than allowed, so that a line of exactly the limit is not mistaken for a longer one.
    let length = read.take(MAX_REQUEST_LEN + 1).read_line(&mut line).await?;
    if length as u64 > MAX_REQUEST_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request is too long"));
    }
    Ok((length > 0).then_some(line))
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let line = to_line(reply)?;
    timeout(WRITE_LIMIT, write.write_all(&line)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn to_line(reply: &Reply) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_ask_often_at_once_and_then_as_time_goes_by() {
        let (mut allowance, begun) = (Allowance::default(), Instant::now());
        let mut at =
            |ms: u64, count: u32| (0..count).filter(|_| allowance.take(begun + Duration::from_millis(ms))).count();
        assert_eq!(at(0, 1_000), 10);
        assert_eq!((at(199, 5), at(200, 5), at(1_200, 100)), (0, 1, 5));
        assert_eq!(at(60_000, 1_000), 10, "what was not used does not add up");
    }
}
