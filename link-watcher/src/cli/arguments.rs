//! What can be typed.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    config::DEFAULT_PATH,
    control::{Becomes, MAX_TRACE_MS},
};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 69 no daemon answers on the control socket; \
                          77 missing privilege; 78 configuration error.";

/// Keeps a router with several links on one that works.
#[derive(Clone, Debug, Parser)]
#[command(name = "link-watcher", version, about, after_help = EXIT_CODES, max_term_width = 120)]
pub struct Arguments {
    /// Configuration file [default: /etc/link-watcher/link-watcher.toml]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Control socket of the daemon [default: what the configuration says]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Arguments {
    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground (the default)
    Run,
    /// Validate a configuration: every error with its place, what is wrong and what would be right
    Check {
        /// Configuration file [default: what --config says]
        path: Option<PathBuf>,
    },
    /// Say what this machine offers and lacks, each with its remedy
    Doctor {
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show groups and links, what is active and why; of one link everything that is known
    Status {
        /// Only this group
        group: Option<String>,
        /// Only this link of it, with everything that is known of it
        link: Option<String>,
        /// As one JSON document
        #[arg(long)]
        json: bool,
        /// Again every second
        #[arg(long)]
        watch: bool,
        /// Tell by the exit code: 0 all is well, 1 a group has no spare, 2 a group (or the link) is not usable
        #[arg(long, conflicts_with = "watch")]
        exit_code: bool,
    },
    /// Say where a packet goes now and why, as the kernel's own tables say, beside what is meant; changes nothing
    Explain {
        /// Source: an address, the interface that it comes in by, or `router` for what this machine sends itself
        from: String,
        /// Destination address
        to: std::net::IpAddr,
        /// Destination port
        #[arg(long)]
        port: Option<u16>,
        /// Protocol [default: tcp with --port, else icmp]
        #[arg(long, value_name = "P")]
        protocol: Option<PacketProtocol>,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Say what would follow if a link changed: what would move, be released, be left without a way; changes nothing
    WhatIf {
        /// Group
        group: String,
        /// Link
        link: String,
        /// What becomes of it
        becomes: Becomes,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show groups, links and events on the full screen as they change; keys switch, drain and more
    Top,
    /// Show the recent transitions, each with its cause and how long it took
    Events {
        /// And go on with those that come
        #[arg(long)]
        follow: bool,
        /// As one JSON document a line
        #[arg(long)]
        json: bool,
    },
    /// Show what the kernel program thinks of each keepalive: answered, taken in or dropped, and why. Its program that tells of packets takes
    /// the place of the quiet one meanwhile; no traffic moves
    TracePackets {
        /// Group of kind peer [default: all of them]
        group: Option<String>,
        /// Link [default: all of the group's]
        link: Option<String>,
        /// For so long, 1s to 10m
        #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = parse_trace)]
        time: Duration,
        /// As one JSON document a line
        #[arg(long)]
        json: bool,
    },
    /// Print how links were, a day and in all, as a table that one can send to a provider; needs no daemon
    Report {
        /// Only this group
        group: Option<String>,
        /// Only this link of it
        link: Option<String>,
        /// The days that this reaches back to, such as 7d or 6weeks; 400 are kept
        #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = parse_time)]
        since: Duration,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Pin a group to a link, or let it choose again
    Switch {
        /// Group
        group: String,
        /// Link, or `auto`: then it goes to its best link at once
        link: String,
        /// Even if the link is not usable: with `failover off` the traffic goes there at once
        #[arg(long)]
        force: bool,
        /// Why: shown until it is taken back
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Turn automatic failover on or off
    Failover {
        /// On or off
        state: OnOff,
        /// Group [default: all]
        group: Option<String>,
        /// Why: shown until it is taken back
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Take a link out of service for maintenance, without losing a packet; holds over reloads and restarts
    Drain {
        /// Group
        group: String,
        /// Link
        link: String,
        /// Put it back by itself after so long, such as 2h or "1day 12h" [default: until undrain]
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_time)]
        time: Option<Duration>,
        /// Why: shown until it is taken back
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Return only when nothing of its traffic remains
        #[arg(long)]
        wait: bool,
    },
    /// Change a link's share of new connections
    Weight {
        /// Group
        group: String,
        /// Link
        link: String,
        /// Share among the active links of one tier, 1 to 256, or `file`: what the configuration says
        #[arg(value_parser = parse_weight)]
        weight: Weight,
        /// Why: shown until it is taken back
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Put a drained link back into service
    Undrain {
        /// Group
        group: String,
        /// Link
        link: String,
    },
    /// Have the daemon read its configuration again, and say what changes; links that did not change do not flap
    Reload {
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Take interfaces and addresses that are not there for what will come
        #[arg(long)]
        force: bool,
        /// The former configuration returns unless `link-watcher confirm` comes in time, such as 60s
        #[arg(long, value_name = "TIME", value_parser = parse_confirm)]
        confirm_within: Option<Duration>,
    },
    /// Stand for the configuration that `reload --confirm-within` has read
    Confirm,
    /// Remove all that any run of this instance has left in the kernel, whatever the configuration says
    Cleanup {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Instance [default: what the configuration names, if there is one]
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
    },
    /// Send a test message through every configured notifier, and say what each answered; no daemon is needed
    NotifyTest {
        /// Only this notifier
        name: Option<String>,
    },
    /// Print, or write, an example configuration, a fresh key, or what other programs want of this one
    Generate {
        /// What
        #[command(subcommand)]
        what: Generated,
    },
    /// Make a key for a peer, or print what to compare by telephone
    Key {
        /// What
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Build routers in network namespaces, run real daemons, break links, show what happens
    #[cfg(feature = "demo")]
    Demo {
        /// Which
        #[arg(default_value = "peer")]
        scenario: Scenario,
        /// Needs no terminal, ends by itself, and fails where traffic did not recover
        #[arg(long)]
        script: bool,
        /// Time between two keepalives, or two rounds of probes, 1ms to 60s
        #[arg(long, default_value = "100ms", value_parser = parse_interval)]
        interval: Duration,
        /// Silence for interval x multiplier = down; uplinks: rounds of probes without an answer
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=255))]
        multiplier: u32,
        /// Where keepalives are verified
        #[arg(long, default_value = "auto", value_parser = ["auto", "xdp", "tc", "socket"])]
        engine: String,
    },
    /// Print completions for a shell
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, that of a command, or that of the configuration
    Man {
        /// Command, or link-watcher.toml
        page: Option<String>,
    },
}

/// What is done with a key.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyAction {
    /// Print a fresh key, or write it to a new file that only its owner can read
    Generate {
        /// New file
        file: Option<PathBuf>,
    },
    /// Print a key's fingerprint: the same at both ends where the key is, and useless to anybody else
    Fingerprint {
        /// Key file
        file: PathBuf,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// Links fail over by themselves.
    On,
    /// Nothing moves by itself.
    Off,
}

/// A packet's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PacketProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, or ICMPv6.
    Icmp,
}

/// A weight that is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// This one.
    Of(u32),
    /// What the configuration says.
    File,
}

impl Weight {
    /// The weight; nothing for that of the configuration.
    pub const fn ordered(self) -> Option<u32> {
        match self {
            Self::Of(weight) => Some(weight),
            Self::File => None,
        }
    }
}

fn parse_weight(text: &str) -> Result<Weight, String> {
    match text {
        "file" => Ok(Weight::File),
        _ => text.parse().map(Weight::Of).map_err(|_| "it is a number from 1 to 256, or `file`".to_owned()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) { Err("it is at least 1s".to_owned()) } else { Ok(time) }
}

/// What can be generated.
#[derive(Clone, Debug, Subcommand)]
pub enum Generated {
    /// A commented example configuration
    Config {
        /// Which example: two routers joined by several links, both ends of such a pair with one key, or several ways to the
        /// internet [default: peer]
        example: Option<Example>,
        /// Which end of a peer [default: client]
        #[arg(long, conflicts_with = "from")]
        role: Option<End>,
        /// Convert the configuration of another program; FORMAT is fault-tolerant-router
        #[arg(long, num_args = 2, value_names = ["FORMAT", "FILE"], conflicts_with = "example")]
        from: Option<Vec<PathBuf>>,
        /// Where to.
        #[command(flatten)]
        to: Destination,
    },
    /// A fresh key for a peer
    Key {
        /// Where to.
        #[command(flatten)]
        to: Destination,
    },
    /// The nftables table for the uplinks of the configuration, as if all of them were up
    Nft {
        /// Where to.
        #[command(flatten)]
        to: Destination,
    },
    /// The systemd unit, for this program where it is
    Unit {
        /// Where to.
        #[command(flatten)]
        to: Destination,
    },
    /// A dashboard for Grafana
    Dashboard {
        /// Where to.
        #[command(flatten)]
        to: Destination,
    },
    /// Alert rules for Prometheus
    Alerts {
        /// Where to.
        #[command(flatten)]
        to: Destination,
    },
}

/// Where something generated goes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Destination {
    /// Write it to a new file instead (of a pair: to three files in this directory), with the directories that are missing; a
    /// key's file can be read by its owner only
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Replace what is there
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// Which example configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Example {
    /// `[[peer]]`.
    Peer,
    /// `[[peer]]` of both ends.
    Pair,
    /// `[[uplinks]]`.
    Uplinks,
}

/// One of the two ends of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// Chooses the link.
    Client,
    /// Follows.
    Server,
}

/// What can be demonstrated.
#[cfg(feature = "demo")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Two routers joined by three links.
    Peer,
    /// A LAN with three providers.
    Uplinks,
}

#[cfg(feature = "demo")]
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(1)..=Duration::from_secs(60);
    range.contains(&interval).then_some(interval).ok_or_else(|| "it goes from 1ms to 60s".to_owned())
}

fn parse_trace(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_millis(MAX_TRACE_MS);
    range.contains(&time).then_some(time).ok_or_else(|| "it goes from 1s to 10m".to_owned())
}

fn parse_confirm(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    range.contains(&time).then_some(time).ok_or_else(|| "it goes from 1s to 24h".to_owned())
}
