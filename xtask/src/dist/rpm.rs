//! An RPM package, with the program that needs no library: it runs on whatever uses RPM. Not signed: who distributes it signs it.

use std::{env, fs};

use anyhow::{Context as _, Result};
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder};

use super::{DESCRIPTION, DIRECTORY, deb::Packed};
use crate::project::Project;

const SUMMARY: &str = "Keeps a router with several links on one that works";

/// The file's name.
pub(crate) fn name(version: &str) -> String {
    format!("link-watcher-{version}-1.{}.rpm", env::consts::ARCH)
}

/// The package's bytes: the same content makes the same ones.
///
/// # Errors
///
/// Where a script cannot be read.
pub(crate) fn build(project: &Project, files: Vec<Packed>, version: &str, epoch: u64) -> Result<Vec<u8>> {
    let script = |name: &str| {
        let path = project.root.join("packaging/rpm").join(name);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    pack(files, version, epoch, [script("post")?, script("preun")?, script("postun")?])
}

fn pack(files: Vec<Packed>, version: &str, epoch: u64, scripts: [String; 3]) -> Result<Vec<u8>> {
    let epoch = u32::try_from(epoch).context("the instant of the files is past 2106")?;
    let mut package = PackageBuilder::new("link-watcher", version, "MIT OR Apache-2.0", env::consts::ARCH, SUMMARY);
    package
        .using_config(BuildConfig::v4().source_date(epoch).compression(CompressionType::Gzip))
        .release("1")
        .description(DESCRIPTION)
        .recommends(Dependency::any("nftables"))
        .suggests(Dependency::any("iproute"))
        .suggests(Dependency::any("bpftool"))
        .with_dir_entry(FileOptions::dir(DIRECTORY).permissions(0o755))?;
    for Packed { path, mode, bytes } in files {
        let text = path.to_str().context("the paths of a package are UTF-8")?;
        let options = FileOptions::new(text).permissions(u16::try_from(mode).context("permission bits")?);
        // What below /etc the administrator has changed stays.
        let options = if path.starts_with("/etc") { options.config().noreplace() } else { options };
        package.with_file_contents(bytes, options)?;
    }
    let [post, preun, postun] = scripts;
    package.post_install_script(post).pre_uninstall_script(preun).post_uninstall_script(postun);
    let mut bytes = Vec::new();
    package.build()?.write(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_package_has_its_files_and_scripts_and_is_the_same_twice() {
        let file = |path: &str, mode| Packed { path: path.into(), mode, bytes: path.as_bytes().to_vec() };
        let once = || {
            let files = vec![file("/usr/sbin/x", 0o755), file("/etc/y.conf", 0o644)];
            pack(files, "1.2.3", 1_700_000_000, ["a", "b", "c"].map(str::to_owned)).unwrap()
        };
        let bytes = once();
        assert_eq!(bytes, once());
        let package = rpm::Package::parse(&mut &bytes[..]).unwrap();
        let metadata = &package.metadata;
        assert_eq!((metadata.get_name().unwrap(), metadata.get_version().unwrap()), ("link-watcher", "1.2.3"));
        let entries = metadata.get_file_entries().unwrap();
        let mut found: Vec<_> = entries.iter().map(|entry| (entry.path().to_owned(), entry.permissions())).collect();
        found.sort();
        let wanted = [(DIRECTORY, 0o755), ("/etc/y.conf", 0o644), ("/usr/sbin/x", 0o755)];
        assert_eq!(found, wanted.map(|(path, mode)| (path.into(), mode)));
        assert_eq!(metadata.get_pre_uninstall_script().unwrap().script, "b");
    }
}
