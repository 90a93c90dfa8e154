//! Packages: a `.deb`, and a tarball and an `.rpm` with a program that needs no library; beside them what is in them.

pub(crate) mod deb;
mod rpm;
mod sbom;
pub(crate) mod trial;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use link_watcher_programs::{LINTIAN, MUSL_GCC, Program};
use sha2::{Digest as _, Sha256};

use self::deb::Packed;
use crate::files::{File, Layout};
use crate::project::Project;
use crate::{apt, build, exec, rustup};

/// What the packages are.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What packages say of themselves; an empty line is a paragraph's end.
const DESCRIPTION: &str = "\
Two routers joined by several links exchange signed keepalives, which an XDP
program verifies and answers in the kernel; when a link dies, the traffic of
both directions is on another within a few probe intervals. A router with
several internet providers probes each of them, and spreads connections over
those that work.

Nothing is started before there is /etc/link-watcher/link-watcher.toml.";
/// The directory that belongs to packages though they have no file in it.
const DIRECTORY: &str = "/etc/link-watcher";

/// `cargo xtask dist`: all of them, and what they are made of, below `target/dist`. What cannot be made or checked here is said, and is no failure.
///
/// # Errors
///
/// As the build; where lintian finds an error.
pub(crate) fn dist(project: &Project) -> Result<()> {
    let mut made = vec![debian(project, VERSION)?];
    lint(&made[0])?;
    match with_static_program(project) {
        Ok(paths) => made.extend(paths),
        Err(error) => println!("SKIPPED: no static tarball and no .rpm: {error:#}"),
    }
    match sbom::sbom(project, epoch(project)?) {
        Ok(path) => made.push(path),
        Err(error) => println!("SKIPPED: no list of what the program is made of: {error:#}"),
    }
    for path in made {
        let bytes = fs::read(&path).with_context(|| format!("{} was just written", path.display()))?;
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{sum}  {}", path.display());
    }
    Ok(())
}

/// Builds the daemon and its package, which says that it is of this version; returns the package's path.
///
/// # Errors
///
/// As the build.
pub(crate) fn debian(project: &Project, version: &str) -> Result<PathBuf> {
    let daemon = build::build(project)?;
    let files = packed(project, &daemon, &Layout::package())?;
    let bytes = deb::build(project, &files, version, epoch(project)?)?;
    write(project, &format!("link-watcher_{version}_{}.deb", deb::architecture()), &bytes)
}

/// A version that is newer: for a package that is an upgrade.
///
/// # Errors
///
/// Where this version is not three numbers.
pub(crate) fn next_version() -> Result<String> {
    let mut numbers = VERSION.split('.');
    let (major, minor) = (numbers.next(), numbers.next().and_then(|minor| minor.parse::<u32>().ok()));
    let (major, minor) = major.zip(minor).with_context(|| format!("{VERSION} is not three numbers"))?;
    Ok(format!("{major}.{}.0", minor + 1))
}

/// Every file of a package with this daemon in it.
fn packed(project: &Project, daemon: &Path, layout: &Layout) -> Result<Vec<Packed>> {
    let pack =
        |file: File| Ok(Packed { bytes: file.bytes(project, daemon, layout)?, path: file.path, mode: file.mode });
    layout.files().into_iter().map(pack).collect()
}

fn write(project: &Project, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let directory = project.root.join("target/dist");
    let path = directory.join(name);
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, bytes))
        .with_context(|| format!("cannot write {}; is the disk full?", path.display()))?;
    Ok(path)
}

/// The instant that all files of a package have, s since 1970: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the
/// commit's.
fn epoch(project: &Project) -> Result<u64> {
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let text = match given {
        Some(text) => text,
        None => exec::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(&project.root))
            .context("git does not tell when this was committed; set SOURCE_DATE_EPOCH to seconds since 1970")?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is no number of seconds: {}", text.trim()))
}

/// Debian's own check of packages, where it is here or can be installed.
fn lint(package: &Path) -> Result<()> {
    if let Err(why) = available(LINTIAN, "checking the package") {
        println!("SKIPPED: the package was not checked by lintian: {why:#}");
        return Ok(());
    }
    let mut command = LINTIAN.command();
    // It refuses to be root otherwise; here it reads one file that we wrote.
    command.args(["--allow-root", "--fail-on", "error"]).arg(package);
    exec::run(&mut command, "lintian's errors above say what is wrong with the package")
}

/// Installs a program of the list, if it is not here.
///
/// # Errors
///
/// As apt.
pub(crate) fn available(program: Program, purpose: &str) -> Result<()> {
    match program.path() {
        Some(_) => Ok(()),
        None => apt::install(&[program.packages()[0].to_owned()], purpose),
    }
}

/// The tarball and the RPM package.
fn with_static_program(project: &Project) -> Result<[PathBuf; 2]> {
    let program = static_program(project, &static_target()?, &["--release"], "release")?;
    let name = format!("link-watcher-{VERSION}-{}", env::consts::ARCH);
    let files = packed(project, &program, &Layout::package())?;
    let tarball = deb::archive(&files, &[], &name, epoch(project)?)?;
    let package = rpm::build(project, packed(project, &program, &Layout::rpm())?, VERSION, epoch(project)?)?;
    Ok([write(project, &format!("{name}.tar.gz"), &tarball)?, write(project, &rpm::name(VERSION), &package)?])
}

/// The compiler's target for a program that needs no library.
///
/// # Errors
///
/// Where the target or its C compiler cannot be had here.
pub(crate) fn static_target() -> Result<String> {
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    if !rustup::targets().contains(&target) {
        rustup::download(&["target", "add", &target], Duration::from_secs(120))
            .with_context(|| format!("rustup cannot provide {target} here"))?;
    }
    // ring's assembler and C want a compiler with musl's headers.
    available(MUSL_GCC, "a program that needs no library")?;
    Ok(target)
}

/// Builds the program that needs no library, in a profile whose results are in the directory `profile`.
///
/// # Errors
///
/// As the compiler.
pub(crate) fn static_program(project: &Project, target: &str, flags: &[&str], profile: &str) -> Result<PathBuf> {
    let what = ["--package", "link-watcher", "--bin", "link-watcher", "--target", target];
    build::compile(project, &[flags, &what].concat())?;
    let program = project.target.join(target).join(profile).join("link-watcher");
    ensure!(program.exists(), "cargo succeeded, but {} is not there", program.display());
    Ok(program)
}
