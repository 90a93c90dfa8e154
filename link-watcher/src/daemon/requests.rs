//! What people ask of the daemon.

use tracing::{error, info, warn};

use super::{
    core::{Core, Request},
    uplinks::UplinkGroup,
};
use crate::{
    clock,
    control::{self, Change, ReloadOptions},
    event::{Command, GroupId, LinkId},
    metrics::{self, Scrape},
};

impl Core {
    pub(super) async fn request(&mut self, request: Request) {
        self.uplinks_touched |= !matches!(request, Request::Metrics(_) | Request::Control(control::Order::Status(_)));
        match request {
            Request::Control(control::Order::Status(answer)) => {
                // Whoever asked may have gone: that is their affair. Here and below.
                let _ = answer.send(self.snapshot());
            }
            Request::Control(control::Order::Change(Change::Reload(options), answer)) => {
                let result = self.reload(&options).await;
                self.answer_when_done(answer, result);
            }
            Request::Control(control::Order::Change(change, answer)) => {
                let result = self.change(&change);
                // The answer says what was done, so it comes when it is done.
                self.settle().await;
                self.answer_when_done(answer, result);
            }
            Request::Metrics(metrics::Request(answer)) => {
                let scrape = Scrape { snapshot: self.snapshot(), counters: self.counters.clone() };
                let _ = answer.send(scrape);
            }
            Request::Reload => drop(self.reload(&ReloadOptions::default()).await),
            Request::NextLink => self.next_link(),
            Request::LogStatus => match serde_json::to_string(&self.snapshot()) {
                Ok(status) => info!("status: {status}"),
                Err(error) => error!("the status does not serialise: {error}"),
            },
            Request::Stop => {}
        }
    }

    fn change(&mut self, change: &Change) -> Result<String, String> {
        let commands = match change {
            Change::Switch { group, link: Some(link) } => {
                let (group, link) = self.find_link(group, link)?;
                vec![Command::Pin { group, link }]
            }
            Change::Switch { group, link: None } => vec![Command::Unpin { group: self.find_group(group)? }],
            Change::Failover { group: Some(group), on } => {
                vec![Command::Failover { group: self.find_group(group)?, on: *on }]
            }
            Change::Failover { group: None, on } => {
                let groups = self.groups.keys().chain(self.uplink_groups.keys());
                groups.map(|group| Command::Failover { group: *group, on: *on }).collect()
            }
            Change::Drain { group, link, drained } => {
                vec![Command::Drain { link: self.find_link(group, link)?.1, drained: *drained }]
            }
            Change::Weight { group, link, weight } => {
                vec![Command::Weight { link: self.find_link(group, link)?.1, weight: *weight }]
            }
            Change::Confirm => return self.confirm(),
            Change::Reload(_) => Vec::new(),
        };
        let now_ns = clock::now_ns();
        let answers: Result<Vec<String>, String> =
            commands.into_iter().map(|command| self.engine.command(now_ns, command)).collect();
        answers.map(|answers| answers.join("\n"))
    }

    fn find_group(&self, name: &str) -> Result<GroupId, String> {
        let peers = self.groups.values().map(|group| (group.config.name.as_str(), group.id));
        let uplinks = self.uplink_groups.values().map(|group| (group.config.name.as_str(), group.id));
        let groups: Vec<(&str, GroupId)> = peers.chain(uplinks).collect();
        groups.iter().find(|(known, _)| *known == name).map(|(_, id)| *id).ok_or_else(|| {
            let known: Vec<&str> = groups.iter().map(|(known, _)| *known).collect();
            format!("no group is called {name}; there is {}", known.join(", "))
        })
    }

    fn find_link(&self, group: &str, name: &str) -> Result<(GroupId, LinkId), String> {
        let id = self.find_group(group)?;
        let peers = self.links.values().filter(|link| link.group == id).map(|link| (link.id, &link.config.name));
        let uplinks = self.uplink_groups.get(&id).into_iter().flat_map(UplinkGroup::uplinks);
        let links: Vec<(LinkId, &String)> = peers.chain(uplinks.map(|(link, config)| (link, &config.name))).collect();
        links.iter().find(|(_, known)| *known == name).map(|(link, _)| (id, *link)).ok_or_else(|| {
            let known: Vec<&str> = links.iter().map(|(_, known)| known.as_str()).collect();
            format!("{group} has no link {name}; it has {}", known.join(", "))
        })
    }

    fn next_link(&mut self) {
        for group in self.groups.keys().copied().collect::<Vec<_>>() {
            match self.engine.command(clock::now_ns(), Command::Next { group }) {
                Ok(answer) => info!("{answer}"),
                Err(error) => warn!("{error}"),
            }
        }
    }
}
