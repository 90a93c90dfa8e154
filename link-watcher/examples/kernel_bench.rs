fn main() {
    let object = std::fs::read("target/bpf/link-watcher.bpf.o").unwrap();
    let dir = std::path::Path::new("/sys/fs/bpf/link-watcher/kernel-bench");
    match link_watcher::bpf::measure(&object, dir, 1) {
        Ok(m) => {
            for c in m {
                println!("{:24} {:5} {:?}", c.name, c.target_ns, c.ns)
            }
        }
        Err(e) => println!("{e}"),
    }
    println!("sha2 {}", link_watcher::bpf::measure_sha2());
}
