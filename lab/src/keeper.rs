//! A lab in the background: `lab up` starts it and returns, `lab run` enters it, `lab down` ends it.
//!
//! The keeper is an ordinary lab process (`lab keep`) without a terminal. What others need to know about it is in one
//! small file; the file of a keeper that is gone counts for nothing.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::cluster::Lab;
use crate::progress::say;
use crate::wait::wait_for;

/// Time for a lab to start with everything in the cache.
const START: Duration = Duration::from_secs(300);
/// Time for a lab to end.
const STOP: Duration = Duration::from_secs(20);

/// What a keeper tells when its lab is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    kubeconfig: PathBuf,
    /// Folders of programs: those of Kubernetes, and ours.
    programs: Vec<PathBuf>,
    logs: PathBuf,
}

/// The files of the one lab in the background.
pub struct Keeper {
    folder: PathBuf,
}

impl Keeper {
    /// The keeper whose files are in this cache.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn of(cache: &Cache) -> Result<Self> {
        Ok(Self { folder: cache.folder("keeper")? })
    }

    /// Where the keeper listens for requests.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Starts a lab in the background and waits until it is ready. `arguments` and a variable for its
    /// environment go to `lab keep`.
    ///
    /// # Errors
    /// When one runs already, or the new one does not come up.
    pub fn up(&self, arguments: &[String], (name, value): &(&str, String)) -> Result<()> {
        if let Ok(pid) = self.pid() {
            bail!("a lab is up already (process {pid}): end it with `lab down`");
        }
        let _ = fs::remove_file(self.ready_file());
        let log_path = self.folder.join("log");
        let log = fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut child = Command::new("setsid")
            .arg(std::env::current_exe()?)
            .arg("keep")
            .args(arguments)
            .env(name, value)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setsid: install the package util-linux")?;
        fs::write(self.pid_file(), child.id().to_string())?;
        let mut shown = fs::File::open(&log_path)?;
        let result = wait_for("the lab to be ready", START, || {
            copy_new(&mut shown);
            if let Ok(Some(status)) = child.try_wait() {
                return Ok(Err(anyhow::anyhow!("the lab did not start ({status}); its log is {}", log_path.display())));
            }
            self.ready().map(|_| Ok(())).map_err(|error| format!("{error:#}"))
        });
        copy_new(&mut shown);
        result.and_then(|ended| ended).inspect_err(|_| drop(self.down()))
    }

    /// Says that the lab of this process is ready.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn announce(&self, lab: &Lab) -> Result<()> {
        let folder = |program: &Path| program.parent().map(Path::to_owned);
        let ours = [folder(&lab.parts().kubectl_usb), folder(&std::env::current_exe()?)];
        let programs = std::iter::once(lab.parts().bin.clone()).chain(ours.into_iter().flatten()).collect();
        let ready = Ready { kubeconfig: lab.plane().admin(), programs, logs: lab.logs().to_owned() };
        // Never half a file.
        let partial = self.folder.join(".ready.json");
        fs::write(&partial, serde_json::to_vec(&ready)?)?;
        fs::rename(partial, self.ready_file()).context("cannot announce the lab")
    }

    /// Ends the lab.
    ///
    /// # Errors
    /// When it does not end.
    pub fn down(&self) -> Result<()> {
        let Ok(pid) = self.pid() else {
            say("no lab is up");
            return Ok(());
        };
        kill_process(pid, Signal::TERM)?;
        wait_for("the lab to end", STOP, || match self.pid() {
            Ok(pid) => Err(format!("process {pid} still runs")),
            Err(_) => Ok(()),
        })?;
        for file in [self.ready_file(), self.pid_file(), self.socket()] {
            let _ = fs::remove_file(file);
        }
        say("the lab is gone");
        Ok(())
    }

    /// Runs a command where the lab's kubectl and API server are, and returns its exit code.
    ///
    /// # Errors
    /// When no lab is up, or the command cannot be started.
    pub fn run(&self, command: &[String]) -> Result<ExitCode> {
        let pid = self.pid()?;
        let ready = self.ready()?;
        let inside = first_process_inside(pid).context("the lab is still starting, or about to end")?;
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &inside.to_string(), "--net", "--mount", "--pid"]);
        if !geteuid().is_root() {
            nsenter.args(["--user", "--preserve-credentials"]);
        }
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(ready.programs.into_iter().chain(std::env::split_paths(&inherited)))?;
        let status = nsenter
            .arg(format!("--wd={}", std::env::current_dir()?.display()))
            .arg("--")
            .args(command)
            .env("KUBECONFIG", &ready.kubeconfig)
            .env("PATH", path)
            .status()
            .context("cannot run nsenter: install the package util-linux")?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join("ready.json")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    fn ready(&self) -> Result<Ready> {
        let text = fs::read(self.ready_file()).context("it is not ready yet")?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The keeper's process, if it lives.
    fn pid(&self) -> Result<Pid> {
        const NONE: &str = "no lab is up: start one with `lab up`";
        let text = fs::read_to_string(self.pid_file()).context(NONE)?;
        let pid: i32 = text.trim().parse().context(NONE)?;
        // The number may belong to somebody else by now.
        let command = fs::read(format!("/proc/{pid}/cmdline")).context(NONE)?;
        ensure!(command.split(|byte| *byte == 0).any(|word| word == b"keep"), NONE);
        Pid::from_raw(pid).context(NONE)
    }
}

/// Prints what has come into a log since the last call.
fn copy_new(log: &mut fs::File) {
    let mut text = Vec::new();
    if log.read_to_end(&mut text).is_ok() {
        eprint!("{}", String::from_utf8_lossy(&text));
    }
}

/// The descendant of the keeper that is the first process of the lab's namespaces: the child of its `unshare`.
fn first_process_inside(keeper: Pid) -> Option<i32> {
    let unshare = child_of(keeper.as_raw_nonzero().get())?;
    child_of(unshare)
}

fn child_of(parent: i32) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        (parent_of(&entry.path())? == parent).then_some(pid)
    })
}

fn parent_of(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
