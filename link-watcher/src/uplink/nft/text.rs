//! A table of nftables as a value: its text, and what changes one into another.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// The rule that adds a connection to the [`Flowtable`], which is called `fast`.
pub(super) const TO_FAST: &str = "ct state established meta l4proto { tcp, udp } flow add @fast";

/// The table. Chains are in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Name, in family `inet`.
    pub(super) name: String,
    /// What the table is for, above its text.
    pub(super) note: String,
    /// What takes the fast path; nothing where nobody does.
    pub(super) flowtable: Option<Flowtable>,
    /// Named counters, each with what it counts.
    pub(super) counters: Vec<(String, String)>,
    /// Chains.
    pub(super) chains: Vec<Chain>,
}

/// A flowtable: between its interfaces the packets of connections that a rule has added to it are forwarded at the ingress
/// hook, and meet no other rule (Documentation/networking/nf_flowtable.rst).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flowtable {
    /// Its interfaces as text, each with its index: the hook of one that is gone is not that of the next with its name.
    pub(super) interfaces: BTreeMap<String, u32>,
}

impl Flowtable {
    fn write(&self, f: &mut impl fmt::Write) -> fmt::Result {
        write_note(f, "    ", "The fast path of connections that are established and have their uplink.")?;
        let interfaces: Vec<&str> = self.interfaces.keys().map(String::as_str).collect();
        writeln!(f, "    flowtable fast {{")?;
        writeln!(f, "        hook ingress priority filter")?;
        writeln!(f, "        devices = {{ {} }}\n    }}", interfaces.join(", "))
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Name, unique in the table.
    pub(super) name: String,
    /// What it is for, above its text.
    pub(super) note: String,
    /// The hook that calls it; nothing where only other chains do.
    pub(super) hook: Option<&'static str>,
    /// Its rules.
    pub(super) rules: Vec<String>,
}

impl Chain {
    pub(super) fn new(name: impl Into<String>, note: impl Into<String>) -> Self {
        Self { name: name.into(), note: note.into(), hook: None, rules: Vec::new() }
    }

    fn write(&self, f: &mut impl fmt::Write, head: bool) -> fmt::Result {
        if head {
            write_note(f, "    ", &self.note)?;
        }
        writeln!(f, "    chain {} {{", self.name)?;
        if let Some(hook) = self.hook.filter(|_| head) {
            writeln!(f, "        {hook}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "        {rule}")?;
        }
        writeln!(f, "    }}")
    }
}

fn write_note(f: &mut impl fmt::Write, indent: &str, note: &str) -> fmt::Result {
    note.lines().try_for_each(|line| writeln!(f, "{indent}# {line}"))
}

/// The text for `nft -f`: one transaction that puts the whole table in the place of an earlier one.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_note(f, "", &self.note)?;
        // Only what exists can be deleted.
        writeln!(f, "add table inet {0}\ndelete table inet {0}\ntable inet {0} {{", self.name)?;
        if let Some(flowtable) = &self.flowtable {
            flowtable.write(f)?;
        }
        for (name, note) in &self.counters {
            write_note(f, "    ", note)?;
            writeln!(f, "    counter {name} {{\n    }}")?;
        }
        for chain in &self.chains {
            f.write_char('\n')?;
            chain.write(f, true)?;
        }
        writeln!(f, "}}")
    }
}

impl Table {
    /// The text that removes it, whether it exists or not.
    pub(super) fn removal(name: &str) -> String {
        format!("add table inet {name}\ndelete table inet {name}\n")
    }

    /// The text of a transaction that makes this table of `old` by writing only the chains that differ. Counters go on.
    /// Nothing where the tables differ in more than rules.
    pub(super) fn update(&self, old: &Self) -> Option<String> {
        let same = |a: &Chain, b: &Chain| a.name == b.name && a.hook == b.hook;
        let comparable = self.name == old.name
            && self.flowtable == old.flowtable
            && self.counters == old.counters
            && self.chains.len() == old.chains.len()
            && self.chains.iter().zip(&old.chains).all(|(new, old)| same(new, old));
        if !comparable {
            return None;
        }
        let changed = self.chains.iter().zip(&old.chains).filter(|(new, old)| new.rules != old.rules);
        Some(self.rewriting(changed.map(|(new, _)| new)))
    }

    /// The text of a transaction that makes this table of one that `nft` lists like this, by writing the rules of every chain:
    /// the hooks stay, so that every packet meets either the former rules or these. Nothing where the tables differ in more
    /// than rules.
    pub(super) fn takeover(&self, listing: &str) -> Option<String> {
        if self.flowtable.is_some() {
            // Its interfaces may be others of the same names.
            return None;
        }
        let hook = |hook: &str| format!("\t\t{hook}; policy accept;");
        let chains = self
            .chains
            .iter()
            .flat_map(|chain| [Some(format!("\tchain {} {{", chain.name)), chain.hook.map(hook)].into_iter().flatten());
        let counters = self.counters.iter().map(|(name, _)| format!("\tcounter {name} {{"));
        let mut wanted: Vec<String> = chains.chain(counters).collect();
        // Also what is none of ours, such as a set or the flag `dormant`.
        let is_part = |line: &&str| line.starts_with('\t') && !line.starts_with("\t\t") && *line != "\t}";
        let is_hook = |line: &&str| line.starts_with("\t\ttype ");
        let mut found: Vec<&str> = listing.lines().filter(|line| is_part(line) || is_hook(line)).collect();
        // Which hook is whose need not be compared: no two chains of ours have the same one.
        wanted.sort_unstable();
        found.sort_unstable();
        (wanted == found).then(|| self.rewriting(self.chains.iter()))
    }

    /// The same without fast path.
    pub(super) fn without_flowtable(&self) -> Self {
        let mut table = Self { flowtable: None, ..self.clone() };
        for chain in &mut table.chains {
            chain.rules.retain(|rule| rule != TO_FAST);
        }
        table
    }

    fn rewriting<'a>(&self, chains: impl Iterator<Item = &'a Chain> + Clone) -> String {
        let mut text = String::new();
        for chain in chains.clone() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "flush chain inet {} {}", self.name, chain.name);
        }
        let _ = writeln!(text, "table inet {} {{", self.name);
        for chain in chains {
            let _ = chain.write(&mut text, false);
        }
        text.push_str("}\n");
        text
    }
}
