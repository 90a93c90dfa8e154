//! The kernel's side of nexthop objects, and the trait behind which tests put a pretended one.

use std::{collections::BTreeSet, fs, io};

use crate::netlink::{
    Batch, FoundObject, KernelError, Object, PROTOCOL, Requests, dump,
    nexthop::{self as codec},
    process,
};

/// One message to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectChange {
    /// Take an id that nobody has; fails with `EEXIST` where somebody does.
    Create(u32, Object),
    /// Change what has an id, atomically, and with it where every route leads that refers to it. The kernel checks no
    /// owner. Fails with `ENOENT` where nothing has it.
    Replace(u32, Object),
    /// Remove what has an id. The kernel checks no owner.
    Delete(u32),
}

/// What nexthop objects need of a kernel.
pub trait ObjectKernel {
    /// The port id that events caused by our own requests carry.
    fn port_id(&self) -> u32;

    /// Carries out the changes in their order with one system call; the answer has an entry for each. A change that
    /// fails does not hinder those behind it. Fails as a whole only when the answers were lost.
    fn execute(&mut self, changes: &[ObjectChange]) -> io::Result<Vec<Result<(), KernelError>>>;

    /// What has these ids, anybody's. Fails with `EOPNOTSUPP` where the kernel has no such objects.
    fn look(&mut self, ids: &BTreeSet<u32>) -> io::Result<Vec<FoundObject>>;

    /// Who uses a netlink port id, in words.
    fn process(&self, port_id: u32) -> String;

    /// What in this machine is at odds with nexthop objects, in words and with the remedy.
    fn precautions(&self) -> Vec<String>;
}

/// The kernel, over a netlink socket in the network namespace of the thread that opens it.
pub struct NetlinkObjects {
    requests: Requests,
    batch: Batch,
}

impl NetlinkObjects {
    /// Opens the socket. Needs no privilege; changing objects needs `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, batch: Batch::default() })
    }
}

impl NetlinkObjects {
    /// Everything that has our protocol number, of all instances; nothing where the kernel has no such objects.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ours(&mut self) -> io::Result<Vec<FoundObject>> {
        self.batch.clear();
        codec::dump(&mut self.batch);
        match dump(&mut self.requests, &mut self.batch, |message| codec::parse(message.payload())) {
            Ok(found) => Ok(found.into_iter().filter(|object| object.protocol == PROTOCOL).collect()),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl ObjectKernel for NetlinkObjects {
    fn port_id(&self) -> u32 {
        self.requests.port_id()
    }

    fn execute(&mut self, changes: &[ObjectChange]) -> io::Result<Vec<Result<(), KernelError>>> {
        self.batch.clear();
        for change in changes {
            match change {
                ObjectChange::Create(id, object) => codec::create(&mut self.batch, *id, object),
                ObjectChange::Replace(id, object) => codec::replace(&mut self.batch, *id, object),
                ObjectChange::Delete(id) => codec::delete(&mut self.batch, *id),
            }
        }
        self.requests.transact(&mut self.batch)
    }

    fn look(&mut self, ids: &BTreeSet<u32>) -> io::Result<Vec<FoundObject>> {
        self.batch.clear();
        ids.iter().for_each(|id| codec::get(&mut self.batch, *id));
        let mut found = Vec::new();
        // One by one: a dump would have those of everybody else, too, and a routing daemon makes very many.
        let results = self.requests.ask(&mut self.batch, |message| found.extend(codec::parse(message.payload())))?;
        match results.into_iter().find_map(|result| result.err().filter(|error| error.errno != libc::ENOENT)) {
            None => Ok(found),
            Some(error) => Err(io::Error::from_raw_os_error(error.errno)),
        }
    }

    fn process(&self, port_id: u32) -> String {
        process(port_id)
    }

    fn precautions(&self) -> Vec<String> {
        let mut said = Vec::new();
        if fs::read_to_string(super::COMPAT_MODE).is_ok_and(|value| value.trim_end() != "0") {
            said.push(format!("{}. Remedy: {}", super::COMPAT_WARNING, super::COMPAT_REMEDY));
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let names = processes.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
        let running: BTreeSet<String> = names.map(|name| name.trim_end().to_owned()).collect();
        let neighbours = super::NEIGHBOURS.iter().filter(|(name, _)| running.contains(*name));
        said.extend(neighbours.map(|(_, warning)| (*warning).to_owned()));
        said
    }
}
