//! Debian's kernels, from the archive by apt, with what a guest needs to begin.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::exec;
use crate::project::Project;

/// A kernel of Debian's.
pub(crate) struct Kernel {
    /// As one asks for it.
    pub(crate) version: &'static str,
    /// The release of Debian whose newest kernel it is.
    suite: &'static str,
}

/// Those that there are.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel { version: "6.1", suite: "bookworm" },
    Kernel { version: "6.12", suite: "trixie" },
    Kernel { version: "newest", suite: "sid" },
];

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What brings a guest to its root directory.
const FIRST_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Drivers that a guest may use; the others are three quarters of all modules.
const DRIVERS: [&str; 2] = ["net", "virtio"];
const INIT: &str = include_str!("init.sh");

/// A kernel on this machine's disk.
pub(crate) struct Image {
    /// As `uname -r` says it.
    pub(crate) release: String,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// The directory with a directory of this release's modules.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The kernel of this version.
    ///
    /// # Errors
    ///
    /// Where there is none, with those that there are.
    pub(crate) fn named(version: &str) -> Result<&'static Self> {
        let all = || KERNELS.iter().map(|kernel| kernel.version).collect::<Vec<_>>().join(", ");
        KERNELS
            .iter()
            .find(|kernel| kernel.version == version)
            .with_context(|| format!("no kernel is called {version}: there are {}", all()))
    }

    /// Fetches and unpacks it, once; some 100 MB and half a minute.
    ///
    /// # Errors
    ///
    /// Where apt does not reach Debian's archive, or a kernel looks other than expected.
    pub(crate) fn image(&self, project: &Project) -> Result<Image> {
        let directory = project.tools().join(format!("kernel-{}", self.version));
        let files = directory.join("files");
        // Made last.
        let initramfs = directory.join("initramfs");
        if !initramfs.exists() {
            if directory.exists() {
                fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
            }
            self.fetch(&directory)?;
            let (base, release) = modules_of(&files)?;
            prune(&base.join("lib/modules").join(&release).join("kernel"))?;
            let all = base.join("lib/modules").join(&release);
            let mut unpack = Command::new("find");
            unpack.arg(&all).args(["-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"]);
            exec::run(&mut unpack, "is xz-utils installed, and the disk not full?")?;
            let mut index = Command::new(busybox(&files)?);
            index.args(["depmod", "-b"]).arg(&base).arg(&release);
            exec::run(&mut index, "BusyBox's message above says why")?;
            pack(&directory, &files, &all, &release)?;
        }
        let (base, release) = modules_of(&files)?;
        let candidates =
            [files.join(format!("boot/vmlinuz-{release}")), base.join(format!("lib/modules/{release}/vmlinuz"))];
        let vmlinuz = candidates.into_iter().find(|path| path.exists());
        let vmlinuz = vmlinuz.with_context(|| format!("the package of Linux {release} has no vmlinuz"))?;
        Ok(Image { release, vmlinuz, initramfs, modules: base.join("lib/modules") })
    }

    /// Downloads kernel, modules and BusyBox of the release, and unpacks them below `files`. apt is asked with directories of its
    /// own: neither this machine's sources nor its packages matter.
    fn fetch(&self, directory: &Path) -> Result<()> {
        let (apt, packages) = (directory.join("apt"), directory.join("packages"));
        for made in [apt.join("state/lists/partial"), apt.join("cache/archives/partial"), packages.clone()] {
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {MIRROR} {} main\n", self.suite);
        for (name, text) in [("sources.list", source.as_str()), ("status", "")] {
            fs::write(apt.join(name), text).with_context(|| format!("cannot write {}", apt.display()))?;
        }
        let ask = |program: &str| {
            let mut command = Command::new(program);
            let option = |name: &str, value: &Path| format!("{name}={}", value.display());
            for option in [
                option("Dir::State", &apt.join("state")),
                option("Dir::State::status", &apt.join("status")),
                option("Dir::Cache", &apt.join("cache")),
                option("Dir::Etc::SourceList", &apt.join("sources.list")),
                option("Dir::Etc::SourceParts", Path::new("/dev/null")),
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Languages=none".to_owned(),
            ] {
                command.args(["-o", &option]);
            }
            command.current_dir(&packages).env("LC_ALL", "C");
            command
        };
        let remedy = format!("is {MIRROR} within reach, and {KEYRING} there (package debian-archive-keyring)?");
        exec::run(ask("apt-get").args(["--quiet", "update"]), &remedy)?;
        let depends = |package: &str| {
            let asked = exec::output(ask("apt-cache").args(["depends", package])).unwrap_or_default();
            parts_of_kernel(&asked)
        };
        let mut wanted = depends("linux-image-amd64");
        // Newer kernels come in parts.
        let parts: BTreeSet<String> = wanted.iter().flat_map(|package| depends(package)).collect();
        wanted.extend(parts);
        if wanted.is_empty() {
            bail!("linux-image-amd64 of {} names no kernel", self.suite);
        }
        exec::run(ask("apt-get").args(["--quiet", "download", "busybox-static"]).args(&wanted), &remedy)?;
        let entries = fs::read_dir(&packages).with_context(|| format!("cannot read {}", packages.display()))?;
        for package in entries.flatten() {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(package.path()).arg(directory.join("files"));
            exec::run(&mut unpack, "is the disk full?")?;
        }
        fs::remove_dir_all(&packages).with_context(|| format!("cannot remove {}", packages.display()))
    }
}

