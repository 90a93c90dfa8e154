//! An nftables table as it is loaded (`nft -j list table`), and what it does to one packet. Pure: what the table asks of the
//! kernel's routing is asked by [`Fib`].
//!
//! It knows what our table says, whatever order it says it in. Anything else makes the answer "unknown", never a guess.

mod worth;

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

/// Chains that a packet may go through, one out of the other.
const MAX_DEPTH: usize = 16;
/// Different outcomes that are followed.
pub(in crate::cli) const MAX_OUTCOMES: usize = 64;

/// What `fib` expressions ask of the kernel.
pub(in crate::cli) trait Fib {
    /// The interface by which an address is reached, without mark; nothing where there is no way.
    fn way_out(&mut self, address: IpAddr) -> Option<String>;
    /// What kind of address it is, as nft names it (`local`, `unicast`, `broadcast`, `multicast`); on this interface alone
    /// if one is given.
    fn kind(&mut self, address: IpAddr, interface: Option<&str>) -> String;
}

/// A packet on its way.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Packet {
    pub(in crate::cli) source: Option<IpAddr>,
    pub(in crate::cli) destination: IpAddr,
    /// As nft names it: `tcp`, `udp`, `icmp`, `ipv6-icmp`.
    pub(in crate::cli) protocol: &'static str,
    pub(in crate::cli) port: Option<u16>,
    /// Where it is known.
    pub(in crate::cli) source_port: Option<u16>,
    pub(in crate::cli) incoming: Option<String>,
    pub(in crate::cli) outgoing: Option<String>,
    pub(in crate::cli) mark: u32,
    pub(in crate::cli) connection_mark: u32,
    /// `new` or `established`.
    pub(in crate::cli) state: &'static str,
}

/// What becomes of it at one hook.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Outcome {
    /// How often, 0 to 1: where connections take turns, each turn is an outcome.
    pub(in crate::cli) share: f64,
    pub(in crate::cli) packet: Packet,
    /// The chains that it went through.
    pub(in crate::cli) trail: Vec<String>,
    /// It goes no further: the verdict.
    pub(in crate::cli) refused: Option<String>,
    /// Which rule or policy said so.
    pub(in crate::cli) refused_by: Option<Refuser>,
    /// What its source is translated to: `masquerade`, or an address.
    pub(in crate::cli) translated: Option<String>,
    /// It depends on whose turn it is.
    pub(in crate::cli) by_turns: bool,
}

/// What refuses a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Refuser {
    /// The chain at the hook.
    pub(in crate::cli) base: String,
    /// The chain that has the rule: that one, or one that it leads to.
    pub(in crate::cli) chain: String,
    /// The rule's handle; nothing: the policy of the chain at the hook.
    pub(in crate::cli) rule: Option<u64>,
}

/// A table as it is loaded.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Loaded {
    chains: BTreeMap<String, Chain>,
    /// Named sets and maps.
    sets: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default)]
struct Chain {
    /// Hook and priority of a base chain.
    base: Option<(String, i64)>,
    drops: bool,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    handle: Option<u64>,
    statements: Vec<Value>,
}

/// What a rule's expression is worth.
#[derive(Clone, Debug, PartialEq)]
enum Worth {
    Number(u64),
    Text(String),
    Address(IpAddr),
    Many(Vec<Worth>),
    /// The packet has none of it: no comparison is true.
    Absent,
}

/// Where evaluation goes on.
enum Flow {
    /// Behind what led to the chain.
    Back,
    /// At the end of the hook.
    End,
}

/// An expression that is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Unknown(pub(in crate::cli) String);

