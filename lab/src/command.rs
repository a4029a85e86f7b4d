//! Programs of the host, run to their end: each with a deadline, its output in a log file, and an error that says
//! what was run, what it said last, where the rest is, and what to do.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Lines of the log that an error shows.
const SHOWN: usize = 20;
/// Time a program has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    log: PathBuf,
    deadline: Duration,
    advice: String,
}

impl Command {
    /// `program` with its output appended to `log`, and a minute of time.
    pub fn new(program: impl AsRef<OsStr>, log: &Path) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
            folder: None,
            log: log.to_owned(),
            deadline: Duration::from_secs(60),
            advice: String::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The folder to run in.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// The time after which the program is ended.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What a person should do when it fails: a sentence for the end of the error.
    #[must_use]
    pub fn advice(mut self, advice: &str) -> Self {
        advice.clone_into(&mut self.advice);
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// If it cannot be started, fails, or takes longer than its deadline.
    pub fn run(&self) -> Result<()> {
        let (log, start) = self.open_log()?;
        self.finish(Stdio::from(log), start)
    }

    /// Runs it and returns its standard output (at most what fits into memory); only standard error is logged.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub fn output(&self) -> Result<Vec<u8>> {
        // A file instead of a pipe: nothing to drain, and a grandchild that keeps it open cannot make this hang.
        let (_, start) = self.open_log()?;
        let mut output = unnamed_file()?;
        self.finish(Stdio::from(output.try_clone()?), start)?;
        output.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Runs it with its standard output in a new file.
    ///
    /// # Errors
    /// As [`Command::run`], or if the file cannot be made.
    pub fn output_to(&self, path: &Path) -> Result<()> {
        let (_, start) = self.open_log()?;
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        self.finish(Stdio::from(file), start)
    }

    /// Runs it and returns its standard output as text without the white space around it.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.output()?).trim().to_owned())
    }

    fn finish(&self, output: Stdio, log_start: u64) -> Result<()> {
        let errors = File::options().append(true).open(&self.log)?;
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments).envs(self.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::from(errors));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command.spawn().map_err(|error| self.cannot_start(&error))?;
        let Some(status) = wait(&mut child, self.deadline)? else {
            end(&mut child)?;
            return Err(
                self.failed(&format!("took longer than {} s and was ended", self.deadline.as_secs()), log_start)
            );
        };
        if status.success() { Ok(()) } else { Err(self.failed(&format!("failed ({status})"), log_start)) }
    }

    fn open_log(&self) -> Result<(File, u64)> {
        let open = || -> io::Result<(File, u64)> {
            if let Some(folder) = self.log.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut log = File::options().create(true).append(true).open(&self.log)?;
            writeln!(log, "$ {self}")?;
            let start = log.seek(SeekFrom::End(0))?;
            Ok((log, start))
        };
        open().with_context(|| format!("cannot write the log {}", self.log.display()))
    }

    fn cannot_start(&self, error: &io::Error) -> anyhow::Error {
        let program = self.program.to_string_lossy();
        match error.kind() {
            io::ErrorKind::NotFound => anyhow!("the program {program} is not there: install it and try again"),
            _ => anyhow!("cannot start {program}: {error}"),
        }
    }

    fn failed(&self, how: &str, log_start: u64) -> anyhow::Error {
        let mut text = format!("{self} {how}");
        let said = last_lines(&self.log, log_start);
        if !said.is_empty() {
            let _ = write!(text, "; it said last:\n{said}");
        }
        let _ = write!(text, "\nthe whole output is in {}", self.log.display());
        if !self.advice.is_empty() {
            let _ = write!(text, "\n{}", self.advice);
        }
        anyhow!(text)
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        for argument in &self.arguments {
            let argument = argument.to_string_lossy();
            if argument.is_empty() || argument.contains([' ', '\'', '"', '$', '\n']) {
                write!(f, " '{}'", argument.replace('\'', r"'\''"))?;
            } else {
                write!(f, " {argument}")?;
            }
        }
        Ok(())
    }
}

/// Waits for the end of a child; nothing if it still runs at the deadline.
fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + deadline;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("cannot watch a process")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = Timespec::try_from(left).context("a deadline beyond the end of time")?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("cannot wait for a process: {error}"),
        }
    }
}

/// Asks a child to end, so that it can end its own children, and insists after a while.
fn end(child: &mut Child) -> Result<()> {
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    if wait(child, GRACE)?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

fn unnamed_file() -> Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(File::from(memfd_create("output", MemfdFlags::CLOEXEC).context("cannot make a file in memory")?))
}

fn last_lines(log: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(SHOWN);
    lines.into_iter().skip(skipped).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Command) {
        let folder = tempfile::tempdir().unwrap();
        let command = Command::new("sh", &folder.path().join("log/sh.log")).args(["-c", script]);
        (folder, command)
    }

    #[test]
    fn a_failure_shows_the_last_lines_the_log_and_what_to_do() {
        let (folder, command) = shell("i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; done; exit 3");
        let error = command.advice("try something else").run().unwrap_err().to_string();
        assert!(
            !error.contains("line 10\n") && error.contains("  line 11\n") && error.contains("  line 30\n"),
            "{error}"
        );
        assert!(error.contains("exit status: 3") && error.ends_with("try something else"), "{error}");
        assert!(error.contains(&folder.path().join("log/sh.log").display().to_string()), "{error}");
    }

    #[test]
    fn a_failure_does_not_show_what_an_earlier_program_said() {
        let (_folder, command) = shell("echo only once; exit $CODE");
        command.clone().env("CODE", "0").run().unwrap();
        let error = command.env("CODE", "1").run().unwrap_err().to_string();
        assert_eq!(error.matches("\n  only once").count(), 1, "{error}");
    }

    #[test]
    fn a_program_is_ended_at_its_deadline() {
        let (_folder, command) = shell("exec sleep 600");
        let started = Instant::now();
        let error = command.deadline(Duration::from_millis(200)).run().unwrap_err().to_string();
        assert!(started.elapsed() < Duration::from_secs(60), "it was not ended");
        assert!(error.contains("took longer than"), "{error}");
    }

    #[test]
    fn the_output_is_returned_without_the_errors() {
        let (_folder, command) = shell("echo noise >&2; echo '  value  '");
        assert_eq!(command.text().unwrap(), "value");
    }

    #[test]
    fn a_program_that_is_not_installed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Command::new("no-such-program", &folder.path().join("log")).run().unwrap_err();
        assert_eq!(error.to_string(), "the program no-such-program is not there: install it and try again");
    }
}
