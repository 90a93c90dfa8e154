//! Makes the eBPF object part of the daemon where it has been built, and leaves a plain build alone where not.
//!
//! `cargo xtask build-ebpf` leaves the object at `target/bpf/link-watcher.bpf.o`. Without it the daemon embeds an empty
//! object, so that `cargo check` and `cargo build` need no eBPF toolchain; see `src/bpf_object.rs`.

use std::path::Path;
use std::{env, fs, io};

fn main() {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    let out = env::var_os("OUT_DIR").expect("cargo sets it for build scripts");
    let directory = Path::new(&manifest).join("../target/bpf");
    let object = directory.join("link-watcher.bpf.o");

    // cargo reruns the script at every build while a watched path is missing, and with it recompiles the crate. So the
    // directory is watched, not the file in it. If it cannot be made, the price is only those builds.
    let _ = fs::create_dir_all(&directory);
    println!("cargo::rerun-if-changed={}", directory.display());
    println!("cargo::rerun-if-changed=build.rs");

    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("cannot read {}: {error}; remove it, or run `cargo xtask build-ebpf`", object.display()),
    };
    // A copy, so that compiling never reads a file that is being replaced.
    let copy = Path::new(&out).join("link-watcher.bpf.o");
    if let Err(error) = fs::write(&copy, bytes) {
        panic!("cannot write {}: {error}; is the disk full?", copy.display());
    }
}
