//! The test lanes. Tests that need root are `#[ignore]`d, so that a plain `cargo test` is honest, and run from here.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use link_watcher_programs::{ALL, Program};

use crate::dist::trial;
use crate::lanes::{self, Counts, Lane};
use crate::privilege::Privilege;
use crate::project::Project;
use crate::{build, compare, dist, exec, setup};

const PURE: &str = "1 pure: units, properties, simulation";
const PROGRAM: &str = "2 the XDP program, by BPF_PROG_TEST_RUN";
const NAMESPACES: &str = "3 real packets in network namespaces";
const KERNELS: &str = "4 other kernels, in QEMU";
const OTHERS: &str = "5 outside implementations";
const PACKAGE: &str = "6 the package, in a clean root";
const MACHINES: &str = "7 the package, on machines that boot";
const STATIC: &str = "8 the static program, in an empty root";

/// Tests of this prefix in `link-watcher/tests` are lane 2.
const PROGRAM_PREFIX: &str = "bpf_";

/// `cargo xtask test [FILTER]`: fails where a test failed.
///
/// # Errors
///
/// As the set-up and the build.
pub(crate) fn test(project: &Project, filter: Option<&str>) -> Result<ExitCode> {
    setup::lab_tools(project)?;
    setup::trial_tools();
    compare::install();
    let daemon = build::build(project)?;
    let search_path = search_path(project)?;
    let privilege = Privilege::acquire("for network namespaces and BPF (lanes 2 and 3)");

    let mut lanes = Vec::new();
    heading(PURE);
    let mut pure = project.cargo();
    pure.args(["test", "--no-fail-fast", "--workspace", "--exclude", "link-watcher-ebpf"]);
    pure.args(runner(None, &search_path)).arg("--").args(colours()).args(filter).env("LINK_WATCHER_BIN", &daemon);
    lanes.push(lanes::run(PURE, &mut pure)?);

    let in_daemon = test_files(&project.root.join("link-watcher/tests"));
    let (program, others): (Vec<_>, Vec<_>) = in_daemon.into_iter().partition(|name| name.starts_with(PROGRAM_PREFIX));
    let scenarios = test_files(&project.root.join("tests/tests"));
    let rooted = Rooted { project, daemon: &daemon, search_path: &search_path, filter, privilege, packages: &[] };
    lanes.push(rooted.run(PROGRAM, &["--package", "link-watcher"], &program)?);
    // The daemon's own unit tests may want a namespace as well.
    let packages =
        ["--package", "link-watcher-tests", "--package", "link-watcher-lab", "--package", "link-watcher", "--lib"];
    lanes.push(rooted.run(NAMESPACES, &packages, &[others, scenarios].concat())?);
    heading(KERNELS);
    lanes.push(Lane::skipped(KERNELS, 1, "it takes too long for every run: `cargo xtask vm` runs it"));
    let root = |privilege, root| trial::root(project, privilege, root);
    let servers = |privilege| Ok(vec![("LINK_WATCHER_SERVERS", root(privilege, &trial::SERVERS)?)]);
    lanes.push(rooted.trial(OTHERS, &["servers"], servers)?);
    let clean = |privilege| Ok(vec![("LINK_WATCHER_ROOT", root(privilege, &trial::CLEAN)?)]);
    let packages = [
        ("LINK_WATCHER_DEB", dist::debian(project, dist::VERSION)?),
        ("LINK_WATCHER_DEB_NEXT", dist::debian(project, &dist::next_version()?)?),
    ];
    let rooted = Rooted { packages: &packages, ..rooted };
    lanes.push(rooted.trial(PACKAGE, &["package"], clean)?);
    let machines = |privilege| trial::bootable().and_then(|()| clean(privilege));
    lanes.push(rooted.trial(MACHINES, &["newcomer", "sandbox"], machines)?);
    let program = match dist::static_target() {
        // Not in release, which takes minutes and proves no more.
        Ok(target) => Ok(vec![("LINK_WATCHER_STATIC", dist::static_program(project, &target, &[], "debug")?)]),
        Err(error) => Err(error),
    };
    lanes.push(rooted.trial(STATIC, &["static_program"], |_| program)?);

    println!("\n{}", lanes::report(&lanes).trim_end());
    let failed = lanes.iter().any(|lane| lane.counts.failed > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the lanes that need root have in common.
struct Rooted<'a> {
    project: &'a Project,
    daemon: &'a Path,
    search_path: &'a Path,
    filter: Option<&'a str>,
    privilege: Option<Privilege>,
    /// What the trials of the package are told of it.
    packages: &'a [(&'static str, PathBuf)],
}

