//! Running a program to its end: within a time, with bounded output.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use super::{Program, SYSTEM_DIRECTORIES, own};

/// Octets of its standard output that are read.
const STDOUT_LEN_MAX: u64 = 4 << 20;
/// Octets of its complaints that are read.
const STDERR_LEN_MAX: u64 = 16 << 10;

/// How a program ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it is content.
    pub status: ExitStatus,
    /// Its standard output, at most 4 MiB of it.
    pub stdout: String,
    /// Its standard error output, at most 16 KiB of it.
    pub stderr: String,
}

/// Why a program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not installed.
    #[error("the program {0} is not installed: apt install {package}", package = .0.packages[0])]
    Missing(Program),
    /// It could not be started or waited for.
    #[error("the program {0} could not be run: {1}")]
    Failed(Program, #[source] io::Error),
    /// It took too long and was ended.
    #[error("the program {0} did not finish within {limit} s; is the machine overloaded?", limit = .1.as_secs_f64())]
    TimedOut(Program, Duration),
}

impl From<RunError> for io::Error {
    fn from(error: RunError) -> Self {
        let kind = match &error {
            RunError::Missing(_) => io::ErrorKind::NotFound,
            RunError::Failed(_, error) => error.kind(),
            RunError::TimedOut(..) => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, error)
    }
}

impl Program {
    /// Runs it with `input` on its standard input and in the C locale, so that its complaints can be read; ends it when it
    /// takes longer than `limit`. That it failed is for the caller to see from its status.
    ///
    /// # Errors
    ///
    /// Where it is not installed, cannot be started, or takes too long.
    pub fn run(self, arguments: &[&str], input: &str, limit: Duration) -> Result<Output, RunError> {
        let failed = |error| RunError::Failed(self, error);
        let mut command = self.command();
        command.args(arguments).env("LC_ALL", "C");
        let ended = execute(&mut command, input, limit, Reach::Process).map_err(|error| match error {
            Failure::Start(error) if error.kind() == io::ErrorKind::NotFound => RunError::Missing(self),
            Failure::Start(error) | Failure::Handle(error) => failed(error),
        })?;
        ended.ok_or(RunError::TimedOut(self, limit))
    }
}

/// Runs what the administrator's configuration names, by its whole path and without a shell: with this environment and
/// nothing of our own but a search path, and with `input` on its standard input. It is ended, with all that it has started
/// and that has stayed in its process group, when it takes longer than `limit`. That it failed is for the caller to see from
/// its status.
///
/// # Errors
///
/// Where it cannot be started; [`io::ErrorKind::TimedOut`] where it takes too long.
pub fn run_configured(
    path: &Path,
    arguments: &[String],
    environment: &[(&str, String)],
    input: &str,
    limit: Duration,
) -> io::Result<Output> {
    let mut command = own(path);
    command.args(arguments).env_clear().env("PATH", SYSTEM_DIRECTORIES.join(":")).process_group(0);
    command.envs(environment.iter().map(|(name, value)| (name, value))).current_dir("/");
    let ended = execute(&mut command, input, limit, Reach::Group).map_err(|error| match error {
        Failure::Start(error) | Failure::Handle(error) => error,
    })?;
    ended.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not finish within {} s, and was ended", limit.as_secs_f64()),
        )
    })
}

/// What is ended when it takes too long.
#[derive(Clone, Copy)]
enum Reach {
    /// What was started.
    Process,
    /// And all of its process group, which is its own.
    Group,
}

/// Why nothing came of a command.
enum Failure {
    /// It could not be started.
    Start(io::Error),
    /// It could not be given its input or be waited for.
    Handle(io::Error),
}

