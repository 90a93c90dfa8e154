//! The compiler of the eBPF program: it must be a nightly, or be told to behave like one, and have the source of `core`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::{apt, exec, linker, rustup};

/// The oldest compiler that the workspace builds with.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// The nightly that is fetched where there is none: a fixed one, so that its LLVM is known to have a bpf-linker.
const NIGHTLY: &str = "nightly-2026-05-20";
const NIGHTLY_LLVM: u32 = 22;

/// What distributions call the compiler, cargo and the library's source. The `web` ones follow the newest releases.
const PACKAGES: [[&str; 3]; 2] = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// For how long a download that failed is not tried again.
const OFFLINE_FOR: Duration = Duration::from_secs(3600);

/// A compiler that can build the eBPF program, or could if it had the library's source.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// For messages: where it comes from and which release it is.
    pub(crate) name: String,
    /// Its directory of executables.
    pub(crate) bin: PathBuf,
    /// Where its libraries and their sources are.
    pub(crate) sysroot: PathBuf,
    /// The major version of its LLVM, which bpf-linker's has to match.
    pub(crate) llvm_major: u32,
    /// Whether it is a release, which takes unstable options only with `RUSTC_BOOTSTRAP=1`.
    pub(crate) is_release: bool,
    rustup_name: Option<String>,
    has_source: bool,
    version: (u32, u32),
}

impl Toolchain {
    fn probe(bin: &Path, rustup_name: Option<String>) -> Option<Self> {
        let rustc = bin.join("rustc");
        let mut ask = Command::new(&rustc);
        let printed = exec::output(exec::forget_toolchain(&mut ask).arg("-vV"))?;
        let (release, llvm_major) = parse_version(&printed)?;
        let mut ask = Command::new(&rustc);
        let sysroot = exec::output(exec::forget_toolchain(&mut ask).args(["--print", "sysroot"]))?;
        let sysroot = PathBuf::from(sysroot.trim());
        let library = sysroot.join("lib/rustlib/src/rust/library");
        let origin = rustup_name.as_ref().map_or("the distribution's".to_owned(), |name| format!("rustup's {name}"));
        Some(Self {
            name: format!("{origin} (rustc {release}, LLVM {llvm_major})"),
            rustup_name,
            bin: bin.to_path_buf(),
            sysroot,
            llvm_major,
            is_release: !release.contains('-'),
            has_source: library.join("core/src/lib.rs").exists() && bin.join("cargo").exists(),
            version: parse_release(&release)?,
        })
    }

    /// A cargo command of this toolchain, free of the one that runs this task.
    pub(crate) fn cargo(&self, project: &Project) -> Command {
        self.command(project, "cargo")
    }

    /// `cargo clippy` of this toolchain; cargo itself would look for its subcommand in other toolchains first.
    pub(crate) fn clippy(&self, project: &Project) -> Command {
        let mut command = self.command(project, "cargo-clippy");
        command.arg("clippy").env("CARGO", self.bin.join("cargo"));
        command
    }

