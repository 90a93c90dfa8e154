//! `cleanup`: removes what any run of this instance has left in the kernel.

use rustix::process::geteuid;

use super::{Arguments, Exit, Failure, output::print};
use crate::{cleanup::Cleanup, config, log};

pub(super) fn run(arguments: &Arguments, instance: Option<String>, dry_run: bool) -> Result<(), Failure> {
    if !geteuid().is_root() {
        let why = "link-watcher: cleanup reads what only root may read, and removes what only root may remove: run it as root";
        return Err(Failure::new(Exit::Privilege, why));
    }
    let instance = match (config::instance_of(&arguments.config_path()), &arguments.config) {
        _ if instance.is_some() => instance,
        (Ok(instance), _) => instance,
        // Nobody named a file, and it may be gone already: then it is the instance without a name.
        (Err(_), None) => None,
        (Err(refused), Some(_)) => return Err((&refused).into()),
    };
    let failed = |why: String| Failure::new(Exit::Failed, format!("link-watcher: {why}"));
    let cleanup = Cleanup::plan(instance.as_deref()).map_err(failed)?;
    let lines = cleanup.lines();
    if let Some(left) = cleanup.left() {
        log::say(&format!("link-watcher: {left}"));
    }
    if lines.is_empty() {
        return print("nothing of link-watcher is left in the kernel\n");
    }
    let done = if dry_run { "would be removed" } else { "removed" };
    let problems = if dry_run { Vec::new() } else { cleanup.carry_out() };
    if !problems.is_empty() {
        return Err(failed(problems.join("\nlink-watcher: ")));
    }
    let lines: String = lines.iter().map(|line| format!("{done}: {line}\n")).collect();
    print(&lines)
}
