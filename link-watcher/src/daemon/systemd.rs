//! What systemd is told (sd_notify(3)), one datagram each: that the daemon is ready, that it is alive, and in a line how its
//! groups stand.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{broadcast::error::RecvError, mpsc, oneshot};
use tracing::warn;

use crate::{
    control::{History, Order},
    status::{GroupSnapshot, Snapshot},
};

/// Between two statuses: links that flap shall not keep the service manager busy.
const GAP: Duration = Duration::from_secs(1);
/// How often it is looked where no event says that something has changed.
const QUIET: Duration = Duration::from_secs(60);
/// Groups in the status line, those without an active link first.
const MAX_GROUPS: usize = 8;
/// Longest status line, bytes: systemd takes a datagram of a page.
const MAX_LINE_LEN: usize = 1024;

/// Ready: links are probed.
pub(super) fn ready() {
    // It must arrive, and nothing is waited for yet that could be late.
    notify("READY=1", true);
}

/// All threads get on: `WatchdogSec=` counts from here. Without it systemd takes no notice.
pub(super) fn alive() {
    notify("WATCHDOG=1", false);
}

/// Does nothing where systemd did not start us.
fn notify(state: &str, patient: bool) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    match send(&socket, state, patient) {
        // It comes again in a moment.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => warn!("systemd was not told {state}: {error}"),
        Ok(()) => {}
    }
}

fn send(socket: &OsStr, state: &str, patient: bool) -> io::Result<()> {
    let address = match socket.as_encoded_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        _ => SocketAddr::from_pathname(Path::new(socket)),
    }?;
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(!patient)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Tells systemd, where it started us, how the groups stand, whenever something has happened.
pub(super) async fn tell_status<T: From<Order>>(orders: mpsc::Sender<T>, history: Arc<History>) {
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        tell_status_to(&socket, orders, history, [GAP, QUIET]).await;
    }
}

async fn tell_status_to<T: From<Order>>(
    socket: &OsStr,
    orders: mpsc::Sender<T>,
    history: Arc<History>,
    [gap, quiet]: [Duration; 2],
) {
    let (_, mut events) = history.follow();
    let mut told = None;
    loop {
        let (answer, snapshot) = oneshot::channel();
        if orders.send(Order::Status(answer).into()).await.is_err() {
            return;
        }
        if let Ok(line) = snapshot.await.map(|snapshot| status_line(&snapshot))
            && told.as_ref() != Some(&line)
            && send(socket, &format!("STATUS={line}"), false).is_ok()
        {
            told = Some(line);
        }
        tokio::time::sleep(gap).await;
        tokio::select! {
            () = tokio::time::sleep(quiet) => {}
            // That some were missed means the same: something has happened.
            event = events.recv() => if let Err(RecvError::Closed) = event {
                return;
            }
        }
        // One look is for all that has happened until now.
        events = events.resubscribe();
    }
}

/// Such as `hq: optic active; wan: 2 of 3 up`.
fn status_line(snapshot: &Snapshot) -> String {
    let (idle, carried): (Vec<_>, Vec<_>) = snapshot.groups.iter().partition(|group| group.active.is_empty());
    let mut line = String::new();
    let mut left = snapshot.groups.len();
    for group in idle.into_iter().chain(carried).take(MAX_GROUPS) {
        let part = group_line(group);
        if line.len() + part.len() > MAX_LINE_LEN {
            break;
        }
        line = if line.is_empty() { part } else { format!("{line}; {part}") };
        left -= 1;
    }
    if left > 0 { format!("{line}; and {left} more") } else { line }
}

fn group_line(group: &GroupSnapshot) -> String {
    let name = &group.name;
    let up = group.links.iter().filter(|link| link.state == "up").count();
    let all = group.links.len();
    match group.active.as_slice() {
        [] => format!("{name}: no active link"),
        [active] => format!("{name}: {active} active, {up} of {all} up"),
        several => format!("{name}: {} active, {up} of {all} up", several.len()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use crate::{control::EventRecord, status::LinkSnapshot};

    use super::*;

    fn group(name: &str, active: &[&str], states: &[&str]) -> GroupSnapshot {
        GroupSnapshot {
            name: name.to_owned(),
            active: active.iter().map(ToString::to_string).collect(),
            links: states.iter().map(|state| LinkSnapshot { state: state.to_string(), ..Default::default() }).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_status_is_one_short_line() {
        let groups = vec![group("hq", &["optic"], &["up", "down"]), group("wan", &["a", "b"], &["up", "down", "up"])];
        let mut snapshot = Snapshot { groups, ..Snapshot::default() };
        let both = "hq: optic active, 1 of 2 up; wan: 2 active, 2 of 3 up";
        assert_eq!(status_line(&snapshot), both);
        snapshot.groups.push(group("far", &[], &["down"]));
        assert_eq!(status_line(&snapshot), format!("far: no active link; {both}"), "what is bad comes first");
        snapshot.groups.extend((0..20).map(|n| group(&n.to_string(), &["x"], &["up"])));
        assert!(status_line(&snapshot).ends_with("; and 15 more"));
        snapshot.groups = (0..8).map(|_| group(&"x".repeat(64), &[&"y".repeat(64)], &["up"])).collect();
        assert!(status_line(&snapshot).len() < MAX_LINE_LEN + 32);
        snapshot.groups.clear();
        assert_eq!(status_line(&snapshot), "");
    }

    #[tokio::test]
    async fn systemd_hears_of_changes_and_not_more_often_than_it_should() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let heard = async || {
            let mut bytes = [0; 2048];
            let length = socket.recv(&mut bytes).await.unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        send(path.as_os_str(), "READY=1", true).unwrap();
        assert_eq!(heard().await, "READY=1");

        let (orders, mut asked) = mpsc::channel::<Order>(1);
        let history = Arc::new(History::default());
        let followed = Arc::clone(&history);
        let [gap, quiet] = [200, 700].map(Duration::from_millis);
        tokio::spawn(async move { tell_status_to(path.as_os_str(), orders, followed, [gap, quiet]).await });
        let mut answer = async |active: &str| {
            let Some(Order::Status(reply)) = asked.recv().await else { panic!("only the status is asked for") };
            let groups = vec![group("hq", &[active], &["up"])];
            reply.send(Snapshot { groups, ..Snapshot::default() }).unwrap();
            Instant::now()
        };
        let first = answer("optic").await;
        assert_eq!(heard().await, "STATUS=hq: optic active, 1 of 1 up");
        (0..100).for_each(|_| history.push(EventRecord::default()));
        let second = answer("wifi").await;
        assert_eq!(heard().await, "STATUS=hq: wifi active, 1 of 1 up");
        assert!((gap..quiet).contains(&(second - first)), "{:?}", second - first);
        // A hundred events were one change: the next look comes of itself.
        let third = answer("wifi").await;
        assert!(third - second >= quiet, "{:?}", third - second);
        // What is the same is not said again.
        answer("optic").await;
        assert_eq!(heard().await, "STATUS=hq: optic active, 1 of 1 up");
    }
}
