//! Questions to kernel subsystems that either answer or are not there.

use std::{collections::BTreeMap, io};

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE},
};

use crate::system::netlink::{HEADER_LEN, append_attribute, attributes, messages, read_u16, read_u32};

/// Most datagrams of one answer.
const MAX_DATAGRAMS: usize = 1024;
/// Room for one of them, bytes.
const BUFFER_LEN: usize = 64 << 10;

/// `RTM_GETNEXTHOP` (linux/rtnetlink.h), and the length of `struct nhmsg` (linux/nexthop.h).
const RTM_GETNEXTHOP: u16 = 106;
const NHMSG_LEN: usize = 8;
/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET_STATS` (linux/netfilter/nfnetlink*.h).
const CT_GET_STATS: u16 = 1 << 8 | 5;
/// `struct nfgenmsg`: family, version, resource id.
const NFGENMSG_LEN: usize = 4;
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
    ask(NETLINK_ROUTE, RTM_GETNEXTHOP, libc::NLM_F_DUMP, &[0; NHMSG_LEN], &[]).map(drop)
}

/// Fails where connections cannot be listed or released: without the subsystem or without the privilege.
pub(super) fn conntrack() -> io::Result<()> {
    ask(NETLINK_NETFILTER, CT_GET_STATS, 0, &[0; NFGENMSG_LEN], &[]).map(drop)
}

/// What drivers say of their XDP (`enum netdev_xdp_act`), by interface index.
pub(super) fn xdp_features() -> io::Result<BTreeMap<u32, u64>> {
    let mut name = Vec::new();
    append_attribute(&mut name, CTRL_ATTR_FAMILY_NAME, |bytes| bytes.extend_from_slice(b"netdev\0"));
    let family = ask(NETLINK_GENERIC, GENL_ID_CTRL, 0, &[CTRL_CMD_GETFAMILY, 1, 0, 0], &name)?;
    let id = family.iter().find_map(|payload| {
        let (_, value) = attributes(payload.get(GENLMSGHDR_LEN..)?).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
        read_u16(value, 0)
    });
    let id = id.ok_or(io::ErrorKind::NotFound)?;
    let devices = ask(NETLINK_GENERIC, id, libc::NLM_F_DUMP, &[NETDEV_CMD_DEV_GET, 1, 0, 0], &[])?;
    Ok(devices.iter().filter_map(|payload| device(payload.get(GENLMSGHDR_LEN..)?)).collect())
}

fn device(bytes: &[u8]) -> Option<(u32, u64)> {
    let value = |wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let features = value(NETDEV_A_DEV_XDP_FEATURES)?.get(..8)?.try_into().ok()?;
    Some((read_u32(value(NETDEV_A_DEV_IFINDEX)?, 0)?, u64::from_ne_bytes(features)))
}

/// Sends one request, and gives the payloads of its answers. The kernel has queued them all when `send` returns, except
/// for a long dump, which goes on as it is read: nothing here waits.
fn ask(protocol: isize, kind: u16, flags: i32, fixed: &[u8], more: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    let length = (HEADER_LEN + fixed.len() + more.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(fixed);
    bytes.extend_from_slice(more);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    for _ in 0..MAX_DATAGRAMS {
        let mut buffer = Vec::with_capacity(BUFFER_LEN);
        socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
        for message in messages(&buffer) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(answers),
                libc::NLMSG_ERROR => {
                    // 0: the acknowledgement, behind the answer.
                    let errno = -(read_u32(message.payload, 0).unwrap_or_default() as i32);
                    return if errno == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(errno)) };
                }
                _ => answers.push(message.payload.to_vec()),
            }
        }
    }
    Err(io::Error::other("the kernel's answer has no end"))
}
