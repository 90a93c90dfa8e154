//! The program `nft`, and the trait behind which tests put a pretended one.

use std::{io, time::Duration};

use link_watcher_programs::{NFT, Output, RunError};

use crate::netlink::{Batch, Requests, netfilter};

/// How long `nft` may take: on a busy machine with large rulesets of others a second has been seen.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the table could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no such program.
    #[error("uplinks need the program nft, which is not installed: apt install nftables")]
    Missing,
    /// It could not be run to its end.
    #[error("{0}")]
    Run(#[source] RunError),
    /// It may not.
    #[error("nftables cannot be changed: not permitted; run this as root or with CAP_NET_ADMIN")]
    NotPermitted,
    /// It refused.
    #[error("nft refused the rules: {complaint}{}{}", line.as_ref().map_or(String::new(), |line| format!("; the line is: {line}")), remedy(complaint))]
    Refused {
        /// Its first complaint.
        complaint: String,
        /// The line that it is about, where it names one.
        line: Option<String>,
    },
    /// The kernel did not answer by netlink.
    #[error("nftables cannot be read: {0}")]
    Netlink(#[from] io::Error),
}

/// What the kernel means by refusing a rule that is well formed.
fn remedy(complaint: &str) -> &'static str {
    if complaint.contains("Could not process rule") {
        ". The kernel lacks something that the rules need (nf_tables, nft_ct, nft_fib_inet, nft_numgen, nft_chain_nat, \
         nft_masq, nft_reject_inet; Linux 5.10 or newer): install the complete kernel package, or load these modules"
    } else {
        ""
    }
}

/// What the table's keeper needs of a system.
pub trait RulesetSink {
    /// Carries a text out as one transaction.
    ///
    /// # Errors
    /// Where it cannot be; nothing of it is carried out then.
    fn apply(&mut self, text: &str) -> Result<(), NftError>;

    /// A table of family `inet` as text, without counts; nothing where there is none.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn list(&mut self, table: &str) -> Result<Option<String>, NftError>;

    /// A number that is another one after each change of any table.
    ///
    /// # Errors
    /// The kernel's.
    fn generation(&mut self) -> io::Result<u32>;

    /// The named counters of a table of family `inet`: name and packets.
    ///
    /// # Errors
    /// The kernel's.
    fn counters(&mut self, table: &str) -> io::Result<Vec<(String, u64)>>;
}

/// The program `nft`, and netlink, in the network namespace of the thread that calls.
pub struct Nft {
    requests: Requests,
    batch: Batch,
}

impl Nft {
    /// Opens the netlink socket; `nft` is looked for when it is needed.
    ///
    /// # Errors
    /// Without netlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: netfilter::open()?, batch: Batch::default() })
    }
}

impl RulesetSink for Nft {
    fn apply(&mut self, text: &str) -> Result<(), NftError> {
        let output = run(&["-f", "-"], text)?;
        if output.status.success() { Ok(()) } else { Err(refused(&output.stderr, text)) }
    }

    fn list(&mut self, table: &str) -> Result<Option<String>, NftError> {
        let output = run(&["-s", "list", "table", "inet", table], "")?;
        if output.status.success() {
            Ok(Some(output.stdout))
        } else if output.stderr.contains("No such file or directory") {
            Ok(None)
        } else {
            Err(refused(&output.stderr, ""))
        }
    }

    fn generation(&mut self) -> io::Result<u32> {
        netfilter::generation(&mut self.requests, &mut self.batch)
    }

    fn counters(&mut self, table: &str) -> io::Result<Vec<(String, u64)>> {
        netfilter::counters(&mut self.requests, &mut self.batch, table)
    }
}

/// Runs `nft`.
fn run(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    NFT.run(arguments, input, TIMEOUT).map_err(|error| match error {
        RunError::Missing(_) => NftError::Missing,
        error => NftError::Run(error),
    })
}

/// Its first complaint, as in `/dev/stdin:12:5-10: Error: syntax error`, with the line of the text that it is about.
fn refused(complaint: &str, text: &str) -> NftError {
    if complaint.contains("Operation not permitted") {
        return NftError::NotPermitted;
    }
    let first = complaint.lines().next().unwrap_or("it says nothing").trim();
    let (place, what) = first.split_once(": ").unwrap_or(("", first));
    let line = place.split(':').nth(1).and_then(|number| number.parse::<usize>().ok());
    let line = line.and_then(|number| text.lines().nth(number.checked_sub(1)?)).map(|line| line.trim().to_owned());
    let complaint = if line.is_some() { what } else { first };
    NftError::Refused { complaint: complaint.to_owned(), line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_the_line_and_the_remedy() {
        let text = "table inet t {\n    chain c {\n        nonsense\n    }\n}\n";
        let error = refused("/dev/stdin:3:9-16: Error: syntax error, unexpected string\n        nonsense\n", text);
        assert_eq!(
            error.to_string(),
            "nft refused the rules: Error: syntax error, unexpected string; the line is: nonsense"
        );
        let error = refused("/dev/stdin:2:1-9: Error: Could not process rule: No such file or directory\n", text);
        assert!(error.to_string().contains("the line is: chain c {. The kernel lacks"), "{error}");
        let error = refused("Error: Could not process rule: Operation not permitted\n", text);
        assert!(matches!(error, NftError::NotPermitted));
        assert!(NftError::Missing.to_string().contains("apt install nftables"));
    }
}
