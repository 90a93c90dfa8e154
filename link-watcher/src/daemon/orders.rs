//! What was ordered: carried out by the engine, kept over runs by a thread that writes, put before the engine again with
//! every configuration, shown, and ended when its time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    core::Core,
    uplinks::{Answer, AppliedState},
};
use crate::{
    clock::{self, nanoseconds},
    control::{Author, Change},
    event::{Command, GroupId, GroupSpec, LinkId, StandingOrders},
    state::{Keeper, Kept, ORDERS_MAX_LEN, ORDERS_VERSION, OrderBook, OrderRecord, Ordered, StateFile, Timestamp},
    status::OrderSnapshot,
};

/// Most orders for what the configuration does not name; the newest stay.
const MAX_ASLEEP: usize = 256;
/// Orders for what the configuration does not name that one line of the log lists.
const MAX_ASLEEP_LOGGED: usize = 5;
/// How long an answer waits until what it tells is written.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for which something can be ordered, s: a year and a day.
const MAX_FOR_SECONDS: u64 = 366 * 86_400;
/// How often it is looked whether an order has ended, at least: the wall clock may be set, ns.
const LOOK_NS: u64 = 30_000_000_000;

/// The orders that stand.
pub(super) struct Orders {
    book: OrderBook,
    keeper: Keeper<OrderBook>,
    /// It is to be written.
    changed: bool,
    /// Groups of the configuration, with their links.
    named: BTreeMap<String, BTreeSet<String>>,
    /// Why what earlier runs left was not read; until something is written in its place.
    unread: Option<String>,
}

impl Orders {
    /// Reads what earlier runs left. Whatever is wrong with it keeps no daemon from starting: it is said.
    ///
    /// # Errors
    ///
    /// Without another thread.
    pub(super) fn load(directory: &Path, now: SystemTime) -> Result<Self> {
        let file = StateFile::new(directory.join("orders.json"), ORDERS_VERSION, ORDERS_MAX_LEN);
        let (mut book, unread) = match file.read::<OrderBook>() {
            Ok(book) => (book.unwrap_or_default(), None),
            Err(error) => {
                (OrderBook::default(), Some(file.give_up("what was ordered before the start is not known", &error)))
            }
        };
        if let Some(unread) = &unread {
            warn!("{unread}");
        }
        book.tidy();
        let ended = book.take_expired(now);
        for record in &ended {
            info!("{record} has ended meanwhile");
        }
        let keeper = Keeper::start("lw-state", "what was ordered", file)?;
        Ok(Self { book, keeper, changed: !ended.is_empty(), named: BTreeMap::new(), unread })
    }

    /// Puts the orders that stand into a configuration.
    pub(super) fn stand(&mut self, specs: &mut [GroupSpec]) {
        let names = |spec: &GroupSpec| spec.links.iter().map(|link| link.name.clone()).collect();
        self.named = specs.iter().map(|spec| (spec.name.clone(), names(spec))).collect();
        for spec in specs {
            spec.orders = self.of_spec(spec);
        }
        let asleep = self.asleep();
        if !asleep.is_empty() {
            let listed: Vec<String> = asleep.iter().take(MAX_ASLEEP_LOGGED).map(ToString::to_string).collect();
            let more = asleep.len().saturating_sub(MAX_ASLEEP_LOGGED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            warn!(
                "orders for what the configuration does not name are asleep until it does: {}{more}",
                listed.join(", ")
            );
        }
        let surplus = asleep.len().saturating_sub(MAX_ASLEEP);
        let surplus: Vec<OrderRecord> = asleep.into_iter().take(surplus).cloned().collect();
        for record in surplus {
            self.take_back(&record.group, &record.what);
        }
    }

    fn of_spec(&self, spec: &GroupSpec) -> StandingOrders {
        let id = |name: &str| spec.links.iter().find(|link| link.name == name).map(|link| link.id);
        let mut orders = StandingOrders::default();
        for record in self.book.of(&spec.name) {
            match &record.what {
                Ordered::Switch { link } => orders.pinned = id(link),
                Ordered::Failover => orders.failover_off = true,
                Ordered::Drain { link } => orders.drained.extend(id(link)),
                Ordered::Weight { link, weight } => orders.weights.extend(id(link).map(|id| (id, *weight))),
            }
        }
        orders
    }

    /// Orders for what the configuration does not name.
    fn asleep(&self) -> Vec<&OrderRecord> {
        let named = |record: &&OrderRecord| {
            let links = self.named.get(&record.group);
            links.is_some_and(|links| record.what.link().is_none_or(|link| links.contains(link)))
        };
        self.book.records().iter().filter(|record| !named(record)).collect()
    }

    pub(super) fn asleep_in_words(&self) -> Vec<String> {
        self.asleep().iter().map(ToString::to_string).collect()
    }

    /// Those of a group, for people.
    pub(super) fn of(&self, group: &str) -> Vec<OrderSnapshot> {
        let shown = |record: &OrderRecord| OrderSnapshot {
            what: record.what.what().to_owned(),
            link: record.what.link().map(str::to_owned),
            weight: if let Ordered::Weight { weight, .. } = record.what { Some(weight) } else { None },
            by: record.by.clone(),
            at: record.at.to_string(),
            until: record.until.map(|until| until.to_string()),
            reason: record.reason.clone(),
        };
        self.book.of(group).map(shown).collect()
    }

    /// Why what was ordered does not outlive a restart, where it does not.
    pub(super) fn problem(&self) -> Option<String> {
        self.keeper.problem().or_else(|| self.unread.clone())
    }

    fn record(&mut self, record: OrderRecord) {
        self.book.record(record);
        (self.changed, self.unread) = (true, None);
    }

    fn take_back(&mut self, group: &str, what: &Ordered) -> Option<OrderRecord> {
        let taken = self.book.take_back(group, what);
        self.changed |= taken.is_some();
        taken
    }

    /// When it is to be looked whether one of them has ended, ns.
    pub(super) fn due_ns(&self) -> u64 {
        self.book.next_expiry().map_or(u64::MAX, |until| {
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            clock::now_ns() + nanoseconds(left).min(LOOK_NS)
        })
    }

    /// Has what has changed written; gives what tells of it.
    pub(super) fn keep(&mut self) -> Option<oneshot::Receiver<Kept>> {
        std::mem::take(&mut self.changed).then(|| self.keeper.keep(self.book.clone()))
    }

    pub(super) fn stop(self) {
        self.keeper.stop();
    }
}

/// What somebody wants ordered, or taken back.
struct Wanted<'a> {
    /// Nothing: every group.
    group: Option<&'a str>,
    what: Ordered,
    /// It is to stand; else it is taken back.
    stands: bool,
    force: bool,
    for_seconds: Option<u64>,
}

