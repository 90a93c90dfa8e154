//! `[daemon] control-group`: who besides root may ask what is so.

use nix::unistd::Group;

use super::{diagnostic::Severity, section::Section};

/// A group of this machine's users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlGroup {
    /// Its name.
    pub name: String,
    /// Its number; nothing where this machine does not know it (yet): then the socket stays root's.
    pub gid: Option<u32>,
}

/// Reads it. A group that this machine does not know is as bad as `absent` says: a daemon that starts before a directory
/// server answers watches its links all the same.
pub(super) fn read(section: &Section<'_>, absent: Severity) -> Option<ControlGroup> {
    let name = section.string("control-group", "\"netadmin\"")?;
    // Those of /etc/group are found at once; only for another one the machine may ask a server.
    let (gid, problem) = match Group::from_name(name.get_ref()) {
        Ok(Some(group)) => (Some(group.gid.as_raw()), None),
        Ok(None) => (None, Some(format!("there is no group {} here", name.get_ref()))),
        Err(error) => (None, Some(format!("the group {} cannot be looked up: {}", name.get_ref(), error.desc()))),
    };
    if let Some(problem) = problem {
        let help = "`getent group` lists those that there are, `groupadd` makes one";
        section.findings.add(absent, &name.span(), problem, help.to_owned(), false);
    }
    Some(ControlGroup { name: name.into_inner(), gid })
}
