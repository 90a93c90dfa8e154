//! Attaching, pinning, taking over: on real interfaces, with packets from a real socket at the other end.
#![allow(missing_docs, clippy::unwrap_used)]

mod bpf;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bpf::*;
use link_watcher::bpf::{Device, Error, Kernel, LinkLayer, Mode};
use link_watcher_common::{
    maps::{LinkKey, Party},
    wire::{Header, Kind, PACKET_LEN},
};
use link_watcher_lab::{Lab, netns::Namespace, tunnel::Tunnel};
use link_watcher_programs::{BPFTOOL, IP};

/// Two namespaces joined by a veth pair; `here` has the program.
struct Pair {
    lab: Lab,
    here: Arc<Namespace>,
    there: Arc<Namespace>,
}

const HERE: &str = "veth-here";
const THERE: &str = "veth-there";

impl Pair {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let (here, there) = (lab.namespace("here").unwrap(), lab.namespace("there").unwrap());
        let pair = Self { lab, here: Arc::new(here), there: Arc::new(there) };
        pair.connect();
        pair
    }

    fn connect(&self) {
        self.here.connect(HERE, &self.there, THERE).unwrap();
        self.here.add_address(HERE, "198.51.100.1/24".parse().unwrap()).unwrap();
        self.there.add_address(THERE, "198.51.100.2/24".parse().unwrap()).unwrap();
    }

    fn directory(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/link-watcher").join(self.lab.instance("here"))
    }

    fn ifindex(&self) -> u32 {
        self.here.index(HERE).unwrap()
    }

    /// A program with the link's keys and addresses, as a starting daemon loads it.
    fn load(&self) -> Kernel {
        let (directory, ifindex) = (self.directory(), self.ifindex());
        self.here.run(|| load(&directory, ifindex, v4())).unwrap()
    }

    fn device(&self) -> Device<'static> {
        Device { ifindex: self.ifindex(), name: HERE, link_layer: LinkLayer::Ethernet, kind: Some("veth") }
    }

    fn attach(&self, kernel: &mut Kernel) -> Result<Mode, Error> {
        let device = self.device();
        self.here.run(|| kernel.attach(&device)).unwrap()
    }

    fn attach_tc(&self, kernel: &mut Kernel) -> Result<Mode, Error> {
        let device = self.device();
        self.here.run(|| kernel.attach_tc(&device)).unwrap()
    }

    /// A socket of the peer's.
    fn socket(&self) -> UdpSocket {
        socket(&self.there, v4())
    }

    /// Whether a program is attached, by `ip link`.
    fn has_program(&self) -> bool {
        let mut ip = IP.command();
        let output = self.here.run(|| ip.args(["link", "show", "dev", HERE]).output()).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("prog/xdp")
    }
}

fn load(directory: &Path, ifindex: u32, ends: Ends) -> Kernel {
    let mut kernel = Kernel::load(&object(), directory, 3).unwrap();
    let tables = kernel.tables();
    let intent = &tables.intents()[0];
    intent.me.store(Party { instance: MY_INSTANCE, session: MINE }.pack(), Relaxed);
    intent.detection_ns.store(DETECTION_NS, Relaxed);
    intent.max_age_ns.store(MAX_AGE_NS, Relaxed);
    intent.lease_ns.store(u64::MAX, Relaxed);
    kernel.set_keys(0, &keys()).unwrap();
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let (local, remote) = (octets(ends.local), octets(ends.remote));
    kernel.insert_link(LinkKey { ifindex, local, remote, port: PORT, ..LinkKey::default() }, 0).unwrap();
    kernel.set_port(PORT, true).unwrap();
    kernel.track_traffic(ifindex).unwrap();
    kernel
}

