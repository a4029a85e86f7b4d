//! The kernel modules both sides need.
//!
//! A module counts as there when what it provides is there, whether it was loaded or built in. What is missing is loaded
//! with the node's `modprobe`; a node without that program needs none if everything is there.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use patchbay_usb::root::SysRoot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{host, vhci};

/// A module of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// To lend devices out.
    UsbipHost,
    /// To import them.
    VhciHcd,
    /// To encrypt in the kernel.
    Tls,
}

/// A module that is not there, and why it could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("the module {module} is missing on this node ({reason}): modprobe {module}")]
pub struct Missing {
    /// Which.
    pub module: Module,
    /// Why.
    pub reason: String,
}

/// Loading a module takes longest when it brings a bus up.
const DEADLINE: Duration = Duration::from_secs(10);

impl Module {
    /// Its name, as `modprobe` wants it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UsbipHost => "usbip-host",
            Self::VhciHcd => "vhci-hcd",
            Self::Tls => "tls",
        }
    }

    /// Whether what it provides is there.
    pub fn present(self, root: &SysRoot) -> bool {
        match self {
            Self::UsbipHost => host::modules_present(root),
            Self::VhciHcd => vhci::folder(root).path().join("status").exists(),
            Self::Tls => {
                let listed = fs::read_to_string(root.path("proc/sys/net/ipv4/tcp_available_ulp"));
                listed.is_ok_and(|names| names.split_whitespace().any(|name| name == "tls"))
            }
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Loads what is not there. Returns what is missing after that.
pub fn load(root: &SysRoot, modules: &[Module]) -> Vec<Missing> {
    let mut missing = Vec::new();
    for module in modules.iter().copied().filter(|m| !m.present(root)) {
        let tried = modprobe(root, module, DEADLINE);
        if !module.present(root) {
            let reason =
                tried.err().unwrap_or_else(|| "modprobe says it is loaded, but it provides nothing".to_owned());
            missing.push(Missing { module, reason });
        }
    }
    missing
}

/// Runs the node's modprobe. The error says what went wrong.
fn modprobe(root: &SysRoot, module: Module, deadline: Duration) -> Result<(), String> {
    let programs = ["sbin/modprobe", "usr/sbin/modprobe"].map(|p| root.path(p));
    let Some(program) = programs.iter().find(|p| p.exists()) else {
        return Err("there is no modprobe".to_owned());
    };
    run(program.clone(), module, deadline).unwrap_or_else(|error| Err(format!("modprobe: {error}")))
}

fn run(program: PathBuf, module: Module, deadline: Duration) -> io::Result<Result<(), String>> {
    let mut command = Command::new(program);
    command.arg(module.name()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if !ended(&child, deadline)? {
        child.kill()?;
        child.wait()?;
        return Ok(Err(format!("modprobe was not done after {} s", deadline.as_secs())));
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(Ok(()));
    }
    // The program has ended, so what it said is in the pipe; a child of its own that holds the pipe is not waited for.
    let mut said = [0; 1024];
    let mut length = 0;
    if let Some(mut pipe) = child.stderr.take() {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        length = pipe.read(&mut said).unwrap_or(0);
    }
    let said = String::from_utf8_lossy(said.get(..length).unwrap_or_default()).trim().to_owned();
    Ok(Err(if said.is_empty() { format!("modprobe ended with {status}") } else { said }))
}

/// Waits for the end of a process. False when it has not come in time.
fn ended(child: &Child, deadline: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(deadline).map_err(io::Error::other)?;
    Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use patchbay_usb::fixture::Fixture;

    use super::*;

    const ALL: [Module; 3] = [Module::UsbipHost, Module::VhciHcd, Module::Tls];

    /// A node whose modprobe is this script.
    fn node(script: &str) -> Fixture {
        let node = Fixture::new();
        node.write("sbin/modprobe", format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"/.. || exit 9\n{script}\n"));
        fs::set_permissions(node.root().path("sbin/modprobe"), fs::Permissions::from_mode(0o755)).unwrap();
        node
    }

    #[test]
    fn what_is_there_needs_no_modprobe() {
        let node = Fixture::new();
        node.usbip_host();
        node.write("sys/devices/platform/vhci_hcd.0/status", "");
        node.write("proc/sys/net/ipv4/tcp_available_ulp", "espintcp mptcp tls\n");
        assert_eq!(load(node.root(), &ALL).len(), 0);
    }

    #[test]
    fn what_is_missing_is_named_with_the_reason() {
        let node = Fixture::new();
        node.usbip_host();
        let missing: Vec<String> = load(node.root(), &ALL).iter().map(ToString::to_string).collect();
        assert_eq!(missing.len(), 2);
        assert_eq!(missing[0], "the module vhci-hcd is missing on this node (there is no modprobe): modprobe vhci-hcd");
    }

    #[test]
    fn modules_are_loaded_by_name() {
        let node = node(
            "test \"$1\" = vhci-hcd && mkdir -p sys/devices/platform/vhci_hcd.0 && touch sys/devices/platform/vhci_hcd.0/status",
        );
        assert_eq!(load(node.root(), &[Module::VhciHcd]).len(), 0);
    }

    #[test]
    fn what_modprobe_says_is_passed_on() {
        let node = node("echo \"FATAL: Module $1 not found.\" >&2; exit 1");
        assert_eq!(load(node.root(), &[Module::Tls])[0].reason, "FATAL: Module tls not found.");
        let node = self::node("exit 3");
        assert_eq!(load(node.root(), &[Module::Tls])[0].reason, "modprobe ended with exit status: 3");
        let node = self::node("exit 0");
        assert!(load(node.root(), &[Module::Tls])[0].reason.contains("provides nothing"));
    }

    #[test]
    fn a_modprobe_that_hangs_is_ended_at_its_deadline() {
        let node = node("exec sleep 600");
        let start = Instant::now();
        let said = modprobe(node.root(), Module::Tls, Duration::from_millis(50));
        assert!(said.unwrap_err().starts_with("modprobe was not done"));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
