//! Why a link hears nothing good, for people: once a second, of links that do not answer.

use std::sync::atomic::Ordering::Relaxed;

use tracing::warn;

use super::core::Core;
use crate::{
    event::LinkId,
    suspicion::{Counts, Details},
};

/// Between two looks, ns.
const SAMPLE_NS: u64 = 1_000_000_000;

impl Core {
    /// Looks at what was refused, where it is time.
    pub(super) fn suspect(&mut self, now_ns: u64) {
        if now_ns < self.suspect_ns {
            return;
        }
        self.suspect_ns = now_ns + SAMPLE_NS;
        // A link that answers costs no look at the kernel's counters: one good packet accuses nobody.
        let answers = |id: LinkId| {
            let (state, intent) = (&self.tables.states()[id.0 as usize], &self.tables.intents()[id.0 as usize]);
            let last_ns = state.last_echo_ns.load(Relaxed);
            last_ns != 0 && now_ns < last_ns + intent.detection_ns.load(Relaxed) + SAMPLE_NS
        };
        let ids: Vec<(LinkId, bool)> = self.links.keys().map(|id| (*id, answers(*id))).collect();
        for (id, answers) in ids {
            if answers {
                if let Some(link) = self.links.get_mut(&id) {
                    link.acquit();
                }
                continue;
            }
            let counters = self.counted(id);
            let version = self.tables.states()[id.0 as usize].other_version.load(Relaxed) as u8;
            let counts = Counts {
                good: counters.echoes + counters.probes,
                forged: counters.forged,
                reflected: counters.reflected,
                unknown: counters.unknown,
                version: counters.version,
                distant: counters.distant,
                replayed: counters.replayed,
                malformed: counters.malformed,
            };
            let details = Details { version: (counters.version > 0).then_some(version), ..Details::default() };
            let Some(link) = self.links.get_mut(&id) else { continue };
            let before = link.suspicion.take().map(|suspicion| suspicion.cause);
            link.suspicion = link.judge.sample(now_ns, counts, details);
            if let Some(suspicion) = link.suspicion
                && before != Some(suspicion.cause)
            {
                let (group, name) = (link.group, link.config.name.clone());
                let (group, _) = self.names(group, None);
                warn!("{group} {name}: {suspicion}");
            }
        }
    }
}
