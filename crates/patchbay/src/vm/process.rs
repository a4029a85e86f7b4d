//! QEMU as a process: start it, make it ready, end it, say how it ended.
//!
//! ```text
//!  starting --> ready --> SIGTERM or SIGINT --> power button --> quit --> SIGKILL
//!      |          |            |          (only if the guest     |          |
//!      |          |            |           handles it)           |          |
//!      +----------+------------+-------------+-------------------+----------+--> ended
//! ```
//!
//! Invariants:
//! * every step of the way down has a deadline, so this process ends within the grace plus [`QUIT`] plus [`KILLED`];
//! * a second signal skips what is left of the guest's grace.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use patchbay_qmp::{Monitor, QmpError};
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::arguments::Birth;
use super::signals::{Children, SignalError, Stop};

/// How long QEMU has to open its monitor. Nodes without KVM and with cold page caches are slow.
const READY: Duration = Duration::from_secs(60);
/// How long a saved state may take to load.
const RESTORED: Duration = Duration::from_secs(300);
/// How long the monitor has for each answer. While QEMU loads a saved state it listens only now and then.
const ANSWER: Duration = Duration::from_secs(60);
/// How long QEMU has to end after `quit`.
const QUIT: Duration = Duration::from_secs(5);
/// How long the system has to end a killed QEMU.
const KILLED: Duration = Duration::from_secs(5);
/// How long to wait for QEMU's last words after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Between two looks at something QEMU does not tell by itself; only while it starts.
const LOOK: Duration = Duration::from_millis(20);
/// Longer lines of QEMU are broken.
const LINE: usize = 4096;

/// What to start and how to end it.
#[derive(Debug)]
pub(crate) struct Order {
    /// QEMU, with standard error piped.
    pub(crate) command: Command,
    /// The monitor that QEMU opens for us.
    pub(crate) engine_socket: PathBuf,
    /// How the machine comes to be.
    pub(crate) birth: Birth,
    /// How long the guest has to switch itself off after a press of the power button; `None` if it has no ear for that.
    pub(crate) powerdown: Option<Duration>,
}

/// How QEMU ended, when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// We were asked to end it.
    Stopped,
    /// The guest has switched itself off.
    PoweredOff,
}

/// Why QEMU could not be started or looked after.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// The program cannot be started.
    #[error("cannot start {program}; the image of a machine is built on the engine's image, which brings QEMU")]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be waited for.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// QEMU's messages cannot be read.
    #[error("cannot listen to QEMU's standard error")]
    Messages(#[source] io::Error),
    /// QEMU runs but cannot be talked to.
    #[error("QEMU does not answer on {socket}")]
    Unready {
        /// The monitor's socket.
        socket: PathBuf,
        /// The last attempt's failure.
        #[source]
        source: QmpError,
    },
    /// A saved state takes too long to load.
    #[error("QEMU has not loaded the saved state within {RESTORED:?}")]
    NotRestored,
    /// QEMU has ended and nobody asked it to.
    #[error("QEMU {how}{}", .last_words.as_ref().map(|words| format!("; its last words: {words}")).unwrap_or_default())]
    Died {
        /// Signal or code.
        how: String,
        /// The last thing QEMU said.
        last_words: Option<String>,
    },
    /// A killed QEMU is still there.
    #[error("QEMU (process {0}) is still there {KILLED:?} after SIGKILL; it hangs in the kernel of the node")]
    Immortal(Pid),
}

/// Starts QEMU and stays until it has ended.
///
/// # Errors
/// QEMU could not be started or made ready (then it is killed first), has died by itself, or could not be ended.
pub(crate) async fn supervise(mut order: Order, mut stop: Stop) -> Result<Ended, ProcessError> {
    // Before there is anything to miss.
    let mut children = Children::new()?;
    let mut child = order
        .command
        .spawn()
        .map_err(|source| ProcessError::Start { program: PathBuf::from(order.command.get_program()), source })?;
    let words = relay(&mut child)?;
    let pid = Pid::from_child(&child);

    let monitor = tokio::select! {
        status = children.end_of(pid) => return by_itself(status, words).await,
        () = stop.asked() => None,
        ready = ready(&order.engine_socket, order.birth) => match ready {
            Ok(monitor) => Some(monitor),
            Err(error) => {
                kill(pid, &mut children).await?;
                return Err(error);
            }
        },
    };
    if let Some(monitor) = monitor {
        match order.birth {
            Birth::Arrives => tracing::info!("waiting for the machine to arrive"),
            Birth::Boots | Birth::Restores(_) => tracing::info!("the machine runs"),
        }
        tokio::select! {
            status = children.end_of(pid) => return by_itself(status, words).await,
            () = stop.asked() => {}
        }
        if let Some(grace) = order.powerdown
            && hears(&monitor).await
        {
            tracing::info!(?grace, "asked to end: pressing the guest's power button");
            if switched_off(&monitor, grace, pid, &mut children, &mut stop).await {
                return Ok(Ended::Stopped);
            }
        }
        match timeout(QUIT, quit(&monitor, pid, &mut children)).await {
            Ok(Ok(())) => return Ok(Ended::Stopped),
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "QEMU does not take the order to quit; killing it"),
            Err(_) => tracing::warn!("QEMU has not ended {QUIT:?} after the order to quit; killing it"),
        }
    }
    kill(pid, &mut children).await?;
    Ok(Ended::Stopped)
}

