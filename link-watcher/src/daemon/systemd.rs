//! Tells systemd that the daemon is ready (sd_notify(3)): one datagram to the socket that it names.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
};

use tracing::warn;

/// Ready: links are probed.
pub(super) fn ready() {
    notify("READY=1");
}

/// All threads get on: `WatchdogSec=` counts from here. Without it systemd takes no notice.
pub(super) fn alive() {
    notify("WATCHDOG=1");
}

/// Does nothing where systemd did not start us.
fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_encoded_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        _ => SocketAddr::from_pathname(Path::new(&name)),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)).map(drop);
    if let Err(error) = sent {
        warn!("systemd was not told {state}: {error}");
    }
}
