//! Kernel, capabilities, BPF, netfilter, forwarding, clock.

use std::{
    io,
    time::{Duration, SystemTime},
};

use super::{Finding, Machine, Needs, missing, ok, warning};
use crate::route::nexthop::{COMPAT_MODE, COMPAT_REMEDY, COMPAT_WARNING};

/// The oldest kernel that loads our programs, and the first that attaches them at tc.
const MIN_KERNEL: (u32, u32) = (5, 15);
const TCX_KERNEL: (u32, u32) = (6, 6);
/// 2026-01-01: no clock that is right shows an earlier time.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
/// Sources of time that take a device access for each look at the clock.
const SLOW_CLOCKS: &[&str] = &["acpi_pm", "hpet", "jiffies", "pit", "refined-jiffies"];
/// Names of processes that keep the clock right; the kernel cuts them at 15 bytes.
const CLOCK_KEEPERS: &[&str] = &["chronyd", "ntp-daemon", "ntpd", "openntpd", "systemd-timesyn"];
/// From this many hundredths on the table of connections is nearly full.
const NEARLY_FULL_PERCENT: u64 = 80;

pub(super) fn of_machine(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    let mut findings = vec![kernel(machine, needs)];
    findings.extend(capabilities(machine, needs));
    if needs.bpf {
        findings.extend(bpf(machine));
    }
    findings.push(nexthops(machine, needs));
    if needs.uplinks {
        findings.push(nft(machine));
        findings.push(conntrack(machine));
        findings.extend(connections(machine));
    }
    findings.extend(forwarding(machine, needs));
    findings.extend(clock(machine));
    findings
}

fn kernel(machine: &dyn Machine, needs: &Needs) -> Finding {
    let release = match machine.read("/proc/sys/kernel/osrelease") {
        Ok(release) => release,
        Err(error) => return missing("kernel", format!("/proc cannot be read: {error}"), "mount -t proc proc /proc"),
    };
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if needs.bpf && version < MIN_KERNEL {
        return warning(
            "kernel",
            format!("Linux {release} is too old for our eBPF programs: keepalives go through sockets"),
            format!("install Linux {}.{} or later, or write engine = \"socket\"", MIN_KERNEL.0, MIN_KERNEL.1),
        );
    }
    if needs.bpf && version < TCX_KERNEL {
        return ok("kernel", format!("Linux {release}; where XDP is taken there is no tc, but sockets"));
    }
    ok("kernel", format!("Linux {release}"))
}

/// Bits of linux/capability.h, each with what it is for.
fn capabilities(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    const SYS_ADMIN: u32 = 21;
    let status = machine.read("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return vec![warning("capabilities", "/proc/self/status does not say them", "mount -t proc proc /proc")];
    };
    let has = |bit: u32| effective & 1 << bit != 0;
    let grant = |name: &str| format!("run this with sudo; for a service: CapabilityBoundingSet={name}");
    let mut findings = Vec::new();
    let mut there = Vec::new();
    for (bit, name, wanted, essential, without) in [
        (12, "CAP_NET_ADMIN", true, true, "no route can be changed"),
        (13, "CAP_NET_RAW", needs.uplinks, true, "uplinks cannot be probed"),
        (39, "CAP_BPF", needs.bpf, false, "keepalives go through sockets"),
        (38, "CAP_PERFMON", needs.bpf, false, "keepalives go through sockets"),
        (23, "CAP_SYS_NICE", needs.peers && needs.realtime, false, "a busy machine probes late"),
        (14, "CAP_IPC_LOCK", needs.peers && needs.realtime, false, "probing may wait for the disk"),
    ] {
        if !wanted {
            continue;
        }
        // CAP_BPF and CAP_PERFMON were split off CAP_SYS_ADMIN in Linux 5.8, which is still as good.
        if has(bit) || (matches!(bit, 38 | 39) && has(SYS_ADMIN)) {
            there.push(name);
            continue;
        }
        let message = format!("{name} is missing: {without}");
        let finding = if essential { missing } else { warning };
        findings.push(finding("capabilities", message, grant(name)));
    }
    if !there.is_empty() {
        findings.insert(0, ok("capabilities", there.join(", ")));
    }
    findings
}

