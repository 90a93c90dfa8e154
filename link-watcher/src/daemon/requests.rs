//! What people ask of the daemon.

use tracing::{error, info};

use super::{
    core::{Core, Request},
    uplinks::UplinkGroup,
};
use crate::{
    control::{self, Change, ReloadOptions},
    event::{GroupId, LinkId},
    metrics::{self, Scrape},
};

impl Core {
    pub(super) async fn request(&mut self, request: Request) {
        let looks = matches!(
            request,
            Request::Metrics(_)
                | Request::Look(_)
                | Request::Control(control::Order::Status(_) | control::Order::Ask(..) | control::Order::Trace(..))
        );
        self.uplinks_touched |= !looks;
        match request {
            Request::Control(control::Order::Status(answer)) => {
                // Whoever asked may have gone: that is their affair. Here and below.
                let _ = answer.send(self.snapshot());
            }
            Request::Control(control::Order::Ask(question, answer)) => {
                let _ = answer.send(self.answer(&question));
            }
            Request::Control(control::Order::Trace(request, author, answer)) => {
                self.trace_packets(&request, &author, answer)
            }
            Request::Control(control::Order::Change(Change::Reload(options), _, answer)) => {
                let result = self.reload(&options).await;
                // What waits to be confirmed is to be taken back by the next start, too; else the file says it all.
                let waits = options.confirm_within_seconds.is_some();
                let written = self.reloads.take_written().filter(|_| waits);
                let answer = self.answer_when_kept(written, None, answer);
                self.answer_when_done(answer, result);
            }
            Request::Control(control::Order::Change(Change::Confirm, _, answer)) => {
                let result = self.confirm();
                let written = self.reloads.take_written();
                let answer = self.answer_when_kept(written, None, answer);
                self.answer_when_done(answer, result);
            }
            Request::Control(control::Order::Change(change, author, answer)) => {
                let result = self.order_by(&change, &author);
                let written = self.orders.keep();
                // The answer says what was done, so it comes when it is done, and when it would outlive this daemon.
                self.step().await;
                let drained = match &change {
                    Change::Drain { group, link, .. } => self.find_link(group, link).ok().map(|(_, link)| link),
                    _ => None,
                };
                let answer = self.answer_when_kept(written, drained, answer);
                self.answer_when_done(answer, result);
            }
            Request::Metrics(metrics::Request(answer)) => {
                let scrape = Scrape { snapshot: self.snapshot(), counters: self.counters.clone(), ..Scrape::default() };
                let _ = answer.send(scrape);
            }
            Request::Look(answer) => drop(answer.send(self.look())),
            Request::Reload => drop(self.reload(&ReloadOptions::default()).await),
            Request::NextLink => self.next_link(),
            Request::LogStatus => match serde_json::to_string(&self.snapshot()) {
                Ok(status) => info!("status: {status}"),
                Err(error) => error!("the status does not serialise: {error}"),
            },
            Request::Stop => {}
        }
    }

    pub(super) fn find_group(&self, name: &str) -> Result<GroupId, String> {
        let peers = self.groups.values().map(|group| (group.config.name.as_str(), group.id));
        let uplinks = self.uplink_groups.values().map(|group| (group.config.name.as_str(), group.id));
        let groups: Vec<(&str, GroupId)> = peers.chain(uplinks).collect();
        groups.iter().find(|(known, _)| *known == name).map(|(_, id)| *id).ok_or_else(|| {
            let known: Vec<&str> = groups.iter().map(|(known, _)| *known).collect();
            format!("no group is called {name}; there is {}", known.join(", "))
        })
    }

    pub(super) fn find_link(&self, group: &str, name: &str) -> Result<(GroupId, LinkId), String> {
        let id = self.find_group(group)?;
        let peers = self.links.values().filter(|link| link.group == id).map(|link| (link.id, &link.config.name));
        let uplinks = self.uplink_groups.get(&id).into_iter().flat_map(UplinkGroup::uplinks);
        let links: Vec<(LinkId, &String)> = peers.chain(uplinks.map(|(link, config)| (link, &config.name))).collect();
        links.iter().find(|(_, known)| *known == name).map(|(link, _)| (id, *link)).ok_or_else(|| {
            let known: Vec<&str> = links.iter().map(|(_, known)| known.as_str()).collect();
            format!("{group} has no link {name}; it has {}", known.join(", "))
        })
    }
}
