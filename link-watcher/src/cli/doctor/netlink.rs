//! Questions to kernel subsystems that either answer or are not there.

use std::{collections::BTreeMap, io, ops::ControlFlow};

use netlink_sys::protocols::NETLINK_GENERIC;
use rtnetlink::packet_core::NLM_F_DUMP;

use crate::netlink::{
    Batch, Requests,
    message::{Body, attribute, half, nla, word},
    netfilter, nexthop,
};

/// Generic netlink (linux/genetlink.h): the controller, its question for a family, that question's attributes.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, reserved.
const GENLMSGHDR_LEN: usize = 4;
/// The family `netdev` (linux/netdev.h, since Linux 6.3).
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Fails where the kernel has no nexthop objects.
pub(super) fn nexthops() -> io::Result<()> {
    let mut batch = Batch::default();
    nexthop::dump(&mut batch);
    Requests::open()?.dump_until(&mut batch, |_| ControlFlow::Break(()))
}

/// Fails where connections cannot be listed or released: without the subsystem or without the privilege.
pub(super) fn conntrack() -> io::Result<()> {
    netfilter::connections(&mut netfilter::open()?, &mut Batch::default()).map(drop)
}

/// What drivers say of their XDP (`enum netdev_xdp_act`), by interface index.
pub(super) fn xdp_features() -> io::Result<BTreeMap<u32, u64>> {
    let (mut requests, mut batch) = (Requests::open_protocol(NETLINK_GENERIC)?, Batch::default());
    let name = [nla(CTRL_ATTR_FAMILY_NAME, *b"netdev\0")];
    batch.request(GENL_ID_CTRL, 0, &Body { fixed: &[CTRL_CMD_GETFAMILY, 1, 0, 0], attributes: &name });
    let id = requests.ask_one(&mut batch, |message| {
        half(attribute(message.payload().get(GENLMSGHDR_LEN..)?, CTRL_ATTR_FAMILY_ID)?)
    })?;
    batch.clear();
    batch.request(id, NLM_F_DUMP, &Body { fixed: &[NETDEV_CMD_DEV_GET, 1, 0, 0], attributes: &[] });
    let devices = requests.dump(&mut batch, |message| device(message.payload().get(GENLMSGHDR_LEN..)?))?;
    Ok(devices.into_iter().collect())
}

fn device(bytes: &[u8]) -> Option<(u32, u64)> {
    let features = attribute(bytes, NETDEV_A_DEV_XDP_FEATURES)?.get(..8)?.try_into().ok()?;
    Some((word(attribute(bytes, NETDEV_A_DEV_IFINDEX)?)?, u64::from_ne_bytes(features)))
}
