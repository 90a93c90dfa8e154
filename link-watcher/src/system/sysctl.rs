//! Kernel settings of our interfaces (Documentation/networking/ip-sysctl.rst).
//!
//! `ignore_routes_with_linkdown = 1` lets the kernel itself leave a link without carrier, before any daemon wakes.
//! `rp_filter = 2` (loose) instead of strict: while the two ends of a peer disagree, packets come in by another link
//! than the one that answers would take, and a strict filter drops them. Uplinks need it too: the main table leads out by
//! one of them at most. `src_valid_mark = 1` makes the filter look where the packet's mark leads, so that an uplink passes
//! it even where no default route is to be found without a mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

/// Where the settings are.
pub trait SysctlSink {
    /// Reads a setting, named by its path below `/proc/sys/net`, without the newline.
    fn read(&self, name: &str) -> io::Result<String>;
    /// Writes one.
    fn write(&mut self, name: &str, value: &str) -> io::Result<()>;
}

/// The kernel, in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcSysctl;

impl ProcSysctl {
    fn path(name: &str) -> PathBuf {
        PathBuf::from("/proc/sys/net").join(name)
    }
}

impl SysctlSink for ProcSysctl {
    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(Self::path(name)).map(|value| value.trim_end().to_owned())
    }

    fn write(&mut self, name: &str, value: &str) -> io::Result<()> {
        fs::write(Self::path(name), value)
    }
}

/// What settings were before us: by name the former value and ours.
pub trait FormerValues {
    /// All that is recorded.
    fn all(&self) -> BTreeMap<String, (String, String)>;
    /// Records a setting before it is changed; what is recorded of it already stays.
    fn record(&mut self, name: &str, former: &str, ours: &str);
    /// It is as it was.
    fn forget(&mut self, name: &str);
}

/// A record that ends with the process.
impl FormerValues for BTreeMap<String, (String, String)> {
    fn all(&self) -> Self {
        self.clone()
    }

    fn record(&mut self, name: &str, former: &str, ours: &str) {
        self.entry(name.to_owned()).or_insert_with(|| (former.to_owned(), ours.to_owned()));
    }

    fn forget(&mut self, name: &str) {
        self.remove(name);
    }
}

/// The settings of our interfaces, and what they were before.
#[derive(Debug)]
pub struct LinkSysctls<S, F> {
    sink: S,
    former: F,
}

impl<S: SysctlSink, F: FormerValues> LinkSysctls<S, F> {
    /// Changes nothing yet. `former`: what earlier runs recorded.
    pub const fn new(sink: S, former: F) -> Self {
        Self { sink, former }
    }

    /// Prepares an interface: at start, and whenever it appears anew, because a new interface has the defaults. Gives
    /// what the log should have: each setting that was changed or could not be, the latter with the remedy.
    pub fn prepare(&mut self, interface: &str) -> Vec<String> {
        let mut said = Vec::new();
        self.leave_without_carrier(interface, &mut said);
        self.loosen(interface, "packets are lost while the two ends choose different links", &mut said);
        said
    }

    /// The same for the interface of an uplink.
    pub fn prepare_uplink(&mut self, interface: &str) -> Vec<String> {
        let mut said = Vec::new();
        self.leave_without_carrier(interface, &mut said);
        self.loosen(interface, "answers that come in by another uplink than the main table's are lost", &mut said);
        let own = format!("ipv4/conf/{interface}/src_valid_mark");
        // Either of "all" and the interface's own is enough.
        let all = self.sink.read("ipv4/conf/all/src_valid_mark").unwrap_or_default();
        let unmarked = |value: &str| value == "0" && all != "1";
        self.set(&own, "1", unmarked, "the filter of sources does not see by which uplink answers go", &mut said);
        said
    }

    fn leave_without_carrier(&mut self, interface: &str, said: &mut Vec<String>) {
        for family in ["ipv4", "ipv6"] {
            let name = format!("{family}/conf/{interface}/ignore_routes_with_linkdown");
            self.set(&name, "1", |value| value == "0", "a link without carrier keeps its traffic", said);
        }
    }

    fn loosen(&mut self, interface: &str, else_: &str, said: &mut Vec<String>) {
        let own = format!("ipv4/conf/{interface}/rp_filter");
        // The greater one of "all" and the interface's own counts, and strict is 1.
        let all = self.sink.read("ipv4/conf/all/rp_filter").unwrap_or_default();
        let strict = |value: &str| value == "1" || (value == "0" && all == "1");
        self.set(&own, "2", strict, else_, said);
    }

