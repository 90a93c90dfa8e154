//! What the machine tells of itself: interfaces, addresses, the routes that are ours; and the kernel settings (sysctl)
//! that routing over several links needs.

mod events;
mod interfaces;
pub(crate) mod netlink;
mod sysctl;

pub use self::{
    events::{Address, Filtered, KernelEvent, KernelEvents, Link, RouteChange, RouteEvent},
    interfaces::{Interface, Interfaces},
    netlink::KernelError,
    sysctl::{LinkSysctls, ProcSysctl, SysctlSink},
};
