//! What can be found out about a machine, and the machine that this runs on.

use std::{collections::BTreeMap, fs, io, time::SystemTime};

use link_watcher_programs::NFT;

use super::netlink;
use crate::{
    bpf::{self, XdpProgram},
    cli::explain::{
        kernel::{self, Kernel, NamedTable},
        nft::Fib,
    },
    foreign_rules::Policy,
    netlink::Family,
    system::Interfaces,
    uplink::nft::TIMEOUT as NFT_TIMEOUT,
};

/// A machine that answers questions. Nothing is changed by asking.
pub(super) trait Machine {
    /// A small file, without white space at its end.
    fn read(&self, path: &str) -> io::Result<String>;
    /// The names in a directory, in order; none if there is no such directory.
    fn list(&self, directory: &str) -> Vec<String>;
    /// The name that a symbolic link leads to, without its directory.
    fn target(&self, link: &str) -> Option<String>;
    fn interfaces(&self) -> io::Result<Interfaces>;
    /// By interface index.
    fn xdp_programs(&self) -> io::Result<BTreeMap<u32, XdpProgram>>;
    /// What drivers say of their XDP (`enum netdev_xdp_act`), by interface index.
    fn xdp_features(&self) -> io::Result<BTreeMap<u32, u64>>;
    fn nexthops(&self) -> io::Result<()>;
    fn conntrack(&self) -> io::Result<()>;
    /// The version of the `nft` command, where it works with the kernel.
    fn nft(&self) -> io::Result<String>;
    /// nftables' tables, everybody's, and the routing that they may ask.
    fn filters(&self) -> Result<(Vec<NamedTable>, Box<dyn Fib>), String>;
    /// A rule of a table, as nft(8) writes it, by its handle.
    fn rule_text(&self, family: &str, table: &str, handle: u64) -> Option<String>;
    /// Policy rules, everybody's.
    fn policy(&self) -> io::Result<Policy>;
    fn now(&self) -> SystemTime;
}

/// This one.
pub(super) struct ThisMachine;

impl Machine for ThisMachine {
    fn read(&self, path: &str) -> io::Result<String> {
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    fn list(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    fn target(&self, link: &str) -> Option<String> {
        Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
    }

    fn interfaces(&self) -> io::Result<Interfaces> {
        Interfaces::read()
    }

    fn xdp_programs(&self) -> io::Result<BTreeMap<u32, XdpProgram>> {
        bpf::xdp_programs()
    }

    fn xdp_features(&self) -> io::Result<BTreeMap<u32, u64>> {
        netlink::xdp_features()
    }

    fn nexthops(&self) -> io::Result<()> {
        netlink::nexthops()
    }

    fn conntrack(&self) -> io::Result<()> {
        netlink::conntrack()
    }

    fn nft(&self) -> io::Result<String> {
        let run = |arguments: &[&str]| NFT.run(arguments, "", NFT_TIMEOUT);
        let version = run(&["--version"])?;
        let tables = run(&["list", "tables"])?;
        if !tables.status.success() {
            return Err(io::Error::other(tables.stderr.lines().next().unwrap_or("it failed").to_owned()));
        }
        Ok(version.stdout.trim_end().to_owned())
    }

    fn filters(&self) -> Result<(Vec<NamedTable>, Box<dyn Fib>), String> {
        let tables = kernel::tables()?;
        let kernel = Kernel::read(Family::V4).map_err(|error| error.to_string())?;
        Ok((tables, Box::new(kernel)))
    }

    fn rule_text(&self, family: &str, table: &str, handle: u64) -> Option<String> {
        kernel::rule_text(family, table, handle)
    }

    fn policy(&self) -> io::Result<Policy> {
        Policy::read()
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