    /// Sets `name` to `value` where the present one is `wrong`.
    fn set(&mut self, name: &str, value: &str, wrong: impl Fn(&str) -> bool, else_: &str, said: &mut Vec<String>) {
        let setting = dotted(name);
        match self.sink.read(name) {
            Ok(now) if wrong(&now) => {
                self.former.record(name, &now, value);
                match self.sink.write(name, value) {
                    Ok(()) => said.push(format!("{setting} set from {now} to {value}")),
                    Err(error) => {
                        said.push(format!(
                            "{setting} is {now} and could not be set to {value}: {error}. Otherwise {else_}. Run \
                             `sysctl -w {setting}={value}` as root, or give this program CAP_NET_ADMIN and write access \
                             to /proc/sys/net"
                        ));
                    }
                }
            }
            Ok(_) => {}
            // No such interface, or a kernel without IPv6: nothing to prepare.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => said.push(format!("{setting} could not be read: {error}")),
        }
    }

    /// Puts back what [`prepare`](Self::prepare) changed, where it is still as it was left; an interface that is gone
    /// has taken its settings along. Gives what could not be put back.
    pub fn restore(&mut self) -> Vec<String> {
        self.restore_except(&BTreeSet::new())
    }

    /// The same for the interfaces that are not `used` any more.
    pub fn restore_except(&mut self, used: &BTreeSet<&str>) -> Vec<String> {
        let mut said = Vec::new();
        for (name, (former, ours)) in self.former.all() {
            if interface(&name).is_some_and(|interface| used.contains(interface)) {
                continue;
            }
            if self.sink.read(&name).is_ok_and(|now| now == ours)
                && let Err(error) = self.sink.write(&name, &former)
            {
                said.push(format!("{} could not be set back to {former}: {error}", dotted(&name)));
                continue;
            }
            self.former.forget(&name);
        }
        said
    }

    /// Warns where an interface takes no router advertisements, though an uplink is to learn its IPv6 gateway from them:
    /// a router's interfaces take them only with `accept_ra = 2`. It is not set here, because a DHCPv6 client or networkd
    /// may take them instead.
    pub fn advertisements(&self, interface: &str) -> Option<String> {
        let read = |name: String| self.sink.read(&name).unwrap_or_default();
        let accept_ra = read(format!("ipv6/conf/{interface}/accept_ra"));
        let forwarding = read(format!("ipv6/conf/{interface}/forwarding")) == "1";
        let deaf = accept_ra == "0" || (accept_ra == "1" && forwarding);
        let setting = dotted(&format!("ipv6/conf/{interface}/accept_ra"));
        deaf.then(|| {
            format!(
                "{setting} is {accept_ra}: the kernel takes no router advertisements there, so unless another program does, no \
                 IPv6 gateway is learned. Run `sysctl -w {setting}=2`, or give `gateway`"
            )
        })
    }

    /// Warns where this machine does not forward packets at all.
    pub fn forwarding(&self, ipv4: bool, ipv6: bool) -> Vec<String> {
        let mut said = Vec::new();
        for (wanted, name, setting) in [
            (ipv4, "ipv4/ip_forward", "net.ipv4.ip_forward"),
            (ipv6, "ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
        ] {
            if wanted && self.sink.read(name).is_ok_and(|value| value == "0") {
                said.push(format!(
                    "{setting} is 0: this machine does not forward packets of others. If it is to be a router, run \
                     `sysctl -w {setting}=1`, and add it to a file in /etc/sysctl.d"
                ));
            }
        }
        said
    }
}

/// The interface whose setting it is (`ipv4/conf/eth0/rp_filter`).
fn interface(name: &str) -> Option<&str> {
    name.split('/').nth(2)
}

/// As sysctl(8) writes it: where a path has a slash, a dot, and the reverse (`eth0.100`).
fn dotted(path: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    format!("net.{}", path.chars().map(swap).collect::<String>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, Default)]
    struct Fake {
        values: BTreeMap<String, String>,
        read_only: bool,
    }

    impl SysctlSink for Fake {
        fn read(&self, name: &str) -> io::Result<String> {
            self.values.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn write(&mut self, name: &str, value: &str) -> io::Result<()> {
            if self.read_only {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.values.insert(name.to_owned(), value.to_owned());
            Ok(())
        }
    }

    fn with(values: &[(&str, &str)]) -> LinkSysctls<Fake, BTreeMap<String, (String, String)>> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LinkSysctls::new(Fake { values, read_only: false }, BTreeMap::new())
    }

