//! A node as a User-Mode Linux process: mainline kernel code at native speed, devices by `dummy_hcd`.
//!
//! Each node is tied to one CPU: a system call of a program in it is a hand-over between two processes of the host, which
//! across CPUs takes five times as long.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::channel::Channel;
use crate::process::{Child, Program, tail};
use crate::{network, progress};

/// Time from the start to the greeting; half a second on a quiet machine.
const BOOT: Duration = Duration::from_secs(60);

/// What the kernel is started with.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Host name.
    pub name: String,
    /// Number from 1: address, MAC and CPU follow from it.
    pub number: u8,
    /// The kernel.
    pub linux: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Root file system, shared by all nodes, read only.
    pub root: PathBuf,
    /// The disk on `/var`.
    pub data: Disk,
    /// Memory in MiB.
    pub memory: u32,
    /// A folder of the host the node sees as `/host`, read only.
    pub share: PathBuf,
    /// Folder for sockets and memory; on a tmpfs.
    pub state: PathBuf,
    /// The console's log.
    pub console: PathBuf,
    /// Further kernel arguments.
    pub arguments: Vec<String>,
}

/// The data disk of a node.
#[derive(Debug, Clone)]
pub enum Disk {
    /// Written directly.
    Own(PathBuf),
    /// A shared image stays as it is, changes go to a file of the node's own.
    Cow {
        /// The changes.
        changes: PathBuf,
        /// The image.
        image: PathBuf,
    },
}

impl Disk {
    fn argument(&self) -> String {
        match self {
            Self::Own(path) => path.display().to_string(),
            Self::Cow { changes, image } => format!("{},{}", changes.display(), image.display()),
        }
    }
}

/// A running node.
pub struct Uml {
    child: Child,
}

impl Uml {
    /// Boots a machine and waits until it takes commands. A machine that dies while booting is started once more, and
    /// that is said.
    ///
    /// # Errors
    /// When it does not come up the second time either; the error quotes its console.
    pub fn boot(machine: &Machine, cable: Option<&OwnedFd>) -> Result<(Self, Channel)> {
        Self::boot_once(machine, cable).or_else(|error| {
            progress::say(&format!("  {} died while booting and is started again: {error:#}", machine.name));
            Self::boot_once(machine, cable)
        })
    }

    fn boot_once(machine: &Machine, cable: Option<&OwnedFd>) -> Result<(Self, Channel)> {
        let (mut channel, console) = Channel::pair()?;
        let cable = cable.map(OwnedFd::try_clone).transpose()?;
        fs::create_dir_all(&machine.state).with_context(|| format!("cannot make {}", machine.state.display()))?;
        let mut program = Program::new(&machine.name, "taskset", &machine.console)
            .args(["-c".to_owned(), cpu(machine.number)?.to_string()])
            .arg(&machine.linux)
            .args(machine.kernel_arguments(&console, cable.as_ref()));
        program.env.push(("TMPDIR".into(), machine.state.clone().into()));
        program.inherit.push(console);
        program.inherit.extend(cable);
        let mut child = program.start()?;
        if let Err(error) = channel.greeting(BOOT) {
            child.kill();
            let console = tail(&machine.console);
            return Err(error.context(format!("{} did not boot; its console ends with:\n{console}", machine.name)));
        }
        Ok((Self { child }, channel))
    }

    /// The kernel's process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Fails if the node has died by itself.
    ///
    /// # Errors
    /// With the end of its console.
    pub fn check(&mut self) -> Result<()> {
        self.child.check()
    }

    /// Pulls the power plug.
    pub fn kill(mut self) {
        self.child.kill();
    }
}

