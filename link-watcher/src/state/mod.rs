//! What outlives a run: files that the daemon keeps for itself, and what is in them.

mod file;
mod keeper;
mod orders;

pub use self::{
    file::{FileError, StateFile},
    keeper::{Keeper, Kept, Store},
    orders::{MAX_ORDERS, ORDERS_MAX_LEN, ORDERS_VERSION, OrderBook, OrderRecord, Ordered, Timestamp},
};

#[cfg(feature = "fuzzing")]
use crate::statistics::DayRecord;

/// What a file of ours may hold after whatever happened to the disk.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(book) = serde_json::from_slice::<OrderBook>(data) {
        let again = serde_json::to_vec(&book).and_then(|text| serde_json::from_slice::<OrderBook>(&text));
        assert!(again.is_ok_and(|again| again == book), "{book:?}");
    }
    if let Ok(day) = serde_json::from_slice::<DayRecord>(data) {
        for period in day.groups.values().flat_map(|group| group.links.values()) {
            let (mut sum, figures) = (period.clone(), period.figures());
            sum.merge(period);
            assert!(figures.availability.is_none_or(|share| (0.0..=1.0).contains(&share)), "{period:?}");
        }
    }
    drop(serde_json::from_slice::<crate::ledger::Claims>(data));
}
