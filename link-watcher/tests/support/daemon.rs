//! The real control server before a core that only notes what it is asked.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
    thread::JoinHandle,
};

use link_watcher::{
    control::{
        Author, BindError, Change, EventRecord, History, MAX_TRACE_MS, Order, PacketRecord, Server, TraceLine,
        TraceRequest, Traced,
    },
    event::Role,
    statistics::Statistics,
    status::{ConfigSnapshot, DroppedSnapshot, GroupSnapshot, LinkSnapshot, RoutesSnapshot, Snapshot},
};
use tokio::sync::{mpsc, oneshot};

pub struct FakeDaemon {
    pub socket: PathBuf,
    pub history: Arc<History>,
    pub statistics: Arc<Statistics>,
    pub asked: Arc<Mutex<Vec<Change>>>,
    pub authors: Arc<Mutex<Vec<Author>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// Listens once this returns.
    pub fn start(socket: &Path) -> Result<Self, BindError> {
        Ok(Self::serve(Server::bind(socket)?, socket))
    }

    /// One whose socket the members of a group may use, too.
    pub fn start_for(socket: &Path, gid: u32) -> Self {
        let server = Server::bind(socket).unwrap();
        server.admit(gid).unwrap();
        Self::serve(server, socket)
    }

    fn serve(server: Server, socket: &Path) -> Self {
        let history = Arc::new(History::default());
        let statistics = Arc::new(Statistics::load(&socket.with_extension("state")));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let authors = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn({
            let (history, statistics) = (Arc::clone(&history), Arc::clone(&statistics));
            let (asked, authors) = (Arc::clone(&asked), Arc::clone(&authors));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (orders, incoming) = mpsc::channel::<Order>(4);
                    tokio::select! {
                        served = server.run(orders, history, statistics) => served.unwrap(),
                        () = core(incoming, &asked, &authors) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self { socket: socket.to_owned(), history, statistics, asked, authors, stop: Some(stop), thread: Some(thread) }
    }

    pub fn push(&self, n: u32) {
        self.history.push(event(n));
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// What makes the core forget to answer, as one that stops does.
pub const DIES_OF: Change = Change::Switch { group: String::new(), link: None, force: false };

/// Refuses what concerns a group that is not hq, and does everything else.
async fn core(mut orders: mpsc::Receiver<Order>, asked: &Mutex<Vec<Change>>, authors: &Mutex<Vec<Author>>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Status(reply) => drop(reply.send(snapshot())),
            Order::Trace(request, author, reply) => {
                authors.lock().unwrap().push(author);
                drop(reply.send(trace(&request)));
            }
            Order::Ask(_, reply) => drop(reply.send(Err("nothing is known".to_owned()))),
            Order::Change(change, author, reply) => {
                authors.lock().unwrap().push(author);
                asked.lock().unwrap().push(change.clone());
                if change == DIES_OF {
                    // Its end of the channel goes with it.
                    continue;
                }
                let answer = match &change {
                    Change::Switch { group, .. } | Change::Drain { group, .. } if group != "hq" => {
                        Err(format!("there is no group \"{group}\"; there is hq"))
                    }
                    Change::Reload(_) => Err("the configuration is refused; the old one stays".to_owned()),
                    change => Ok(format!("done: {change:?}")),
                };
                drop(reply.send(answer));
            }
        }
    }
}

/// One packet, and some that are left out; ended before its time where it should take ten minutes.
fn trace(request: &TraceRequest) -> Result<Traced, String> {
    let (lines_in, lines) = mpsc::channel(8);
    let packet = PacketRecord {
        time: "2026-11-20T12:00:00.123Z".to_owned(),
        group: request.group.clone().unwrap_or("hq".to_owned()),
        link: "optic".to_owned(),
        direction: "in".to_owned(),
        what: "dropped".to_owned(),
        cause: Some("forged".to_owned()),
        why: "its signature fits none of the keys".to_owned(),
    };
    lines_in.try_send(TraceLine::Packet(packet)).unwrap();
    lines_in.try_send(TraceLine::LeftOut(7)).unwrap();
    let cut_short = Arc::new(AtomicBool::new(request.for_ms == MAX_TRACE_MS));
    Ok(Traced { said: format!("hq optic for {} ms", request.for_ms), lines, cut_short })
}

pub fn event(n: u32) -> EventRecord {
    EventRecord {
        time: "2026-11-20T12:00:00.123Z".to_owned(),
        group: "hq".to_owned(),
        link: Some("optic".to_owned()),
        what: "link-down".to_owned(),
        why: format!("no echo for {n} ms"),
        detect_ms: Some(f64::from(n)),
        ..EventRecord::default()
    }
}

pub fn snapshot() -> Snapshot {
    let link = LinkSnapshot {
        name: "optic".to_owned(),
        interface: "eth1".to_owned(),
        tier: 1,
        weight: 1,
        share: 1.0,
        state: "up".to_owned(),
        usable: true,
        engine: "xdp-native".to_owned(),
        since: "2026-11-20T12:00:00.100Z".to_owned(),
        remote: "10.248.248.1".to_owned(),
        rtt_ms: Some(0.042),
        jitter_ms: Some(0.003),
        sent: 1200,
        received: 1200,
        ..LinkSnapshot::default()
    };
    let down = LinkSnapshot {
        name: "wifi".to_owned(),
        interface: "eth2".to_owned(),
        tier: 2,
        share: 0.0,
        state: "down".to_owned(),
        usable: false,
        engine: "socket".to_owned(),
        engine_reason: Some("eth2 has another XDP program".to_owned()),
        rtt_ms: None,
        jitter_ms: None,
        loss: 1.0,
        received: 0,
        flaps: 2,
        last_down_reason: Some("carrier lost".to_owned()),
        suspicion: Some("all 12 packets of the last 3 s were forged".to_owned()),
        dropped: DroppedSnapshot { forged: 12, ..DroppedSnapshot::default() },
        ..link.clone()
    };
    Snapshot {
        version: "0.1.0".to_owned(),
        uptime_s: 12.3,
        engine: "xdp".to_owned(),
        config: ConfigSnapshot::default(),
        groups: vec![GroupSnapshot {
            peer_silence_s: None,
            name: "hq".to_owned(),
            kind: "peer".to_owned(),
            role: Some(Role::Client),
            failover: true,
            pinned: None,
            active: vec!["optic".to_owned()],
            since: "2026-11-20T12:00:00.123Z".to_owned(),
            reason: "lowest tier with a usable link".to_owned(),
            routes: RoutesSnapshot { installed: 2, ..RoutesSnapshot::default() },
            announced_to_us: vec!["10.20.20.0/22".to_owned()],
            announcements: None,
            links: vec![link, down],
            ..GroupSnapshot::default()
        }],
        ..Snapshot::default()
    }
}
