//! Running other programs: shown before they run, and every failure with its remedy.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A command as one would type it in a shell, with the variables that were set for it.
pub(crate) fn render(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(value))));
    variables.chain([quoted(command.get_program())]).chain(command.get_args().map(quoted)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Shows the command, and runs it with this process's terminal.
///
/// # Errors
///
/// Says which command failed and how, and then `remedy`.
pub(crate) fn run(command: &mut Command, remedy: &str) -> Result<()> {
    eprintln!("$ {}", render(command));
    let status = command.status().with_context(|| format!("cannot run `{}`; {remedy}", render(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}); {remedy}", render(command));
    }
    Ok(())
}

/// What a command prints on its standard output; nothing where it cannot run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes out of a command's environment what ties it to the toolchain that runs this task.
pub(crate) fn forget_toolchain(command: &mut Command) -> &mut Command {
    const OF_THIS_TOOLCHAIN: [&str; 8] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    for name in OF_THIS_TOOLCHAIN {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command.args(["test", "--test", "bpf_*", ""]).env("A", "b c").env_remove("D");
        assert_eq!(render(&command), "A='b c' cargo test --test 'bpf_*' ''");
    }
}
