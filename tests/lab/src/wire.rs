//! A cable or a tunnel, cut and mended alike.

use anyhow::Result;

use super::cable::Cable;
use super::tunnel::Tunnel;
use super::{Direction, End, Moment};

/// What joins the two routers on one link.
#[derive(Debug)]
pub enum Wire {
    /// Ethernet.
    Cable(Cable),
    /// A pair of tun devices.
    Tunnel(Tunnel),
}

impl Wire {
    /// The link's name.
    pub fn name(&self) -> &str {
        match self {
            Wire::Cable(cable) => cable.name(),
            Wire::Tunnel(tunnel) => tunnel.name(),
        }
    }

    /// Cuts both directions silently: packets vanish, carrier stays.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&self) -> Result<Moment> {
        self.cut_directions(&Direction::BOTH)
    }

    /// Cuts one direction silently; the other still passes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut_one_way(&self, direction: Direction) -> Result<Moment> {
        self.cut_directions(&[direction])
    }

    fn cut_directions(&self, directions: &[Direction]) -> Result<Moment> {
        match self {
            Wire::Cable(cable) => cable.cut(directions),
            Wire::Tunnel(tunnel) => tunnel.cut(directions),
        }
    }

    /// Takes the carrier away at one end; nothing passes any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut_carrier(&self, end: End) -> Result<Moment> {
        match self {
            Wire::Cable(cable) => cable.cut_carrier(end),
            Wire::Tunnel(tunnel) => tunnel.cut_carrier(end),
        }
    }

    /// Mends everything.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mend(&self) -> Result<Moment> {
        match self {
            Wire::Cable(cable) => cable.mend(),
            Wire::Tunnel(tunnel) => tunnel.mend(),
        }
    }
}