    #[test]
    fn only_a_strict_filter_is_loosened() {
        for (all, own, after) in
            [("0", "0", "0"), ("0", "1", "2"), ("1", "0", "2"), ("1", "1", "2"), ("2", "0", "0"), ("1", "2", "2")]
        {
            let mut sysctls = with(&[("ipv4/conf/all/rp_filter", all), ("ipv4/conf/eth1/rp_filter", own)]);
            let said = sysctls.prepare("eth1");
            assert_eq!(sysctls.sink.read("ipv4/conf/eth1/rp_filter").unwrap(), after, "all {all}, own {own}");
            assert_eq!(said.len(), usize::from(own != after));
            assert!(sysctls.restore().is_empty());
            assert_eq!(sysctls.sink.read("ipv4/conf/eth1/rp_filter").unwrap(), own);
        }
    }

    #[test]
    fn an_uplinks_marks_are_seen_by_the_filter() {
        for (all, own, after) in [("0", "0", "1"), ("1", "0", "0"), ("0", "1", "1")] {
            let name = "ipv4/conf/eth1/src_valid_mark";
            let mut sysctls = with(&[("ipv4/conf/all/src_valid_mark", all), (name, own)]);
            let said = sysctls.prepare_uplink("eth1");
            assert_eq!((sysctls.sink.read(name).unwrap(), said.len()), (after.to_owned(), usize::from(own != after)));
            // The same interface for a peer: what it was before is remembered once.
            sysctls.prepare("eth1");
            assert!(sysctls.restore().is_empty());
            assert_eq!(sysctls.sink.read(name).unwrap(), own);
        }
    }

    #[test]
    fn a_router_that_takes_no_advertisements_is_told() {
        for (accept_ra, forwarding, deaf) in
            [("0", "0", true), ("1", "0", false), ("1", "1", true), ("2", "1", false), ("2", "0", false)]
        {
            let sysctls =
                with(&[("ipv6/conf/eth0.7/accept_ra", accept_ra), ("ipv6/conf/eth0.7/forwarding", forwarding)]);
            let said = sysctls.advertisements("eth0.7");
            assert_eq!(said.is_some(), deaf);
            if let Some(said) = said {
                assert!(said.contains("`sysctl -w net.ipv6.conf.eth0/7.accept_ra=2`"), "{said}");
                assert!(!said.contains("  "), "one sentence: {said}");
            }
        }
        assert_eq!(with(&[]).advertisements("eth1"), None, "a kernel without IPv6");
    }

    #[test]
    fn what_the_operator_set_meanwhile_stays() {
        let name = "ipv4/conf/eth1/ignore_routes_with_linkdown";
        let mut sysctls = with(&[(name, "0")]);
        sysctls.prepare("eth1");
        assert_eq!(sysctls.sink.read(name).unwrap(), "1");
        sysctls.sink.write(name, "0").unwrap();
        sysctls.prepare("eth1");
        sysctls.sink.write(name, "7").unwrap();
        assert!(sysctls.restore().is_empty());
        assert_eq!(sysctls.sink.read(name).unwrap(), "7");
    }

    /// The daemon that loosened the filter was killed: its successor finds it loose, and knows that it was strict.
    #[test]
    fn what_an_earlier_run_changed_is_put_back() {
        let name = "ipv4/conf/eth1/rp_filter";
        let mut first = with(&[(name, "1"), ("ipv4/conf/eth2/rp_filter", "1")]);
        first.prepare("eth1");
        first.prepare("eth2");
        let mut second = LinkSysctls::new(Fake { values: first.sink.values, read_only: false }, first.former);
        assert_eq!(second.prepare("eth1"), [""; 0]);
        // A reload has left eth2 out.
        assert!(second.restore_except(&BTreeSet::from(["eth1"])).is_empty());
        assert_eq!(second.sink.read("ipv4/conf/eth2/rp_filter").unwrap(), "1");
        assert_eq!(second.sink.read(name).unwrap(), "2");
        assert!(second.restore().is_empty());
        assert_eq!(second.sink.read(name).unwrap(), "1");
        assert!(second.former.is_empty());
    }

    #[test]
    fn a_refusal_names_the_remedy() {
        let mut sysctls = with(&[("ipv4/conf/eth0.100/ignore_routes_with_linkdown", "0")]);
        sysctls.sink.read_only = true;
        let said = sysctls.prepare("eth0.100");
        let remedy = "`sysctl -w net.ipv4.conf.eth0/100.ignore_routes_with_linkdown=1`";
        assert!(said[0].contains(remedy), "{said:?}");
        assert!(sysctls.restore().is_empty());
    }

    #[test]
    fn a_machine_that_forwards_nothing_is_told() {
        let sysctls = with(&[("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "1")]);
        assert!(sysctls.forwarding(true, true)[0].contains("net.ipv4.ip_forward=1"));
        assert_eq!(sysctls.forwarding(false, true), [""; 0]);
    }
}
