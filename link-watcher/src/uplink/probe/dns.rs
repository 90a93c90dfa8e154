//! A DNS query over UDP (RFC 1035).
//!
//! An answer is a response to the question with `NOERROR` or `NXDOMAIN`. `SERVFAIL` or `REFUSED` is none: a provider's resolver
//! that reaches nobody itself says just that.

use std::{net::SocketAddr, time::Duration};

use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use socket2::{Domain, Protocol, Type};

use super::socket::{Datagrams, Failure, Way, random, since, unanswered, unsent};
use crate::clock;

/// Without EDNS a response has at most 512 bytes (RFC 1035, section 4.2.1); a longer one is cut off, and then malformed.
const BUFFER_LEN: usize = 1500;

/// Asks the server for `name`; gives the round trip.
pub(super) async fn probe(way: &Way, server: SocketAddr, name: &str) -> Result<Duration, Failure> {
    let id = u16::from_ne_bytes(random()?);
    let query = Query::new(id, name, server.is_ipv6())?;
    let bytes = query.bytes()?;
    let socket = way.open(Domain::for_address(server), Type::DGRAM, Protocol::UDP).map_err(unsent("opening"))?;
    // A new socket each time, so a new port each time.
    way.bind(&socket).map_err(unsent("binding a UDP socket to our address"))?;
    socket.connect(&server.into()).map_err(unsent("finding the way"))?;
    let datagrams = Datagrams::new(socket).map_err(unsent("opening a UDP socket"))?;
    let sent_ns = clock::now_ns();
    datagrams.socket().send(&bytes).map_err(unsent("sending"))?;
    let mut buffer = [0; BUFFER_LEN];
    loop {
        let length = datagrams.receive(&mut buffer).await.map_err(unanswered("receiving"))?;
        match query.judge(&buffer[..length]) {
            Reply::Answer => return Ok(since(sent_ns)),
            Reply::Refusal(code) => return Err(Failure::Unanswered(format!("the server answers {code:?}"))),
            Reply::NotOurs => {}
        }
    }
}

struct Query<'a> {
    id: u16,
    question: Question<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Answer,
    Refusal(RCODE),
    /// Malformed, or to another question.
    NotOurs,
}

impl<'a> Query<'a> {
    fn new(id: u16, name: &'a str, v6: bool) -> Result<Self, Failure> {
        let name = Name::new(name.trim_end_matches('.'))
            .map_err(|error| Failure::Unsent(format!("{name} is no DNS name: {error}")))?;
        let kind = if v6 { TYPE::AAAA } else { TYPE::A };
        Ok(Self { id, question: Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false) })
    }

    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(self.question.clone());
        packet.build_bytes_vec().map_err(|error| Failure::Unsent(format!("writing the query: {error}")))
    }

    fn judge(&self, bytes: &[u8]) -> Reply {
        let Ok(packet) = Packet::parse(bytes) else { return Reply::NotOurs };
        let [question] = &packet.questions[..] else { return Reply::NotOurs };
        let same = question.qname.to_string().eq_ignore_ascii_case(&self.question.qname.to_string())
            && (question.qtype, question.qclass) == (self.question.qtype, self.question.qclass);
        let response = packet.has_flags(PacketFlag::RESPONSE) && packet.opcode() == OPCODE::StandardQuery;
        if !same || !response || packet.id() != self.id {
            return Reply::NotOurs;
        }
        match packet.rcode() {
            RCODE::NoError | RCODE::NameError => Reply::Answer,
            code => Reply::Refusal(code),
        }
    }
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8]) {
    let Ok(query) = Query::new(0x1234, "example.com", false) else { return };
    let answered = query.judge(data) == Reply::Answer;
    assert!(!answered || data.starts_with(&[0x12, 0x34]), "the answer to another query");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reply(query: &Query<'_>, change: impl FnOnce(&mut Packet<'_>)) -> Reply {
        let bytes = query.bytes().unwrap();
        let mut packet = Packet::parse(&bytes).unwrap();
        packet.set_flags(PacketFlag::RESPONSE);
        change(&mut packet);
        query.judge(&packet.build_bytes_vec().unwrap())
    }

    #[test]
    fn only_the_response_to_this_question_counts() {
        let query = Query::new(0x1234, "example.com.", false).unwrap();
        assert_eq!(query.judge(&query.bytes().unwrap()), Reply::NotOurs, "our own query, mirrored");
        assert_eq!(reply(&query, |_| {}), Reply::Answer);
        assert_eq!(reply(&query, |packet| *packet.rcode_mut() = RCODE::NameError), Reply::Answer);
        assert_eq!(
            reply(&query, |packet| *packet.rcode_mut() = RCODE::ServerFailure),
            Reply::Refusal(RCODE::ServerFailure)
        );
        assert_eq!(reply(&query, |packet| packet.set_id(0x1235)), Reply::NotOurs);
        assert_eq!(reply(&query, |packet| packet.questions.clear()), Reply::NotOurs);
        for (name, v6) in [("example.org", false), ("example.com", true)] {
            let other = Query::new(0x1234, name, v6).unwrap();
            assert_eq!(reply(&query, |packet| packet.questions[0] = other.question.clone()), Reply::NotOurs);
        }
        let louder = Query::new(0x1234, "EXAMPLE.com", false).unwrap();
        assert_eq!(reply(&query, |packet| packet.questions[0] = louder.question.clone()), Reply::Answer);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let query = Query::new(1, "example.com", false).unwrap();
        let good = query.bytes().unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            query.judge(&bytes);
        }
    }
}
