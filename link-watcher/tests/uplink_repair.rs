//! What happens to tables and rules of uplinks from outside: restarts, removals, interfaces that come and go.
#![allow(clippy::unwrap_used)]

mod route_support;
mod uplink_support;

use std::collections::BTreeMap;

use link_watcher::{
    event::LinkId,
    uplink::{Desired, tables::TableNotice},
};
use route_support::{GROUP, SECOND, ip, link, namespace, ours, three_links};
use uplink_support::*;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_restart_changes_nothing() {
    namespace(|| async {
        three_links();
        Bench::new().apply(&wish([0, 5, 2]));
        let stood = (ours(), our_rules());
        let mut bench = Bench::new();
        let standing = bench.tables.standing(&wish([0, 0, 0]));
        assert_eq!(standing, BTreeMap::from([(LinkId(2), 5), (LinkId(3), 2)]));
        assert_eq!(bench.apply(&wish([0, 0, 0])), 0, "no verdict yet");
        assert_eq!(bench.apply(&wish([0, 5, 2])), 0);
        assert_eq!(bench.observe(), [], "no event of any kind");
        assert_eq!(stood, (ours(), our_rules()));
        // With an uplink fewer, and other ranges.
        let mut fewer = wish([0, 5, 2]);
        fewer.uplinks.pop();
        bench = Bench::new();
        bench.apply(&fewer);
        assert!(!(ours().concat() + &our_rules().concat()).contains("7003"));
        bench.apply(&Desired { rule_priority: 3000, table_base: 500, ..fewer });
        assert!(!(ours().concat() + &our_rules().concat()).contains("700"), "{:?}", our_rules());
        assert_eq!(leaves_by("192.0.2.1"), "eth2");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_removed_comes_back_but_is_not_fought_for() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        bench.apply(&wish([2, 1, 0]));
        let stood = (ours(), our_rules());
        let deadline_ns = bench.tables.next_deadline_ns();
        bench.observe();
        assert_eq!(bench.tables.next_deadline_ns(), deadline_ns, "our own changes are no news");
        ip("route flush table 7001");
        ip("route del default table 7000");
        ip("rule del pref 20100 fwmark 0x200/0xff00");
        ip("-6 rule del pref 20000");
        let notices = bench.settle(SECOND);
        assert_eq!(stood, (ours(), our_rules()));
        let [TableNotice::Repaired { count: 5, by: Some(_), .. }] = &notices[..] else { panic!("{notices:?}") };
        let mut repairs = 0;
        for _ in 0..200 {
            ip("rule del pref 20900");
            bench.settle(SECOND);
            if (ours(), our_rules()) == stood {
                repairs += 1;
            } else {
                // So that there is something to remove.
                ip("rule add pref 20900 lookup 7000 protocol 208");
                bench.settle(0);
            }
        }
        assert!((3..30).contains(&repairs), "{repairs}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn interfaces_and_addresses_that_go_and_come_back() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        let desired = wish([2, 1, 1]);
        bench.apply(&desired);
        let stood = (ours(), our_rules());
        for (away, back) in [
            ("addr del 10.248.248.2/24 dev eth1", "addr add 10.248.248.2/24 dev eth1"),
            ("-6 addr del 2001:db8:1::2/64 dev eth1", "-6 addr add 2001:db8:1::2/64 dev eth1 nodad"),
            ("link set eth1 down", "link set eth1 up"),
        ] {
            ip(away);
            bench.settle(SECOND);
            ip(back);
            if back.starts_with("link") {
                // IPv6 addresses go with the interface.
                ip("-6 addr add 2001:db8:1::2/64 dev eth1 nodad");
            }
            until("carrier", || ip("-o link show eth1").contains("state UP"));
            until(away, || {
                bench.settle(SECOND / 100);
                stood == (ours(), our_rules())
            });
            assert!(bench.tables.report(GROUP).complete);
        }
        // Gone with all the multipath routes that it was in, and back under another index.
        ip("link del eth1");
        bench.settle(SECOND);
        let mut without = wish([0, 1, 1]);
        (without.uplinks[0].ipv4, without.uplinks[0].ipv6) = (None, None);
        bench.apply(&without);
        assert_eq!(spread("4").matches("dev eth").count(), 2, "{}", spread("4"));
        assert_eq!(spread("6").matches("dev eth").count(), 2);
        link(1);
        assert_ne!(wish([2, 1, 1]).uplinks[0].ifindex, desired.uplinks[0].ifindex);
        bench.apply(&wish([2, 1, 1]));
        assert_eq!(stood, (ours(), our_rules()));
        // Without carrier a table still leads nowhere else.
        for i in 1..=3 {
            for family in ["ipv4", "ipv6"] {
                std::fs::write(format!("/proc/sys/net/{family}/conf/eth{i}/ignore_routes_with_linkdown"), "1").unwrap();
            }
        }
        ip("link set far1 down");
        until("the table leads nowhere", || leaves_by("192.0.2.1 mark 0x100").contains("No route to host"));
        assert!(["eth2", "eth3"].contains(&leaves_by("192.0.2.1").as_str()));
        ip("link set far1 up");
        until("as before", || {
            bench.settle(SECOND / 100);
            stood == (ours(), our_rules())
        });
        assert_eq!(leaves_by("192.0.2.1 mark 0x100"), "eth1");
    });
}
