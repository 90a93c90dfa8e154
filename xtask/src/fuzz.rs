//! `cargo xtask fuzz`: libFuzzer on every reader of foreign bytes.
//!
//! It needs no nightly: the compiler's coverage pass is asked for by stable flags, and the fuzzer's runtime comes from
//! crates.io and is built by a C++ compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::{apt, exec};

/// The triple is named, so that the flags are for the program and not for build scripts.
fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// What libFuzzer wants to see (Clang's documentation of SanitizerCoverage). One unit: the pass keeps a table for each.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Longest input, bytes: as the test of the corpora takes it.
const MAX_LEN: usize = 16 * 1024;
/// Memory that an input may take, MiB, and time, seconds: more is a fault.
const LIMITS: [&str; 2] = ["-rss_limit_mb=1024", "-timeout=10"];

/// Fuzzes one target, or all, for so many seconds each; `keep` adds what reaches new code to the kept corpora.
///
/// # Errors
///
/// As the compilers; and where a target fails, with the input's file and how to try it again.
pub(crate) fn fuzz(project: &Project, target: Option<&str>, seconds: u32, keep: bool) -> Result<()> {
    let corpora = project.root.join("tests/fuzz/corpus");
    let known = names(&corpora)?;
    let chosen: Vec<&String> = known.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no target {}; there are: {}", target.unwrap_or_default(), known.join(", "));
    }
    let program = build(project)?;
    let mut failed = Vec::new();
    for name in chosen {
        let work = project.target.join("fuzz").join("corpus").join(name);
        let artifacts = project.target.join("fuzz").join("artifacts").join(name);
        for directory in [&work, &artifacts] {
            fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        let kept = corpora.join(name);
        let mut run = Command::new(&program);
        run.env("LINK_WATCHER_FUZZ_TARGET", name).args(LIMITS).args([
            format!("-max_len={MAX_LEN}"),
            format!("-max_total_time={seconds}"),
            format!("-artifact_prefix={}/", artifacts.display()),
            "-print_final_stats=1".to_owned(),
        ]);
        run.arg(&work).arg(&kept);
        if let Err(error) = exec::run(&mut run, &again(name, &program, &artifacts)) {
            eprintln!("{error:#}");
            failed.push(name.as_str());
        } else if keep {
            let mut merge = Command::new(&program);
            merge.env("LINK_WATCHER_FUZZ_TARGET", name).args(LIMITS).arg("-merge=1").arg(&kept).arg(&work);
            exec::run(&mut merge, "the corpus stays as it was")?;
        }
    }
    if !failed.is_empty() {
        bail!("broken by some input: {}; the messages above say which", failed.join(", "));
    }
    Ok(())
}

/// The targets are those that have a corpus: a test holds one against the other.
fn names(corpora: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpora).with_context(|| format!("reading {}", corpora.display()))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

fn again(name: &str, program: &Path, artifacts: &Path) -> String {
    format!(
        "the input is below {}; to try it again: LINK_WATCHER_FUZZ_TARGET={name} {} FILE; once it is mended, its file belongs \
         into tests/fuzz/corpus/{name}",
        artifacts.display(),
        program.display()
    )
}

fn build(project: &Project) -> Result<PathBuf> {
    if link_watcher_programs::find("c++").is_none() {
        apt::install(&["g++".to_owned()], "libFuzzer's runtime (a C++ compiler)")?;
    }
    let directory = project.target.join("fuzz").join("build");
    let host = host();
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", host.replace('-', "_").to_uppercase());
    let mut command = project.cargo();
    command.args(["build", "--package", "link-watcher-fuzz", "--features", "libfuzzer", "--bin", "fuzz"]);
    command.args(["--target", &host, "--target-dir"]).arg(&directory).env(variable, FLAGS);
    // Fast, and all checks of arithmetic stay.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "2").env("CARGO_PROFILE_DEV_CODEGEN_UNITS", "1");
    command.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
    exec::run(&mut command, "the compiler's message above says why")?;
    Ok(directory.join(host).join("debug").join("fuzz"))
}
