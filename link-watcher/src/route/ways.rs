//! A question to the kernel, for the benchmark: which of several links it gives a flow to.

use std::{io, net::Ipv4Addr};

use crate::netlink::{
    Batch, Requests,
    route::{look_up, parse_way_out},
};

/// The index of the interface by which the kernel sends UDP from each of these ports to port 9 of an address.
///
/// # Errors
///
/// Where the kernel does not answer.
pub fn udp_ways(destination: Ipv4Addr, source_ports: impl IntoIterator<Item = u16>) -> io::Result<Vec<u32>> {
    /// Discard (RFC 863).
    const PORT: u16 = 9;
    let (mut requests, mut batch) = (Requests::open()?, Batch::default());
    source_ports
        .into_iter()
        .map(|source_port| {
            batch.clear();
            look_up(&mut batch, destination, source_port, PORT);
            requests.ask_one(&mut batch, |message| parse_way_out(message.payload()))
        })
        .collect()
}
