//! What is installed where: one list for packages, `install` and `uninstall`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};

use crate::project::Project;

/// The program's path in the unit as it is in the repository.
const PROGRAM_IN_UNIT: &str = "/usr/sbin/link-watcher";

/// Where things go.
pub(crate) struct Layout {
    prefix: PathBuf,
    units: PathBuf,
    /// Below the prefix: where zsh of this layout looks.
    zsh: &'static str,
    /// Debian's checker of packages looks at it.
    lintian: bool,
}

impl Layout {
    /// A package of Debian's kind.
    pub(crate) fn package() -> Self {
        Self { zsh: "share/zsh/vendor-completions", lintian: true, ..Self::rpm() }
    }

    /// A package of Red Hat's kind.
    pub(crate) fn rpm() -> Self {
        let units = "/usr/lib/systemd/system".into();
        Self { prefix: "/usr".into(), units, zsh: "share/zsh/site-functions", lintian: false }
    }

    /// Beside what packages own.
    pub(crate) fn local(prefix: &Path) -> Self {
        Self { prefix: prefix.into(), units: "/etc/systemd/system".into(), ..Self::rpm() }
    }

    /// The program's path.
    pub(crate) fn program(&self) -> PathBuf {
        self.prefix.join("sbin/link-watcher")
    }

    /// The directory that is ours alone.
    pub(crate) fn documentation(&self) -> PathBuf {
        self.prefix.join("share/doc/link-watcher")
    }

    /// Every file, sorted by path.
    pub(crate) fn files(&self) -> Vec<File> {
        let share = |path: &str| self.prefix.join("share").join(path);
        let plain = |path: PathBuf, content: Content| File { path, mode: 0o644, content, compressed: false };
        let page = |name: &str, arguments: &'static [&'static str]| File {
            compressed: true,
            ..plain(share(&format!("man/man{}/{name}.gz", &name[name.len() - 1..])), Content::Printed(arguments))
        };
        let mut files = vec![
            File { mode: 0o755, ..plain(self.program(), Content::Program) },
            plain(self.units.join("link-watcher.service"), Content::Unit),
            // So that `ip route` shows a name instead of 208.
            plain("/etc/iproute2/rt_protos.d/link-watcher.conf".into(), Content::Copied("packaging/rt_protos.conf")),
            page("link-watcher.8", &["man"]),
            page("link-watcher.toml.5", &["man", "link-watcher.toml"]),
            plain(share("bash-completion/completions/link-watcher"), Content::Printed(&["completions", "bash"])),
            plain(self.prefix.join(self.zsh).join("_link-watcher"), Content::Printed(&["completions", "zsh"])),
            plain(share("fish/vendor_completions.d/link-watcher.fish"), Content::Printed(&["completions", "fish"])),
            plain(self.documentation().join("copyright"), Content::Copied("packaging/copyright")),
            File {
                compressed: true,
                ..plain(self.documentation().join("changelog.gz"), Content::Copied("packaging/changelog"))
            },
            plain(
                self.documentation().join("examples/link-watcher.toml"),
                Content::Copied("link-watcher/examples/link-watcher.toml"),
            ),
            plain(
                self.documentation().join("examples/uplinks.toml"),
                Content::Copied("link-watcher/examples/uplinks.toml"),
            ),
        ];
        if self.lintian {
            let overrides = Content::Copied("packaging/deb/lintian-overrides");
            files.push(plain(share("lintian/overrides/link-watcher"), overrides));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }
}

/// A file that is installed.
pub(crate) struct File {
    /// Where it goes, absolute.
    pub(crate) path: PathBuf,
    /// Permission bits.
    pub(crate) mode: u32,
    content: Content,
    compressed: bool,
}

/// Where a file's content comes from.
enum Content {
    /// The daemon.
    Program,
    /// A file of the repository.
    Copied(&'static str),
    /// The unit, with the program's path.
    Unit,
    /// What the program prints.
    Printed(&'static [&'static str]),
}

impl File {
    /// What is in it, where `daemon` is the program that was built.
    ///
    /// # Errors
    ///
    /// Where a file of the repository cannot be read, or the program does not print what it should.
    pub(crate) fn bytes(&self, project: &Project, daemon: &Path, layout: &Layout) -> Result<Vec<u8>> {
        let read = |path: &Path| {
            fs::read(path).with_context(|| format!("{} cannot be read; is the checkout complete?", path.display()))
        };
        let bytes = match self.content {
            Content::Program => read(daemon)?,
            Content::Copied(path) => read(&project.root.join(path))?,
            Content::Unit => {
                let program = layout.program();
                let program = program.to_str().context("--prefix must be valid UTF-8, systemd wants it so")?;
                let unit = read(&project.root.join("packaging/link-watcher.service"))?;
                String::from_utf8(unit).context("the unit is text")?.replace(PROGRAM_IN_UNIT, program).into_bytes()
            }
            Content::Printed(arguments) => printed(daemon, arguments)?,
        };
        if !self.compressed {
            return Ok(bytes);
        }
        // Neither time nor name inside, so that the same text makes the same file.
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        encoder.write_all(&bytes).and_then(|()| encoder.finish()).context("compressing in memory")
    }
}

/// What the program prints on its standard output.
///
/// # Errors
///
/// Where it fails, or prints nothing.
pub(crate) fn printed(program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {}; build again", program.display()))?;
    let good = output.status.success() && !output.stdout.is_empty();
    ensure!(good, "`{} {}` printed nothing ({})", program.display(), arguments.join(" "), output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_installation_has_the_same_files_outside_of_what_packages_own() {
        let names = |layout: Layout| {
            let names = layout.files().into_iter().filter_map(|file| Some(file.path.file_name()?.to_owned()));
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        let local = || Layout::local(Path::new("/usr/local"));
        assert_eq!(names(Layout::rpm()), names(local()));
        assert_eq!(names(Layout::package()).len(), names(local()).len() + 1, "lintian's overrides");
        for file in local().files() {
            let path = file.path;
            assert!(path.starts_with("/usr/local") || path.starts_with("/etc"), "{}", path.display());
        }
    }
}