/// Connects to QEMU's monitor and sees that the guest runs, unless it has to arrive first.
async fn ready(socket: &Path, birth: Birth) -> Result<Monitor, ProcessError> {
    let deadline = Instant::now() + READY;
    let monitor = loop {
        match Monitor::connect(socket, ANSWER).await {
            Ok(monitor) => break monitor,
            Err(source) if Instant::now() >= deadline => {
                return Err(ProcessError::Unready { socket: socket.to_owned(), source });
            }
            Err(_) => sleep(LOOK).await,
        }
    };
    if matches!(birth, Birth::Restores(_)) {
        let resumed = timeout_at(Instant::now() + RESTORED, resume(&monitor)).await;
        resumed
            .map_err(|_| ProcessError::NotRestored)?
            .map_err(|source| ProcessError::Unready { socket: socket.to_owned(), source })?;
    }
    Ok(monitor)
}

/// Waits until a saved state is loaded; one that was saved while the guest was paused comes back paused.
async fn resume(monitor: &Monitor) -> Result<(), QmpError> {
    while monitor.query_status().await?.status == "inmigrate" {
        sleep(LOOK).await;
    }
    if monitor.query_status().await?.running { Ok(()) } else { monitor.cont().await }
}

/// Whether somebody could hear the power button: nobody does in a machine that has not arrived yet or has left.
async fn hears(monitor: &Monitor) -> bool {
    timeout(QUIT, monitor.query_status()).await.is_ok_and(|status| status.is_ok_and(|status| status.running))
}

/// Presses the power button; whether QEMU has ended before the grace was over or a second signal came.
async fn switched_off(monitor: &Monitor, grace: Duration, pid: Pid, children: &mut Children, stop: &mut Stop) -> bool {
    let off = async {
        monitor.system_powerdown().await?;
        Ok::<_, QmpError>(children.end_of(pid).await)
    };
    tokio::select! {
        off = off => match off {
            Ok(_) => return true,
            Err(error) => tracing::warn!(error = chain(&error), "the power button does not work"),
        },
        () = stop.asked() => tracing::info!("asked again: pulling the plug"),
        () = sleep(grace) => tracing::warn!("the guest has not switched itself off within {grace:?}; pulling the plug"),
    }
    false
}

/// Ends QEMU without asking the guest.
async fn quit(monitor: &Monitor, pid: Pid, children: &mut Children) -> Result<(), QmpError> {
    monitor.quit().await?;
    children.end_of(pid).await;
    Ok(())
}

/// Ends QEMU without asking it. Its number cannot be another process's: it is ours until [`Children`] collects it.
async fn kill(pid: Pid, children: &mut Children) -> Result<(), ProcessError> {
    // It can only fail because QEMU is dead already, which the next line sees.
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    timeout(KILLED, children.end_of(pid)).await.map(drop).map_err(|_| ProcessError::Immortal(pid))
}

/// Passes on what QEMU says; the task's result is the last of it.
fn relay(child: &mut Child) -> Result<JoinHandle<Option<String>>, ProcessError> {
    let stderr = child.stderr.take().ok_or_else(|| ProcessError::Messages(io::ErrorKind::BrokenPipe.into()))?;
    let stderr = ChildStderr::from_std(stderr).map_err(ProcessError::Messages)?;
    let mut stderr = BufReader::with_capacity(LINE, stderr);
    Ok(tokio::spawn(async move {
        let mut last = None;
        let mut line = Vec::new();
        while let Ok(bytes) = stderr.fill_buf().await
            && !bytes.is_empty()
        {
            let mut used = 0;
            for byte in bytes {
                used += 1;
                line.push(*byte);
                if *byte == b'\n' || line.len() == LINE {
                    break;
                }
            }
            stderr.consume(used);
            if line.ends_with(b"\n") || line.len() == LINE {
                last = say(&line).or(last);
                line.clear();
            }
        }
        say(&line).or(last)
    }))
}

/// Logs one line of QEMU, unless it is empty.
fn say(line: &[u8]) -> Option<String> {
    let words = String::from_utf8_lossy(line).trim().to_owned();
    (!words.is_empty()).then(|| {
        tracing::warn!("qemu: {words}");
        words
    })
}

/// What an end means that nobody asked for.
async fn by_itself(status: WaitStatus, words: JoinHandle<Option<String>>) -> Result<Ended, ProcessError> {
    let how = match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => return Ok(Ended::PoweredOff),
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(9)) => "was killed by signal 9 (out of memory? look at the memory limit of the container)".into(),
        (None, Some(number)) => format!("was ended by signal {number}"),
        (None, None) => format!("ended in an unknown way ({status:?})"),
    };
    let last_words = timeout(LAST_WORDS, words).await.ok().and_then(Result::ok).flatten();
    Err(ProcessError::Died { how, last_words })
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