impl Loaded {
    /// Reads what `nft -j list table` prints.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let objects = document["nftables"].as_array().ok_or("it has no list of objects")?;
        Ok(Self::of(objects))
    }

    /// Takes in the objects of one table, chains before their rules.
    pub(in crate::cli) fn of<'v>(objects: impl IntoIterator<Item = &'v Value>) -> Self {
        let mut loaded = Self::default();
        let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
        for object in objects {
            if let Some(chain) = object.get("chain") {
                let base = chain["hook"].as_str().map(|hook| (hook.to_owned(), chain["prio"].as_i64().unwrap_or(0)));
                let drops = chain["policy"].as_str() == Some("drop");
                loaded.chains.insert(name(chain), Chain { base, drops, rules: Vec::new() });
            } else if let Some(rule) = object.get("rule") {
                let chain = rule["chain"].as_str().unwrap_or_default();
                let statements = rule["expr"].as_array().cloned().unwrap_or_default();
                if let Some(chain) = loaded.chains.get_mut(chain) {
                    chain.rules.push(Rule { handle: rule["handle"].as_u64(), statements });
                }
            } else if let Some(set) = object.get("set").or_else(|| object.get("map")) {
                loaded.sets.insert(name(set), set.get("elem").cloned().unwrap_or(Value::Array(Vec::new())));
            }
        }
        loaded
    }

    /// What becomes of a packet at a hook: one outcome, or several where connections take turns.
    pub(in crate::cli) fn run(&self, hook: &str, packet: &Packet, fib: &mut dyn Fib) -> Result<Vec<Outcome>, Unknown> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut script = Some(Vec::new());
        while let Some(turns) = script {
            let (outcome, choices) = (Outcome::of(packet), Vec::new());
            let mut run = Run { loaded: self, fib, turns, at: 0, choices, base: String::new(), rule: None, outcome };
            run.hook(hook)?;
            let Run { turns, choices, mut outcome, .. } = run;
            outcome.share = choices.iter().zip(&turns).map(|(choice, turn)| choice[*turn]).product();
            outcome.by_turns = !choices.is_empty();
            let same = |known: &Outcome| {
                (&known.packet, &known.trail, &known.refused, &known.translated)
                    == (&outcome.packet, &outcome.trail, &outcome.refused, &outcome.translated)
            };
            match outcomes.iter().position(same) {
                Some(at) => outcomes[at].share += outcome.share,
                None if outcomes.len() < MAX_OUTCOMES => outcomes.push(outcome),
                None => return Err(Unknown("more different outcomes than are followed".to_owned())),
            }
            script = next(turns, &choices);
        }
        Ok(outcomes)
    }
}

impl Outcome {
    /// Of a hook where nothing happens.
    pub(in crate::cli) fn of(packet: &Packet) -> Self {
        Self {
            share: 1.0,
            packet: packet.clone(),
            trail: Vec::new(),
            refused: None,
            refused_by: None,
            translated: None,
            by_turns: false,
        }
    }
}

/// The next script of turns; nothing behind the last one.
fn next(mut turns: Vec<usize>, choices: &[Vec<f64>]) -> Option<Vec<usize>> {
    while let Some(last) = turns.pop() {
        if last + 1 < choices.get(turns.len()).map_or(0, Vec::len) {
            turns.push(last + 1);
            return Some(turns);
        }
    }
    None
}

struct Run<'a> {
    loaded: &'a Loaded,
    fib: &'a mut dyn Fib,
    /// Which of its ways each choice takes.
    turns: Vec<usize>,
    at: usize,
    /// The shares of each choice's ways.
    choices: Vec<Vec<f64>>,
    /// The chain at the hook that it is in.
    base: String,
    /// The rule that it is at.
    rule: Option<u64>,
    outcome: Outcome,
}