impl Rooted<'_> {
    fn run(&self, name: &'static str, packages: &[&str], targets: &[String]) -> Result<Lane> {
        heading(name);
        if targets.is_empty() {
            return Ok(Lane::skipped(name, 1, "it has no tests yet"));
        }
        let mut command = self.project.cargo();
        command.args(["test", "--no-fail-fast"]).args(packages);
        command.args(targets.iter().flat_map(|target| ["--test", target]));
        command.env("LINK_WATCHER_BIN", self.daemon);
        let Some(privilege) = self.privilege else {
            command.args(["--", "--ignored", "--list"]).args(self.filter);
            let why = "it needs root, and sudo does not work here; run `cargo xtask test` as root";
            return Ok(match count_listed(&mut command) {
                Some(tests) => Lane::skipped(name, tests, why),
                None => Lane {
                    counts: Counts { failed: 1, ..Counts::default() },
                    ..Lane::skipped(name, 0, "it does not compile")
                },
            });
        };
        command.args(runner(Some(privilege), self.search_path));
        // One at a time: they measure, and share two CPUs, interface names and the BPF file system.
        command.args(["--", "--ignored", "--test-threads=1"]).args(colours()).args(self.filter);
        lanes::run(name, &mut command)
    }

    /// Tests of this crate, which are told of what `prepare` makes; skipped with its reason where that cannot be had here.
    fn trial(
        &self,
        name: &'static str,
        targets: &[&str],
        prepare: impl FnOnce(Privilege) -> Result<Vec<(&'static str, PathBuf)>>,
    ) -> Result<Lane> {
        heading(name);
        let tests = targets.len() as u64;
        let Some(privilege) = self.privilege else {
            return Ok(Lane::skipped(name, tests, "it needs root, and sudo does not work here"));
        };
        let given = match prepare(privilege) {
            Ok(given) => given,
            Err(error) => return Ok(Lane::skipped(name, tests, &format!("{error:#}"))),
        };
        let mut command = self.project.cargo();
        command.args(["test", "--no-fail-fast", "--package", "xtask"]);
        command.args(targets.iter().flat_map(|target| ["--test", target]));
        command.args(runner(Some(privilege), self.search_path));
        command.env("LINK_WATCHER_BIN", self.daemon).envs(given);
        command.envs(self.packages.iter().map(|(name, path)| (name, path)));
        command.args(["--", "--ignored", "--test-threads=1"]).args(colours()).args(self.filter);
        lanes::run(name, &mut command)
    }
}

/// A directory with the listed programs and no others. The tests see nothing else, so that a program which is on no list, and
/// which the set-up therefore does not install, fails on every machine and not only on a fresh one.
pub(crate) fn search_path(project: &Project) -> Result<PathBuf> {
    let directory = project.tools().join("test-path");
    let make = || -> io::Result<()> {
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        for (name, path) in ALL.iter().copied().map(Program::name).zip(ALL.iter().map(|program| program.path())) {
            // A whole path needs no search path.
            if let Some(path) = path.filter(|_| !name.contains('/')) {
                symlink(path, directory.join(name))?;
            }
        }
        Ok(())
    };
    make()
        .with_context(|| format!("cannot make {}; is the disk full, or is it another user's?", directory.display()))?;
    Ok(directory)
}

/// What makes cargo start the finished tests with this search path, and as root where that takes sudo. cargo itself keeps its
/// own path, which has the linker, and this user.
pub(crate) fn runner(privilege: Option<Privilege>, search_path: &Path) -> [String; 2] {
    let path = format!("PATH={}", search_path.display());
    let mut words = match privilege {
        Some(Privilege::Sudo) => vec!["sudo", "-E"],
        _ => Vec::new(),
    };
    words.extend(["/usr/bin/env", &path]);
    ["--config".to_owned(), format!("target.'cfg(all())'.runner={words:?}")]
}

fn heading(name: &str) {
    println!("\n== lane {name}");
}

/// The runner's output goes through a pipe here, so it has to be told about the terminal.
fn colours() -> Option<&'static str> {
    let wanted = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    wanted.then_some("--color=always")
}

/// The names of the test targets whose files are in this directory, sorted.
fn test_files(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// How many tests a listing has; nothing where they do not compile.
fn count_listed(command: &mut Command) -> Option<u64> {
    println!("$ {}", exec::render(command));
    let output = command.stderr(Stdio::inherit()).output().ok().filter(|output| output.status.success())?;
    let listed = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with(": test")).count();
    u64::try_from(listed).ok()
}
