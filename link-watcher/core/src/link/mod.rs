//! One link, pure: [`Detector`] for its silence, [`Link`] for what follows from everything known about it.

mod detector;
mod stack;
mod state;

pub(crate) use self::state::seconds;
pub use self::{
    detector::{Detector, Echoes, Edge},
    stack::StackWatch,
    state::{Link, Turn},
};
