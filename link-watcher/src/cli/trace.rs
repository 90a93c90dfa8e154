//! `trace-packets`: what the kernel program thinks of each keepalive.

use std::{ops::ControlFlow, path::Path, time::Duration};

use super::{
    Exit, Failure,
    output::{Style, print},
};
use crate::{
    control::{Client, PacketRecord, Reply, TraceRequest},
    log,
};

/// Which packets, for how long, and in which form.
pub(super) struct Options {
    pub(super) group: Option<String>,
    pub(super) link: Option<String>,
    pub(super) time: Duration,
    pub(super) json: bool,
}

pub(super) fn run(socket: &Path, options: Options) -> Result<(), Failure> {
    let Options { group, link, time, json } = options;
    let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let style = Style::for_stdout();
    let (mut told, mut left_out) = (0_u64, 0_u64);
    let mut printed = Ok(());
    Client::connect(socket)?.trace(TraceRequest { group, link, for_ms }, |reply| {
        printed = match reply {
            Reply::Tracing(said) => {
                log::say(&format!("link-watcher: tracing {said}"));
                Ok(())
            }
            Reply::Packet(record) => {
                told += 1;
                if json { as_json(&record) } else { print(&format!("{}\n", render(&record, style))) }
            }
            Reply::LeftOut(count) => {
                left_out += count;
                if json {
                    print(&format!("{{\"left_out\":{count}}}\n"))
                } else {
                    print(&format!("... and {count} packets more, which are not told one by one\n"))
                }
            }
            _ => Ok(()),
        };
        if printed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    printed?;
    log::say(&format!("link-watcher: {told} packets told, {left_out} left out"));
    Ok(())
}

fn as_json(record: &PacketRecord) -> Result<(), Failure> {
    let line = serde_json::to_string(record);
    print(&format!("{}\n", line.map_err(|error| Failure::new(Exit::Failed, format!("link-watcher: {error}")))?))
}

/// One line: when, where, which way, what, why.
fn render(record: &PacketRecord, style: Style) -> String {
    let what = match &record.cause {
        Some(cause) => style.bad(&format!("{} ({cause})", record.what)),
        None => record.what.clone(),
    };
    format!("{}  {} {}  {}  {what}: {}", record.time, record.group, record.link, record.direction, record.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_place_direction_decision_and_reason() {
        let record = PacketRecord {
            time: "2026-11-29T12:00:00.123Z".to_owned(),
            group: "hq".to_owned(),
            link: "optic".to_owned(),
            direction: "in".to_owned(),
            what: "dropped".to_owned(),
            cause: Some("forged".to_owned()),
            why: "its signature fits none of the keys".to_owned(),
        };
        assert_eq!(
            render(&record, Style::default()),
            "2026-11-29T12:00:00.123Z  hq optic  in  dropped (forged): its signature fits none of the keys"
        );
    }
}
