//! The lab's own network, processes and mounts, apart from the machine's.
//!
//! ```text
//! lab (outside) --leash--> unshare --> lab (first process: reaps, holds the leash) --> lab (inside: does the work)
//! ```
//!
//! Invariants:
//! * the host's network is never touched: everything happens in a network namespace of the lab's own;
//! * nothing stays behind: when the process outside ends, however it ends, the leash (a pipe) breaks, the first process
//!   inside ends, and the kernel kills all that is left in its pid namespace and frees the private `/dev/shm`;
//! * no privileges are needed: without root a user namespace is added.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, geteuid, wait};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::block_on;

/// Which of the three this process is.
const STAGE: &str = "PATCHBAY_LAB_STAGE";
/// Number of the leash's reading end.
const LEASH: &str = "PATCHBAY_LAB_LEASH";
/// What a program stopped by Ctrl-C ends with.
const INTERRUPTED: u8 = 130;

/// Where this process is after [`enter`].
pub enum Place {
    /// Outside: the work is done (by the process inside), end with this code.
    Outside(ExitCode),
    /// Inside: do the work.
    Inside,
}

/// The folder for everything that must be fast and gone afterwards: memory of the lab's own.
pub fn state() -> PathBuf {
    PathBuf::from("/dev/shm/lab")
}

/// Whether this process is inside.
pub fn is_inside() -> bool {
    std::env::var(STAGE).is_ok_and(|stage| stage == "inside")
}

/// Goes on inside the lab's namespaces: starts this very command there and waits for it, or, when this process is the one
/// inside, returns at once. `prepare` runs outside, before: it gives a variable for the environment inside.
///
/// # Errors
/// When the machine does not permit namespaces, or `unshare`, `setpriv` or `ip` is missing.
pub fn enter(prepare: impl FnOnce() -> Result<(&'static str, String)>) -> Result<Place> {
    match std::env::var(STAGE).as_deref() {
        Err(_) => outside(prepare()?).map(Place::Outside),
        Ok("first") => first().map(Place::Outside),
        Ok("inside") => {
            let mut interrupt = block_on(async { signal(SignalKind::interrupt()) })?;
            let mut terminate = block_on(async { signal(SignalKind::terminate()) })?;
            std::thread::spawn(move || {
                block_on(async {
                    tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
                });
                eprintln!("\ninterrupted: the lab is gone");
                std::process::exit(i32::from(INTERRUPTED));
            });
            Ok(Place::Inside)
        }
        Ok(other) => bail!("{STAGE}={other} is not a stage; unset it"),
    }
}

fn outside((name, value): (&str, String)) -> Result<ExitCode> {
    // The reading end goes to the first process inside, the writing end stays here and breaks with us.
    let (held, leash) = std::io::pipe()?;
    fcntl_setfd(&held, FdFlags::empty())?;
    let mut command = tokio::process::Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .arg(std::env::current_exe().context("cannot find this program's own file")?)
        .args(std::env::args_os().skip(1))
        .env(name, value)
        .env(STAGE, "first")
        .env(LEASH, std::os::fd::AsRawFd::as_raw_fd(&held).to_string());
    let status = block_on(async {
        let mut child = command.spawn().context("cannot run unshare: install the package util-linux")?;
        drop(held);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut leash = Some(leash);
        loop {
            tokio::select! {
                status = child.wait() => return Ok::<_, anyhow::Error>(status?),
                // A terminal tells the processes inside by itself; a bare `kill` reaches only this one.
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let grace = tokio::time::timeout(Duration::from_millis(300), child.wait()).await;
            if let Ok(status) = grace {
                return Ok(status?);
            }
            drop(leash.take());
        }
    })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::from(INTERRUPTED), ExitCode::from))
}

/// The first process of the pid namespace: prepares it, starts the process that works, reaps orphans, ends when either the
/// work or the process outside ends.
fn first() -> Result<ExitCode> {
    let leash = std::env::var(LEASH).context("no leash: start the lab without setting PATCHBAY_LAB_STAGE")?;
    let mut held = std::fs::File::open(format!("/proc/self/fd/{leash}")).context("cannot hold the leash")?;
    std::thread::spawn(move || {
        let _ = held.read(&mut [0]);
        std::process::exit(i32::from(INTERRUPTED));
    });
    prepare()?;
    let work = Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(STAGE, "inside").spawn()?;
    let work = i32::try_from(work.id())?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == work => {
                let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
                return Ok(ExitCode::from(code.unwrap_or(INTERRUPTED)));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the lab's processes"),
        }
    }
}

fn prepare() -> Result<()> {
    // Memory of the lab's own: node memory, etcd, disks. It ends with the mount namespace. It must allow execution,
    // because a User-Mode Linux node runs its programs from there.
    mount("lab", "/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=80%,mode=1777")
        .context("cannot mount a private /dev/shm")?;
    std::fs::create_dir_all(state())?;
    ip("link set lo up\n")?;
    // Pods reach the API server and each other through the namespace.
    sysctl("net/ipv4/ip_forward", "1")?;
    // A datagram socket holds only ten frames by default; a burst of a node would be lost.
    sysctl("net/unix/max_dgram_qlen", "4096")
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
        .with_context(|| format!("cannot set {name} in the lab's namespace"))
}

/// Runs a batch of `ip` commands, one per line.
///
/// # Errors
/// When `ip` is missing or one of the commands fails.
pub fn ip(batch: &str) -> Result<()> {
    use std::io::Write;
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip: install the package iproute2")?;
    child.stdin.take().context("ip has no input")?.write_all(batch.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip failed: {}\nin: {batch}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
