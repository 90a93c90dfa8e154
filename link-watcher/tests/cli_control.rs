//! The control socket: the real server and the real client on a socket of their own.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    ops::ControlFlow,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    thread,
};

use link_watcher::control::{BindError, Change, Client, ClientError, HISTORY_LEN, Reply, Server};
use support::{
    Desk,
    daemon::{FakeDaemon, event, snapshot},
};

fn switch(group: &str) -> Change {
    Change::Switch { group: group.to_owned(), link: Some("wifi".to_owned()), force: false }
}

#[test]
fn status_and_changes_are_answered_on_one_connection() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let mut client = Client::connect(&daemon.socket).unwrap();
    assert_eq!(client.status().unwrap(), snapshot());
    assert!(client.change(switch("hq")).unwrap().starts_with("done: Switch"));
    let refused = client.change(switch("paris")).unwrap_err();
    assert_eq!(refused.to_string(), "there is no group \"paris\"; there is hq");
    assert_eq!(*daemon.asked.lock().unwrap(), [switch("hq"), switch("paris")]);
}

#[test]
fn recent_events_come_in_order_and_end() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    (0..3).for_each(|n| daemon.push(n));
    let mut got = Vec::new();
    let mut client = Client::connect(&daemon.socket).unwrap();
    let take = |reply| {
        got.push(reply);
        ControlFlow::Continue(())
    };
    client.events(false, take).unwrap();
    assert_eq!(got, [0, 1, 2].map(|n| Reply::Event(event(n))));
}

#[test]
fn a_follower_gets_what_happens_and_learns_that_the_daemon_ended() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    daemon.push(0);
    let mut client = Client::connect(&daemon.socket).unwrap();
    let mut daemon = Some(daemon);
    let mut got = 0;
    let ended = client.events(true, |reply| {
        assert_eq!(reply, Reply::Event(event(got)));
        got += 1;
        match got {
            1 => daemon.as_ref().unwrap().push(1),
            _ => drop(daemon.take()),
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(ended, Err(ClientError::NoDaemon { .. })), "{ended:?}");
    assert_eq!(got, 2);
}

#[test]
fn a_follower_that_does_not_read_learns_how_much_it_lost() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    daemon.push(0);
    let mut client = Client::connect(&daemon.socket).unwrap();
    let mut lost = 0;
    client
        .events(true, |reply| {
            match reply {
                // More than the queue and the socket's buffer hold, while nobody reads.
                Reply::Event(first) if first == event(0) => (1..20 * HISTORY_LEN as u32).for_each(|n| daemon.push(n)),
                Reply::Lost(count) => {
                    lost = count;
                    return ControlFlow::Break(());
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(lost > 0);
}

#[test]
fn nobody_there_is_said_with_a_remedy() {
    let desk = Desk::new();
    let error = Client::connect(&desk.path("none.sock")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no daemon answers on {}: No such file or directory (os error 2)\nIs it running? `systemctl status \
             link-watcher` says. Does it use another socket? `--socket PATH` or `--config PATH` says which",
            desk.path("none.sock").display()
        )
    );
}

#[test]
fn the_socket_is_for_its_owner_only_and_goes_with_the_daemon() {
    let desk = Desk::new();
    let path = desk.path("run/deep/c.sock");
    let daemon = FakeDaemon::start(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(desk.path("run")).unwrap().permissions().mode() & 0o777, 0o755);
    drop(daemon);
    assert!(!path.exists());
}

#[test]
fn a_dead_daemons_socket_is_replaced_a_live_ones_is_not() {
    let desk = Desk::new();
    let path = desk.path("c.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let daemon = FakeDaemon::start(&path).unwrap();
    let second = Server::bind(&path).unwrap_err();
    assert!(matches!(second, BindError::Live(_)), "{second}");
    assert!(second.to_string().starts_with("another daemon answers on "));
    Client::connect(&daemon.socket).unwrap().status().unwrap();
    let file = desk.write("file", "precious");
    assert!(matches!(Server::bind(&file).unwrap_err(), BindError::NotSocket(_)));
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
}

#[test]
fn a_killed_daemons_socket_is_waited_for_while_a_child_of_it_still_holds_it() {
    let desk = Desk::new();
    let path = desk.path("c.sock");
    let held = UnixListener::bind(&path).unwrap();
    // The child becomes another program after it was asked once.
    let child = thread::spawn(move || drop(held.accept().unwrap()));
    let _server = Server::bind(&path).unwrap();
    child.join().unwrap();
}

#[test]
fn a_successors_socket_is_left_alone() {
    let desk = Desk::new();
    let path = desk.path("c.sock");
    let first = Server::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = FakeDaemon::start(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

fn raw(daemon: &FakeDaemon, line: &str) -> String {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    // The server may end the connection before it has read all of it.
    let _ = stream.write_all(line.as_bytes());
    let mut answer = String::new();
    let _ = BufReader::new(stream).read_line(&mut answer);
    answer
}

#[test]
fn what_is_no_request_is_refused() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    assert!(raw(&daemon, "GET / HTTP/1.1\r\n").starts_with("{\"refused\":\"this is no request: "));
    assert!(raw(&daemon, "{\"events\":{\"follow\":false,\"x\":1}}\n").starts_with("{\"refused\":"));
    assert_eq!(raw(&daemon, "{\"events\":{\"follow\":false}}\n"), "\"end\"\n");
    assert_eq!(raw(&daemon, &"x".repeat(10_000)), "");
    Client::connect(&daemon.socket).unwrap().status().unwrap();
}

#[test]
fn too_many_clients_are_turned_away() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let mut clients: Vec<_> = (0..32).map(|_| Client::connect(&daemon.socket).unwrap()).collect();
    // Each has been accepted once it is answered.
    clients.iter_mut().for_each(|client| drop(client.status().unwrap()));
    let error = Client::connect(&daemon.socket).unwrap().status().unwrap_err();
    assert_eq!(error.to_string(), "32 clients are connected already; try again when some have gone");
    clients.pop();
    // How soon the server notices is its business; that it does is ours. Bounded by the client's own limit.
    let answered = (0..1000).any(|_| Client::connect(&daemon.socket).unwrap().status().is_ok());
    assert!(answered);
}
