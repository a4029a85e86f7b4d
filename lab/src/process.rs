//! Long-running children: control-plane programs and nodes.
//!
//! Invariants: a child never outlives this process, however this process ends (the kernel sends it SIGKILL); what it
//! prints is in a file; dropping it kills it together with the helpers it has started in its process group.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

/// How much of a log an error message quotes.
const TAIL: usize = 1500;

/// What to start.
pub struct Program {
    /// Name in messages.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Additional environment.
    pub env: Vec<(OsString, OsString)>,
    /// Open files the child gets under the same numbers.
    pub inherit: Vec<OwnedFd>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
}

impl Program {
    /// A program without arguments.
    pub fn new(name: &str, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            inherit: Vec::new(),
            log: log.into(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the executable cannot be run or the log cannot be opened.
    pub fn start(self) -> Result<Child> {
        let what = format!("cannot start {} ({})", self.name, self.path.display());
        on_keeper(move || self.spawn())?.context(what)
    }

    fn spawn(self) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.path)
            .args(&self.args)
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        // All long-running children start on this one thread, so no other of them can inherit these by accident.
        for fd in &self.inherit {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        let process = command.spawn()?;
        Ok(Child { name: self.name, log: self.log, process })
    }
}

/// A running (or dead, but not yet forgotten) child.
pub struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
}

impl Child {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The status it ended with, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// An error that quotes the end of the log if it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.exited() {
            None => Ok(()),
            Some(status) => {
                bail!(
                    "{} ended early ({status}); its log {} ends with:\n{}",
                    self.name,
                    self.log.display(),
                    tail(&self.log)
                )
            }
        }
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Stops it in its tracks: its connections stay open, and nobody answers.
    pub fn freeze(&self) {
        self.send(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// One that is gone needs no signal.
    fn send(&self, signal: Signal) {
        if let Some(group) = self.group() {
            let _ = kill_process_group(group, signal);
        }
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.process.id()).ok().and_then(Pid::from_raw)
    }

    /// Kills it and its process group, and waits until all of them are gone.
    pub fn kill(&mut self) {
        let group = self.group();
        self.send(Signal::KILL);
        let _ = self.process.wait();
        // Helpers of a node are reaped by the namespace's first process, a moment later.
        let end = Instant::now() + Duration::from_secs(2);
        while let Some(group) = group
            && test_kill_process_group(group).is_ok()
            && Instant::now() < end
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exited().is_none() {
            self.kill();
        }
    }
}

/// A process that is stopped in its tracks for as long as this lives.
pub struct Frozen(Pid);

impl Frozen {
    /// Stops a process.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn new(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no number of a process")?;
        kill_process(pid, Signal::STOP).with_context(|| format!("cannot stop process {pid}"))?;
        Ok(Self(pid))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // One that has ended meanwhile needs nothing.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// The end of a log file, as text.
pub fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(u64::try_from(TAIL).unwrap_or(0))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot read {}: {error})", path.display()),
    }
}

/// Where [`free_port`] looks: below the ports the kernel takes for outgoing connections (`ip_local_port_range`), any of
/// which somebody may have by the time the port is used, or used again.
const PORTS: Range<u16> = 20_000..30_000;

/// A port nobody listens on at the moment. This process gets each once.
///
/// # Errors
/// When the machine has none left.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that look at the same time begin at different places.
    let start = std::process::id().wrapping_mul(61);
    PORTS
        .map(|_| {
            let offset =
                start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into()) % u32::from(PORTS.end - PORTS.start);
            PORTS.start + u16::try_from(offset).unwrap_or(0)
        })
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| format!("no free TCP port among {PORTS:?} on 127.0.0.1"))
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs `job` on a thread that lives as long as the process. The kernel ties a child's life to the *thread* that started
/// it, and the threads of tests and of parallel starts come and go.
fn on_keeper<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    static KEEPER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        Mutex::new(sender)
    });
    let (answer, answered) = mpsc::channel();
    keeper
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .send(Box::new(move || drop(answer.send(job()))))
        .map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    answered.recv().context("the thread that starts processes died")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ends_early_is_reported_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Program::new("talker", "sh", dir.path().join("log"))
            .args(["-c", "echo last words; exit 3"])
            .start()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while child.exited().is_none() {
            assert!(Instant::now() < end);
        }
        let error = child.check().unwrap_err().to_string();
        assert!(error.contains("talker ended early") && error.contains("last words"), "{error}");
    }

    #[test]
    fn killing_a_child_kills_its_helpers() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Program::new("parent", "sh", dir.path().join("log"))
            .args(["-c", "sleep 100 & echo ready; wait"])
            .start()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !tail(&dir.path().join("log")).contains("ready") {
            assert!(Instant::now() < end);
        }
        let group = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
        assert!(test_kill_process_group(group).is_ok());
        // Outside of a pid namespace an orphan is reaped by somebody else: only running processes count.
        child.kill();
        let alive = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().map(str::to_owned).collect();
            fields.get(2).is_some_and(|g| *g == child.pid().to_string()) && fields[0] != "Z"
        });
        assert!(!alive, "a helper of the child is still running");
    }
}
