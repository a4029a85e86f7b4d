//! `patchbay vm`: the first process of a virtual machine's pod. It starts QEMU, looks after it and ends with it.
//!
//! The container is the engine's image plus a machine description ([`machine`]); the pod gives the number of processors
//! and the memory in the environment. Nothing here needs a privilege: any uid, no capabilities, a read-only root, the
//! runtime's default seccomp filter, and one writable folder.
//!
//! * Standard output carries the guest's serial console and nothing else; our own words and QEMU's go to standard error.
//! * The writable folder (`/run/vm`) holds three monitor sockets that only this user and root can open: `qmp.sock` and
//!   `migration.sock` for the node's agent, `engine.sock` for this process; the overlay that takes what the guest writes to
//!   its disk; and what the agent says of moves ([`marks`]).
//! * QEMU is asked to end ([`process`]) when this process is, by SIGTERM or SIGINT. If the guest powers itself off, this
//!   process ends with code 0; if QEMU ends in any other way, with code 1 and the reason, so that the kubelet starts the
//!   container again. A reboot of the guest stays inside QEMU.

mod arguments;
mod machine;
pub(crate) mod marks;
mod process;
mod signals;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use arguments::{Accelerator, Birth, Hardware, Places, Wish};
use machine::{Machine, MachineError};
use process::{Ended, Order, ProcessError};
use signals::{SignalError, Stop};

/// Less does not even hold the firmware and a boot loader.
const LEAST_MEMORY: u64 = 16 << 20;
/// What a q35 machine can have without an I/O MMU.
const MOST_CPUS: i64 = 255;

/// Arguments of `patchbay vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machine description
    #[arg(long, env = "PATCHBAY_VM_MACHINE", default_value = "/machine/machine.json", value_name = "FILE")]
    machine: PathBuf,

    /// A writable folder for the monitor sockets and the disk's overlay
    #[arg(long, env = "PATCHBAY_VM_RUN_DIR", default_value = "/run/vm", value_name = "FOLDER")]
    run_dir: PathBuf,

    /// Processors of the machine
    #[arg(long, env = "PATCHBAY_VM_CPUS", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=MOST_CPUS))]
    cpus: u32,

    /// Memory of the machine, in bytes; what is not a whole MiB is cut off
    #[arg(long, env = "PATCHBAY_VM_MEMORY", value_parser = clap::value_parser!(u64).range(LEAST_MEMORY..))]
    memory: u64,

    /// How the processors are made
    #[arg(long, env = "PATCHBAY_VM_ACCELERATOR", value_enum, default_value_t = Wish::Auto)]
    accelerator: Wish,

    /// QEMU's program
    #[arg(long, env = "PATCHBAY_VM_QEMU", default_value = "/usr/bin/qemu-system-x86_64", value_name = "FILE")]
    qemu: PathBuf,

    /// Where QEMU finds firmware, if not where it was built to look
    #[arg(long, env = "PATCHBAY_VM_FIRMWARE", value_name = "FOLDER")]
    firmware: Option<PathBuf>,

    /// The machine comes from another node: wait for it instead of booting, until it has arrived once
    #[arg(long, env = "PATCHBAY_VM_INCOMING")]
    incoming: bool,

    /// Seconds that a guest which handles the power button has to switch itself off
    #[arg(long, env = "PATCHBAY_VM_GRACE", default_value = "20", value_name = "SECONDS")]
    grace: u64,
}

/// Why a virtual machine could not be started or looked after.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// The machine description does not do.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The folder for the sockets cannot be used.
    #[error("cannot use {path} for the machine's sockets; it has to be a writable volume, such as an emptyDir")]
    RunDir {
        /// The folder or what is in the way in it.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The saved state cannot be opened.
    #[error("cannot open the saved state {path}")]
    State {
        /// Its file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// KVM is demanded and not there.
    #[error("cannot open /dev/kvm for reading and writing; without --accelerator=kvm the machine would run without it")]
    NoKvm(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// QEMU could not be started, or has died.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Runs the machine until it ends or this process is asked to end.
///
/// # Errors
/// The machine could not be started, or QEMU has died.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(start_and_wait(&args))? {
        Ended::Stopped => tracing::info!("the machine was stopped as asked"),
        Ended::PoweredOff => tracing::info!("the guest has switched itself off"),
    }
    Ok(())
}

/// Prepares everything QEMU needs and hands over to the supervisor.
async fn start_and_wait(args: &Args) -> Result<Ended, VmError> {
    let mut stop = Stop::new()?;
    let machine = Machine::read(&args.machine)?;
    if marks::has_left(&args.run_dir) {
        tracing::info!("the machine has left this pod, or is about to: not starting it");
        tokio::select! {
            () = stop.asked() => return Ok(Ended::Stopped),
            () = marks::until_back(&args.run_dir) => tracing::info!("the machine is not leaving after all"),
        }
    }
    let kvm = open_kvm();
    let accelerator = Accelerator::choose(args.accelerator, machine.state.is_some(), kvm.is_ok());
    if let (Accelerator::Kvm, Err(source)) = (accelerator, kvm) {
        return Err(VmError::NoKvm(source));
    }
    let places = Places { run_dir: &args.run_dir, firmware: args.firmware.as_deref() };
    clear(&places)?;
    // The sockets are made by QEMU, which inherits this.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let arrives = args.incoming && !marks::has_arrived(&args.run_dir);
    let state = machine.state.as_deref().filter(|_| !arrives).map(open_state).transpose()?;

    let hardware = Hardware { cpus: args.cpus, memory: args.memory, accelerator };
    let birth = match &state {
        _ if arrives => Birth::Arrives,
        Some(state) => Birth::Restores(state.as_raw_fd()),
        None => Birth::Boots,
    };
    let arguments = arguments::arguments(&machine, &hardware, &places, birth);
    tracing::info!(cpus = args.cpus, memory = args.memory, %accelerator, ?birth, "starting QEMU");
    let order = Order {
        command: command(args, &arguments),
        engine_socket: places.engine_socket(),
        birth,
        powerdown: machine.powerdown.then_some(Duration::from_secs(args.grace)),
    };
    // The descriptor of the saved state has to outlive the start of QEMU only, but staying open does no harm.
    Ok(process::supervise(order, stop).await?)
}

/// QEMU's command, with the guest's console on our standard output.
fn command(args: &Args, arguments: &[OsString]) -> Command {
    let mut command = Command::new(&args.qemu);
    command
        .args(arguments)
        // The overlay of the disk is a temporary file; the root is read-only.
        .env("TMPDIR", &args.run_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped());
    command
}

/// KVM helps only if it can be used, so the test is to open it.
fn open_kvm() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm")
}

/// Removes the sockets of an earlier QEMU in this pod: nobody shall connect to a dead one and wait.
fn clear(places: &Places<'_>) -> Result<(), VmError> {
    for socket in places.sockets() {
        match std::fs::remove_file(&socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(VmError::RunDir { path: socket, source });
            }
            _ => {}
        }
    }
    let run_dir = places.run_dir;
    match rustix::fs::access(run_dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(errno) => Err(VmError::RunDir { path: run_dir.to_owned(), source: errno.into() }),
    }
}

/// Opens the saved state so that QEMU inherits the descriptor: with its number it needs no helper program to read it.
fn open_state(path: &Path) -> Result<OwnedFd, VmError> {
    rustix::fs::open(path, OFlags::RDONLY, Mode::empty())
        .map_err(|errno| VmError::State { path: path.to_owned(), source: errno.into() })
}
