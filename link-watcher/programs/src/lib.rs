//! The programs that the daemon, the tests, the demo and the benchmarks start: one list, and one way to run them.
//!
//! A [`Program`] can be had from the list only, so nothing is started that no package is known for, but for what an
//! administrator's configuration names ([`run_configured`]). `cargo xtask setup`
//! installs what the list says, and `cargo xtask test` runs the tests with a search path that holds nothing else.

mod run;

use std::{
    env,
    ffi::OsStr,
    fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

pub use self::run::{Output, RunError, run_configured};

/// Where programs are, whatever the search path says: a service's is bare, and a user's lacks those of administrators.
const SYSTEM_DIRECTORIES: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A program of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    name: &'static str,
    packages: &'static [&'static str],
    purpose: Purpose,
}

/// What a program is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Daemon, tests and demo need it: the set-up installs it.
    Work,
    /// A routing program of others, and what it needs: the benchmarks compare with it, and tests run it beside us. Installed for
    /// either, and missed where it cannot be had.
    Comparison,
    /// `cargo xtask dist`, the trial of its package and of other kernels: installed when they run, and missed where it cannot be had.
    Package,
    /// One test needs it: `cargo xtask test` installs it where it can, and the test says loudly that it was left out where it could
    /// not.
    Trial,
    /// A test asks it for a second opinion where it is there, and says loudly that it was left out where not.
    Opinion,
}

macro_rules! programs {
    ($($(#[$doc:meta])* $constant:ident = $name:literal from [$($package:literal),+] for $purpose:ident;)+) => {
        $(
            $(#[$doc])*
            pub const $constant: Program =
                Program { name: $name, packages: &[$($package),+], purpose: Purpose::$purpose };
        )+

        /// The list.
        pub const ALL: &[Program] = &[$($constant),+];
    };
}

// Names are file names on the search path, or whole paths. Of several packages the first that the distribution has is the one:
// Debian's name first, then Ubuntu's.
programs! {
    /// Addresses, routes, rules and interfaces.
    IP = "ip" from ["iproute2"] for Work;
    /// The table of an uplinks group.
    NFT = "nft" from ["nftables"] for Work;
    /// Connections that the kernel tracks.
    CONNTRACK = "conntrack" from ["conntrack"] for Work;
    /// Maps and programs in the kernel.
    BPFTOOL = "bpftool" from ["bpftool", "linux-tools-generic"] for Work;
    /// Echo requests.
    PING = "ping" from ["iputils-ping"] for Work;
    /// Starts a program in namespaces of its own.
    UNSHARE = "unshare" from ["util-linux"] for Work;
    /// Starts a program in the namespaces of another.
    NSENTER = "nsenter" from ["util-linux"] for Work;
    /// Runs the scripts of tests and benchmarks.
    SH = "sh" from ["dash"] for Work;
    /// In scripts, and where a process is wanted that does nothing.
    SLEEP = "sleep" from ["coreutils"] for Work;
    /// In scripts.
    CUT = "cut" from ["coreutils"] for Work;
    /// In scripts.
    GREP = "grep" from ["grep"] for Work;
    /// In Ubuntu's `bpftool`, which is a script.
    UNAME = "uname" from ["coreutils"] for Work;
    /// As [`UNAME`].
    BASENAME = "basename" from ["coreutils"] for Work;
    /// In the script that installs packages without letting their services run.
    MV = "mv" from ["coreutils"] for Work;
    /// As [`MV`].
    RM = "rm" from ["coreutils"] for Work;
    /// As [`MV`].
    CHMOD = "chmod" from ["coreutils"] for Work;
    /// BIRD.
    BIRD = "bird" from ["bird2"] for Comparison;
    /// keepalived.
    KEEPALIVED = "keepalived" from ["keepalived"] for Comparison;
    /// FRR's daemon for routes.
    FRR_ZEBRA = "/usr/lib/frr/zebra" from ["frr"] for Comparison;
    /// FRR's daemon for BFD.
    FRR_BFDD = "/usr/lib/frr/bfdd" from ["frr"] for Comparison;
    /// FRR's daemon for BGP.
    FRR_BGPD = "/usr/lib/frr/bgpd" from ["frr"] for Comparison;
    /// Makes FRR's files FRR's.
    CHOWN = "chown" from ["coreutils"] for Comparison;
    /// Hides the machine's `/run` from FRR.
    MOUNT = "mount" from ["mount"] for Comparison;
    /// Debian's check of packages.
    LINTIAN = "lintian" from ["lintian"] for Package;
    /// Makes a root directory with a fresh Debian.
    MMDEBSTRAP = "mmdebstrap" from ["mmdebstrap"] for Package;
    /// Runs a program in it.
    CHROOT = "chroot" from ["coreutils"] for Package;
    /// The C compiler of a program that needs no library.
    MUSL_GCC = "musl-gcc" from ["musl-tools"] for Package;
    /// A machine with another kernel.
    QEMU = "qemu-system-x86_64" from ["qemu-system-x86"] for Package;
    /// A browser without a screen: looks at the status page. What Debian has on the search path is a script in front of it, which would
    /// be ended in its place.
    CHROMIUM = "/usr/lib/chromium/chromium-headless-shell" from ["chromium-headless-shell"] for Trial;
    /// Checks and tries Prometheus's alert rules.
    PROMTOOL = "promtool" from ["prometheus"] for Opinion;
}

/// A name that is not on the list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not on the list of programs: add it with its packages in link-watcher/programs, so that the set-up \
     installs it"
)]
pub struct NotListed(String);

/// The program of this name.
///
/// # Errors
///
/// Where the list has none; that is a mistake of whoever wrote the name.
pub fn named(name: &str) -> Result<Program, NotListed> {
    ALL.iter().copied().find(|program| program.name == name).ok_or_else(|| NotListed(name.to_owned()))
}

impl Program {
    /// As it is typed: a file name, or a whole path.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The packages of Debian and its like that have it, first choice first.
    pub const fn packages(self) -> &'static [&'static str] {
        self.packages
    }

    /// What it is needed for.
    pub const fn purpose(self) -> Purpose {
        self.purpose
    }

    /// Its file; nothing where it is not installed.
    pub fn path(self) -> Option<PathBuf> {
        find(self.name)
    }

    /// A command that runs it, free of any time limit. Where it is not installed, starting it says
    /// [`NotFound`](std::io::ErrorKind::NotFound).
    pub fn command(self) -> Command {
        own(self.path().unwrap_or_else(|| self.name.into()))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A command that runs a program which is no package's but was built here, by its path.
pub fn own(path: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the one way around it")]
    Command::new(path)
}

/// The executable file of this name, listed or not: on the search path, or where systems have theirs. A whole path stays
/// what it is.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_program_is_listed_once_and_has_a_package() {
        for program in ALL {
            assert_eq!(ALL.iter().filter(|other| other.name == program.name).count(), 1, "{program}");
            assert_eq!(named(program.name), Ok(*program));
            assert!(program.packages.iter().all(|package| !package.is_empty()), "{program}");
        }
    }

    #[test]
    fn what_is_not_listed_cannot_be_named() {
        let said = named("tcpdump").unwrap_err().to_string();
        assert!(said.starts_with("tcpdump is not on the list of programs: add it"), "{said}");
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let sh = SH.path().unwrap();
        assert!(sh.is_absolute());
        assert_eq!(find(sh.to_str().unwrap()).as_ref(), Some(&sh));
        assert_eq!(find("link-watcher-no-such-program"), None);
        assert_eq!(find("/usr"), None, "a directory is no program");
    }
}