/// Runs a command to its end; ends it, and gives nothing, when it takes longer than `limit`.
fn execute(command: &mut Command, input: &str, limit: Duration, reach: Reach) -> Result<Option<Output>, Failure> {
    // Everything goes through files in memory, so that neither side ever waits for the other to read.
    let prepare = || {
        let mut stdin = memory("input")?;
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        io::Result::Ok((stdin, memory("output")?, memory("complaints")?))
    };
    let (stdin, mut stdout, mut stderr) = prepare().map_err(Failure::Handle)?;
    command.stdin(Stdio::from(stdin));
    command.stdout(stdout.try_clone().map_err(Failure::Handle)?);
    command.stderr(stderr.try_clone().map_err(Failure::Handle)?);
    let mut child = command.spawn().map_err(Failure::Start)?;
    let Some(status) = wait(&mut child, limit, reach).map_err(Failure::Handle)? else { return Ok(None) };
    Ok(Some(Output {
        status,
        stdout: read(&mut stdout, STDOUT_LEN_MAX).map_err(Failure::Handle)?,
        stderr: read(&mut stderr, STDERR_LEN_MAX).map_err(Failure::Handle)?,
    }))
}

fn memory(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC).map(File::from)?)
}

fn read(file: &mut File, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for the program to end; ends it, and gives nothing, when it takes too long.
fn wait(child: &mut Child, limit: Duration, reach: Reach) -> io::Result<Option<ExitStatus>> {
    let ended = ends_within(child, limit);
    if !matches!(ended, Ok(true)) {
        // It may have ended meanwhile; in either case it is waited for below.
        let _ = match reach {
            Reach::Process => child.kill(),
            Reach::Group => kill_process_group(Pid::from_child(child), Signal::KILL).map_err(io::Error::from),
        };
    }
    let status = child.wait()?;
    Ok(ended?.then_some(status))
}

fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{GREP, Purpose, SH, SLEEP};

    const AMPLE: Duration = Duration::from_secs(60);

    #[test]
    fn what_it_writes_comes_back_with_its_status() {
        let output = SH.run(&["-c", "echo well; echo $LC_ALL >&2; exit 3"], "", AMPLE).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("well\n", "C\n"));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn more_than_a_pipe_holds_goes_in_and_out() {
        let input = "a line\n".repeat(100_000);
        let output = GREP.run(&["-n", "line"], &input, AMPLE).unwrap();
        assert!(output.stdout.ends_with("\n100000:a line\n"));
    }

    #[test]
    fn output_without_end_is_cut_off() {
        let output = GREP.run(&["-n", ""], &"\n".repeat(700_000), AMPLE).unwrap();
        assert_eq!(output.stdout.len() as u64, STDOUT_LEN_MAX);
    }

    #[test]
    fn one_that_takes_too_long_is_ended() {
        let begin = Instant::now();
        let error = SLEEP.run(&["60"], "", Duration::from_millis(50)).unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(30));
        assert_eq!(error.to_string(), "the program sleep did not finish within 0.05 s; is the machine overloaded?");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn one_that_is_not_installed_is_named_with_its_package() {
        let program = Program { name: "no-such-program", packages: &["no-package", "x"], purpose: Purpose::Work };
        let error = program.run(&[], "", AMPLE).unwrap_err();
        assert_eq!(error.to_string(), "the program no-such-program is not installed: apt install no-package");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_configured_has_its_own_environment_and_no_shell() {
        let run = |script: &str, limit| {
            let arguments = ["-c".to_owned(), script.to_owned(), "x".to_owned(), "a b; c".to_owned()];
            run_configured(&SH.path().unwrap(), &arguments, &[("LW_LINK", "optic".to_owned())], "well\n", limit)
        };
        let output = run("read line; echo $LW_LINK $line \"$1\" ${HOME-none}; pwd; exit 3", AMPLE).unwrap();
        assert_eq!((output.stdout.as_str(), output.status.code()), ("optic well a b; c none\n/\n", Some(3)));
        let begin = Instant::now();
        let late = run("sleep 60 & wait", Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(30));
        let missing = run_configured(Path::new("/no/such/program"), &[], &[], "", AMPLE).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
