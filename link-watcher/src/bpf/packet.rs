//! Packet sockets, for sending only (packet(7)). Here because no safe interface takes a frame's destination.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Opens a socket for packets without their link header, which the kernel puts in front. It receives nothing.
///
/// # Errors
///
/// Without `CAP_NET_RAW`, or in a kernel without packet sockets.
pub fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // No protocol: nothing is delivered to it.
    Ok(socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?)
}

/// Sends a packet, which begins with its network header, to an Ethernet address.
///
/// # Errors
///
/// The kernel's: the interface is gone or down, or its queue is full.
pub fn send(socket: &OwnedFd, ifindex: u32, ethertype: u16, to: Mac, packet: &[u8]) -> io::Result<()> {
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: ifindex as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: to.len() as u8,
        sll_addr: [0; 8],
    };
    address.sll_addr[..to.len()].copy_from_slice(&to);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: packet and address are alive for the whole call, which only reads them, with these lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
