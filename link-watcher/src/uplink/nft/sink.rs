//! The program `nft`, and the trait behind which tests put a pretended one.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::netlink::{Batch, Requests, netfilter};

/// How long `nft` may take: on a busy machine with large rulesets of others a second has been seen.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of what it lists that are read.
const LISTING_LEN_MAX: u64 = 4 << 20;
/// Octets of what it complains about that are read.
const COMPLAINT_LEN_MAX: u64 = 16 << 10;

/// Why the table could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no such program.
    #[error("uplinks need the program nft, which is not installed: apt install nftables")]
    Missing,
    /// It could not be run.
    #[error("the program nft could not be run: {0}")]
    Run(#[source] io::Error),
    /// It took too long and was ended.
    #[error("the program nft did not finish within {} s; is the machine overloaded?", TIMEOUT.as_secs())]
    TimedOut,
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
        let (status, _, complaint) = run(&["-f", "-"], text)?;
        if status.success() { Ok(()) } else { Err(refused(&complaint, text)) }
    }

    fn list(&mut self, table: &str) -> Result<Option<String>, NftError> {
        let (status, listing, complaint) = run(&["-s", "list", "table", "inet", table], "")?;
        if status.success() {
            Ok(Some(listing))
        } else if complaint.contains("No such file or directory") {
            Ok(None)
        } else {
            Err(refused(&complaint, ""))
        }
    }

    fn generation(&mut self) -> io::Result<u32> {
        netfilter::generation(&mut self.requests, &mut self.batch)
    }

    fn counters(&mut self, table: &str) -> io::Result<Vec<(String, u64)>> {
        netfilter::counters(&mut self.requests, &mut self.batch, table)
    }
}

/// Runs `nft`: its exit status, output and complaints. Everything goes through files in memory, so that neither side ever
/// waits for the other to read.
fn run(arguments: &[&str], input: &str) -> Result<(ExitStatus, String, String), NftError> {
    let memory = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).map_err(io::Error::from);
    let files = || -> io::Result<_> {
        let mut stdin = memory("nft-input")?;
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        let (stdout, stderr) = (memory("nft-output")?, memory("nft-complaints")?);
        let theirs = (stdout.try_clone()?, stderr.try_clone()?);
        Ok((stdin, stdout, stderr, theirs))
    };
    let (stdin, mut stdout, mut stderr, theirs) = files().map_err(NftError::Run)?;
    // Where it is on the systems that have it, also for a service whose PATH is bare.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin:/bin";
    let mut child = Command::new("nft")
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(theirs.0))
        .stderr(Stdio::from(theirs.1))
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NftError::Missing,
            _ => NftError::Run(error),
        })?;
    let status = wait(&mut child)?;
    let read = |file: &mut File, limit| -> io::Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let listing = read(&mut stdout, LISTING_LEN_MAX).map_err(NftError::Run)?;
    let complaint = read(&mut stderr, COMPLAINT_LEN_MAX).map_err(NftError::Run)?;
    Ok((status, listing, complaint))
}

/// Waits for the program to end, and ends it when it takes too long.
fn wait(child: &mut Child) -> Result<ExitStatus, NftError> {
    let deadline = Instant::now() + TIMEOUT;
    let ended = || -> io::Result<bool> {
        let pid = Pid::from_child(child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    let outcome = ended();
    if !matches!(outcome, Ok(true)) {
        // It may have ended meanwhile; in either case it is waited for below.
        let _ = child.kill();
    }
    let status = child.wait().map_err(NftError::Run)?;
    match outcome {
        Ok(true) => Ok(status),
        Ok(false) => Err(NftError::TimedOut),
        Err(error) => Err(NftError::Run(error)),
    }
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
