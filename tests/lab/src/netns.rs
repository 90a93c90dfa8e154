//! Network namespaces, and what is in them.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use link_watcher_programs::{RunError, named};
use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::netlink::Netlink;

/// Where named namespaces are found by `ip -n NAME`, `ip netns exec NAME` and `nsenter --net=PATH`.
pub const DIRECTORY: &str = "/run/netns";

/// A named network namespace. Dropping it does not remove it: its [`Lab`](super::Lab) does.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    file: File,
    netlink: Netlink,
}

impl Namespace {
    /// Makes the namespace `name` and brings its loopback interface up.
    pub(crate) fn create(name: &str) -> Result<Namespace> {
        let path = Path::new(DIRECTORY).join(name);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
        File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // A thread of its own, which ends in the new namespace: the caller stays where it is.
        let netlink = on_own_thread(|| -> Result<Netlink> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace (needs root, and CONFIG_NET_NS in the kernel)")?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot mount the namespace on {}", path.display()))?;
            Netlink::open()
        })?;
        let namespace = Namespace {
            name: name.to_owned(),
            file: File::open(&path).with_context(|| format!("cannot open {}", path.display()))?,
            path,
            netlink,
        };
        // Addresses are usable at once (no duplicate address detection), and no router is asked for any. Values that a
        // new namespace may have inherited from the machine are set to what the lab assumes.
        for (key, value) in [
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/ip_forward", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        namespace.set_up("lo", true)?;
        Ok(namespace)
    }

    /// The name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `nsenter --net=PATH COMMAND` (which, unlike `ip netns exec`, leaves `/sys/fs/bpf` visible).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace's netlink socket.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Runs `work` inside the namespace, on a thread of its own, and returns what it returned. Sockets opened there stay
    /// in the namespace, processes spawned there live in it.
    ///
    /// # Errors
    /// Where the thread cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Moves the calling thread into the namespace for good: for threads that do nothing else.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter the namespace {}", self.name))
    }

    /// Starts a process inside the namespace.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_owned();
        self.run(|| command.spawn())?.with_context(|| format!("cannot start {}", program.display()))
    }

    /// Runs `ip` inside the namespace with arguments that have no spaces of their own, and returns what it wrote.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let words: Vec<&str> = std::iter::once("ip").chain(arguments.split(' ')).collect();
        self.command(&words, "")
    }

    /// Runs a program of the list inside the namespace, with `input` on its standard input, and returns what it wrote.
    ///
    /// # Errors
    /// Where it cannot be started or fails; the message carries what it complained about.
    pub fn command(&self, arguments: &[&str], input: &str) -> Result<String> {
        let [program, arguments @ ..] = arguments else {
            bail!("a command without a program");
        };
        let program = named(program)?;
        if program.path().is_none() {
            return Err(RunError::Missing(program).into());
        }
        let mut command = program.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(&mut command)?;
        // All that is written here fits the pipe, so that nobody waits for the other. A program that does not read it says why
        // below.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().with_context(|| format!("cannot read what {program} says"))?;
        ensure!(
            output.status.success(),
            "{program} {} in {}: {}: {}",
            arguments.join(" "),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a sysctl, given as a path below `/proc/sys`, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// Where the kernel does not know the key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(Path::new("/proc/sys").join(key), value))?
            .with_context(|| format!("cannot set {key} to {value} in {}", self.name))
    }

    /// The index of an interface.
    ///
    /// # Errors
    /// Where there is no interface of that name.
    pub fn index(&self, interface: &str) -> Result<u32> {
        self.run(|| nix::net::if_::if_nametoindex(interface))?
            .with_context(|| format!("no interface {interface} in {}", self.name))
    }

    /// Whether an interface has carrier (`IFF_LOWER_UP`, netdevice(7)).
    ///
    /// # Errors
    /// Where there is no interface of that name.
    pub fn has_carrier(&self, interface: &str) -> Result<bool> {
        let entry = self.run(|| -> Result<_> {
            Ok(getifaddrs().context("cannot list interfaces")?.find(|entry| entry.interface_name == interface))
        })??;
        let entry = entry.with_context(|| format!("no interface {interface} in {}", self.name))?;
        Ok(entry.flags.contains(InterfaceFlags::IFF_LOWER_UP))
    }

    /// Sets an interface administratively up or down.
    ///
    /// # Errors
    /// Where there is no such interface, or the kernel refuses.
    pub fn set_up(&self, interface: &str, up: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(interface)?);
        let message = if up { message.up() } else { message.down() };
        self.set_link(message.build()).with_context(|| format!("cannot set {interface} up or down in {}", self.name))
    }

    /// Deletes an interface (and with it the other end of a veth pair).
    ///
    /// # Errors
    /// Where there is no such interface, or the kernel refuses.
    pub fn delete_interface(&self, interface: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(interface)?).build();
        self.netlink
            .request(vec![RouteNetlinkMessage::DelLink(message)], 0)
            .with_context(|| format!("cannot delete {interface} in {}", self.name))
    }

    /// Changes an existing interface.
    pub(crate) fn set_link(&self, message: LinkMessage) -> Result<()> {
        self.netlink.request(vec![RouteNetlinkMessage::SetLink(message)], 0)
    }

    /// Gives an interface an address, `address` being it with its prefix length.
    ///
    /// # Errors
    /// Where there is no such interface, or the kernel refuses.
    pub fn add_address(&self, interface: &str, address: IpNet) -> Result<()> {
        let index = self.index(interface)?;
        let mut message = match address {
            IpNet::V4(net) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(net.addr(), net.prefix_len()).build()
            }
            IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build(),
        };
        if address.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.netlink
            .request(vec![RouteNetlinkMessage::NewAddress(message)], NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("cannot give {interface} the address {address} in {}", self.name))
    }

    /// Gives an interface an IPv4 address of its own and its peer's at the other end, as PPP does.
    ///
    /// # Errors
    /// Where there is no such interface, or the kernel refuses.
    pub fn add_peer_address(&self, interface: &str, address: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        self.netlink
            .request(
                vec![RouteNetlinkMessage::NewAddress(peer_message(self.index(interface)?, address, peer))],
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .with_context(|| format!("cannot give {interface} the address {address} (peer {peer}) in {}", self.name))
    }

    /// Takes away what [`Namespace::add_peer_address`] gave.
    ///
    /// # Errors
    /// Where there is no such address.
    pub fn delete_peer_address(&self, interface: &str, address: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        self.netlink
            .request(vec![RouteNetlinkMessage::DelAddress(peer_message(self.index(interface)?, address, peer))], 0)
            .with_context(|| format!("cannot take {address} (peer {peer}) from {interface} in {}", self.name))
    }

    /// Adds or replaces a route in the main table.
    ///
    /// # Errors
    /// The kernel's, such as a gateway that is not on any link.
    pub fn add_route(&self, destination: IpNet, gateway: IpAddr) -> Result<()> {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())
            .and_then(|message| message.gateway(gateway))
            .context("a route's destination and gateway must be of one address family")?
            .build();
        self.netlink
            .request(vec![RouteNetlinkMessage::NewRoute(message)], NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("cannot route {destination} through {gateway} in {}", self.name))
    }

    /// Makes packets to a destination vanish without a word (`blackhole` in ip-route(8)).
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_blackhole(&self, destination: IpNet) -> Result<()> {
        let message = blackhole(destination)?;
        self.netlink
            .request(vec![RouteNetlinkMessage::NewRoute(message)], NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("cannot make {destination} a black hole in {}", self.name))
    }

    /// Takes away what [`Namespace::add_blackhole`] made.
    ///
    /// # Errors
    /// Where there is none.
    pub fn delete_blackhole(&self, destination: IpNet) -> Result<()> {
        self.netlink
            .request(vec![RouteNetlinkMessage::DelRoute(blackhole(destination)?)], 0)
            .with_context(|| format!("cannot remove the black hole {destination} in {}", self.name))
    }

    /// Joins two namespaces by a veth pair; both ends are up when it returns.
    ///
    /// # Errors
    /// The kernel's, such as a name that is taken.
    pub fn connect(&self, interface: &str, other: &Namespace, other_interface: &str) -> Result<()> {
        // Ends with different indexes: where an interface's index equals its peer's, the kernel takes it for a physical
        // one, and then delays news of its carrier by up to a second.
        static INDEX: AtomicU32 = AtomicU32::new(1000);
        let peer =
            LinkMessageBuilder::<LinkUnspec>::new().name(other_interface).setns_by_fd(other.file.as_raw_fd()).build();
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .index(INDEX.fetch_add(1, Ordering::Relaxed))
            .name(interface)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.create_link(message).with_context(|| {
            format!("cannot join {interface} in {} with {other_interface} in {}", self.name, other.name)
        })?;
        other.set_up(other_interface, true)?;
        self.set_up(interface, true)
    }

    /// Creates an interface.
    pub(crate) fn create_link(&self, message: LinkMessage) -> Result<()> {
        self.netlink.request(vec![RouteNetlinkMessage::NewLink(message)], NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets or takes carrier on an interface whose driver lets user space do so (tun does).
    pub(crate) fn set_carrier(&self, interface: &str, carrier: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(interface)?)
            .append_extra_attribute(LinkAttribute::Carrier(u8::from(carrier)))
            .build();
        self.set_link(message).with_context(|| format!("cannot change the carrier of {interface} in {}", self.name))
    }
}

/// An address with a peer at the other end.
fn peer_message(index: u32, address: Ipv4Addr, peer: Ipv4Addr) -> AddressMessage {
    // The builder only knows addresses with a prefix; with a peer IFA_ADDRESS is the peer's (linux/if_addr.h).
    let mut message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).build();
    message.header.prefix_len = 32;
    message.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(peer.into())];
    message
}

fn blackhole(destination: IpNet) -> Result<RouteMessage> {
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .context("a prefix length within its family")?
        .kind(RouteType::BlackHole)
        .build())
}

/// Removes the namespace mounted on `path`, as far as it exists. The kernel destroys it with its interfaces as soon as the
/// last process and file has let go of it.
pub(crate) fn remove(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Runs `work` on a fresh thread, and waits for it; a panic there goes on here.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    })
}