/// The packages that a kernel is in, out of what `apt-cache depends` says.
fn parts_of_kernel(depends: &str) -> BTreeSet<String> {
    let names = depends.lines().filter_map(|line| line.trim().split_once("Depends: ")).map(|(_, name)| name);
    let is_part = |name: &&str| {
        let version =
            ["linux-image-", "linux-binary-", "linux-modules-"].iter().find_map(|kind| name.strip_prefix(kind));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.filter(is_part).map(str::to_owned).collect()
}

/// The directory that has `lib/modules`, and the kernel's release.
fn modules_of(files: &Path) -> Result<(PathBuf, String)> {
    for base in [files.to_path_buf(), files.join("usr")] {
        let Ok(mut entries) = fs::read_dir(base.join("lib/modules")) else { continue };
        if let Some(Ok(release)) = entries.next() {
            return Ok((base, release.file_name().to_string_lossy().into_owned()));
        }
    }
    bail!("{} has no modules of a kernel", files.display())
}

fn busybox(files: &Path) -> Result<PathBuf> {
    let candidates = ["bin/busybox", "usr/bin/busybox"].map(|path| files.join(path));
    candidates.into_iter().find(|path| path.exists()).context("Debian's busybox-static has no busybox")
}

/// Removes modules that no guest needs.
fn prune(kernel: &Path) -> Result<()> {
    let drivers =
        fs::read_dir(kernel.join("drivers")).with_context(|| format!("{} has no drivers", kernel.display()))?;
    let needed = |path: &PathBuf| path.file_name().is_some_and(|name| DRIVERS.iter().any(|kept| name == *kept));
    let superfluous = drivers.flatten().map(|entry| entry.path()).filter(|path| !needed(path));
    for path in superfluous.chain([kernel.join("sound")]).filter(|path| path.is_dir()) {
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// The archive with which a guest begins: BusyBox, the script, and the modules that lead to the root directory.
fn pack(directory: &Path, files: &Path, all: &Path, release: &str) -> Result<()> {
    let tree = directory.join("tree");
    let copy = |from: &Path, to: &Path| -> Result<()> {
        let parent = to.parent().context("a file without a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
    };
    for made in ["dev", "guest", "layer", "machine", "proc", "sbin", "sys", "usr/bin", "usr/sbin"] {
        fs::create_dir_all(tree.join(made)).with_context(|| format!("cannot make {}", tree.display()))?;
    }
    let program = busybox(files)?;
    copy(&program, &tree.join("bin/busybox"))?;
    symlink("/bin/busybox", tree.join("bin/sh")).context("cannot link a shell")?;
    let init = tree.join("init");
    fs::write(&init, INIT)
        .and_then(|()| fs::set_permissions(&init, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", init.display()))?;
    let own = tree.join("lib/modules").join(release);
    let index = fs::read_to_string(all.join("modules.dep")).context("the modules have no index")?;
    for module in with_dependencies(&index, &FIRST_MODULES) {
        copy(&all.join(&module), &own.join(&module))?;
    }
    copy(&all.join("modules.dep"), &own.join("modules.dep"))?;
    let archive = Command::new("sh")
        .args(["-ec", "find . | \"$1\" cpio --create --format newc > \"$2\"", "sh"])
        .args([&program, &directory.join("initramfs.new")])
        .current_dir(&tree)
        .stderr(Stdio::null())
        .status();
    if !archive.is_ok_and(|status| status.success()) {
        bail!("BusyBox's cpio cannot write {}; is the disk full?", directory.display());
    }
    fs::rename(directory.join("initramfs.new"), directory.join("initramfs")).context("cannot rename the initramfs")
}

/// The files of these modules and of those that they need, out of `modules.dep`; what is part of the kernel has none.
fn with_dependencies(index: &str, wanted: &[&str]) -> BTreeSet<String> {
    let name_of = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next().unwrap_or(file).replace('-', "_")
    };
    let mut found = BTreeSet::new();
    for (module, needs) in index.lines().filter_map(|line| line.split_once(':')) {
        if wanted.iter().any(|name| *name == name_of(module)) {
            found.insert(module.to_owned());
            found.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_in_one_package_or_in_parts() {
        let one = "linux-image-amd64\n  Depends: linux-image-6.1.0-41-amd64\n";
        assert_eq!(parts_of_kernel(one), BTreeSet::from(["linux-image-6.1.0-41-amd64".to_owned()]));
        let parts = "linux-image-6.17-amd64\n  PreDepends: linux-base\n  Depends: linux-binary-6.17-amd64\n \
                     |Depends: linux-modules-6.17-amd64\n  Recommends: linux-image-9\n  Depends: linux-image-amd64\n";
        let found: Vec<_> = parts_of_kernel(parts).into_iter().collect();
        assert_eq!(found, ["linux-binary-6.17-amd64", "linux-modules-6.17-amd64"]);
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let index = "kernel/net/9p/9pnet.ko:\nkernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko\n\
                     kernel/net/9p/9pnet-virtio.ko: kernel/net/9p/9pnet.ko\nkernel/net/other.ko:\n";
        let found: Vec<_> = with_dependencies(index, &["9p", "9pnet_virtio", "overlay"]).into_iter().collect();
        assert_eq!(found, ["kernel/fs/9p/9p.ko", "kernel/net/9p/9pnet-virtio.ko", "kernel/net/9p/9pnet.ko"]);
    }
}
