//! The calls of bpf(2) that pin and attach, as the kernel has them: nothing happens in them but what their name says.
//! (A library's attach may fall back to an attachment that outlives the process and cannot be pinned.)

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// Commands and attach types of `linux/bpf.h`.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum XdpFlags {
    Generic = 1 << 1,
    Native = 1 << 2,
}

#[repr(C)]
struct ObjAttr {
    pathname: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// All of it: the kernel writes to the last field, whatever the length that it is told.
#[derive(Default)]
#[repr(C)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The beginning of `struct bpf_link_info`, as far as XDP and tcx links fill it.
#[derive(Default)]
#[repr(C)]
pub(super) struct LinkInfo {
    link_type: u32,
    id: u32,
    /// The program behind the link.
    pub(super) program_id: u32,
    padding: u32,
    /// The interface; 0: it is gone.
    pub(super) ifindex: u32,
    padding_2: u32,
}

/// # Safety
///
/// `A` is the beginning of `union bpf_attr` as `command` reads it, and the addresses in it are good for the call.
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes of the attribute, and what the caller vouches for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A result that is a new descriptor.
///
/// # Safety
///
/// The command that gave it gives descriptors.
unsafe fn owned(result: libc::c_long) -> OwnedFd {
    // SAFETY: nobody else knows it yet. Descriptors fit an int.
    unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32 // Never negative.
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Gives an object a name in the BPF file system. `EEXIST` if there is one already.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, fd: raw(fd), file_flags: 0 };
    // SAFETY: the path lives until the end of this function.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens a pinned object.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, fd: 0, file_flags: 0 };
    // SAFETY: as above; the call gives a descriptor.
    unsafe { bpf(BPF_OBJ_GET, &mut attr).map(|fd| owned(fd)) }
}

/// Attaches an XDP program. `EBUSY` or `EEXIST` if there is another one.
pub(super) fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: XdpFlags) -> io::Result<OwnedFd> {
    create_link(program, ifindex, BPF_XDP, flags as u32)
}

/// Attaches a tc program, behind others that are there. `EINVAL` before Linux 6.6.
pub(super) fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    create_link(program, ifindex, BPF_TCX_INGRESS, 0)
}

fn create_link(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr { prog_fd: raw(program), target_ifindex: ifindex, attach_type, flags };
    // SAFETY: no addresses; the call gives a descriptor.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr).map(|fd| owned(fd)) }
}

/// The ids of an interface's tc programs, at most 16 of them.
pub(super) fn tcx_programs(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 16];
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..QueryAttr::default()
    };
    // SAFETY: the kernel writes at most `count` ids.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// Replaces the program of a link, between two packets.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    // SAFETY: no addresses.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link's program now: merely closing and unpinning a link lets it linger for a moment.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link_fd = raw(link);
    // SAFETY: the attribute is the descriptor alone.
    unsafe { bpf(BPF_LINK_DETACH, &mut link_fd) }.map(drop)
}

/// What the kernel tells of a link.
pub(super) fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: raw(link.as_fd()),
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes; every value of them is a `LinkInfo`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}
