//! What operators have ordered and not taken back, by the names of the configuration: numbers and positions change with
//! every reload, and what a name means is for the configuration of the day.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Version of what [`OrderBook`] is written as.
pub const ORDERS_VERSION: u32 = 1;
/// Longest file of orders, bytes: each has names, an author and a reason of some hundred bytes.
pub const ORDERS_MAX_LEN: u64 = 4 << 20;
/// Most orders at a time.
pub const MAX_ORDERS: usize = 1024;

/// A wall-clock time, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_rfc3339_millis(self.0).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(D::Error::custom)
    }
}

/// What was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Ordered {
    /// The group's traffic goes by this link.
    Switch {
        /// Link.
        link: String,
    },
    /// The group does not fail over by itself.
    Failover,
    /// This link is out of service.
    Drain {
        /// Link.
        link: String,
    },
    /// This link has another weight than in the file.
    Weight {
        /// Link.
        link: String,
        /// Share among the active links of one tier, 1 to 256.
        weight: u32,
    },
}

impl Ordered {
    /// The command's name.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Switch { .. } => "switch",
            Self::Failover => "failover",
            Self::Drain { .. } => "drain",
            Self::Weight { .. } => "weight",
        }
    }

    /// The link that it is about.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Switch { link } | Self::Drain { link } | Self::Weight { link, .. } => Some(link),
            Self::Failover => None,
        }
    }

    /// Whether an order takes the place of a former one of the same group: a group has one pin, a link one weight.
    fn replaces(&self, former: &Self) -> bool {
        match (self, former) {
            (Self::Switch { .. }, Self::Switch { .. }) | (Self::Failover, Self::Failover) => true,
            (Self::Drain { link }, Self::Drain { link: other })
            | (Self::Weight { link, .. }, Self::Weight { link: other, .. }) => link == other,
            _ => false,
        }
    }
}

/// One order, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Group.
    pub group: String,
    /// What was ordered of it.
    #[serde(flatten)]
    pub what: Ordered,
    /// By whom: a user's name, or what else acts for people.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Until when it holds; nothing: until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why, in the words of whoever ordered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl std::fmt::Display for OrderRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.what.what(), self.group)?;
        if let Some(link) = self.what.link() {
            write!(f, " {link}")?;
        }
        write!(f, " (by {} at {})", self.by, self.at)
    }
}

/// All orders that stand, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderBook {
    records: Vec<OrderRecord>,
}

impl OrderBook {
    /// All of them.
    pub fn records(&self) -> &[OrderRecord] {
        &self.records
    }

    /// Those about a group.
    pub fn of<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a OrderRecord> {
        self.records.iter().filter(move |record| record.group == group)
    }

    /// Whether there is room for one more.
    ///
    /// # Errors
    ///
    /// Where there is none: what to do about it.
    pub fn check_room(&self) -> Result<(), String> {
        if self.records.len() < MAX_ORDERS {
            return Ok(());
        }
        Err(format!(
            "{MAX_ORDERS} orders stand already, as `link-watcher status --json` lists them: take some back first"
        ))
    }

    /// Adds an order, in the place of the former one of its kind. Ask [`OrderBook::check_room`] first: beyond the most there
    /// may be, the oldest goes.
    pub fn record(&mut self, record: OrderRecord) {
        self.records.retain(|known| known.group != record.group || !record.what.replaces(&known.what));
        self.records.push(record);
        self.records.drain(..self.records.len().saturating_sub(MAX_ORDERS));
    }

    /// Removes an order, whatever weight it was about; says which it was.
    pub fn take_back(&mut self, group: &str, what: &Ordered) -> Option<OrderRecord> {
        let at = self.records.iter().position(|known| known.group == group && what.replaces(&known.what))?;
        Some(self.records.remove(at))
    }

    /// Removes what held until `now` only.
    pub fn take_expired(&mut self, now: SystemTime) -> Vec<OrderRecord> {
        self.records.extract_if(.., |record| record.until.is_some_and(|until| until.0 <= now)).collect()
    }

