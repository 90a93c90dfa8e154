//! The way to the probing thread.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tracing::warn;

use super::Order;

/// The way to the thread.
pub struct Prober {
    pub(super) orders: Arc<Mutex<Vec<Order>>>,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Gives an order. It is carried out in the order given, at once.
    pub fn order(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let first = orders.is_empty();
        orders.push(order);
        drop(orders);
        // The first one has woken it, and it takes all that are there then.
        if first {
            // Fails only where the counter would overflow: then the thread is awake already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Stops the thread and waits for it.
    pub fn stop(mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the probing thread has panicked");
        }
    }
}
