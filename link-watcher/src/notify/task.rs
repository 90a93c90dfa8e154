//! A task for each notifier, and who starts and ends them as the configuration wants it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Tally,
    delivery::Delivery,
    message::Message,
    outbox::{Fate, Outbox},
};
use crate::{
    clock::{self, nanoseconds},
    config::NotifyConfig,
    control::{EventRecord, History, Order},
    status::Snapshot,
};

/// How long the core may take to say how it stands.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The notifiers that a configuration wants.
pub(crate) type Notifiers = Arc<[NotifyConfig]>;

/// Runs these notifiers, and from each change on those that are watched, until nobody can change them any more. One that
/// stays, by its name, keeps what it has not sent yet.
pub(crate) async fn serve<T: From<Order> + Send + 'static>(
    mut wanted: watch::Receiver<Notifiers>,
    history: Arc<History>,
    requests: mpsc::Sender<T>,
    tally: Arc<Tally>,
) {
    let delivery = Delivery::new();
    let mut running: BTreeMap<String, (watch::Sender<NotifyConfig>, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut begin = true;
    loop {
        let notifiers = Arc::clone(&wanted.borrow_and_update());
        let names: Vec<&str> = notifiers.iter().map(|notifier| notifier.name.as_str()).collect();
        running.retain(|name, (_, task)| {
            let stays = names.contains(&name.as_str());
            if !stays {
                task.abort();
            }
            stays
        });
        tally.retain(&names);
        for notifier in notifiers.iter() {
            if let Some((config, _)) = running.get(&notifier.name) {
                config.send_if_modified(|known| {
                    let changed = known != notifier;
                    known.clone_from(notifier);
                    changed
                });
                continue;
            }
            let (config, watched) = watch::channel(notifier.clone());
            let task = Task {
                config: watched,
                outbox: Outbox::new(nanoseconds(notifier.min_interval)),
                delivery: delivery.clone(),
                requests: requests.clone(),
                tally: Arc::clone(&tally),
            };
            // At the daemon's start nothing of its short history is told yet; later on, all of it is.
            let (recent, coming) = history.follow();
            let handle = tasks.spawn(task.run(if begin { recent } else { Vec::new() }, coming));
            running.insert(notifier.name.clone(), (config, handle));
        }
        begin = false;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            // How one ended that is not wanted any more is nobody's business; this keeps the set small.
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}

struct Task<T> {
    config: watch::Receiver<NotifyConfig>,
    outbox: Outbox,
    delivery: Delivery,
    requests: mpsc::Sender<T>,
    tally: Arc<Tally>,
}

impl<T: From<Order> + Send> Task<T> {
    async fn run(mut self, recent: Vec<Arc<EventRecord>>, mut events: broadcast::Receiver<Arc<EventRecord>>) {
        recent.into_iter().for_each(|event| self.on_event(event));
        loop {
            let now_ns = clock::now_ns();
            let wait = self.outbox.due_ns().map_or(IDLE, |due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)));
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Ok(event) => self.on_event(event),
                    Err(broadcast::error::RecvError::Lagged(lost)) => self.outbox.lose(lost),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = self.config.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let min_interval = self.config.borrow_and_update().min_interval;
                    self.outbox.set_min_interval(nanoseconds(min_interval));
                    self.outbox.try_soon(clock::now_ns());
                }
                () = sleep(wait) => self.send().await,
            }
        }
    }

    fn on_event(&mut self, event: Arc<EventRecord>) {
        if self.config.borrow().on.contains(&event.what.as_str()) {
            self.outbox.push(clock::now_ns(), event);
        }
    }

    /// Sends what is due. Events wait in the history meanwhile.
    async fn send(&mut self) {
        let Some(batch) = self.outbox.take(clock::now_ns()) else { return };
        let config = self.config.borrow().clone();
        let name = &config.name;
        let message = Message::new(batch.clone(), self.status().await, &self.delivery.host);
        match self.delivery.send(&config, &message).await {
            Ok(answer) => {
                self.tally.count(name, |results| results.sent += 1);
                match self.outbox.sent() {
                    0 => debug!("notifier {name}: {answer}"),
                    failures => info!("notifier {name} works again after {failures} failed tries: {answer}"),
                }
            }
            Err(error) => {
                self.tally.count(name, |results| results.failed += 1);
                // Tries come ever more slowly, and so do these lines.
                match self.outbox.failed(clock::now_ns(), batch, error.refused) {
                    Fate::Retry(wait_ns) => {
                        warn!("notifier {name}: {error}; tried again in {} s", wait_ns / 1_000_000_000);
                    }
                    Fate::GivenUp => {
                        self.tally.count(name, |results| results.given_up += 1);
                        warn!("notifier {name}: {error}; the message is given up: link-watcher notify-test {name}");
                    }
                }
            }
        }
    }

    /// How it stands now; nothing where the core does not say in time.
    async fn status(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(Order::Status(reply).into()).await.ok()?;
            answer.await.ok()
        };
        timeout(STATUS_LIMIT, asked).await.ok().flatten()
    }
}
