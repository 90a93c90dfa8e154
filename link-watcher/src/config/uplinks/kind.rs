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
pub(super) const KINDS: &[(&str, Kind)] =
    &[("icmp", Kind::Icmp), ("tcp", Kind::Tcp), ("http", Kind::Http), ("dns", Kind::Dns), ("arp", Kind::Arp)];

impl Kind {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        KINDS.iter().find(|(_, known)| *known == self).map_or("", |(word, _)| word)
    }
}
