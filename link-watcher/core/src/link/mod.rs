//! One link, pure: [`Detector`] for its silence, [`Link`] for what follows from everything known about it.

mod dampening;
mod detector;
mod loss;
mod outstanding;
mod quality;
mod stack;
mod state;
mod usual;

pub(crate) use self::{detector::LONGEST_RTT_NS, state::seconds};
pub use self::{
    detector::{Detector, Echoes, Edge},
    loss::EachWay,
    stack::StackWatch,
    state::{Link, StateChange},
};
