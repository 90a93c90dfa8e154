//! Finds or installs what building and testing need.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use link_watcher_programs::{ALL, Program, Purpose, find};

use crate::privilege::Privilege;
use crate::project::Project;
use crate::toolchain::{Route, Toolchain};
use crate::{apt, exec, linker, toolchain};

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
    println!("lab: {} are here", lab_programs().map(Program::name).collect::<Vec<_>>().join(", "));
    Ok(())
}

/// Finds or installs compiler and linker of the eBPF program; silent where nothing is missing.
///
/// # Errors
///
/// Where no way leads to them, with what was tried and what would help.
pub(crate) fn ebpf_tools(project: &Project) -> Result<EbpfTools> {
    let survey = || {
        let (routes, rejected) = toolchain::survey(project);
        let ready = matches!(routes[..], [Route::Present(_)]);
        // Which LLVM exists decides about the routes, so lists are needed before choosing.
        Survey { routes, rejected, blind: !ready && apt::present() && !apt::has_lists() }
    };
    let take = |route: Route| {
        let llvm_major = route.llvm_major();
        if !matches!(route, Route::Present(_)) {
            eprintln!("eBPF compiler: {}", route.describe());
        }
        let attempt = route.take(project).and_then(|toolchain| {
            let linker = linker::ensure(project, toolchain.llvm_major)?;
            Ok(EbpfTools { toolchain, linker })
        });
        attempt.map_err(|error| {
            eprintln!("that did not work: {error:#}");
            format!("with LLVM {llvm_major}: {error:#}")
        })
    };
    let refresh = || {
        if !apt::present() {
            return Ok(false);
        }
        apt::update().map(|()| true).map_err(|error| format!("{error:#}"))
    };
    let rejected = match first_that_works(survey, refresh, take) {
        Ok(tools) => return Ok(tools),
        Err(rejected) => rejected,
    };
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

/// The ways to a compiler, as they are seen now.
struct Survey<R> {
    /// Best first.
    routes: Vec<R>,
    /// Why others are not open.
    rejected: Vec<String>,
    /// Whether apt, which may know more ways, has never read what its sources offer.
    blind: bool,
}

/// Tries one route after the other. Apt's lists are fetched once: at the beginning where there are none, and else before giving
/// up, because lists that are months old lack what the mirror has. `refresh` says whether there is an apt at all.
///
/// # Errors
///
/// Where no route works: why, for each.
fn first_that_works<R, T>(
    survey: impl Fn() -> Survey<R>,
    refresh: impl Fn() -> Result<bool, String>,
    take: impl Fn(R) -> Result<T, String>,
) -> Result<T, Vec<String>> {
    let mut refreshed = false;
    let mut seen = survey();
    loop {
        let mut rejected = seen.rejected;
        if refreshed || !seen.blind {
            for route in seen.routes {
                match take(route) {
                    Ok(taken) => return Ok(taken),
                    Err(why) => rejected.push(why),
                }
            }
            if refreshed {
                return Err(rejected);
            }
            seen.routes = Vec::new();
        }
        refreshed = true;
        match refresh() {
            Ok(true) => seen = survey(),
            Ok(false) => return Err(rejected),
            // What is open without new lists is still tried.
            Err(why) => {
                rejected.push(why);
                seen = Survey { routes: seen.routes, rejected, blind: false };
            }
        }
    }
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

/// Installs the programs that single tests need. Without them all else can be tried: what cannot be had is said, and its tests
/// say that they were left out.
pub(crate) fn trial_tools() {
    let missing = missing_packages(programs_for(Purpose::Trial));
    if missing.is_empty() || !apt::present() {
        return;
    }
    if let Err(error) = apt::install(&missing, "single tests") {
        eprintln!("going on without {}: {error:#}", missing.join(", "));
    }
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

/// What tests, demo and daemon start.
fn lab_programs() -> impl Iterator<Item = Program> {
    programs_for(Purpose::Work)
}

fn programs_for(purpose: Purpose) -> impl Iterator<Item = Program> {
    ALL.iter().copied().filter(move |program| program.purpose() == purpose)
}

/// The packages of the programs that are not here.
fn missing_lab_tools() -> Vec<String> {
    missing_packages(lab_programs())
}

/// The packages of those programs that are not here.
fn missing_packages(programs: impl Iterator<Item = Program>) -> Vec<String> {
    let missing: Vec<_> = programs.filter(|program| program.path().is_none()).map(Program::packages).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let known = apt::candidates(&missing.concat());
    let choose =
        |packages: &[&'static str]| *packages.iter().find(|name| known.contains_key(**name)).unwrap_or(&packages[0]);
    missing.into_iter().map(choose).collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

/// `cargo xtask setup --dry-run`: one line a step, and changes nothing.
fn explain(project: &Project) {
    let (routes, rejected) = toolchain::survey(project);
    if !matches!(routes[..], [Route::Present(_)]) && apt::present() {
        let when = match (apt::has_lists(), routes.is_empty()) {
            (false, _) => "would run `apt-get update`, because apt does not know its packages yet",
            (true, true) => "would run `apt-get update`, because what apt knows leads to no compiler and may be old",
            (true, false) => "if all that fails, would run `apt-get update` once, because what apt knows may be old",
        };
        println!("apt: {when}; then it tells whether the distribution's compiler will do, and what follows may change");
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
        println!("lab: found {}", lab_programs().map(Program::name).collect::<Vec<_>>().join(", "));
    } else {
        println!("lab: would run `apt-get install {}`, because the lab runs their programs", missing.join(" "));
    }
    if Privilege::acquire_silently().is_none() {
        let everything = [missing_build_packages(project), missing].concat();
        println!(
            "root: is needed for apt-get, and to run the demo and most tests; {}",
            match find("sudo") {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A machine whose apt leads to `after` once its lists are read again, and to `before` until then.
    fn try_with(
        before: &[u32],
        after: &[u32],
        blind: bool,
        refresh: Result<bool, String>,
    ) -> (Result<u32, Vec<String>>, u32) {
        let updates = Cell::new(0);
        let survey = || match updates.get() {
            0 => Survey { routes: before.to_vec(), rejected: vec!["old lists".to_owned()], blind },
            _ => Survey { routes: after.to_vec(), rejected: vec!["new lists".to_owned()], blind: false },
        };
        let update = || {
            updates.set(updates.get() + 1);
            refresh.clone()
        };
        let take = |route| if route == 22 { Ok(route) } else { Err(format!("{route} fails")) };
        (first_that_works(survey, update, take), updates.get())
    }

    #[test]
    fn a_route_that_works_needs_no_new_lists() {
        assert_eq!(try_with(&[21, 22], &[], false, Ok(true)), (Ok(22), 0));
    }

    #[test]
    fn lists_that_are_old_are_read_again_once_before_giving_up() {
        assert_eq!(try_with(&[], &[22], false, Ok(true)), (Ok(22), 1));
        assert_eq!(try_with(&[21], &[22], false, Ok(true)), (Ok(22), 1));
        let why = |words: &[&str]| Err(words.iter().map(|&word| word.to_owned()).collect());
        assert_eq!(try_with(&[], &[21], false, Ok(true)), (why(&["new lists", "21 fails"]), 1));
        assert_eq!(
            try_with(&[21], &[], false, Err("no net".to_owned())),
            (why(&["old lists", "21 fails", "no net"]), 1)
        );
        assert_eq!(try_with(&[21], &[22], false, Ok(false)), (why(&["old lists", "21 fails"]), 1), "no apt");
    }

    #[test]
    fn lists_that_are_missing_come_first() {
        assert_eq!(try_with(&[21], &[22], true, Ok(true)), (Ok(22), 1));
        assert_eq!(try_with(&[22], &[], true, Err("no net".to_owned())), (Ok(22), 1), "what is open without is tried");
    }
}
