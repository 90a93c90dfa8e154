//! One message to one notifier: the effect behind which mail, HTTP and programs are.

use std::time::{Duration, SystemTime};

use rustix::system::uname;
use tokio::time::timeout;

use super::{email, exec, message::Message, webhook};
use crate::{
    config::{Means, NotifyConfig},
    tls::Tls,
};

/// How long one try may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer that is repeated, characters.
const MAX_ANSWER: usize = 200;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct DeliveryError {
    why: String,
    /// It was reached, and refused the message: it will again.
    pub(super) refused: bool,
}

impl DeliveryError {
    /// It was not reached, or may take the message later.
    pub(super) fn unreached(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: false }
    }

    /// It does not want the message.
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: true }
    }
}

/// What all deliveries share.
#[derive(Clone)]
pub struct Delivery {
    pub(super) host: String,
    pub(super) limit: Duration,
    pub(super) tls: Tls,
}

impl Default for Delivery {
    fn default() -> Self {
        Self::new()
    }
}

impl Delivery {
    /// From this machine.
    pub fn new() -> Self {
        Self { host: uname().nodename().to_string_lossy().into_owned(), limit: LIMIT, tls: Tls::default() }
    }

    /// Sends a test message. Gives what the other side answered.
    ///
    /// # Errors
    ///
    /// Where it did not take the message within 30 s.
    pub async fn test(&self, notifier: &NotifyConfig) -> Result<String, DeliveryError> {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        self.send(notifier, &Message::test(&self.host, &notifier.name, time)).await
    }

    /// Sends a message, once. Gives what the other side answered.
    pub(super) async fn send(&self, notifier: &NotifyConfig, message: &Message) -> Result<String, DeliveryError> {
        let sent = match &notifier.means {
            Means::Email(config) => timeout(self.limit, email::send(self, config, message)).await,
            Means::Webhook(config) => timeout(self.limit, webhook::send(self, config, message)).await,
            // It is ended by its own limit.
            Means::Exec(config) => Ok(exec::run(self, &notifier.name, config, message).await),
        };
        let late = || DeliveryError::unreached(format!("no answer within {} s", self.limit.as_secs_f64()));
        sent.unwrap_or_else(|_| Err(late()))
    }
}

/// What somebody answered, on one line that a log can have.
pub(super) fn one_line(answer: &str) -> String {
    let line = answer.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MAX_ANSWER).collect()
}
