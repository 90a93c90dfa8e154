//! What the machine tells of itself: interfaces, addresses, the routes that are ours; and the kernel settings (sysctl)
//! that routing over several links needs.

mod interfaces;
mod neighbours;
mod sysctl;

pub use self::{
    interfaces::{Interface, Interfaces},
    neighbours::{Ethernet, NeighbourSink, NetlinkNeighbours, refresh},
    sysctl::{FormerValues, LinkSysctls, ProcSysctl, SysctlSink},
};
pub use crate::netlink::{
    Address, Filtered, KernelError, KernelEvent, KernelEvents, Link, MAX_VACANCIES, RouteChange, RouteEvent,
};