fn socket(namespace: &Namespace, ends: Ends) -> UdpSocket {
    let bind = || {
        let socket = UdpSocket::bind(SocketAddr::new(ends.remote, 0)).unwrap();
        socket.connect(SocketAddr::new(ends.local, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    };
    namespace.run(bind).unwrap()
}

/// Sends a probe and takes its echo; with the program gone the kernel refuses the packet, which is an error here.
fn ask(socket: &UdpSocket, sequence: u64) -> std::io::Result<()> {
    socket.send(&signed(&Header { receiver_session: 0, ..probe(sequence) }))?;
    let mut packet = [0; PACKET_LEN + 1];
    let len = socket.recv(&mut packet)?;
    assert_eq!(len, PACKET_LEN);
    let header = Header::parse(packet.first_chunk().unwrap()).unwrap();
    assert_eq!((header.kind, header.sequence, header.sender_session), (Kind::Echo, sequence, MINE));
    assert_eq!(packet[..PACKET_LEN], signed(&header));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_veth_gets_the_generic_mode_whose_answers_arrive() {
    let pair = Pair::new();
    let mut kernel = pair.load();
    assert_eq!(pair.attach(&mut kernel).unwrap(), Mode::XdpGeneric);
    assert_eq!(pair.attach(&mut kernel).unwrap(), Mode::XdpGeneric, "again: nothing happens");
    let socket = pair.socket();
    for sequence in 1..=50 {
        ask(&socket, sequence).unwrap();
    }
    assert_eq!(kernel.counters(0).unwrap().probes, 50);
    assert!(kernel.traffic(pair.ifindex()).unwrap().unwrap().packets >= 50);
    kernel.detach(pair.ifindex()).unwrap();
    assert!(!pair.has_program());
    assert!(ask(&socket, 51).is_err());
    kernel.release(false).unwrap();
    assert!(!pair.directory().exists(), "nothing stays behind");
}

/// Probes through a tun device whose near end runs the program at either hook.
fn answers_on_tun(ends: Ends, mode: Mode) {
    let lab = Lab::new().unwrap();
    let here = Arc::new(lab.namespace("here").unwrap());
    let there = Arc::new(lab.namespace("there").unwrap());
    let _tunnel = Tunnel::dig("tunnel", (&here, "tun-here"), (&there, "tun-there")).unwrap();
    let prefix = if ends.local.is_ipv4() { 24 } else { 64 };
    here.set_up("tun-here", true).unwrap();
    there.set_up("tun-there", true).unwrap();
    here.add_address("tun-here", format!("{}/{prefix}", ends.local).parse().unwrap()).unwrap();
    there.add_address("tun-there", format!("{}/{prefix}", ends.remote).parse().unwrap()).unwrap();
    let ifindex = here.index("tun-here").unwrap();
    let directory = Path::new("/sys/fs/bpf/link-watcher").join(lab.instance("here"));
    let mut kernel = here.run(|| load(&directory, ifindex, ends)).unwrap();
    let device = Device { ifindex, name: "tun-here", link_layer: LinkLayer::None, kind: Some("tun") };
    let attach = || if mode == Mode::Tc { kernel.attach_tc(&device) } else { kernel.attach(&device) };
    assert_eq!(here.run(attach).unwrap().unwrap(), mode);
    let socket = socket(&there, ends);
    for sequence in 1..=20 {
        ask(&socket, sequence).unwrap();
    }
    assert_eq!(kernel.counters(0).unwrap().probes, 20);
    kernel.release(false).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tun_device_gets_the_program_for_packets_without_a_link_header() {
    answers_on_tun(v4(), Mode::XdpGeneric);
    answers_on_tun(v6(), Mode::XdpGeneric);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tun_device_is_answered_through_tc_too() {
    answers_on_tun(v4(), Mode::Tc);
    answers_on_tun(v6(), Mode::Tc);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn where_xdp_is_occupied_tc_answers() {
    let pair = Pair::new();
    let mut foreign = Kernel::load(&object(), &directory(), 1).unwrap();
    pair.attach(&mut foreign).unwrap(); // It knows no link and no port, and passes everything.
    let mut kernel = pair.load();
    assert!(matches!(pair.attach(&mut kernel), Err(Error::Occupied { .. })));
    assert_eq!(pair.attach_tc(&mut kernel).unwrap(), Mode::Tc);
    let socket = pair.socket();
    for sequence in 1..=50 {
        ask(&socket, sequence).unwrap();
    }
    assert_eq!(kernel.counters(0).unwrap().probes, 50);
    assert!(kernel.traffic(pair.ifindex()).unwrap().unwrap().packets >= 50);

    // Control packets and what is not ours go up: a socket there sees them.
    let listen = || UdpSocket::bind("198.51.100.1:46721").unwrap();
    let listener = pair.here.run(listen).unwrap();
    listener.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 2000];
    socket.send(&signed(&control(1))).unwrap();
    assert!(listener.recv(&mut buffer).is_err(), "no session is known yet: dropped");
    assert_eq!(kernel.counters(0).unwrap().replayed, 1);
    kernel.tables().states()[0].peer.store(peer(PEERS), Relaxed);
    // Longer than what the program looks at.
    let mut packet = signed(&control(1)).to_vec();
    packet.resize(PACKET_LEN + 1000, 0x5a);
    socket.send(&packet).unwrap();
    assert_eq!(listener.recv(&mut buffer).unwrap(), packet.len());
    assert_eq!(buffer[..packet.len()], packet);

    // A new daemon takes over here as well.
    kernel.release(true).unwrap();
    let mut next = pair.load();
    assert_eq!(pair.attach_tc(&mut next).unwrap(), Mode::Tc);
    next.drop_inherited().unwrap();
    ask(&socket, 51).unwrap();
    assert_eq!(next.counters(0).unwrap().probes, 1, "the new one's maps, and only one program");
    next.release(false).unwrap();
    foreign.release(false).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_daemon_takes_over_without_losing_a_packet() {
    let pair = Pair::new();
    let mut old = pair.load();
    pair.attach(&mut old).unwrap();
    let socket = pair.socket();
    ask(&socket, 1).unwrap();
    let old_tables = old.tables();
    old.release(true).unwrap();
    ask(&socket, 2).unwrap(); // Nobody at home, and answered all the same.

    let done = Arc::new(AtomicBool::new(false));
    let asker = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut asked = 0_u64;
            while !done.load(Relaxed) || asked < 1000 {
                asked += 1;
                ask(&socket, asked).unwrap();
            }
            asked
        }
    });
    let mut new = pair.load();
    assert_eq!(pair.attach(&mut new).unwrap(), Mode::XdpGeneric);
    new.drop_inherited().unwrap();
    let mut newest = pair.load();
    assert_eq!(pair.attach(&mut newest).unwrap(), Mode::XdpGeneric);
    done.store(true, Relaxed);
    asker.join().unwrap();
    assert!(newest.counters(0).unwrap().probes > 0, "the new maps count");
    drop((old_tables, new));
    newest.release(false).unwrap();
    assert!(!pair.has_program());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_not_configured_any_more_is_detached() {
    let pair = Pair::new();
    let mut old = pair.load();
    pair.attach(&mut old).unwrap();
    old.release(true).unwrap();
    assert!(pair.has_program());
    let mut new = pair.load();
    new.drop_inherited().unwrap();
    assert!(!pair.has_program());
    new.release(false).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_occupied_hook_names_who_is_there() {
    let pair = Pair::new();
    let mut first = pair.load();
    pair.attach(&mut first).unwrap();
    let mut second = load(&directory(), pair.ifindex(), v4());
    let error = pair.attach(&mut second).unwrap_err();
    let Error::Occupied { program: Some((id, name)), .. } = &error else { panic!("{error}") };
    assert!(*id > 0);
    assert_eq!(name, "lw_xdp_ethernet");
    assert!(error.to_string().contains("lw_xdp_ethernet"), "{error}");
    second.release(false).unwrap();
    assert!(pair.has_program(), "the first one's is untouched");
    first.release(false).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_namespaces_pins_are_not_mistaken_for_ours() {
    // Two daemons that were given the same directory by mistake: the second must not replace the first one's program.
    let (one, other) = (Pair::new(), Pair::new());
    let mut first = one.load();
    one.attach(&mut first).unwrap();
    // The same index in another namespace.
    let (index, mut ip) = (one.ifindex().to_string(), IP.command());
    ip.args(["link", "add", "twin", "index", &index, "type", "veth", "peer", "name", "twin-peer"]);
    assert!(other.here.run(|| ip.status()).unwrap().unwrap().success());
    let device = Device { ifindex: one.ifindex(), name: "twin", link_layer: LinkLayer::Ethernet, kind: Some("veth") };
    let (directory, ifindex) = (one.directory(), one.ifindex());
    let mut second = other.here.run(|| load(&directory, ifindex, v4())).unwrap();
    other.here.run(|| second.attach(&device)).unwrap().unwrap();
    ask(&one.socket(), 1).unwrap();
    assert_eq!(first.counters(0).unwrap().probes, 1, "the first one still answers, with its own maps");
    second.release(false).unwrap();
    assert!(one.has_program());
    first.release(true).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_may_vanish_and_come_back_under_the_same_index() {
    let pair = Pair::new();
    let mut kernel = pair.load();
    pair.attach(&mut kernel).unwrap();
    let device = Device { ifindex: pair.ifindex(), name: HERE, link_layer: LinkLayer::Ethernet, kind: Some("veth") };
    pair.here.delete_interface(HERE).unwrap();
    let error = pair.here.run(|| kernel.attach(&device)).unwrap().unwrap_err();
    assert!(matches!(error, Error::Attach { .. }), "{error}");
    kernel.detach(device.ifindex).unwrap();

    let (ifindex, mut ip) = (device.ifindex.to_string(), IP.command());
    ip.args(["link", "add", HERE, "index", &ifindex, "type", "veth", "peer", "name", "peer"]);
    assert!(pair.here.run(|| ip.status()).unwrap().unwrap().success());
    assert_eq!(pair.attach(&mut kernel).unwrap(), Mode::XdpGeneric);
    assert!(pair.has_program());
    pair.here.delete_interface(HERE).unwrap();
    kernel.detach(device.ifindex).unwrap();
    kernel.release(false).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn bpftool_reads_the_pinned_maps_by_name() {
    let pair = Pair::new();
    let mut kernel = pair.load();
    pair.attach(&mut kernel).unwrap();
    ask(&pair.socket(), 1).unwrap();
    let dump = |name: &str| {
        let pin = pair.directory().join(name);
        let output = BPFTOOL.command().args(["map", "dump", "pinned"]).arg(&pin).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for field in ["last_echo_ns", "last_probe_ns", "rtt_ns", "probe_window", "peer"] {
        assert!(dump("LINKS").contains(field), "{field}");
    }
    for field in ["probes", "malformed", "replayed", "forged"] {
        assert!(dump("COUNTERS").contains(field), "{field}");
    }
    for field in ["packets", "bytes"] {
        assert!(dump("TRAFFIC").contains(field), "{field}");
    }
    assert!(dump("LINK_IDS").contains("ifindex"));
    assert!(!pair.directory().join("KEYS").exists(), "keys are nobody's business");
    kernel.release(false).unwrap();
}
