//! Each interface: whether it is there, where keepalives are verified on it, and its packet filters.

use super::{Finding, Machine, Needs, Use, ok, warning};
use crate::{
    bpf::{self, Device, LinkLayer, Mode, XdpProgram},
    system::Link,
};

/// `NETDEV_XDP_ACT_BASIC` (linux/netdev.h): a driver that runs programs itself.
const XDP_ACT_BASIC: u64 = 1;
/// Above this most drivers refuse programs that need a packet in one page, bytes.
const MAX_NATIVE_MTU: u32 = 3498;

pub(super) fn of_interfaces(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    let interfaces = match machine.interfaces() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            let message = format!("the kernel does not list them: {error}");
            return vec![super::missing("interface", message, "a kernel with CONFIG_NET")];
        }
    };
    // Where the kernel does not say, nothing is known of any.
    let programs = machine.xdp_programs().unwrap_or_default();
    let features = machine.xdp_features().unwrap_or_default();
    let mut findings = Vec::new();
    for (name, use_) in &needs.interfaces {
        let Some(interface) = interfaces.get(name) else {
            let message = "there is none of this name now: it is used from the moment that it appears";
            findings.push(warning("interface", message, "ip link shows what there is").on(name));
            continue;
        };
        findings.push(state(&interface.link).on(name));
        if use_.peer && needs.bpf {
            findings.push({
                let ifindex = interface.link.ifindex;
                engine(machine, &interface.link, programs.get(&ifindex), features.get(&ifindex).copied()).on(name)
            });
        }
        if use_.peer || use_.uplink {
            findings.extend(rp_filter(machine, name, *use_).map(|finding| finding.on(name)));
        }
        if use_.learns_ipv6 {
            findings.extend(accept_ra(machine, name).map(|finding| finding.on(name)));
        }
    }
    findings
}

fn state(link: &Link) -> Finding {
    let kind = link.kind.as_deref().unwrap_or("hardware");
    if !link.admin_up {
        return warning("interface", format!("{kind}, switched off"), format!("ip link set {} up", link.name));
    }
    if !link.carrier {
        return warning("interface", format!("{kind}, without carrier"), "look at the cable and at the other end");
    }
    ok("interface", format!("{kind}, up"))
}

/// Where keepalives are verified, as far as that can be told without attaching.
fn engine(machine: &dyn Machine, link: &Link, program: Option<&XdpProgram>, features: Option<u64>) -> Finding {
    let Some(link_layer) = LinkLayer::of(link.link_type) else {
        return warning(
            "xdp",
            format!("link layers of type {} are not ours: keepalives go through a socket", link.link_type),
            "none is needed; write engine = \"socket\" to say so",
        );
    };
    if let Some(program) = program {
        let mode = if program.mode == Mode::XdpNative { "native" } else { "generic" };
        if program.is_ours() {
            return ok("xdp", format!("our program runs here, {mode}"));
        }
        let name = program.name.as_deref().unwrap_or("of unknown name");
        return warning(
            "xdp",
            format!("another program is on the hook: id {}, {name}, {mode}; ours goes to tc or a socket", program.id),
            format!("ip link set dev {} xdp off, if nobody needs it", link.name),
        );
    }
    let device = Device { ifindex: link.ifindex, name: &link.name, link_layer, kind: link.kind.as_deref() };
    if !bpf::may_run_native(&device) {
        return ok("xdp", "generic: a virtual interface gains nothing from native mode");
    }
    let driver = machine.target(&format!("/sys/class/net/{}/device/driver", link.name));
    let driver = driver.map_or_else(|| "its driver".to_owned(), |driver| format!("the driver {driver}"));
    match features {
        None => {
            ok("xdp", format!("whether {driver} has a native mode shows when the program is attached; else generic"))
        }
        Some(features) if features & XDP_ACT_BASIC == 0 => {
            ok("xdp", format!("generic: {driver} has no native mode, and each keepalive costs a little more"))
        }
        Some(_) if link.mtu > MAX_NATIVE_MTU => warning(
            "xdp",
            format!("{driver} has a native mode, but may refuse it with an MTU of {}; then generic", link.mtu),
            format!("ip link set dev {} mtu {MAX_NATIVE_MTU}, if nothing needs more", link.name),
        ),
        Some(_) => ok("xdp", format!("native: {driver} has it")),
    }
}

/// Reverse path filter (Documentation/networking/ip-sysctl.rst): strict drops what comes in by another way than the
/// answer would leave by, which is nothing unusual with several links.
fn rp_filter(machine: &dyn Machine, name: &str, use_: Use) -> Option<Finding> {
    let setting = |of: &str, which: &str| machine.read(&format!("/proc/sys/net/ipv4/conf/{of}/{which}")).ok();
    let number = |of: &str, which: &str| setting(of, which)?.parse::<u8>().ok();
    // The greater one of "all" and the interface's own counts.
    let effective = number("all", "rp_filter").max(number(name, "rp_filter"))?;
    let marked = number("all", "src_valid_mark").max(number(name, "src_valid_mark")) == Some(1);
    let dotted = name.replace('.', "/");
    if effective != 1 {
        return Some(ok("rp_filter", if effective == 2 { "loose" } else { "off" }));
    }
    if use_.uplink && !use_.peer && marked {
        return Some(ok("rp_filter", "strict, and it looks at marks (src_valid_mark)"));
    }
    let why = if use_.uplink {
        "strict: answers that come in by an uplink that is not the main table's are dropped. The daemon sets it to loose"
    } else {
        "strict: packets are lost while the two ends choose different links. The daemon sets it to loose"
    };
    let marks =
        if use_.uplink { format!("; or net.ipv4.conf.{dotted}.src_valid_mark=1 beside it") } else { String::new() };
    Some(warning("rp_filter", why, format!("for good: sysctl -w net.ipv4.conf.{dotted}.rp_filter=2{marks}")))
}

/// Router advertisements: an interface that forwards takes them only with 2 (Documentation/networking/ip-sysctl.rst).
fn accept_ra(machine: &dyn Machine, name: &str) -> Option<Finding> {
    let setting = |which: &str| machine.read(&format!("/proc/sys/net/ipv6/conf/{name}/{which}")).ok();
    let accept = setting("accept_ra")?;
    let forwards = setting("forwarding").as_deref() == Some("1");
    if accept == "2" || (accept == "1" && !forwards) {
        return Some(ok("accept_ra", "an IPv6 gateway is learned from router advertisements"));
    }
    let remedy =
        format!("sysctl -w net.ipv6.conf.{}.accept_ra=2, or give the link its `gateway`", name.replace('.', "/"));
    let message =
        format!("it is {accept}: unless networkd or a DHCPv6 client takes advertisements, no IPv6 gateway is learned");
    Some(warning("accept_ra", message, remedy))
}
