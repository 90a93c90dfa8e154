//! Kinds of probes.

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Icmp,
    Tcp,
    Http,
    Dns,
    Arp,
}

/// As they are written.
pub(super) const KINDS: [(&str, Kind); 5] =
    [("icmp", Kind::Icmp), ("tcp", Kind::Tcp), ("http", Kind::Http), ("dns", Kind::Dns), ("arp", Kind::Arp)];

impl Kind {
    /// As it is written.
    pub(super) const fn word(self) -> &'static str {
        // Each has its number in the order of `KINDS`, which is that of the kinds.
        KINDS[self as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_word() {
        for (word, kind) in KINDS {
            assert_eq!(kind.word(), word);
        }
    }
}
