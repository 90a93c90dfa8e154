//! One client: its requests, and what it is answered.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast::error::RecvError, mpsc, oneshot},
    time::timeout,
};

use super::{
    Client, Past,
    readers::{READERS_QUESTIONS, READERS_STALE, Readers},
};
use crate::{
    control::{Author, History, MAX_REQUEST_LEN, Order, Reply, Request, TraceLine, Traced, author},
    statistics::{Day, Statistics},
};

/// How long a client may be silent before its connection is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to read an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long the core may take to carry out an order: a reload may load kernel programs.
const CORE_LIMIT: Duration = Duration::from_secs(20);

/// What is so, as the core says now.
pub(super) async fn status<T: From<Order>>(orders: &mpsc::Sender<T>, statistics: &Statistics) -> Reply {
    let (reply, answer) = oneshot::channel();
    match ask(orders, Order::Status(reply), answer).await {
        Ok(mut snapshot) => {
            statistics.fill(&mut snapshot);
            Reply::Status(snapshot)
        }
        Err(why) => Reply::Unavailable(why),
    }
}

pub(super) async fn serve<T: From<Order>>(
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

pub(super) fn to_line(reply: &Reply) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(line)
}
