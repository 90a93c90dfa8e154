//! Other kernels: Debian's, in QEMU, with this machine's own files.
//!
//! A guest's root directory is this machine's, read by 9P and covered with a layer in memory. So programs, libraries and the
//! tests that were built here are there as well, and what they write goes with the guest. The processor is emulated, which takes some
//! ten times as long.

mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use link_watcher_programs::QEMU;

use self::kernel::{Image, KERNELS, Kernel};
use crate::lanes::{self, Lane};
use crate::privilege::Privilege;
use crate::project::Project;
use crate::{build, dist, setup, test};

/// What tries a kernel's interfaces, and little else.
const TESTS: [&str; 9] = [
    "bpf_attach",
    "bpf_budget",
    "bpf_differential",
    "bpf_verdicts",
    "route_apply",
    "route_nexthop",
    "route_tables",
    "uplink_nft",
    "uplink_tables",
];

/// Processors and memory of a guest.
const PROCESSORS: &str = "2";
const MEMORY: &str = "3G";
/// The longest that one file of tests may take, and a guest altogether.
const FILE_LIMIT: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(2400);
/// How QEMU ends where the guest has come to its script's end.
const ENDED_WELL: i32 = 33;

/// What is to be tried.
pub(crate) struct Wanted {
    /// Kernels; all where none is named.
    pub(crate) versions: Vec<String>,
    /// Files of tests; [`TESTS`] where none is named.
    pub(crate) tests: Vec<String>,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
}

/// `cargo xtask vm [VERSION]...`: fails where a test failed.
///
/// # Errors
///
/// As the set-up and the build, and where a guest cannot be had here.
pub(crate) fn vm(project: &Project, wanted: &Wanted) -> Result<ExitCode> {
    setup::lab_tools(project)?;
    let daemon = build::build(project)?;
    let Some(privilege) = Privilege::acquire("for a guest that sees this machine's files") else {
        bail!("root is needed to show a guest this machine's files, and sudo does not work here; run it as root");
    };
    let kernels: Vec<&Kernel> = match &wanted.versions[..] {
        [] => KERNELS.iter().collect(),
        versions => versions.iter().map(|version| Kernel::named(version)).collect::<Result<_>>()?,
    };
    let tests: Vec<&str> = match &wanted.tests[..] {
        [] => TESTS.to_vec(),
        tests => tests.iter().map(String::as_str).collect(),
    };
    let host = Host { project, privilege, daemon: &daemon, filter: wanted.filter.as_deref() };
    let mut lanes = Vec::new();
    for kernel in kernels {
        lanes.push(host.run("other kernels", kernel, &tests)?);
    }
    println!("\n{}", lanes::report(&lanes).trim_end());
    let failed = lanes.iter().any(|lane| lane.counts.failed > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The machine of the guests.
struct Host<'a> {
    project: &'a Project,
    privilege: Privilege,
    daemon: &'a Path,
    filter: Option<&'a str>,
}

impl Host<'_> {
    /// Runs files of tests on a kernel.
    ///
    /// # Errors
    ///
    /// Where the tests do not compile or QEMU does not start. That a kernel or QEMU cannot be had is no error: the lane says so.
    fn run(&self, name: &'static str, kernel: &Kernel, tests: &[&str]) -> Result<Lane> {
        let image = match available().and_then(|()| kernel.image(self.project)) {
            Ok(image) => image,
            Err(error) => {
                let why = format!("Linux {}: {error:#}", kernel.version);
                return Ok(Lane::skipped(name, tests.len() as u64, &why));
            }
        };
        println!("Linux {}, as Debian's {}:", image.release, kernel.version);
        let files = self.executables(tests)?;
        let script = self.project.tools().join(format!("kernel-{}/script", kernel.version));
        let text = script_of(&files, self.daemon, &test::search_path(self.project)?, self.filter);
        fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        let mut qemu = self.qemu(&image, &script)?;
        let well = |status: ExitStatus| status.code() == Some(ENDED_WELL);
        let mut lane = lanes::run_until(name, &mut qemu, well)?;
        let remark = if lane.remark.is_empty() { "" } else { "; the guest did not come to its end" };
        lane.remark = format!("Linux {}{remark}", image.release);
        Ok(lane)
    }

    /// Builds the tests of these files, and gives where they are.
    fn executables(&self, tests: &[&str]) -> Result<Vec<PathBuf>> {
        let mut cargo = self.project.cargo();
        cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        cargo.args(["--package", "link-watcher", "--package", "link-watcher-tests"]);
        cargo.args(tests.iter().flat_map(|test| ["--test", test])).stderr(Stdio::inherit());
        let output = cargo.output().context("cargo cannot be run")?;
        ensure!(output.status.success(), "the tests do not compile: see the compiler's message above");
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let files: Vec<PathBuf> = messages
            .filter(|message| {
                let name = message["target"]["name"].as_str().unwrap_or_default();
                tests.contains(&name) && message["target"]["kind"][0] == "test"
            })
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .collect();
        ensure!(files.len() == tests.len(), "of {} files of tests cargo has built {}", tests.len(), files.len());
        Ok(files)
    }

    fn qemu(&self, image: &Image, script: &Path) -> Result<Command> {
        let program = QEMU.path().context("QEMU was just installed, and is not there")?;
        // Bounded in time whatever happens in there.
        let mut command = self.privilege.command("timeout");
        command.arg("--kill-after=10").arg(LIMIT.as_secs().to_string()).arg(program);
        command.args(["-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-monitor", "none"]);
        // Not KVM: there are machines that have it, and on which it hangs.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", PROCESSORS, "-m", MEMORY]);
        command.args(["-nic", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        command.args(["-virtfs", "local,path=/,mount_tag=machine,security_model=none,readonly=on,multidevs=remap"]);
        command.arg("-kernel").arg(&image.vmlinuz).arg("-initrd").arg(&image.initramfs);
        let (modules, script) = (image.modules.display(), script.display());
        let line = format!("console=ttyS0 quiet loglevel=3 panic=-1 lw_modules={modules} lw_script={script}");
        command.args(["-append", &line]).stdin(Stdio::null());
        Ok(command)
    }
}

/// That QEMU is here, or can be installed.
fn available() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "guests are only tried on x86_64 so far");
    dist::available(QEMU, "trying other kernels")
}

/// What the guest runs: each file of tests, whatever became of the one before.
fn script_of(files: &[PathBuf], daemon: &Path, search_path: &Path, filter: Option<&str>) -> String {
    let mut text = format!(
        "export PATH={} HOME=/root LINK_WATCHER_BIN={} NO_COLOR=1\n\
         ulimit -n 65536\n\
         try() {{\n    \
             /usr/bin/timeout --kill-after=10 {} \"$@\" --ignored --test-threads=1 --show-output\n    \
             code=$?\n    \
             case $code in\n    \
                 0|101) ;;\n    \
                 *) echo \"test result: FAILED. 0 passed; 1 failed; it ended with $code\" ;;\n    \
             esac\n\
         }}\n",
        search_path.display(),
        daemon.display(),
        FILE_LIMIT.as_secs()
    );
    for file in files {
        text += &format!("try {} {}\n", file.display(), filter.unwrap_or_default());
    }
    text + "true\n"
}
