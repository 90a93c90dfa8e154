//! A Debian package: an `ar` of three members, deb(5). The same content makes the same bytes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use md5::{Digest as _, Md5};

use super::{DESCRIPTION, DIRECTORY};
use crate::project::Project;

const SUMMARY: &str = "keeps a router with several links on one that works";

/// A file with its content.
pub(crate) struct Packed {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
}

/// What Debian calls this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "x86" => "i386",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

/// The package's bytes.
///
/// # Errors
///
/// Where a maintainer script cannot be read.
pub(crate) fn build(project: &Project, files: &[Packed], version: &str, epoch: u64) -> Result<Vec<u8>> {
    let program = files.iter().find(|file| file.mode & 0o111 != 0).context("the program is among the files")?;
    let mut control = vec![
        member("control", 0o644, control(files, &program.bytes, version).into_bytes()),
        member("conffiles", 0o644, conffiles(files).into_bytes()),
        member("md5sums", 0o644, md5sums(files).into_bytes()),
    ];
    for script in ["postinst", "postrm", "prerm"] {
        let path = project.root.join("packaging/deb").join(script);
        let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        control.push(member(script, 0o755, bytes));
    }
    control.sort_by(|a, b| a.path.cmp(&b.path));

    let mut package = ar::Builder::new(Vec::new());
    let parts = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", archive(&control, &[], ".", epoch)?),
        ("data.tar.gz", archive(files, &[Path::new(DIRECTORY)], ".", epoch)?),
    ];
    for (name, bytes) in parts {
        let mut header = ar::Header::new(name.into(), bytes.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(epoch);
        package.append(&header, &bytes[..]).context("packing in memory")?;
    }
    package.into_inner().context("packing in memory")
}

fn member(name: &str, mode: u32, bytes: Vec<u8>) -> Packed {
    Packed { path: Path::new("/").join(name), mode, bytes }
}

fn control(files: &[Packed], program: &[u8], version: &str) -> String {
    // deb-control(5): further lines begin with a space, and an empty one is a dot.
    let described: String =
        DESCRIPTION.lines().map(|line| format!(" {}\n", if line.is_empty() { "." } else { line })).collect();
    let kibibytes: usize = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum();
    format!(
        "Package: link-watcher\nVersion: {version}\nArchitecture: {}\n\
         Maintainer: The link-watcher authors <link-watcher@example.org>\nInstalled-Size: {kibibytes}\n\
         Depends: libc6 (>= {}), libgcc-s1\n\
         Recommends: nftables\nSuggests: iproute2, bpftool\nSection: net\nPriority: optional\n\
         Description: {SUMMARY}\n{described}",
        architecture(),
        glibc(program),
    )
}

/// The newest glibc that a program needs, from the names of the versions of its symbols; at least the oldest that Rust
/// itself supports.
fn glibc(program: &[u8]) -> String {
    const MARK: &[u8] = b"GLIBC_2.";
    let minors = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).filter_map(|(at, _)| {
        let digits: String = program[at + MARK.len()..]
            .iter()
            .take(4)
            .map(|byte| char::from(*byte))
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<u32>().ok()
    });
    format!("2.{}", minors.max().unwrap_or(17))
}

/// What below /etc the administrator may change and keeps.
fn conffiles(files: &[Packed]) -> String {
    files.iter().filter(|file| file.path.starts_with("/etc")).map(|file| format!("{}\n", file.path.display())).collect()
}

fn md5sums(files: &[Packed]) -> String {
    let others = files.iter().filter(|file| !file.path.starts_with("/etc"));
    others
        .map(|file| {
            let sum: String = Md5::digest(&file.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{sum}  {}\n", file.path.display().to_string().trim_start_matches('/'))
        })
        .collect()
}

/// A compressed tar of `files` and the directories above them, below `top`, all of them root's and of one instant.
///
/// # Errors
///
/// Where a path is too long for tar.
pub(crate) fn archive(files: &[Packed], directories: &[&Path], top: &str, epoch: u64) -> Result<Vec<u8>> {
    let mut above: Vec<PathBuf> = files.iter().filter_map(|file| file.path.parent().map(Path::to_path_buf)).collect();
    above.extend(directories.iter().map(|path| path.to_path_buf()));
    let mut folders: Vec<PathBuf> =
        above.iter().flat_map(|path| path.ancestors().map(Path::to_path_buf).collect::<Vec<_>>()).collect();
    folders.sort();
    folders.dedup();

    let encoder: GzEncoder<Vec<u8>> = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(encoder);
    let below = |path: &Path| format!("{top}{}", path.display());
    for folder in folders {
        let mut header = header(tar::EntryType::Directory, 0o755, 0, epoch)?;
        let name = below(&folder);
        tar.append_data(&mut header, format!("{}/", name.trim_end_matches('/')), &[][..])?;
    }
    for file in files {
        let mut header = header(tar::EntryType::Regular, file.mode, file.bytes.len() as u64, epoch)?;
        tar.append_data(&mut header, below(&file.path), &file.bytes[..])?;
    }
    let mut encoder = tar.into_inner().context("packing in memory")?;
    encoder.flush().context("packing in memory")?;
    encoder.finish().context("packing in memory")
}

fn header(kind: tar::EntryType, mode: u32, size: u64, epoch: u64) -> Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(epoch);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root").and_then(|()| header.set_groupname("root")).context("a tar header")?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_newest_glibc_counts() {
        assert_eq!(glibc(b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0"), "2.34");
        assert_eq!(glibc(b"static"), "2.17");
    }

    #[test]
    fn the_description_goes_on_in_lines_that_begin_with_a_space() {
        let control = control(&[], b"", "1.2.3");
        assert!(control.contains("\nDescription: keeps a router "), "{control}");
        assert!(
            control.contains("works\n Two routers joined ") && control.contains(" those that work.\n .\n Nothing ")
        );
        assert!(control.ends_with("/link-watcher.toml.\n"), "{control}");
    }

    #[test]
    fn an_archive_has_the_directories_above_its_files_first_and_is_the_same_twice() {
        let files = || vec![Packed { path: "/usr/sbin/x".into(), mode: 0o755, bytes: b"1".to_vec() }];
        let once = archive(&files(), &[Path::new("/etc/y")], ".", 1).unwrap();
        assert_eq!(once, archive(&files(), &[Path::new("/etc/y")], ".", 1).unwrap());
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&once[..]));
        let names: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into()).unwrap())
            .collect();
        assert_eq!(names, ["./", "etc/", "etc/y/", "usr/", "usr/sbin/", "usr/sbin/x"]);
    }
}