impl Run<'_> {
    fn hook(&mut self, hook: &str) -> Result<(), Unknown> {
        let loaded = self.loaded;
        let of_hook = |chain: &Chain| chain.base.as_ref().filter(|(of, _)| of == hook).map(|(_, priority)| *priority);
        let mut bases: Vec<(i64, &String)> =
            loaded.chains.iter().filter_map(|(name, chain)| Some((of_hook(chain)?, name))).collect();
        bases.sort_unstable();
        for (_, name) in bases {
            self.base.clone_from(name);
            // What a rule has accepted does not come to the policy.
            let falls_through = matches!(self.chain(name, 0)?, Flow::Back);
            if falls_through && loaded.chains.get(name).is_some_and(|chain| chain.drops) {
                self.outcome.refused = Some(format!("the policy of chain {name} is drop"));
                self.outcome.refused_by = Some(Refuser { base: name.clone(), chain: name.clone(), rule: None });
            }
            if self.outcome.refused.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn chain(&mut self, name: &str, depth: usize) -> Result<Flow, Unknown> {
        let chain = self.loaded.chains.get(name).ok_or_else(|| Unknown(format!("there is no chain {name}")))?;
        if depth > MAX_DEPTH {
            return Err(Unknown("chains without end".to_owned()));
        }
        if chain.base.is_none() {
            self.outcome.trail.push(name.to_owned());
        }
        for rule in &chain.rules {
            self.rule = rule.handle;
            if let Some(flow) = self.rule(&rule.statements, name, depth)? {
                return Ok(flow);
            }
        }
        Ok(Flow::Back)
    }

    /// Nothing: on with the next rule.
    fn rule(&mut self, rule: &[Value], chain: &str, depth: usize) -> Result<Option<Flow>, Unknown> {
        for (at, statement) in rule.iter().enumerate() {
            let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next()) else {
                return Err(unknown(statement));
            };
            match kind.as_str() {
                "match" => match self.matches(body) {
                    Ok(true) => {}
                    Ok(false) => return Ok(None),
                    // Whatever it says: another part of the rule does not match.
                    Err(_) if self.fails(&rule[at + 1..]) => return Ok(None),
                    Err(unknown) => return Err(unknown),
                },
                "vmap" => {
                    let Some(verdict) = self.look_up(&body["key"], &body["data"])? else { return Ok(None) };
                    if let Some(flow) = self.verdict(&verdict, chain, depth)? {
                        return Ok(Some(flow));
                    }
                }
                "mangle" => {
                    let Worth::Number(value) = self.worth(&body["value"])? else { return Err(unknown(body)) };
                    let value = u32::try_from(value).unwrap_or_default();
                    match (body["key"]["meta"]["key"].as_str(), body["key"]["ct"]["key"].as_str()) {
                        (Some("mark"), _) => self.outcome.packet.mark = value,
                        (_, Some("mark")) => self.outcome.packet.connection_mark = value,
                        _ => return Err(unknown(body)),
                    }
                }
                "masquerade" => {
                    self.outcome.translated = Some("masquerade".to_owned());
                    return Ok(Some(Flow::End));
                }
                "snat" => {
                    self.outcome.translated = Some(body["addr"].as_str().unwrap_or("another address").to_owned());
                    return Ok(Some(Flow::End));
                }
                "counter" | "log" | "comment" => {}
                "notrack" => self.outcome.packet.state = "untracked",
                // One packet now and then is within any rate.
                "limit" => {
                    if body["inv"].as_bool() == Some(true) {
                        return Ok(None);
                    }
                }
                _ => {
                    if let Some(flow) = self.verdict(statement, chain, depth)? {
                        return Ok(Some(flow));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether one of these tests is known not to match.
    fn fails(&mut self, statements: &[Value]) -> bool {
        let tests = statements.iter().filter_map(|statement| statement.get("match"));
        tests.into_iter().any(|test| self.matches(test) == Ok(false))
    }

    fn verdict(&mut self, verdict: &Value, chain: &str, depth: usize) -> Result<Option<Flow>, Unknown> {
        let Some((kind, body)) = verdict.as_object().and_then(|object| object.iter().next()) else {
            return Err(unknown(verdict));
        };
        let target = body["target"].as_str().unwrap_or_default();
        match kind.as_str() {
            "jump" => Ok(match self.chain(target, depth + 1)? {
                Flow::Back => None,
                Flow::End => Some(Flow::End),
            }),
            "goto" => self.chain(target, depth + 1).map(Some),
            "return" => Ok(Some(Flow::Back)),
            "accept" => Ok(Some(Flow::End)),
            "continue" => Ok(None),
            "drop" | "reject" => {
                let how = if kind == "drop" { "dropped" } else { "rejected" };
                self.outcome.refused = Some(format!("{how} by chain {chain}"));
                self.outcome.refused_by =
                    Some(Refuser { base: self.base.clone(), chain: chain.to_owned(), rule: self.rule });
                Ok(Some(Flow::End))
            }
            _ => Err(unknown(verdict)),
        }
    }
}

fn unknown(value: &Value) -> Unknown {
    let mut text = value.to_string();
    let end = text.char_indices().nth(60).map_or(text.len(), |(at, _)| at);
    if end < text.len() {
        text.truncate(end);
        text.push('…');
    }
    Unknown(text)
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
