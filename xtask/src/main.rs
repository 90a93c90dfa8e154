//! Tasks around the daemon: tool set-up, the build, the checks, the tests, the demo, the benchmarks, packages, installing.
//!
//! Run as `cargo xtask TASK`. Every task installs what it lacks, or says what to type.

#![allow(
    clippy::disallowed_methods,
    reason = "tasks run compilers and package managers, which bring the listed programs"
)]

mod apt;
mod build;
mod check;
mod compare;
mod dist;
mod exec;
mod files;
mod fuzz;
mod histories;
mod install;
mod lanes;
mod linker;
mod privilege;
mod project;
mod run;
mod rustup;
mod setup;
mod test;
mod toolchain;
mod tools;
mod vm;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::project::Project;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks around link-watcher")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Finds or installs the eBPF toolchain and the tools of the lab
    Setup {
        /// Only say what would be done, and why
        #[arg(long)]
        dry_run: bool,
    },
    /// Installs what the eBPF build lacks, builds the eBPF object and then the daemon
    BuildEbpf,
    /// Format, lints (host and eBPF), docs and dependencies
    Check,
    /// Set-up, build, and every test lane
    Test {
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Set-up, build, and `link-watcher demo ARGS` on this machine
    Demo {
        /// Passed on to `link-watcher demo`, for instance `peer --script`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Set-up, build, and the benchmarks
    Bench {
        /// Passed on to the benchmarks; `--compare` also installs the programs to compare with
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// libFuzzer on every reader of foreign bytes: packets, files, answers of kernel, programs and networks
    Fuzz {
        /// One of the directories of tests/fuzz/corpus; all of them where none is named
        target: Option<String>,
        /// For how long each
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Adds inputs that reach new code to tests/fuzz/corpus
        #[arg(long)]
        keep: bool,
    },
    /// Random lives of routers on a real kernel; one that ends badly is shown with the shortest list of steps that does
    Histories {
        /// So many seeds [default: 10; 1 with --seed; no bound with --minutes]
        #[arg(long)]
        count: Option<u64>,
        /// The first seed; further ones follow it
        #[arg(long)]
        seed: Option<u64>,
        /// Begin none after so many minutes
        #[arg(long)]
        minutes: Option<u64>,
        /// So many at one time
        #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
        jobs: usize,
    },
    /// A long life of two routers on a strained machine: a figure for each promise
    Soak {
        /// For how long
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// What happens; without: what the clock gives
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Tests on Debian's kernels, in QEMU
    Vm {
        /// 6.1, 6.12 or newest; all of them where none is named
        #[arg(value_name = "VERSION")]
        versions: Vec<String>,
        /// Only this file of tests, of link-watcher/tests or tests/tests; may be given more than once
        #[arg(long = "test", value_name = "NAME")]
        tests: Vec<String>,
        /// Only the tests whose name contains this
        #[arg(long)]
        filter: Option<String>,
    },
    /// Builds a Debian package, and a tarball with a static program, below target/dist
    Dist,
    /// Builds and installs the daemon, its unit and, where there is none, an example configuration
    Install {
        /// Where the program goes: PREFIX/sbin/link-watcher
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
    },
    /// Removes what `install` has installed; configuration, keys and state stay
    Uninstall {
        /// As for `install`
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
    },
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    let result = Project::find().and_then(|project| match task {
        Task::Setup { dry_run } => setup::setup(&project, dry_run).map(|()| ExitCode::SUCCESS),
        Task::BuildEbpf => build::build_ebpf(&project).map(|()| ExitCode::SUCCESS),
        Task::Check => Ok(check::check(&project)),
        Task::Test { filter } => test::test(&project, filter.as_deref()),
        Task::Demo { args } => run::demo(&project, &args),
        Task::Bench { args } => run::bench(&project, &args),
        Task::Fuzz { target, seconds, keep } => {
            fuzz::fuzz(&project, target.as_deref(), seconds, keep).map(|()| ExitCode::SUCCESS)
        }
        Task::Histories { count, seed, minutes, jobs } => {
            histories::histories(&project, &histories::Wanted { count, seed, minutes, jobs })
        }
        Task::Soak { minutes, seed } => histories::soak(&project, minutes, seed),
        Task::Vm { versions, tests, filter } => vm::vm(&project, &vm::Wanted { versions, tests, filter }),
        Task::Dist => dist::dist(&project).map(|()| ExitCode::SUCCESS),
        Task::Uninstall { prefix } => install::uninstall(&prefix).map(|()| ExitCode::SUCCESS),
        Task::Install { prefix } => install::install(&project, &prefix).map(|()| ExitCode::SUCCESS),
    });
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
