//! Pure: which number each uplink has. A connection's mark holds it, so that it must not change under a connection.

use std::collections::{BTreeMap, BTreeSet};

/// Gives each name a number from 1 to `room`: the one that it has in `known`, else the lowest that no name in `known` has.
/// Where there is none, names that are not asked for lose theirs. The answer has these names, too, as far as they keep it.
pub(super) fn assign(known: &BTreeMap<String, u32>, names: &[&str], room: u32) -> BTreeMap<String, u32> {
    let mut used = BTreeSet::new();
    let mut assigned: BTreeMap<String, u32> = BTreeMap::new();
    let wanted: BTreeSet<&str> = names.iter().copied().collect();
    // Those that are wanted first: of two with one number, which only a broken record has, the other one yields.
    let (kept, retired): (Vec<_>, Vec<_>) = known.iter().partition(|(name, _)| wanted.contains(name.as_str()));
    for (name, number) in kept.into_iter().chain(retired) {
        if (1..=room).contains(number) && used.insert(*number) {
            assigned.insert(name.clone(), *number);
        }
    }
    for name in names {
        if assigned.contains_key(*name) {
            continue;
        }
        let free = (1..=room).find(|number| !used.contains(number)).or_else(|| {
            let retired = assigned.keys().find(|name| !wanted.contains(name.as_str())).cloned()?;
            assigned.remove(&retired)
        });
        // The configuration has been checked: there are no more uplinks than numbers.
        let Some(number) = free else { break };
        used.insert(number);
        assigned.insert((*name).to_owned(), number);
    }
    assigned
}