impl<'a> Wanted<'a> {
    /// Nothing for a change that is no order.
    fn new(change: &'a Change) -> Option<Self> {
        let wanted =
            |group: &'a str, what, stands| Self { group: Some(group), what, stands, force: false, for_seconds: None };
        let link = String::clone;
        Some(match change {
            Change::Switch { group, link: Some(to), force } => {
                Self { force: *force, ..wanted(group, Ordered::Switch { link: link(to) }, true) }
            }
            // Whichever it is pinned to.
            Change::Switch { group, link: None, .. } => wanted(group, Ordered::Switch { link: String::new() }, false),
            Change::Failover { group, on } => Self { group: group.as_deref(), ..wanted("", Ordered::Failover, !*on) },
            Change::Drain { group, link: of, for_seconds } => {
                Self { for_seconds: *for_seconds, ..wanted(group, Ordered::Drain { link: link(of) }, true) }
            }
            Change::Undrain { group, link: of } => wanted(group, Ordered::Drain { link: link(of) }, false),
            Change::Weight { group, link: of, weight } => {
                let what = Ordered::Weight { link: link(of), weight: weight.unwrap_or_default() };
                wanted(group, what, weight.is_some())
            }
            Change::Reload(_) | Change::Confirm => return None,
        })
    }
}

impl Core {
    /// Carries out what somebody orders, and notes it.
    pub(super) fn order_by(&mut self, change: &Change, author: &Author) -> Answer {
        let Some(wanted) = Wanted::new(change) else { return Ok(String::new()) };
        let groups: Vec<String> = match wanted.group {
            Some(group) => vec![group.to_owned()],
            None => self.orders.named.keys().cloned().collect(),
        };
        let answers: Result<Vec<String>, String> =
            groups.iter().map(|group| self.order_group(group, &wanted, author)).collect();
        answers.map(|answers| answers.join("\n"))
    }

    fn order_group(&mut self, group: &str, wanted: &Wanted<'_>, author: &Author) -> Answer {
        let command = match self.command_for(group, wanted) {
            Ok(command) => command,
            Err(unknown) if wanted.stands => return Err(unknown),
            Err(unknown) => {
                let taken = self.orders.take_back(group, &wanted.what).ok_or(unknown)?;
                return Ok(format!("{taken} is taken back; it was asleep, for the configuration does not name it"));
            }
        };
        let at = SystemTime::now();
        let until = wanted.for_seconds.map(|seconds| end_of(at, seconds)).transpose()?;
        if wanted.stands {
            self.orders.book.check_room()?;
        }
        let said = self.engine.command(clock::now_ns(), command)?;
        if !wanted.stands {
            self.orders.take_back(group, &wanted.what);
            return Ok(said);
        }
        self.orders.record(OrderRecord {
            group: group.to_owned(),
            what: wanted.what.clone(),
            by: author.by.clone(),
            at: Timestamp(at),
            until,
            reason: author.reason.clone(),
        });
        Ok(until.map_or(said.clone(), |until| format!("{said}; this ends by itself at {until}")))
    }

