//! try
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
mod support;
use support::{given, site::Site};
#[test]
#[ignore = "needs root and a clean root: cargo xtask test"]
fn boots() {
    let site = Site::build(&given("LINK_WATCHER_ROOT")).unwrap();
    for m in [&site.client, &site.server] {
        let _ = m.says("systemctl is-system-running; systemctl --failed --no-pager; ps ax; cat /proc/1/cgroup; hostname; ls -la /sys/fs/bpf; systemd-analyze; systemd-analyze blame | head");
        let _ = m.says("ip -br addr; cat /etc/machine-id; journalctl -b --no-pager | tail -60");
    }
}
