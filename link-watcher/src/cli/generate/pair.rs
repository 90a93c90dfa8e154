//! `generate config pair`: a client, its server, and the key of both.

use std::fmt::Write as _;

use super::{PEER_EXAMPLE, file, fresh_key};
use crate::cli::{Exit, Failure, arguments::Destination, output::print};

/// The key file that both configurations name.
const KEY: &str = "hq.key";

/// Where the server's example differs from the client's: the beginning of a line, and the whole line in its place.
const SERVER_LINES: [(&str, &str); 10] = [
    (
        "# link-watcher: keeps this router",
        "# link-watcher: the server of a pair: follows the link that the client chooses.",
    ),
    ("name = \"hq\"", "name = \"branch\"                # the router at the other end"),
    ("role = ", "role = \"server\"                # client: chooses the link; server: follows. One of each per peer"),
    ("routes = ", "# routes = [\"10.20.20.0/22\"]   # what this router sends through the peer whatever it announces"),
    ("announce = ", "# announce = [\"10.30.0.0/16\"]  # what the peer shall send through us, beside its own `routes`"),
    ("accept = ", "accept = [\"10.20.20.0/22\"]     # announced prefixes outside of these are refused and reported"),
    ("  remote = \"10.248.248.1\"", "  remote = \"10.248.248.2\"      # the peer's address on this link"),
    (
        "# local = \"10.248.248.2\"",
        "# local = \"10.248.248.1\"       # ours; without it the interface's own address in remote's prefix",
    ),
    ("  remote = \"10.248.249.1\"", "  remote = \"10.248.249.2\""),
    ("# failback = ", "# failback: the client chooses the link, so that is said in its file"),
];

/// The server's example.
pub(super) fn server() -> String {
    let mut text = String::new();
    for line in PEER_EXAMPLE.lines() {
        let other = SERVER_LINES.iter().find(|(begin, _)| line.starts_with(begin));
        text.push_str(other.map_or(line, |(_, other)| other));
        text.push('\n');
    }
    text
}

/// Writes the three files into a directory, or prints them one behind the other.
pub(super) fn generate(to: &Destination) -> Result<(), Failure> {
    let (server, key) = (server(), fresh_key()?);
    let Some(directory) = &to.output else {
        let mut text = String::new();
        for (title, part) in [
            ("client.toml: one router's /etc/link-watcher/link-watcher.toml".to_owned(), PEER_EXAMPLE),
            ("server.toml: the other router's".to_owned(), &server),
            (format!("{KEY}: /etc/link-watcher/{KEY} of both, mode 0600"), &key),
        ] {
            // Writing to a String does not fail.
            let _ = writeln!(text, "######## {title}\n\n{part}");
        }
        return print(&text);
    };
    let files = [
        ("client.toml", PEER_EXAMPLE, file::PUBLIC),
        ("server.toml", &server, file::PUBLIC),
        (KEY, &key, file::SECRET),
    ];
    // All three or none: a new key beside an old configuration helps nobody.
    if let Some((name, ..)) =
        files.iter().find(|(name, ..)| !to.force && directory.join(name).symlink_metadata().is_ok())
    {
        let why = format!(
            "link-watcher: {} exists already, and nothing is written; name another directory, or replace all three files with \
             --force",
            directory.join(name).display()
        );
        return Err(Failure::new(Exit::Failed, why));
    }
    for (name, text, mode) in files {
        file::put(&directory.join(name), text, mode, to.force)?;
    }
    print(&format!(
        "wrote client.toml, server.toml and {KEY} to {}; change both, then bring one of them as /etc/link-watcher/link-watcher.toml, \
         and {KEY} beside it, to each router (scp -p), and there: link-watcher check\n",
        directory.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_that_differs_is_in_the_clients_example_once() {
        for (begin, _) in SERVER_LINES {
            assert_eq!(PEER_EXAMPLE.lines().filter(|line| line.starts_with(begin)).count(), 1, "{begin}");
        }
    }
}