    fn command_for(&self, group: &str, wanted: &Wanted<'_>) -> Result<Command, String> {
        Ok(match &wanted.what {
            Ordered::Switch { link } if wanted.stands => {
                let (group, link) = self.find_link(group, link)?;
                Command::Pin { group, link, force: wanted.force }
            }
            Ordered::Switch { .. } => Command::Unpin { group: self.find_group(group)? },
            Ordered::Failover => Command::Failover { group: self.find_group(group)?, on: !wanted.stands },
            Ordered::Drain { link } => Command::Drain { link: self.find_link(group, link)?.1, drained: wanted.stands },
            Ordered::Weight { link, weight } => {
                Command::Weight { link: self.find_link(group, link)?.1, weight: wanted.stands.then_some(*weight) }
            }
        })
    }

    /// Moves every peer group to its next usable link, and notes that it is pinned there.
    pub(super) fn next_link(&mut self) {
        for group in self.groups.keys().copied().collect::<Vec<GroupId>>() {
            match self.engine.command(clock::now_ns(), Command::Next { group }) {
                Ok(answer) => {
                    info!("{answer}");
                    self.note_next(group);
                }
                Err(error) => warn!("{error}"),
            }
        }
    }

    fn note_next(&mut self, id: GroupId) {
        let status = self.engine.status(clock::now_ns());
        let pinned = status.iter().find(|status| status.id == id).and_then(|status| status.pinned);
        let Some(link) = pinned.map(|link| self.link_name(link)) else { return };
        let (group, _) = self.names(id, None);
        let (what, by, at) = (Ordered::Switch { link }, "SIGUSR2".to_owned(), Timestamp(SystemTime::now()));
        self.orders.record(OrderRecord { group, what, by, at, until: None, reason: None });
    }

    /// Ends what was ordered until now.
    pub(super) fn end_orders(&mut self) {
        let ended = self.orders.book.take_expired(SystemTime::now());
        for record in ended {
            (self.orders.changed, self.uplinks_touched) = (true, true);
            let Ordered::Drain { link } = &record.what else { continue };
            let link = self.find_link(&record.group, link).map(|(_, link)| link);
            match link.and_then(|link| self.engine.command(clock::now_ns(), Command::DrainOver { link })) {
                Ok(said) => info!("{said}"),
                Err(_) => info!("{record} has ended, asleep"),
            }
        }
    }

    /// Puts off an answer until what it tells would outlive the daemon, and lets it say so where it does not; of an uplink
    /// that was drained it says what still uses it.
    pub(super) fn answer_when_kept(
        &self,
        written: Option<oneshot::Receiver<Kept>>,
        drained: Option<LinkId>,
        answer: oneshot::Sender<Answer>,
    ) -> oneshot::Sender<Answer> {
        let Some(written) = written else { return answer };
        let standing = self.uplinks.as_ref().map(super::uplinks::Uplinks::shared_standing);
        let (carried_out, result) = oneshot::channel::<Answer>();
        tokio::spawn(async move {
            // Nothing: the daemon stops, and whoever asked learns it by the channel's end.
            let Ok(result) = result.await else { return };
            let kept = tokio::time::timeout(WRITE_LIMIT, written).await;
            let said = result.map(|said| {
                let remaining = drained.zip(standing).and_then(|(link, standing)| remaining(link, &standing));
                format!("{said}{}{}", remaining.unwrap_or_default(), unkept(&kept))
            });
            // Whoever asked may have gone: that is their affair.
            let _ = answer.send(said);
        });
        carried_out
    }
}

/// When something that is ordered now for so long ends.
fn end_of(at: SystemTime, for_seconds: u64) -> Result<Timestamp, String> {
    let refused = || format!("it can be ordered for 1 to {MAX_FOR_SECONDS} seconds, or until it is taken back");
    if !(1..=MAX_FOR_SECONDS).contains(&for_seconds) {
        return Err(refused());
    }
    at.checked_add(Duration::from_secs(for_seconds)).map(Timestamp).ok_or_else(refused)
}

fn remaining(link: LinkId, standing: &Arc<Mutex<AppliedState>>) -> Option<String> {
    let count = *standing.lock().unwrap_or_else(PoisonError::into_inner).connections.get(&link)?;
    Some(match count {
        0 => "; no connection uses it any more".to_owned(),
        1 => "; 1 connection still uses it".to_owned(),
        count => format!("; {count} connections still use it"),
    })
}

/// What is to be said of something that was not written, or not in time.
fn unkept<A, B>(kept: &Result<Result<Kept, A>, B>) -> String {
    match kept {
        Ok(Ok(Ok(()))) => String::new(),
        Ok(Ok(Err(problem))) => format!("\nbut this is lost with a restart, for it cannot be written: {problem}"),
        // The thread has ended, or the disk is slow.
        Ok(Err(_)) | Err(_) => "\nbut it is not written yet, and lost if the machine stops now".to_owned(),
    }
}
