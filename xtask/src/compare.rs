//! Routing programs of others, which the benchmarks compare link-watcher with and tests run beside it: installed from Debian, without letting
//! their services run.

use std::ffi::OsString;

use anyhow::Result;
use link_watcher_programs::{BIRD, FRR_BFDD, KEEPALIVED, Program};

use crate::apt;

/// A program, and its package's service.
struct Compared {
    program: Program,
    service: &'static str,
}

const PROGRAMS: [Compared; 3] = [
    Compared { program: BIRD, service: "bird" },
    Compared { program: FRR_BFDD, service: "frr" },
    Compared { program: KEEPALIVED, service: "keepalived" },
];

/// Whether the benchmarks are told to compare: `--compare`, or `--compare=PROGRAM,…`.
pub(crate) fn wanted(args: &[OsString]) -> bool {
    args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg == "--compare" || arg.starts_with("--compare="))
}

/// Installs the programs that are missing. Without them there is still something to compare: what cannot be had is said, and
/// the benchmarks report it as missing.
pub(crate) fn install() {
    let missing: Vec<&Compared> = PROGRAMS.iter().filter(|compared| compared.program.path().is_none()).collect();
    if missing.is_empty() {
        return;
    }
    let packages: Vec<String> = missing.iter().map(|compared| compared.program.packages()[0].to_owned()).collect();
    let services: Vec<&str> = missing.iter().map(|compared| compared.service).collect();
    if let Err(error) = install_stopped(&packages, &services) {
        eprintln!("going on without {}: {error:#}", packages.join(", "));
    }
}

fn install_stopped(packages: &[String], services: &[&str]) -> Result<()> {
    apt::install_by(packages, "comparisons with other programs, and trials beside them", |privilege| {
        let mut command = privilege.command("sh");
        command.args(["-c", STOPPED, "sh", &services.join(" "), "env"]);
        command
    })
}

/// `sh -c STOPPED sh SERVICES COMMAND…`: runs COMMAND while policy-rc.d (invoke-rc.d(8)) forbids every package to start its
/// service, then puts back what was there, also after a failure or Ctrl-C; and takes SERVICES, which are new on this machine,
/// out of what starts with it (update-rc.d tells systemd too). What a killed run has left is put back by the next.
const STOPPED: &str = r#"
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
kept=$policy.before-link-watcher
services=$1
shift
restore() {
    rm -f "$policy"
    if [ -e "$kept" ] || [ -L "$kept" ]; then mv "$kept" "$policy"; fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ ! -e "$kept" ] && [ ! -L "$kept" ]; then
    if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$kept" || exit; fi
fi
printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || exit
"$@"
status=$?
for service in $services; do
    update-rc.d "$service" disable >/dev/null 2>&1
done
exit $status
"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_comparison_is_asked_for_by_name() {
        let args = |args: &[&str]| args.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wanted(&args(&["--json", "--compare"])));
        assert!(wanted(&args(&["--compare=bird,frr"])));
        assert!(!wanted(&args(&["--only", "outage"])));
    }

    /// A directory of its own for a policy file.
    struct Policy(PathBuf);

    impl Policy {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("lw-policy-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn path(&self) -> PathBuf {
            self.0.join("policy-rc.d")
        }

        /// Runs a shell script in the place of apt; its exit code.
        fn run(&self, script: &str) -> i32 {
            let mut command = Command::new("sh");
            command.args(["-c", STOPPED, "sh", "", "sh", "-c", script]).env("POLICY_RC_D", self.path());
            command.stdout(Stdio::null()).status().unwrap().code().unwrap()
        }

        /// What the directory holds, by name.
        fn files(&self) -> Vec<(String, String)> {
            let mut files: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
                .collect();
            files.sort();
            files
        }
    }

    impl Drop for Policy {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Fails unless the policy forbids everything at that moment.
    const CHECK: &str = "\"$POLICY_RC_D\"; test $? -eq 101";

    #[test]
    fn services_are_forbidden_during_the_command_only() {
        let policy = Policy::new("none");
        assert_eq!(policy.run(CHECK), 0);
        assert_eq!(policy.files(), []);
        assert_eq!(policy.run("exit 7"), 7);
        assert_eq!(policy.files(), []);
    }

    #[test]
    fn what_was_there_is_put_back() {
        let policy = Policy::new("some");
        fs::write(policy.path(), "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(policy.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let before = policy.files();
        assert_eq!(policy.run(CHECK), 0);
        assert_eq!(policy.files(), before);
        assert_eq!(policy.run("exit 1"), 1);
        assert_eq!(policy.files(), before);
        // Not SIGINT: who started the tests in the background had a shell ignore that, and so does every shell they start.
        assert_eq!(policy.run("kill -TERM $PPID; exit 0"), 143);
        assert_eq!(policy.files(), before);
        assert_eq!(policy.path().metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_a_killed_run_has_left_is_put_back_by_the_next() {
        let policy = Policy::new("killed");
        fs::write(policy.path(), "the original").unwrap();
        let before = policy.files();
        let mut command = Command::new("sh");
        command.args(["-c", STOPPED, "sh", "", "sh", "-c", "kill -KILL $PPID"]).env("POLICY_RC_D", policy.path());
        assert!(!command.status().unwrap().success());
        assert_eq!(policy.files().len(), 2);
        assert_eq!(policy.run(CHECK), 0);
        assert_eq!(policy.files(), before);
    }
}
