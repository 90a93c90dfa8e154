//! bpf-linker: built against the LLVM of the compiler in use, because it reads that compiler's bitcode.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::project::Project;
use crate::{apt, exec};

const VERSION: &str = "0.13.0";

/// The LLVM versions that this release of bpf-linker can be built against.
const LLVM_MAJORS: RangeInclusive<u32> = 21..=23;

/// Where Debian and Ubuntu install an LLVM.
pub(crate) fn llvm_prefix(llvm_major: u32) -> PathBuf {
    format!("/usr/lib/llvm-{llvm_major}").into()
}

fn own_root(project: &Project, llvm_major: u32) -> PathBuf {
    project.tools().join(format!("bpf-linker-{VERSION}-llvm-{llvm_major}"))
}

/// A bpf-linker for this LLVM: the one that the set-up built, or one on the search path that contains it.
pub(crate) fn find(project: &Project, llvm_major: u32) -> Option<PathBuf> {
    let own = own_root(project, llvm_major).join("bin/bpf-linker");
    if own.exists() {
        return Some(own);
    }
    let installed = link_watcher_programs::find("bpf-linker")?;
    // Statically linked ones, such as those that its makers publish, contain LLVM's signature.
    let mut search = Command::new("grep");
    search.args(["-aoEm1", r"LLVM[0-9]+\.[0-9]+\.[0-9]+"]).arg(&installed).env("LC_ALL", "C");
    let found = exec::output(&mut search)?;
    found.lines().any(|line| line.starts_with(&format!("LLVM{llvm_major}."))).then_some(installed)
}

/// The packages that building bpf-linker still lacks.
pub(crate) fn missing_packages(llvm_major: u32) -> Vec<String> {
    let lib = llvm_prefix(llvm_major).join("lib");
    let mut missing = Vec::new();
    if !lib.join("libLLVMCore.a").exists() {
        missing.push(format!("llvm-{llvm_major}-dev"));
    }
    if !lib.join("libPolly.a").exists() {
        missing.push(format!("libpolly-{llvm_major}-dev"));
    }
    for (library, package) in [("libstdc++.a", "g++"), ("libz.a", "zlib1g-dev"), ("libzstd.a", "libzstd-dev")] {
        if !compiler_finds(library) {
            missing.push(package.to_owned());
        }
    }
    missing
}

fn compiler_finds(library: &str) -> bool {
    // gcc prints the bare name where it finds nothing.
    exec::output(Command::new("cc").arg(format!("-print-file-name={library}")))
        .is_some_and(|printed| Path::new(printed.trim()).is_absolute())
}

/// Whether a bpf-linker for this LLVM is there or can be built.
///
/// # Errors
///
/// Why not, and what would change it.
pub(crate) fn obtainable(project: &Project, llvm_major: u32) -> Result<(), String> {
    if find(project, llvm_major).is_some() {
        return Ok(());
    }
    if !LLVM_MAJORS.contains(&llvm_major) {
        return Err(format!(
            "bpf-linker {VERSION} knows LLVM {} to {}, not {llvm_major}",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end()
        ));
    }
    if apt::present() && !apt::has_lists() {
        return Ok(()); // as far as can be known before the first `apt-get update`
    }
    let missing = missing_packages(llvm_major);
    if missing.is_empty() {
        return Ok(());
    }
    let known = apt::candidates(&missing);
    let unknown: Vec<_> = missing.iter().filter(|package| !known.contains_key(*package)).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "no bpf-linker for LLVM {llvm_major} is on the search path, and to build one apt lacks {} (from \
         https://apt.llvm.org, or take a ready bpf-linker from https://github.com/aya-rs/bpf-linker/releases)",
        unknown.join(" ")
    ))
}

/// The command that builds bpf-linker.
pub(crate) fn install_command(project: &Project, llvm_major: u32) -> Command {
    let mut command = project.cargo();
    command.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features", "--features"]);
    command.arg(format!("llvm-{llvm_major},llvm-link-static")).arg("--root").arg(own_root(project, llvm_major));
    command.env("LLVM_PREFIX", llvm_prefix(llvm_major));
    command
}

/// Builds bpf-linker where there is none, after installing what that needs.
///
/// # Errors
///
/// As apt and cargo, with what to do.
pub(crate) fn ensure(project: &Project, llvm_major: u32) -> Result<PathBuf> {
    if let Some(linker) = find(project, llvm_major) {
        return Ok(linker);
    }
    let missing = missing_packages(llvm_major);
    if !missing.is_empty() {
        apt::install(&missing, &format!("building bpf-linker for LLVM {llvm_major}"))?;
    }
    eprintln!("building bpf-linker {VERSION} for LLVM {llvm_major}, once; this takes about a minute");
    exec::run(
        &mut install_command(project, llvm_major),
        "if crates.io could not be reached, try again later; else put a bpf-linker with the same LLVM on the search \
         path, from https://github.com/aya-rs/bpf-linker/releases",
    )?;
    let Some(linker) = find(project, llvm_major) else {
        bail!("cargo installed bpf-linker, but it is not below {}", own_root(project, llvm_major).display());
    };
    Ok(linker)
}