fn bpf(machine: &dyn Machine) -> Vec<Finding> {
    let mounts = machine.read("/proc/self/mountinfo").unwrap_or_default();
    // proc(5): the mount point is the fifth field, the type the first behind the dash.
    let mounted = mounts.lines().any(|line| {
        let (head, tail) = line.split_once(" - ").unwrap_or((line, ""));
        head.split(' ').nth(4) == Some("/sys/fs/bpf") && tail.starts_with("bpf ")
    });
    let mut findings = vec![if mounted {
        ok("bpffs", "/sys/fs/bpf is mounted")
    } else {
        warning(
            "bpffs",
            "no BPF file system on /sys/fs/bpf: the daemon mounts one, if it may",
            "mount -t bpf bpf /sys/fs/bpf; systemd does so at start",
        )
    }];
    if machine.read("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|value| value == "0") {
        findings.push(warning(
            "bpf-jit",
            "eBPF programs are interpreted: each keepalive costs several times more",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    if machine.read("/sys/kernel/security/lockdown").is_ok_and(|value| value.contains("[confidentiality]")) {
        findings.push(warning(
            "lockdown",
            "the kernel is locked down for confidentiality, which restricts BPF: keepalives may go through sockets",
            "boot with lockdown=integrity",
        ));
    }
    findings
}

fn nexthops(machine: &dyn Machine, needs: &Needs) -> Finding {
    match machine.nexthops() {
        Ok(()) if needs.nexthop && machine.read(COMPAT_MODE).is_ok_and(|value| value != "0") => {
            warning("nexthops", COMPAT_WARNING, COMPAT_REMEDY)
        }
        Ok(()) => ok("nexthops", "the kernel has nexthop objects"),
        Err(error) => warning(
            "nexthops",
            format!("no nexthop objects ({error}): the routes and tables back-ends do without"),
            "install Linux 5.13 or later for resilient multipath",
        ),
    }
}

fn nft(machine: &dyn Machine) -> Finding {
    match machine.nft() {
        Ok(version) => ok("nftables", version),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            missing("nftables", "there is no command nft: connections cannot be spread", "apt install nftables")
        }
        Err(error) => missing(
            "nftables",
            format!("nft does not work here: {error}"),
            "run this with sudo; modprobe nf_tables, if the kernel has it as a module",
        ),
    }
}

fn conntrack(machine: &dyn Machine) -> Finding {
    match machine.conntrack() {
        Ok(()) => ok("conntrack", "connections can be listed and released"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            missing("conntrack", "connections cannot be released: permission denied", "run this with sudo")
        }
        Err(error) => missing(
            "conntrack",
            format!("connections of a dead uplink cannot be released ({error}): they hang until they time out"),
            "modprobe nf_conntrack_netlink; in a kernel of your own CONFIG_NF_CT_NETLINK",
        ),
    }
}

/// How full the table of connections is.
fn connections(machine: &dyn Machine) -> Option<Finding> {
    let number = |name: &str| machine.read(&format!("/proc/sys/net/netfilter/{name}")).ok()?.parse::<u64>().ok();
    let (count, max) = (number("nf_conntrack_count")?, number("nf_conntrack_max")?);
    if count.saturating_mul(100) < max.saturating_mul(NEARLY_FULL_PERCENT) {
        return Some(ok("connections", format!("{count} of at most {max}")));
    }
    Some(warning(
        "connections",
        format!("{count} of at most {max}: once the table is full, new connections are dropped"),
        format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2)),
    ))
}

fn forwarding(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    let families = [
        (needs.ipv4, "ipv4/ip_forward", "net.ipv4.ip_forward", "IPv4"),
        (needs.ipv6, "ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding", "IPv6"),
    ];
    let wanted = families.into_iter().filter(|(wanted, ..)| *wanted);
    wanted
        .map(|(_, path, name, family)| match machine.read(&format!("/proc/sys/net/{path}")).as_deref() {
            Ok("0") => warning(
                "forwarding",
                format!("{name} is 0: this machine does not forward {family} packets of others"),
                format!("sysctl -w {name}=1, and a line in a file in /etc/sysctl.d, if it is to be a router"),
            ),
            Ok(_) => ok("forwarding", format!("{family} is forwarded")),
            Err(error) => {
                missing("forwarding", format!("no {family} here: {error}"), format!("a kernel with {family}"))
            }
        })
        .collect()
}

fn clock(machine: &dyn Machine) -> Vec<Finding> {
    let keepers = processes(machine, CLOCK_KEEPERS);
    let early = machine.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() < EARLIEST;
    let keep = "apt install chrony, or systemctl enable --now systemd-timesyncd";
    let shown = humantime::format_rfc3339_seconds(machine.now());
    let mut findings = vec![if early {
        warning("clock", format!("it is {shown}: that is wrong, and HTTPS probes would fail"), keep)
    } else if keepers.is_empty() {
        warning(
            "clock",
            format!("it is {shown}, and no daemon keeps it right: keepalives do without, logs and HTTPS probes do not"),
            keep,
        )
    } else {
        ok("clock", format!("it is {shown}, kept by {}", keepers.join(", ")))
    }];
    let source = machine.read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if let Ok(source) = source
        && SLOW_CLOCKS.contains(&source.as_str())
    {
        findings.push(warning(
            "clocksource",
            format!("time comes from {source}, which is slow to read and coarse for round trips"),
            "on a virtual machine let the host offer tsc or kvm-clock; else see why the kernel distrusts tsc: dmesg",
        ));
    }
    findings
}

/// Which of these processes run.
pub(super) fn processes(machine: &dyn Machine, names: &[&str]) -> Vec<String> {
    let pids = machine.list("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let mut found: Vec<String> = pids
        .filter_map(|pid| machine.read(&format!("/proc/{pid}/comm")).ok())
        .filter(|comm| names.contains(&comm.as_str()))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