    fn command(&self, project: &Project, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        exec::forget_toolchain(&mut command).current_dir(&project.root).env("RUSTC", self.bin.join("rustc"));
        if self.is_release {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Installs this toolchain's clippy where it is missing.
    ///
    /// # Errors
    ///
    /// As rustup and apt.
    pub(crate) fn ensure_clippy(&self) -> Result<()> {
        if self.bin.join("cargo-clippy").exists() && self.bin.join("clippy-driver").exists() {
            return Ok(());
        }
        if let Some(name) = &self.rustup_name {
            return rustup::download(&["component", "add", "clippy", "--toolchain", name], Duration::from_secs(120))
                .with_context(|| format!("to try by hand: rustup component add clippy --toolchain {name}"));
        }
        let owner = exec::output(Command::new("dpkg-query").arg("--search").arg(self.bin.join("rustc")));
        let of_web = owner.is_some_and(|owner| owner.starts_with("rustc-web:"));
        let package = if of_web { "rust-web-clippy" } else { "rust-clippy" };
        apt::install(&[package.to_owned()], "linting the eBPF program")
    }
}

/// One way to come by a toolchain.
#[derive(Debug)]
pub(crate) enum Route {
    /// It is there.
    Present(Toolchain),
    /// An installed nightly lacks only the source: its name, and it.
    AddSource(String, Toolchain),
    /// rustup is there and may fetch a nightly.
    InstallNightly,
    /// The distribution has one: its packages and those of bpf-linker, the compiler's version and the LLVM it uses.
    Distribution { packages: Vec<String>, version: String, llvm_major: u32 },
}

impl Route {
    /// The LLVM that it leads to.
    pub(crate) fn llvm_major(&self) -> u32 {
        match self {
            Self::Present(toolchain) | Self::AddSource(_, toolchain) => toolchain.llvm_major,
            Self::InstallNightly => NIGHTLY_LLVM,
            Self::Distribution { llvm_major, .. } => *llvm_major,
        }
    }

    /// What it does and why, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Present(toolchain) => format!("found {}", toolchain.name),
            Self::AddSource(name, toolchain) => {
                format!("`rustup component add rust-src --toolchain {name}`, because {} lacks it", toolchain.name)
            }
            Self::InstallNightly => format!(
                "`rustup toolchain install {NIGHTLY} --profile minimal --component rust-src`, because no nightly is \
                 installed that can be used"
            ),
            Self::Distribution { packages, version, llvm_major } => format!(
                "`apt-get install {}` (rustc {version}, LLVM {llvm_major}): the distribution's compiler, the \
                 library's source, and what bpf-linker is built from",
                packages.join(" ")
            ),
        }
    }

    /// Goes the way.
    ///
    /// # Errors
    ///
    /// As rustup and apt; and where what they installed is still not complete.
    pub(crate) fn take(self, project: &Project) -> Result<Toolchain> {
        match self {
            Self::Present(toolchain) => Ok(toolchain),
            Self::AddSource(name, toolchain) => {
                let arguments = ["component", "add", "rust-src", "--toolchain", &name];
                fetch(project, &arguments, Duration::from_secs(60))?;
                complete(&toolchain.bin, Some(name))
            }
            Self::InstallNightly => {
                let arguments = [
                    "toolchain",
                    "install",
                    NIGHTLY,
                    "--profile",
                    "minimal",
                    "--component",
                    "rust-src",
                    "--no-self-update",
                ];
                fetch(project, &arguments, Duration::from_secs(600))?;
                let (name, directory) = rustup::nightlies()
                    .into_iter()
                    .find(|(name, _)| name.starts_with(NIGHTLY))
                    .with_context(|| format!("rustup installed {NIGHTLY}, but it is not among its toolchains"))?;
                complete(&directory.join("bin"), Some(name))
            }
            Self::Distribution { packages, .. } => {
                apt::install(&packages, "building the eBPF program")?;
                complete(Path::new("/usr/bin"), None)
            }
        }
    }
}

fn complete(bin: &Path, rustup_name: Option<String>) -> Result<Toolchain> {
    Toolchain::probe(bin, rustup_name).filter(|toolchain| toolchain.has_source).with_context(|| {
        format!(
            "{} still lacks cargo or the library's source (rust-src); install it again",
            bin.join("rustc").display()
        )
    })
}

