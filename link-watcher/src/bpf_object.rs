//! The eBPF object that `cargo xtask build-ebpf` built into this executable.

/// ELF headers are read in place, so the bytes must start where a 64-bit field may.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/link-watcher.bpf.o")));

/// The embedded eBPF object, an ELF file aligned to 8 bytes.
///
/// `None` in a build that was made without `cargo xtask build-ebpf`; such a daemon has the socket engine only.
#[must_use]
pub fn bpf_object() -> Option<&'static [u8]> {
    Some(&OBJECT.0).filter(|object| !object.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_absent_or_an_aligned_elf_file() {
        if let Some(object) = bpf_object() {
            assert_eq!(&object[..4], b"\x7fELF");
            assert_eq!(object.as_ptr() as usize % 8, 0);
        }
    }
}
