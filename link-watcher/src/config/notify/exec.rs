//! `kind = "exec"`.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    config::{Severity, section::Section},
    trust,
};

const EXAMPLE: &str = "[\"/usr/local/bin/page\", \"--link\"]";
/// Most arguments.
const MAX_ARGUMENTS: usize = 32;

/// A program that is run for each message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecConfig {
    /// Its file, an absolute path.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
}

impl ExecConfig {
    /// Whether the program can be run, and is what root wants run: else why not, and what to do.
    pub(crate) fn usable(&self) -> Result<(), (String, String)> {
        let shown = self.program.display();
        let (message, help) = match self.program.metadata() {
            Err(error) => (format!("the program {shown} cannot be run: {error}"), "name one that is there".to_owned()),
            Ok(metadata) if !metadata.is_file() => {
                (format!("{shown} is not a program's file"), "name one that is".to_owned())
            }
            Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
                (format!("the program {shown} is not executable"), format!("chmod 755 {shown}"))
            }
            Ok(_) => match trust::check(&self.program) {
                Ok(()) => return Ok(()),
                Err(untrusted) => (format!("the program {shown} is not safe to run: {untrusted}"), untrusted.remedy()),
            },
        };
        Err((message, help))
    }
}

pub(super) fn read(section: &Section<'_>, absent: Severity) -> Option<ExecConfig> {
    let Some(value) = section.get("command") else {
        section.missing("command", EXAMPLE);
        return None;
    };
    if section.is_empty("command") {
        section.findings.error(&value.span(), "`command` is empty", format!("write command = {EXAMPLE}"));
    }
    let mut words = section.strings("command", EXAMPLE).into_iter();
    let program = words.next()?;
    let arguments: Vec<String> = words.map(toml::Spanned::into_inner).collect();
    if arguments.len() > MAX_ARGUMENTS {
        let help = format!("{MAX_ARGUMENTS} are the most; a script can have more");
        section.findings.error(&value.span(), format!("`command` has {} arguments", arguments.len()), help);
    }
    let path = Path::new(program.get_ref());
    if !path.is_absolute() || arguments.iter().chain([program.get_ref()]).any(|word| word.contains('\0')) {
        section.findings.error(
            &program.span(),
            format!("`command` cannot begin with \"{}\"", program.get_ref()),
            format!("write the whole path of a program, and each argument by itself: {EXAMPLE}; there is no shell"),
        );
        return None;
    }
    let config = ExecConfig { program: path.to_owned(), arguments };
    if let Err((message, help)) = config.usable() {
        section.findings.add(absent, &program.span(), message, help, false);
    }
    Some(config)
}
