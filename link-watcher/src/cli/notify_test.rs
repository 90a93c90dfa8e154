//! `notify-test`: whether messages arrive.

use std::path::Path;

use super::{Exit, Failure, output::print};
use crate::{
    config::{self, NotifyConfig},
    notify::Delivery,
};

/// Sends a test message by each notifier of a configuration, or by the one of this name, one after the other.
pub(super) fn run(path: &Path, name: Option<&str>) -> Result<Exit, Failure> {
    let loaded = config::load(path).map_err(|refused| Failure::from(&refused))?;
    let all = &loaded.config.notifiers;
    let chosen: Vec<&NotifyConfig> =
        all.iter().filter(|notifier| name.is_none_or(|name| notifier.name == name)).collect();
    if chosen.is_empty() {
        return Err(match name {
            Some(name) if !all.is_empty() => {
                let known: Vec<&str> = all.iter().map(|notifier| notifier.name.as_str()).collect();
                let known = known.join(", ");
                Failure::new(Exit::Failed, format!("link-watcher: no notifier is called {name}; there is {known}"))
            }
            _ => Failure::new(
                Exit::Failed,
                format!("link-watcher: {} has no [[notify]]: nobody would be told anything", path.display()),
            ),
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, format!("link-watcher: {error}")))?;
    let delivery = Delivery::new();
    let mut exit = Exit::Done;
    for notifier in chosen {
        let place = format!("{} ({})", notifier.name, notifier.means.kind());
        match runtime.block_on(delivery.test(notifier)) {
            Ok(answer) => print(&format!("{place}: taken: {answer}\n"))?,
            Err(error) => {
                exit = Exit::Failed;
                print(&format!("{place}: FAILED: {error}\n"))?;
            }
        }
    }
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    Ok(exit)
}
