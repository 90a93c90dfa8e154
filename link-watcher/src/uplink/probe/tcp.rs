//! A TCP connection, closed at once.
//!
//! A refusal counts as an answer: the server's reset shows as well as a connection that packets get there and back, which is
//! what is asked about an uplink; unless the configuration wants a connection. A refusal by a router on the way (ICMP) never does.

use std::{net::SocketAddr, time::Duration};

use super::socket::{ConnectError, Failure, Way, since};
use crate::{clock, config::TcpRefusal};

/// Connects; gives the round trip.
pub(super) async fn probe(way: &Way, target: SocketAddr, refused: TcpRefusal) -> Result<Duration, Failure> {
    let sent_ns = clock::now_ns();
    match way.connect(target).await {
        Ok(_) => Ok(since(sent_ns)),
        Err(ConnectError::Reset) if refused == TcpRefusal::Up => Ok(since(sent_ns)),
        Err(error) => Err(error.into()),
    }
}
