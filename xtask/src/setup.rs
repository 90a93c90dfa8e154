//! Finds or installs what building and testing need.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::privilege::Privilege;
use crate::project::Project;
use crate::toolchain::{Route, Toolchain};
use crate::{apt, exec, linker, toolchain};

/// Programs that the lab and the tests run, and the packages that have them, first choice first.
const LAB_TOOLS: [(&str, &[&str]); 3] =
    [("ip", &["iproute2"]), ("bpftool", &["bpftool", "linux-tools-generic"]), ("nft", &["nftables"])];

/// What builds the eBPF program.
pub(crate) struct EbpfTools {
    /// Compiler and cargo.
    pub(crate) toolchain: Toolchain,
    /// bpf-linker for the compiler's LLVM.
    pub(crate) linker: PathBuf,
}

/// `cargo xtask setup`.
///
/// # Errors
///
/// Where something is missing and cannot be installed, with the remedy.
pub(crate) fn setup(project: &Project, dry_run: bool) -> Result<()> {
    if dry_run {
        explain(project);
        return Ok(());
    }
    lab_tools(project)?;
    let tools = ebpf_tools(project)?;
    println!("eBPF compiler: {}", tools.toolchain.name);
    println!("bpf-linker: {}", tools.linker.display());
    println!("lab: {} are here", LAB_TOOLS.map(|(tool, _)| tool).join(", "));
    Ok(())
}

/// Finds or installs compiler and linker of the eBPF program; silent where nothing is missing.
///
/// # Errors
///
/// Where no way leads to them, with what was tried and what would help.
pub(crate) fn ebpf_tools(project: &Project) -> Result<EbpfTools> {
    let (mut routes, mut rejected) = toolchain::survey(project);
    if !matches!(routes[..], [Route::Present(_)]) && apt::present() && !apt::has_lists() {
        // Which LLVM exists decides about the routes, so the lists are needed before choosing.
        match apt::update() {
            Ok(()) => (routes, rejected) = toolchain::survey(project),
            Err(error) => rejected.push(format!("{error:#}")),
        }
    }
    for route in routes {
        let llvm_major = route.llvm_major();
        if !matches!(route, Route::Present(_)) {
            eprintln!("eBPF compiler: {}", route.describe());
        }
        let attempt = route.take(project).and_then(|toolchain| {
            let linker = linker::ensure(project, toolchain.llvm_major)?;
            Ok(EbpfTools { toolchain, linker })
        });
        match attempt {
            Ok(tools) => return Ok(tools),
            Err(error) => {
                eprintln!("that did not work: {error:#}");
                rejected.push(format!("with LLVM {llvm_major}: {error:#}"));
            }
        }
    }
    let debian = if apt::present() && !apt::has_lists() {
        "apt-get update; then this again, which names the packages"
    } else {
        "apt-get update && apt-get install rustc-web cargo-web rust-web-src"
    };
    bail!(
        "no compiler for the eBPF program:\n  {}\nAny one of these is enough, and then this again:\n  a network for \
         `rustup toolchain install nightly --component rust-src`, and a bpf-linker for its LLVM\n  Debian 12, as root: \
         {debian}",
        rejected.join("\n  ")
    )
}

/// Installs the programs that the lab runs; silent where nothing is missing. To be called before anything is compiled:
/// a password or a missing package is asked for at once, and not ten minutes later.
///
/// # Errors
///
/// As apt; and where nobody here may be root, with all packages that this and the build lack.
pub(crate) fn lab_tools(project: &Project) -> Result<()> {
    let missing = missing_lab_tools();
    let everything = [missing_build_packages(project), missing.clone()].concat();
    if apt::present() && !everything.is_empty() && Privilege::acquire("to install packages with apt").is_none() {
        // Whoever has to ask somebody else, or to become root elsewhere, shall have to do so once.
        bail!("packages are missing, and this user may not install them; {}", as_root(&everything));
    }
    if missing.is_empty() {
        return Ok(());
    }
    if apt::present() && !apt::has_lists() {
        apt::update()?; // which of a program's packages there is, the lists tell
    }
    apt::install(&missing_lab_tools(), "the lab (network namespaces, BPF)")
}

/// What to type where sudo does not help.
fn as_root(packages: &[String]) -> String {
    format!("as root, run: apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

/// The packages that the best way to an eBPF compiler and a linker still lacks, as far as apt tells now.
fn missing_build_packages(project: &Project) -> Vec<String> {
    match toolchain::survey(project).0.first() {
        Some(Route::Distribution { packages, .. }) => packages.clone(),
        Some(route) if linker::find(project, route.llvm_major()).is_none() => {
            linker::missing_packages(route.llvm_major())
        }
        _ => Vec::new(),
    }
}

fn missing_lab_tools() -> Vec<String> {
    let missing: Vec<_> = LAB_TOOLS.into_iter().filter(|(tool, _)| exec::find_program(tool).is_none()).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let names: Vec<_> = missing.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
    let known = apt::candidates(&names);
    let choose =
        |packages: &[&str]| packages.iter().find(|name| known.contains_key(**name)).unwrap_or(&packages[0]).to_string();
    missing.into_iter().map(|(_, packages)| choose(packages)).collect()
}

/// `cargo xtask setup --dry-run`: one line a step, and changes nothing.
fn explain(project: &Project) {
    let (routes, rejected) = toolchain::survey(project);
    if !matches!(routes[..], [Route::Present(_)]) && apt::present() && !apt::has_lists() {
        println!(
            "apt: would run `apt-get update`, because apt does not know its packages yet; then it tells whether the \
             distribution's compiler will do, and what follows may change"
        );
    }
    for why in rejected {
        println!("eBPF compiler: ruled out: {why}");
    }
    for (index, route) in routes.iter().enumerate() {
        let verb = match (route, index) {
            (Route::Present(_), _) => "",
            (_, 0) => "would run ",
            _ => "if that fails, would run ",
        };
        println!("eBPF compiler: {verb}{}", route.describe());
    }
    match routes.first() {
        Some(route) => explain_linker(project, route.llvm_major()),
        None => println!("eBPF compiler: no way to one yet; see the lines above"),
    }
    let missing = missing_lab_tools();
    if missing.is_empty() {
        println!("lab: found {}", LAB_TOOLS.map(|(tool, _)| tool).join(", "));
    } else {
        println!("lab: would run `apt-get install {}`, because the lab runs their programs", missing.join(" "));
    }
    if Privilege::acquire_silently().is_none() {
        let everything = [missing_build_packages(project), missing].concat();
        println!(
            "root: is needed for apt-get, and to run the demo and most tests; {}",
            match exec::find_program("sudo") {
                Some(_) => "sudo will ask for your password".to_owned(),
                None if everything.is_empty() => "this user is not root, and there is no sudo here".to_owned(),
                None => format!("there is no sudo here, so first, {}", as_root(&everything)),
            }
        );
    }
}

fn explain_linker(project: &Project, llvm_major: u32) {
    if let Some(linker) = linker::find(project, llvm_major) {
        println!("bpf-linker: found {} for LLVM {llvm_major}", linker.display());
        return;
    }
    let missing = linker::missing_packages(llvm_major);
    if missing.is_empty() {
        println!("LLVM: found {}", linker::llvm_prefix(llvm_major).display());
    } else {
        println!("LLVM: would run `apt-get install {}`, because bpf-linker is built against it", missing.join(" "));
    }
    println!(
        "bpf-linker: would run `{}`, because there is none for LLVM {llvm_major}; about a minute",
        exec::render(&linker::install_command(project, llvm_major))
    );
}
