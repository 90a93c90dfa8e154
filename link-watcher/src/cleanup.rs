//! Removing all that any run of an instance has left in the kernel, whatever the configuration says.
//!
//! What is ours is told by our protocol number. Where other instances have something in the same network namespace, it must
//! lie within what this instance's record claims besides; what no record claims stays, and is said.

use std::collections::BTreeSet;

use crate::{
    bpf,
    error::chain,
    ledger::{self, Claims, Ledger, SharedLedger},
    netlink::KernelError,
    route::{
        Change, Egress, FoundRoute, MAIN_TABLE, NetlinkObjects, NetlinkRoutes, NetlinkTables, ObjectChange,
        ObjectKernel as _, PROTOCOL, Route, RouteKernel as _, Rule, TableChange, TableKernel as _, TableRange,
        TableRoute,
    },
    system::{FormerValues as _, LinkSysctls, ProcSysctl},
    uplink::nft::{Nft, Ruleset},
};

/// Messages in one system call.
const CHUNK: usize = 200;
/// Objects of which the plan names the first few.
const EXAMPLES: usize = 3;

/// What is to be removed.
pub struct Cleanup {
    instance: Option<String>,
    ledger: SharedLedger,
    /// Other instances in this namespace: what no claim of ours names may be theirs.
    others: Vec<String>,
    rules: Vec<Rule>,
    routes: Vec<Removal>,
    objects: Vec<u32>,
    table: Option<String>,
    pins: usize,
    /// What has our protocol number, and may be another instance's.
    left: usize,
}

/// A route to remove.
enum Removal {
    /// As tables have it: next hops, or one that rejects.
    Plain(TableRoute),
    /// One that refers to a nexthop object.
    Referring(Route),
}

