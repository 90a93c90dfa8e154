//! What the kernel counts of a socket. Here because no safe interface asks for it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Number of values of `SO_MEMINFO`, and which of them are the drops (linux/sock_diag.h).
const SK_MEMINFO_VARS: usize = 9;
const SK_MEMINFO_DROPS: usize = 8;

/// Datagrams that a socket did not get since it was opened, modulo 2^32: its filter refused them, its receive buffer was full, or
/// their checksum was wrong. Linux 4.12 or later.
///
/// # Errors
///
/// The kernel's; none for a socket that is open.
pub fn drops(socket: &impl AsFd) -> io::Result<u32> {
    let mut values = [0_u32; SK_MEMINFO_VARS];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the array, whose every value is one, and the length itself.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(values[SK_MEMINFO_DROPS]) }
}