impl Machine {
    fn kernel_arguments(&self, console: &OwnedFd, cable: Option<&OwnedFd>) -> Vec<String> {
        let mut arguments = vec![
            format!("mem={}M", self.memory),
            format!("umid={}", self.name),
            format!("uml_dir={}", self.state.display()),
            format!("initrd={}", self.initramfs.display()),
            format!("ubd0r={}", self.root.display()),
            format!("ubd1={}", self.data.argument()),
            format!("ssl0=fd:{}", console.as_raw_fd()),
            format!("lab.name={}", self.name),
            format!("lab.host={}", self.share.display()),
        ];
        arguments.extend(
            ["seccomp=on", "con=null", "con0=null,fd:1", "console=tty0", "ssl=null", "panic=-1", "noreboot"]
                .map(str::to_owned),
        );
        // The place of a BUG is printed without a level, which counts as a warning.
        arguments.extend(["loglevel=5", "printk.time=1"].map(str::to_owned));
        if let Some(cable) = cable {
            let number = self.number;
            arguments.push(format!("vec0:transport=fd,fd={},mac=52:54:00:00:01:{number:02x}", cable.as_raw_fd()));
            arguments.push(format!("lab.ip={}/24", network::node(number)));
            arguments.push(format!("lab.gw={}", network::GATEWAY));
            arguments.push(format!("lab.cidr={}", network::pods(number)));
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }
}

/// The CPU for the node with this number: neighbours get different ones.
fn cpu(number: u8) -> Result<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot read the CPUs this process may use")?;
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    ensure!(!cpus.is_empty(), "this process may use no CPU");
    cpus.get(usize::from(number) % cpus.len()).copied().context("no CPU")
}

/// Makes an empty ext4 file system with a journal: a node that loses its power keeps what it had synced.
///
/// # Errors
/// When `mke2fs` is missing or fails.
pub fn make_disk(path: &Path, mebibytes: u32, log: &Path) -> Result<()> {
    crate::command::Command::new("mke2fs", log)
        .env("PATH", with_sbin())
        .args([
            "-q",
            "-t",
            "ext4",
            "-m",
            "0",
            "-O",
            "^metadata_csum",
            "-J",
            "size=16",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1",
        ])
        .args([path])
        .args([format!("{mebibytes}M")])
        .advice("mke2fs is in the package e2fsprogs")
        .run()
}

/// The search path with the folders a plain user's often lacks.
pub(crate) fn with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose kernel is a shell script.
    fn machine(dir: &Path, kernel: &str) -> Machine {
        use std::os::unix::fs::PermissionsExt;
        let linux = dir.join("linux");
        // Not sh: dash knows no descriptors of two digits.
        fs::write(&linux, format!("#!/bin/bash\n{kernel}\n")).unwrap();
        fs::set_permissions(&linux, fs::Permissions::from_mode(0o755)).unwrap();
        Machine {
            name: "node-1".into(),
            number: 1,
            linux,
            initramfs: PathBuf::new(),
            root: PathBuf::new(),
            data: Disk::Own(PathBuf::new()),
            memory: 1,
            share: PathBuf::new(),
            state: dir.join("state"),
            console: dir.join("console"),
            arguments: vec![format!("tries={}", dir.join("tries").display())],
        }
    }

    /// Shell: counts the starts, and greets on the descriptor of `ssl0=fd:N`.
    const COUNT: &str = "for w; do case $w in tries=*) T=${w#*=};; ssl0=fd:*) C=${w##*:};; esac; done; echo start >>$T";

    #[test]
    fn a_machine_that_dies_while_booting_is_started_once_more_and_comes_up() {
        let dir = tempfile::tempdir().unwrap();
        let kernel =
            format!("{COUNT}; [ $(wc -l <$T) = 2 ] || {{ echo oops; exit 1; }}; echo HELLO >&$C; exec sleep 100");
        let (uml, _) = Uml::boot(&machine(dir.path(), &kernel), None).unwrap();
        uml.kill();
        assert_eq!(fs::read_to_string(dir.path().join("tries")).unwrap(), "start\nstart\n");
    }

    #[test]
    fn a_machine_that_dies_twice_is_an_error_that_quotes_its_console() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path(), &format!("{COUNT}; echo Kernel panic; exit 1"));
        let error = format!("{:#}", Uml::boot(&machine, None).err().unwrap());
        assert!(error.contains("node-1 did not boot") && error.contains("Kernel panic"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("tries")).unwrap(), "start\nstart\n");
    }
}