/// The ways that are open here, best first, and why others are not.
pub(crate) fn survey(project: &Project) -> (Vec<Route>, Vec<String>) {
    let mut rejected = Vec::new();
    let mut without_source = Vec::new();
    let installed = rustup::nightlies()
        .into_iter()
        .map(|(name, directory)| (Some(name), directory.join("bin")))
        .chain([(None, PathBuf::from("/usr/bin"))]);
    for (name, bin) in installed {
        if fs::canonicalize(bin.join("rustc")).is_ok_and(|real| real.ends_with("rustup")) {
            continue; // rustup's own stand-in, not a compiler
        }
        let Some(toolchain) = Toolchain::probe(&bin, name.clone()) else { continue };
        if Some(toolchain.version) < parse_release(OLDEST) {
            rejected.push(format!("{} is older than {OLDEST}", toolchain.name));
        } else if let Err(why) = linker::obtainable(project, toolchain.llvm_major) {
            rejected.push(format!("{}: {why}", toolchain.name));
        } else if toolchain.has_source {
            return (vec![Route::Present(toolchain)], rejected);
        } else if let Some(name) = name {
            without_source.push(Route::AddSource(name, toolchain));
        }
    }

    let mut routes = Vec::new();
    if rustup::program().is_none() {
        rejected.push("rustup is not installed".to_owned());
    } else if let Some(why) = offline(project) {
        rejected.push(why);
    } else {
        routes.append(&mut without_source);
        match linker::obtainable(project, NIGHTLY_LLVM) {
            Ok(()) => routes.push(Route::InstallNightly),
            Err(why) => rejected.push(format!("rustup's {NIGHTLY} (LLVM {NIGHTLY_LLVM}): {why}")),
        }
    }
    match distribution(project) {
        Ok(route) => routes.push(route),
        Err(why) => rejected.push(why),
    }
    (routes, rejected)
}

fn distribution(project: &Project) -> Result<Route, String> {
    if !apt::has_lists() {
        return Err("the distribution's compiler: apt does not know its packages yet (apt-get update)".to_owned());
    }
    let known = apt::candidates(PACKAGES.as_flattened());
    let mut why = "the distribution offers neither rustc-web nor rustc with their sources".to_owned();
    for packages in PACKAGES {
        let Some(version) = known.get(packages[0]).filter(|_| packages.iter().all(|name| known.contains_key(*name)))
        else {
            continue;
        };
        if parse_release(version) < parse_release(OLDEST) {
            why = format!("the distribution's {} is {version}, older than {OLDEST}", packages[0]);
            continue;
        }
        let Some(llvm_major) = apt::llvm_major_of(packages[0]) else {
            why = format!("apt does not say which LLVM the distribution's {} uses", packages[0]);
            continue;
        };
        match linker::obtainable(project, llvm_major) {
            Ok(()) => {
                let mut packages = packages.map(str::to_owned).to_vec();
                if linker::find(project, llvm_major).is_none() {
                    packages.extend(linker::missing_packages(llvm_major)); // in one go, and in one line to type
                }
                return Ok(Route::Distribution { packages, version: version.clone(), llvm_major });
            }
            Err(reason) => why = format!("the distribution's {} {version}: {reason}", packages[0]),
        }
    }
    Err(why)
}

/// Runs rustup, and remembers for a while if it could not fetch anything.
fn fetch(project: &Project, arguments: &[&str], limit: Duration) -> Result<()> {
    if let Some(why) = offline(project) {
        bail!("{why}");
    }
    rustup::download(arguments, limit).inspect_err(|error| {
        let mark = offline_mark(project);
        // Not being able to remember costs the next run these seconds again, no more.
        let _ = fs::create_dir_all(project.tools()).and_then(|()| fs::write(mark, format!("{error:#}\n")));
    })
}

fn offline(project: &Project) -> Option<String> {
    let mark = offline_mark(project);
    let age = SystemTime::now().duration_since(mark.metadata().ok()?.modified().ok()?).ok()?;
    (age < OFFLINE_FOR).then(|| {
        let minutes = age.as_secs() / 60;
        format!("rustup could fetch nothing {minutes} minutes ago (to try again now, remove {})", mark.display())
    })
}

fn offline_mark(project: &Project) -> PathBuf {
    project.tools().join("rustup-offline")
}

/// The release and the major version of LLVM, from what `rustc -vV` prints.
fn parse_version(printed: &str) -> Option<(String, u32)> {
    let field = |name: &str| printed.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm_major = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm_major))
}

/// The first two numbers of a release or of a package's version.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_rustc() {
        let printed = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(printed), Some(("1.97.0-nightly".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.0.0\n"), None);
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(parse_release("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(parse_release("1.88"), Some((1, 88)));
        assert!(parse_release("1.100.0-nightly") > parse_release("1.88"));
        assert_eq!(parse_release("new"), None);
    }
}