    /// When the first of them stops to hold by itself.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.records.iter().filter_map(|record| record.until).min().map(|until| until.0)
    }

    /// What cannot be meant goes, and what is too much: for a book that somebody may have edited.
    pub fn tidy(&mut self) {
        self.records.retain(|record| !matches!(record.what, Ordered::Weight { weight: 0 | 257.., .. }));
        self.records.truncate(MAX_ORDERS);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn record(group: &str, what: Ordered) -> OrderRecord {
        OrderRecord { group: group.to_owned(), what, by: "root".to_owned(), at: at(0), until: None, reason: None }
    }

    fn drain(link: &str) -> Ordered {
        Ordered::Drain { link: link.to_owned() }
    }

    fn switch(link: &str) -> Ordered {
        Ordered::Switch { link: link.to_owned() }
    }

    fn weight(link: &str, weight: u32) -> Ordered {
        Ordered::Weight { link: link.to_owned(), weight }
    }

    #[test]
    fn one_order_of_a_kind_stands() {
        let mut book = OrderBook::default();
        for what in [drain("a"), switch("a"), weight("a", 1), Ordered::Failover] {
            book.record(record("hq", what));
        }
        for what in [drain("a"), drain("b"), switch("b"), weight("a", 9), weight("b", 3), Ordered::Failover] {
            book.record(record("hq", what));
        }
        book.record(record("wan", drain("a")));
        let of_hq: Vec<&Ordered> = book.of("hq").map(|record| &record.what).collect();
        let expected = [drain("a"), drain("b"), switch("b"), weight("a", 9), weight("b", 3), Ordered::Failover];
        assert_eq!(of_hq, expected.iter().collect::<Vec<_>>());
        assert_eq!(book.take_back("hq", &switch("")).unwrap().what, switch("b"), "whichever it is pinned to");
        assert_eq!(book.take_back("hq", &weight("a", 0)).unwrap().what, weight("a", 9));
        assert_eq!(book.take_back("hq", &drain("c")), None);
        assert_eq!(book.of("wan").count(), 1);
    }

    #[test]
    fn they_end_when_they_shall() {
        let mut book = OrderBook::default();
        for (link, until) in [("a", Some(20)), ("b", Some(10)), ("c", None)] {
            book.record(OrderRecord { until: until.map(at), ..record("hq", drain(link)) });
        }
        assert_eq!(book.next_expiry(), Some(at(10).0));
        assert_eq!(book.take_expired(at(9).0), []);
        assert_eq!(book.take_expired(at(10).0)[0].what, drain("b"));
        assert_eq!(book.next_expiry(), Some(at(20).0));
        assert_eq!(book.take_expired(at(99).0).len(), 1);
        assert_eq!((book.next_expiry(), book.records().len()), (None, 1));
    }

    #[test]
    fn as_a_file_has_it() {
        let mut book = OrderBook::default();
        let reason = Some("splicing".to_owned());
        book.record(OrderRecord { until: Some(at(60)), reason, ..record("hq", drain("optic")) });
        book.record(record("wan", Ordered::Failover));
        let text = serde_json::to_string(&book).unwrap();
        assert_eq!(
            text,
            r#"[{"group":"hq","what":"drain","link":"optic","by":"root","at":"1970-01-01T00:00:00.000Z","until":"1970-01-01T00:01:00.000Z","reason":"splicing"},{"group":"wan","what":"failover","by":"root","at":"1970-01-01T00:00:00.000Z"}]"#
        );
        assert_eq!(serde_json::from_str::<OrderBook>(&text).unwrap(), book);
        for bad in ["{}", r#"[{"group":"hq","what":"dance","by":"","at":"1970-01-01T00:00:00Z"}]"#] {
            assert!(serde_json::from_str::<OrderBook>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut book = OrderBook::default();
        book.record(record("hq", weight("zero", 0)));
        (0..MAX_ORDERS).for_each(|n| book.record(record("hq", drain(&n.to_string()))));
        assert_eq!(book.records().len(), MAX_ORDERS);
        assert!(book.check_room().unwrap_err().starts_with("1024 orders stand already"));
        book.record(record("hq", drain("one more")));
        assert_eq!((book.records().len(), &book.records()[0].what), (MAX_ORDERS, &drain("1")));
        book.records.push(record("hq", weight("a", 300)));
        book.tidy();
        assert!(book.records().len() <= MAX_ORDERS && !book.records().iter().any(|r| r.what == weight("a", 300)));
    }
}
