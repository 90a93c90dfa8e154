//! placeholder
use super::{Exit, Failure, PacketProtocol};
pub(super) struct Question;
impl Question { pub(super) fn new(_: &str, _: std::net::IpAddr, _: Option<u16>, _: Option<PacketProtocol>) -> Result<Self, Failure> { Ok(Self) } }
pub(super) fn run(_: &Question, _: &std::path::Path, _: &std::path::Path, _: bool) -> Result<Exit, Failure> { Ok(Exit::Done) }
