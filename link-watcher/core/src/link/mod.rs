//! One link, pure: [`Detector`] for its silence, [`Link`] for what follows from everything known about it.

mod detector;
mod state;

pub use self::{
    detector::{Detector, Echoes, Edge},
    state::{Link, Turn},
};
