//! What outlives a run: files that the daemon keeps for itself, and what is in them.

mod file;
mod keeper;
mod orders;

pub use self::{
    file::{FileError, StateFile},
    keeper::{Keeper, Kept, Store},
    orders::{MAX_ORDERS, ORDERS_MAX_LEN, ORDERS_VERSION, OrderBook, OrderRecord, Ordered, Timestamp},
};
