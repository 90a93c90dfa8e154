//! Scraping a daemon's metrics, as Prometheus would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::daemon::Daemon;

/// Lines behind a `[daemon]` section: metrics at [`address`]. Each daemon has its namespace's loopback interface for
/// itself.
pub const SETTINGS: &str = "\n[metrics]\nlisten = \"127.0.0.1:9746\"\n";
/// How long a daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Where [`SETTINGS`] have them.
pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9746))
}

/// What the daemon answers to `GET path`, from its own namespace: status line, header and body.
///
/// # Errors
/// Where nobody listens there, or the answer does not come in time.
pub fn get(daemon: &Daemon, address: SocketAddr, path: &str) -> Result<String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    daemon.namespace().run(exchange)?.with_context(|| format!("cannot scrape http://{address}{path}"))
}

/// All metrics of a daemon that has [`SETTINGS`].
///
/// # Errors
/// As [`get`]; where it refuses.
pub fn scrape(daemon: &Daemon) -> Result<String> {
    let answer = get(daemon, address(), "/metrics")?;
    let body =
        answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200 ")).map(|(_, body)| body);
    body.map(str::to_owned).with_context(|| format!("the daemon refuses a scrape: {answer}"))
}

/// The value of one sample, which is named with all of its labels as the text has them.
///
/// # Errors
/// Where there is none.
pub fn value(text: &str, sample: &str) -> Result<f64> {
    let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
    found.with_context(|| format!("the metrics have no {sample}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_its_whole_name() {
        let text = "# TYPE a gauge\na{b=\"c\"} 1\na{b=\"c\",d=\"e\"} 2.5\n";
        assert_eq!(value(text, "a{b=\"c\",d=\"e\"}").ok(), Some(2.5));
        assert_eq!(value(text, "a{b=\"c\"}").ok(), Some(1.0));
        assert!(value(text, "a").is_err());
    }
}
