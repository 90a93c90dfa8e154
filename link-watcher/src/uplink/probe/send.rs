//! From an uplink's configuration to one probe of one target.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    ProbedUplink, arp, dns,
    http::{self, Expected},
    icmp, ndp,
    socket::{Failure, Way},
    tcp,
};
use crate::{
    config::{ProbeConfig, ProbeKind},
    tls::Tls,
    uplink::Path,
};

/// How many targets there are. The gateways count as two, of which an uplink may have only one: what cannot be asked does not
/// answer, but is no loss either.
pub(super) fn targets(config: &ProbeConfig) -> usize {
    match &config.kind {
        ProbeKind::Icmp { targets } => targets.len(),
        ProbeKind::Tcp { targets, .. } => targets.len(),
        ProbeKind::Http { targets, .. } => targets.len(),
        ProbeKind::Dns { targets, .. } => targets.len(),
        ProbeKind::Arp { targets } if targets.is_empty() => 2,
        ProbeKind::Arp { targets } => targets.len(),
    }
}

/// Asks the target of this index once; gives the round trip. At the latest at the timeout it ends.
pub(super) async fn probe(uplink: Arc<ProbedUplink>, index: usize, tls: Tls) -> Result<Duration, Failure> {
    let timeout = uplink.config.timeout;
    let asked = tokio::time::timeout(timeout, ask(&uplink, index, &tls)).await;
    let result = asked.unwrap_or_else(|_| {
        let timeout = humantime::format_duration(timeout);
        Err(Failure::Unanswered(format!("no answer within {timeout}")))
    });
    result.map_err(|failure| failure.about(&name(&uplink, index)))
}

async fn ask(uplink: &ProbedUplink, index: usize, tls: &Tls) -> Result<Duration, Failure> {
    match &uplink.config.kind {
        ProbeKind::Icmp { targets } => {
            let target = targets[index];
            icmp::probe(&uplink.way(target)?, target).await
        }
        ProbeKind::Tcp { targets, refused } => {
            let target = targets[index];
            tcp::probe(&uplink.way(target.ip())?, target, *refused).await
        }
        ProbeKind::Http { targets, status, body } => {
            let target = &targets[index];
            let expected = Expected { status, body: body.as_deref() };
            http::probe(&uplink.way(target.address.ip())?, target, expected, tls).await
        }
        ProbeKind::Dns { targets, query } => {
            let target = targets[index];
            dns::probe(&uplink.way(target.ip())?, target, query).await
        }
        ProbeKind::Arp { .. } => {
            let target = uplink.neighbour(index).ok_or_else(|| Failure::Unsent("there is none now".to_owned()))?;
            let way = uplink.way(target)?;
            match target {
                IpAddr::V4(target) => arp::probe(&way, target).await,
                IpAddr::V6(target) => ndp::probe(&way, target).await,
            }
        }
    }
}

/// What people call the target.
pub(super) fn name(uplink: &ProbedUplink, index: usize) -> String {
    let server = |targets: &[SocketAddr]| targets[index].to_string();
    match &uplink.config.kind {
        ProbeKind::Icmp { targets } => targets[index].to_string(),
        ProbeKind::Tcp { targets, .. } | ProbeKind::Dns { targets, .. } => server(targets),
        ProbeKind::Http { targets, .. } => {
            let target = &targets[index];
            format!("http{}://{}{}", if target.tls { "s" } else { "" }, target.host, target.path)
        }
        ProbeKind::Arp { .. } => {
            let family = if index == 0 { "IPv4" } else { "IPv6" };
            uplink.neighbour(index).map_or_else(|| format!("{family} gateway"), |target| target.to_string())
        }
    }
}

impl ProbedUplink {
    /// Whom an ARP probe asks; nothing: there is no such gateway now.
    fn neighbour(&self, index: usize) -> Option<IpAddr> {
        match &self.config.kind {
            ProbeKind::Arp { targets } if !targets.is_empty() => Some(targets[index]),
            _ => [self.ipv4, self.ipv6][index]?.gateway,
        }
    }

    /// The way to a target.
    fn way(&self, target: IpAddr) -> Result<Way, Failure> {
        if self.ifindex == 0 {
            return Err(Failure::Unsent(format!("there is no interface {} now", self.interface)));
        }
        let (path, family): (Option<Path>, _) =
            if target.is_ipv4() { (self.ipv4, "IPv4") } else { (self.ipv6, "IPv6") };
        let path = path.ok_or_else(|| Failure::Unsent(format!("{} has no {family} now", self.interface)))?;
        Ok(Way { interface: self.interface.clone(), source: path.source, mark: self.mark })
    }
}
