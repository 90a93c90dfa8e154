//! The site with its daemon and its connections, and what the daemon says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use link_watcher_lab::Lab;
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::status::{active, group};
use link_watcher_lab::uplinks::dialer::Dialer;
use link_watcher_lab::uplinks::flow::{Call, Crowd, Transport};
use link_watcher_lab::uplinks::setup::{GROUP, SiteSetup};
use link_watcher_lab::uplinks::{PATIENCE, Site, open_all};

use super::row::Cost;

/// What a death may take beyond its detection: telling the kernel, and being woken late on a busy machine.
pub(super) const ALLOWANCE: Duration = Duration::from_millis(150);
/// New connections a second.
const RATE_PER_S: u32 = 200;
/// Connections that are held open during a step.
const HELD: usize = 200;
/// New connections of which the shares are told after a step.
const COUNTED: usize = 200;
/// How long an open connection may take to answer: TCP must have the time to repeat what an uplink loses.
const HELD_LIMIT: Duration = Duration::from_secs(5);

/// A site at work.
#[derive(Debug)]
pub(super) struct Stage {
    /// New connections. The first field: it ends before the namespaces that it is in.
    pub(super) dialer: Dialer,
    pub(super) site: Site,
}

impl Stage {
    /// Builds the site, starts daemon and traffic, and waits until all is well.
    pub(super) fn set(lab: Lab, setup: SiteSetup, binary: &Path) -> Result<Self> {
        let site = Site::start(lab, setup, binary)?;
        let stage = Self { dialer: site.dial(RATE_PER_S)?, site };
        stage.site.wait_steady(&stage.dialer)?;
        Ok(stage)
    }

    /// Connections to be held open during a step.
    pub(super) fn hold(&self) -> Result<Crowd> {
        open_all(&self.site.lan, Call { limit: HELD_LIMIT, ..self.site.call(Transport::Tcp) }, HELD)
    }

    /// Waits until new connections succeed, and tells what the time since `since_ns` has cost.
    pub(super) fn cost(&self, since_ns: u64, held: &mut Crowd) -> Result<Cost> {
        self.site.wait_steady(&self.dialer)?;
        let dialed = self.dialer.report(since_ns);
        let held = self.site.fates(held.recheck()?);
        let crowd = Crowd::open(&self.site.lan, self.site.call(Transport::Tcp), COUNTED)?;
        Ok(Cost { dialed, held, counts: self.site.by_uplink(&crowd.by_source()) })
    }

    /// Brings everything back to the normal state.
    pub(super) fn repair(&self) -> Result<()> {
        self.site.mend()?;
        if self.site.daemon.pid().is_none() {
            self.site.daemon.start()?;
        }
        self.site.wait_all_up()?;
        self.site.wait_active(&self.site.names(), PATIENCE)
    }

    /// What the daemon has decided: who is not up, and why; who carries the new connections.
    pub(super) fn decision(&self) -> Result<String> {
        let status = self.site.daemon.status()?;
        let links = group(&status, GROUP).and_then(|group| group["links"].as_array());
        let mut parts: Vec<_> = links
            .into_iter()
            .flatten()
            .filter(|link| link["state"] != "up")
            .map(|link| {
                let text = |key: &str| link[key].as_str().unwrap_or_default().to_owned();
                format!("{} {}: {}", text("name"), text("state"), text("last_down_reason"))
            })
            .collect();
        parts.push(format!("-> {}", active(&status, GROUP).join(" + ")));
        Ok(parts.join("; ").replace("; ->", " ->"))
    }

    /// The router's namespace.
    pub(super) fn router(&self) -> Arc<Namespace> {
        Arc::clone(self.site.router.namespace())
    }
}
