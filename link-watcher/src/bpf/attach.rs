//! Attaching: native where the driver runs XDP and its answers arrive, generic elsewhere; and taking over what an earlier
//! daemon left, without losing a packet.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    Device, Error, Hook, LinkLayer, Mode, XdpProgram,
    pin::{PinnedLink, Pins},
    sys::{self, XdpFlags},
};
use crate::netlink::{
    Batch, Requests,
    link::{XdpHook, dump_links, parse_xdp},
};

/// A link of this daemon.
#[derive(Debug)]
struct Attached {
    link: PinnedLink,
    mode: Mode,
    layer: LinkLayer,
}

/// The links of this daemon.
#[derive(Debug)]
pub(super) struct Attachments {
    /// What an earlier daemon left, and in which mode.
    inherited: BTreeMap<(Hook, u32), (PinnedLink, Mode)>,
    ours: BTreeMap<(Hook, u32), Attached>,
}

impl Attachments {
    /// Finds what an earlier daemon left pinned. Pins of vanished interfaces are removed. So are those of another network
    /// namespace's daemon that was given the same directory by mistake, but its programs stay where they are.
    pub(super) fn new(pins: &Pins) -> Result<Self, Error> {
        let mut inherited = BTreeMap::new();
        let links = pins.links();
        let hooks = if links.is_empty() { BTreeMap::new() } else { hooks().map_err(Error::Netlink)? };
        for ((hook, ifindex), link) in links {
            let info = sys::link_info(&link).ok().filter(|info| info.ifindex == ifindex);
            let mode = info.and_then(|info| match hook {
                Hook::Xdp => hooks.get(&ifindex).filter(|xdp| xdp.program_id == info.program_id).map(mode),
                Hook::Tc => sys::tcx_programs(ifindex).ok()?.contains(&info.program_id).then_some(Mode::Tc),
            });
            match mode {
                Some(mode) => drop(inherited.insert((hook, ifindex), (link, mode))),
                None => link.forget()?,
            }
        }
        Ok(Self { inherited, ours: BTreeMap::new() })
    }

    /// Attaches the program, or replaces an earlier daemon's by it.
    pub(super) fn attach(
        &mut self,
        pins: &Pins,
        hook: Hook,
        device: &Device<'_>,
        program: BorrowedFd<'_>,
    ) -> Result<Mode, Error> {
        let place = (hook, device.ifindex);
        let layer = device.link_layer;
        if let Some(attached) = self.ours.remove(&place) {
            if sys::link_info(&attached.link).is_ok_and(|info| info.ifindex == device.ifindex) {
                let mode = attached.mode;
                self.ours.insert(place, attached);
                return Ok(mode);
            }
            attached.link.forget()?; // The interface is another one under the same index.
        }
        if let Some((link, mode)) = self.inherited.remove(&place) {
            if sys::replace(link.as_fd(), program).is_ok() {
                self.ours.insert(place, Attached { link, mode, layer });
                return Ok(mode);
            }
            link.detach()?;
        }
        let (fd, mode) = match hook {
            Hook::Xdp => attach_xdp(device, program)?,
            Hook::Tc => match sys::attach_tcx(program, device.ifindex) {
                Ok(fd) => (fd, Mode::Tc),
                Err(source) => return Err(Error::AttachTc { interface: device.name.into(), source }),
            },
        };
        let link = pins.link(hook, device.ifindex, fd)?;
        self.ours.insert(place, Attached { link, mode, layer });
        Ok(mode)
    }

    /// Where programs are on these interfaces, with the link that keeps each there.
    pub(super) fn places(&self, ifindexes: &BTreeSet<u32>) -> Vec<(Hook, LinkLayer, BorrowedFd<'_>)> {
        let here = self.ours.iter().filter(|((_, ifindex), _)| ifindexes.contains(ifindex));
        here.map(|((hook, _), attached)| (*hook, attached.layer, attached.link.as_fd())).collect()
    }

    /// Detaches from an interface. Nothing happens if it is gone or was never attached to.
    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        for hook in [Hook::Xdp, Hook::Tc] {
            if let Some(attached) = self.ours.remove(&(hook, ifindex)) {
                attached.link.detach()?;
            }
        }
        Ok(())
    }

    /// Detaches what an earlier daemon left on interfaces that are not ours any more.
    pub(super) fn drop_inherited(&mut self) -> Result<(), Error> {
        std::mem::take(&mut self.inherited).into_values().try_for_each(|(link, _)| link.detach())
    }

    /// Detaches from every interface.
    pub(super) fn detach_all(&mut self) -> Result<(), Error> {
        self.drop_inherited()?;
        std::mem::take(&mut self.ours).into_values().try_for_each(|attached| attached.link.detach())
    }
}

/// Attaches in the best mode that works.
fn attach_xdp(device: &Device<'_>, program: BorrowedFd<'_>) -> Result<(OwnedFd, Mode), Error> {
    if may_run_native(device) {
        match sys::attach_xdp(program, device.ifindex, XdpFlags::Native) {
            Ok(link) => return Ok((link, Mode::XdpNative)),
            Err(error) if is_occupied(&error) => return Err(occupied(device)),
            Err(error) => tracing::debug!("{}: no native XDP: {error}", device.name),
        }
    }
    match sys::attach_xdp(program, device.ifindex, XdpFlags::Generic) {
        Ok(link) => Ok((link, Mode::XdpGeneric)),
        Err(error) if is_occupied(&error) => Err(occupied(device)),
        Err(source) => Err(Error::Attach { interface: device.name.into(), source }),
    }
}

/// Only hardware drivers: they send answers (`XDP_TX`) out themselves. A veth pair's native answers vanish unless the
/// other end runs native XDP too, and other virtual devices gain nothing from native mode.
pub(super) fn may_run_native(device: &Device<'_>) -> bool {
    device.link_layer == LinkLayer::Ethernet && device.kind.is_none()
}

/// `EBUSY`: another program. `EEXIST`: another program in another mode.
fn is_occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// Who is there.
fn occupied(device: &Device<'_>) -> Error {
    let program = hooks().ok().and_then(|hooks| hooks.get(&device.ifindex).copied()).map(|hook| {
        let name = program_name(hook.program_id);
        (hook.program_id, name.unwrap_or_else(|| String::from("of unknown name")))
    });
    Error::Occupied { interface: device.name.into(), program }
}

/// The name of a loaded program; it takes CAP_SYS_ADMIN, or CAP_BPF, to ask.
fn program_name(id: u32) -> Option<String> {
    let programs = aya::programs::loaded_programs().flatten();
    programs.filter(|info| info.id() == id).find_map(|info| Some(info.name_as_str()?.into()))
}

/// The XDP programs of this network namespace, by interface index.
pub(super) fn xdp_programs() -> io::Result<BTreeMap<u32, XdpProgram>> {
    let program =
        |hook: XdpHook| XdpProgram { mode: mode(&hook), id: hook.program_id, name: program_name(hook.program_id) };
    Ok(hooks()?.into_iter().map(|(ifindex, hook)| (ifindex, program(hook))).collect())
}

/// The XDP hooks of all interfaces of this network namespace that have a program.
fn hooks() -> io::Result<BTreeMap<u32, XdpHook>> {
    let mut batch = Batch::default();
    dump_links(&mut batch);
    let found = Requests::open()?.dump(&mut batch, |message| parse_xdp(message.payload()))?;
    Ok(found.into_iter().collect())
}

const fn mode(hook: &XdpHook) -> Mode {
    if hook.generic { Mode::XdpGeneric } else { Mode::XdpNative }
}