impl Cleanup {
    /// Looks what there is; changes nothing.
    ///
    /// # Errors
    ///
    /// In words: a daemon of this instance runs, or the kernel could not be asked.
    pub fn plan(instance: Option<&str>) -> Result<Self, String> {
        let ledger = Ledger::open(instance);
        if ledger.in_use() {
            return Err(format!(
                "a link-watcher of the instance \"{}\" runs, and would put back what is removed: stop it first, with \
                 `systemctl stop link-watcher`",
                instance.unwrap_or(ledger::DEFAULT_INSTANCE)
            ));
        }
        if let Some(problem) = ledger.problem() {
            tracing::warn!("{problem}");
        }
        let others = ledger::others(instance);
        let claims = ledger.claims().clone();
        let mut cleanup = Self {
            instance: instance.map(str::to_owned),
            ledger: SharedLedger::new(ledger),
            others,
            rules: Vec::new(),
            routes: Vec::new(),
            objects: Vec::new(),
            table: None,
            pins: 0,
            left: 0,
        };
        let asking =
            |what: &str, error: &(dyn std::error::Error + 'static)| format!("{what} cannot be read: {}", chain(error));
        cleanup.find_routes(&claims).map_err(|error| asking("routes and rules", &error))?;
        let objects = NetlinkObjects::open().and_then(|mut objects| objects.ours());
        for object in objects.map_err(|error| asking("nexthop objects", &error))? {
            if cleanup.others.is_empty() || claims_object(&claims, object.id) {
                cleanup.objects.push(object.id);
            } else {
                cleanup.left += 1;
            }
        }
        // Without nft there is no table of ours either.
        let ruleset = Nft::open().map(|nft| Ruleset::new(nft, instance));
        if let Ok(mut ruleset) = ruleset
            && ruleset.stands().unwrap_or(false)
        {
            cleanup.table = Some(ruleset.table());
        }
        let pins = bpf::clear_pins(&bpf::pin_directory(instance), true);
        cleanup.pins = pins.map_err(|error| asking("pinned programs", &error))?;
        Ok(cleanup)
    }

    fn find_routes(&mut self, claims: &Claims) -> std::io::Result<()> {
        let alone = self.others.is_empty();
        let mut tables = NetlinkTables::open()?;
        for found in tables.rules()?.into_iter().filter(|rule| rule.protocol == PROTOCOL) {
            match found.rule {
                Some(rule) if alone || claims_rule(claims, &rule) => self.rules.push(rule),
                _ => self.left += 1,
            }
        }
        // The last one that is asked goes first, so that none ever catches what another one had.
        self.rules.sort_unstable_by_key(|rule| std::cmp::Reverse(rule.priority));
        let mut plain = BTreeSet::new();
        for route in NetlinkRoutes::open()?.ours()? {
            match route.egress {
                _ if !alone && !claims_route(claims, &route) => self.left += 1,
                Some(egress @ Egress::Object(_)) => {
                    self.routes.push(Removal::Referring(Route { key: route.key, egress }));
                }
                _ => drop(plain.insert(route.key)),
            }
        }
        let used: BTreeSet<u32> = plain.iter().map(|key| key.table).collect();
        for route in tables.routes(&used)?.into_iter().filter(|route| route.protocol == PROTOCOL) {
            if let Some(way) = route.way
                && plain.contains(&route.key)
            {
                self.routes.push(Removal::Plain(TableRoute { key: route.key, way }));
            }
        }
        Ok(())
    }

    /// What is removed, a line each; nothing: there is nothing.
    pub fn lines(&self) -> Vec<String> {
        let sysctls = self.ledger.all();
        let mut lines = Vec::new();
        let mut add = |count: usize, what: &str, examples: Vec<String>| {
            if count > 0 {
                let more = if count > examples.len() {
                    format!(" and {} more", count - examples.len())
                } else {
                    String::new()
                };
                lines.push(format!("{count} {what}: {}{more}", examples.join(", ")));
            }
        };
        let key = |removal: &Removal| match removal {
            Removal::Plain(route) => route.key.to_string(),
            Removal::Referring(route) => route.key.to_string(),
        };
        add(self.rules.len(), "rules", self.rules.iter().take(EXAMPLES).map(ToString::to_string).collect());
        add(self.routes.len(), "routes", self.routes.iter().take(EXAMPLES).map(key).collect());
        add(
            self.objects.len(),
            "nexthop objects",
            self.objects.iter().take(EXAMPLES).map(ToString::to_string).collect(),
        );
        add(usize::from(self.table.is_some()), "nftables table", self.table.iter().cloned().collect());
        let former = |(name, (former, _)): (&String, &(String, String))| format!("{name} back to {former}");
        add(sysctls.len(), "settings", sysctls.iter().take(EXAMPLES).map(former).collect());
        add(
            self.pins,
            "pinned programs and maps",
            vec![bpf::pin_directory(self.instance.as_deref()).display().to_string()],
        );
        lines
    }

    /// What stays although it has our protocol number, in words.
    pub fn left(&self) -> Option<String> {
        (self.left > 0).then(|| {
            format!(
                "{} routes, rules or objects with protocol {PROTOCOL} stay: no record of this instance claims them, and they \
                 may be those of {}",
                self.left,
                if self.others.is_empty() { "another program".to_owned() } else { self.others.join(", ") }
            )
        })
    }

    /// Removes it, and looks again. Gives what could not be removed, a sentence each.
    pub fn carry_out(mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = self.remove_routes(&mut problems) {
            problems.push(format!("routes and rules stay: {error}"));
        }
        (self.rules, self.routes) = (Vec::new(), Vec::new());
        let claims = self.ledger.lock().claims().clone();
        match self.find_routes(&claims) {
            Ok(()) if self.rules.len() + self.routes.len() > 0 && problems.is_empty() => problems.push(format!(
                "{} routes and rules stand still, such as {}: does a program put them back?",
                self.rules.len() + self.routes.len(),
                self.lines().first().map_or("", String::as_str)
            )),
            Ok(()) => {}
            Err(error) => problems.push(format!("what is left cannot be read: {error}")),
        }
        if self.table.is_some() {
            let removed = Nft::open().map_err(|error| error.to_string()).and_then(|nft| {
                Ruleset::new(nft, self.instance.as_deref()).remove_former().map_err(|error| error.to_string())
            });
            problems.extend(removed.err().map(|error| format!("the nftables table stays: {error}")));
        }
        problems.extend(LinkSysctls::new(ProcSysctl, self.ledger.clone()).restore());
        let pins = bpf::clear_pins(&bpf::pin_directory(self.instance.as_deref()), false);
        problems.extend(pins.err().map(|error| chain(&error)));
        if problems.is_empty() {
            self.ledger.lock().clear();
        }
        problems
    }

    fn remove_routes(&self, problems: &mut Vec<String>) -> std::io::Result<()> {
        let mut note = |what: &dyn ToString, result: Result<(), KernelError>| match result {
            // What has gone meanwhile is as good as removed.
            Err(error) if !matches!(error.errno, libc::ESRCH | libc::ENOENT | libc::ENODEV) => {
                problems.push(format!("{} stays: {error}", what.to_string()));
            }
            _ => {}
        };
        let mut tables = NetlinkTables::open()?;
        let mut routes = NetlinkRoutes::open()?;
        let rules: Vec<TableChange> = self.rules.iter().copied().map(TableChange::DeleteRule).collect();
        let (mut referring, mut plain) = (Vec::new(), rules);
        for removal in &self.routes {
            match removal {
                Removal::Plain(route) => plain.push(TableChange::DeleteRoute(route.clone())),
                Removal::Referring(route) => referring.push(Change::Delete(route.clone())),
            }
        }
        for chunk in plain.chunks(CHUNK) {
            chunk.iter().zip(tables.execute(chunk)?).for_each(|(change, result)| note(change, result));
        }
        for chunk in referring.chunks(CHUNK) {
            chunk.iter().zip(routes.execute(chunk)?).for_each(|(change, result)| note(&change.route().key, result));
        }
        // Groups go with their last member; what refers to objects is gone already.
        let objects: Vec<ObjectChange> = self.objects.iter().copied().map(ObjectChange::Delete).collect();
        if !objects.is_empty() {
            let mut kernel = NetlinkObjects::open()?;
            for chunk in objects.chunks(CHUNK) {
                self.objects.iter().zip(kernel.execute(chunk)?).for_each(|(id, result)| note(id, result));
            }
        }
        Ok(())
    }
}

fn ranges(claims: &Claims) -> impl Iterator<Item = TableRange> {
    claims.peers.iter().map(|claim| TableRange { table_base: claim.table_base, rule_priority: claim.rule_priority })
}

/// Whether a table is one of the claimed uplinks'.
fn uplinks_table(claims: &Claims, table: u32) -> bool {
    claims.uplinks.iter().any(|claim| {
        let last = claim.numbers.values().max().copied().unwrap_or_default();
        (claim.table_base..=claim.table_base.saturating_add(last)).contains(&table)
    })
}

fn claims_rule(claims: &Claims, rule: &Rule) -> bool {
    let first = |priority| rule.table == MAIN_TABLE && rule.priority == priority;
    ranges(claims).any(|range| range.has(rule.table))
        || uplinks_table(claims, rule.table)
        || claims.uplinks.iter().any(|claim| first(claim.rule_priority))
}

fn claims_route(claims: &Claims, route: &FoundRoute) -> bool {
    let led = |claim: &ledger::PeerClaim| match &route.egress {
        Some(Egress::Nexthops(nexthops)) => nexthops
            .iter()
            .all(|hop| claim.ways.iter().any(|way| (way.ifindex, way.gateway) == (hop.ifindex, hop.gateway))),
        Some(Egress::Object(id)) => claims_object(claims, *id),
        None => false,
    };
    ranges(claims).any(|range| range.has(route.key.table))
        || uplinks_table(claims, route.key.table)
        || claims.peers.iter().any(|claim| claim.table == route.key.table && led(claim))
}

fn claims_object(claims: &Claims, id: u32) -> bool {
    ranges(claims).any(|range| range.has(id))
}
