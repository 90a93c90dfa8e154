//! A provider in a network namespace of its own, which goes with its thread; the router is the namespace of the test.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use link_watcher::{
    config::{ProbeConfig, ProbeKind},
    event::LinkId,
    system::Interfaces,
    uplink::{Path, probe::ProbedUplink},
};
use link_watcher_programs::NFT;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::{mpsc, oneshot},
};

use crate::route_support::ip;

/// Enough for a machine that builds something else meanwhile.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Mark of the uplink's probes.
pub(crate) const MARK: u32 = 0x100;

type Job = Box<dyn FnOnce() + Send>;

/// The provider: 198.51.100.1 and 2001:db8:1::1 on `up1`, the other end of the router's eth1; 192.0.2.1 on `up2`, that of
/// eth2.
pub(crate) struct Provider {
    jobs: mpsc::UnboundedSender<Job>,
    thread: i32,
}

impl Provider {
    /// It answers for itself, but forwards nothing.
    pub(crate) async fn new() -> Self {
        let (jobs, mut todo) = mpsc::unbounded_channel::<Job>();
        let (tell, thread) = oneshot::channel();
        std::thread::spawn(move || {
            #[allow(deprecated)]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("a network namespace needs root");
            ip("link set lo up");
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // Ends with the test, and with it every server.
            runtime.block_on(async {
                while let Some(job) = todo.recv().await {
                    job();
                }
            });
        });
        let provider = Self { jobs, thread: thread.await.unwrap() };
        provider.connect(1).await;
        provider.connect(2).await;
        // What belongs to one interface may come and go by another here.
        for name in ["all", "default", "eth1", "eth2"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
        }
        ip("route add default via 198.51.100.1 dev eth1");
        ip("-6 route add default via 2001:db8:1::1 dev eth1");
        provider
    }

    /// It has the targets 203.0.113.1 and .2, 2001:db8:ff::1 and ::2, with servers for HTTP (80) and DNS (53), and one that
    /// answers nonsense by UDP (54).
    pub(crate) async fn with_targets() -> Self {
        let provider = Self::new().await;
        for target in ["203.0.113.1/32", "203.0.113.2/32"] {
            provider.ip(&format!("addr add {target} dev lo")).await;
        }
        for target in ["2001:db8:ff::1/128", "2001:db8:ff::2/128"] {
            provider.ip(&format!("addr add {target} dev lo nodad")).await;
        }
        provider
            .run(|| {
                tokio::spawn(http_server());
                tokio::spawn(udp_server(53, |query| {
                    // The query itself, as a response without answers.
                    query[2] |= 0x80;
                }));
                tokio::spawn(udp_server(54, |query| query.reverse()));
            })
            .await;
        provider
    }

    /// Runs something there.
    pub(crate) async fn run(&self, work: impl FnOnce() + Send + 'static) {
        let (done, end) = oneshot::channel();
        let job: Job = Box::new(move || {
            work();
            done.send(()).unwrap();
        });
        self.jobs.send(job).unwrap_or_else(|_| panic!("the provider's thread has ended"));
        end.await.expect("it went well there");
    }

    pub(crate) async fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || drop(ip(&arguments))).await;
    }

    /// Joins eth`i` with up`i`.
    pub(crate) async fn connect(&self, i: u32) {
        let (us, them) = if i == 1 { ("198.51.100.2", "198.51.100.1") } else { ("192.0.2.2", "192.0.2.1") };
        ip(&format!("link add eth{i} type veth peer name up{i} netns {}", self.thread));
        self.ip(&format!("addr add {them}/24 dev up{i}")).await;
        self.ip(&format!("addr add 2001:db8:{i}::1/64 dev up{i} nodad")).await;
        self.ip(&format!("link set up{i} up")).await;
        ip(&format!("addr add {us}/24 dev eth{i}"));
        ip(&format!("addr add 2001:db8:{i}::2/64 dev eth{i} nodad"));
        ip(&format!("link set eth{i} up"));
    }

    /// Whether its answers to 198.51.100.2 go to eth2.
    pub(crate) async fn answers_by_the_other_way(&self, other: bool) {
        let verb = if other { "add" } else { "del" };
        self.ip(&format!("route {verb} 198.51.100.2/32 via 192.0.2.2 dev up2")).await;
    }
}

async fn http_server() {
    let listener = TcpListener::bind("[::]:80").await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            // A TCP probe says nothing and hangs up.
            if stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well").await;
            }
        });
    }
}

async fn udp_server(port: u16, answer: fn(&mut [u8])) {
    // A socket for each address: answers come from the one that was asked.
    for address in ["203.0.113.1", "203.0.113.2", "2001:db8:ff::1", "2001:db8:ff::2"] {
        let socket = UdpSocket::bind((address, port)).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                answer(&mut buffer[..length]);
                let _ = socket.send_to(&buffer[..length], from).await;
            }
        });
    }
}

/// An uplink over eth1 as it is now.
pub(crate) fn uplink(id: u32, kind: ProbeKind, required: usize) -> ProbedUplink {
    let path = |gateway: &str, source: &str| {
        Some(Path { gateway: Some(gateway.parse().unwrap()), source: Some(source.parse().unwrap()) })
    };
    ProbedUplink {
        losses: 0,
        link: LinkId(id),
        interface: "eth1".to_owned(),
        ifindex: Interfaces::read().unwrap().index("eth1").unwrap(),
        ipv4: path("198.51.100.1", "198.51.100.2"),
        ipv6: path("2001:db8:1::1", "2001:db8:1::2"),
        mark: MARK,
        config: ProbeConfig {
            kind,
            required,
            interval: Duration::from_millis(400),
            timeout: Duration::from_millis(400),
            fall: 3,
            rise: 2,
            max_loss: None,
            max_rtt: None,
            max_jitter: None,
            window: 20,
        },
    }
}

pub(crate) fn icmp(targets: &[&str]) -> ProbeKind {
    ProbeKind::Icmp { targets: targets.iter().map(|target| target.parse::<IpAddr>().unwrap()).collect() }
}

pub(crate) fn servers(targets: &[&str]) -> Vec<SocketAddr> {
    targets.iter().map(|target| target.parse().unwrap()).collect()
}

/// Runs `nft`, which must succeed.
pub(crate) fn nft(command: &str) {
    let output = NFT.command().arg(command).output().expect("nftables is installed");
    assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// ICMP echo replies that have come in, by whichever interface (RFC 1213, `icmpInEchoReps`).
pub(crate) fn echo_replies() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|name| name == "InEchoReps").unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}
