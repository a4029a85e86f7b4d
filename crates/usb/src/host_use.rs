//! Which devices the host itself is using.
//!
//! Taking away the disk a node runs from, or the network it is reached by, would take the node away. So a device is in use
//! when the host has a file system or swap space on any block device below it (also through device mapper and RAID), when
//! device mapper or RAID has a block device below it at all, or when it has a network interface below it that carries
//! traffic: up, with a carrier, and with an address or part of a bridge or bond.
//!
//! Everything is best effort: what cannot be read is taken as not in use. What the tables do not show, a mount in the own
//! view of a container above all, is found by [`claim`], which asks the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use patchbay_core::device::PortPath;
use patchbay_core::host_use::HostUse;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::{SysDir, SysRoot};

/// What the host uses: where in the tree of devices, and for what.
pub(crate) struct Tables(Vec<(PathBuf, HostUse)>);

/// How many layers of device mapper and RAID are looked through.
const MAX_LAYERS: usize = 8;

impl Tables {
    pub(crate) fn read(root: &SysRoot) -> Self {
        let mut uses = Vec::new();
        for (block, point) in mounts(root) {
            physical(&block, MAX_LAYERS, &mut |path| uses.push((path, HostUse::mounted(&point))));
        }
        for (block, name) in swaps(root) {
            physical(&block, MAX_LAYERS, &mut |path| uses.push((path, HostUse::swap(&name))));
        }
        for (name, path) in networks(root) {
            uses.push((path, HostUse::network(&name)));
        }
        // Last: a mount point says more.
        for (name, path) in held(root) {
            uses.push((path, HostUse::held(&name)));
        }
        Self(uses)
    }

    /// What the host does with the device at this real path; None when nothing.
    pub(crate) fn of(&self, device: &Path) -> Option<&HostUse> {
        self.0.iter().find(|(path, _)| path.starts_with(device)).map(|(_, host)| host)
    }
}

/// Keeps the host from mounting or otherwise taking the disks of a device, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _disks: Vec<File>,
}

/// Looks at this moment, and takes the disks of the device at a place from the host, so that nothing can come in between.
/// A place without a device has nothing to take. Opens each disk: use `spawn_blocking`.
///
/// # Errors
/// The host uses it, and for what.
pub fn claim(root: &SysRoot, place: &PortPath) -> Result<Claim, HostUse> {
    let Ok(device) = root.usb_device(place.as_str()).real() else { return Ok(Claim { _disks: Vec::new() }) };
    if let Some(host) = Tables::read(root).of(&device) {
        return Err(host.clone());
    }
    // For a block device O_EXCL means that nobody else may have it so, on the whole or in part: neither a mount in whatever
    // namespace nor device mapper (open(2); `bd_may_claim` in block/bdev.c). O_NONBLOCK: without waiting for a medium.
    let flags = i32::try_from((OFlags::EXCL | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let mut disks = Vec::new();
    for (name, block) in blocks(root).filter(|(_, block)| block.real().is_ok_and(|path| path.starts_with(&device))) {
        if block.has("partition") {
            continue;
        }
        match OpenOptions::new().read(true).custom_flags(flags).open(root.path(format!("dev/{name}"))) {
            Ok(disk) => disks.push(disk),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => return Err(HostUse::held(&name)),
            // No node, no medium, no right: then nobody has it mounted through this node either.
            Err(_) => {}
        }
    }
    Ok(Claim { _disks: disks })
}

/// All block devices, by the kernel's names.
fn blocks(root: &SysRoot) -> impl Iterator<Item = (String, SysDir)> {
    let class = root.dir("sys/class/block");
    let names = class.names().unwrap_or_default();
    names.into_iter().map(move |name| (name.clone(), class.join(name)))
}

/// Block devices that others are made of, and where they are.
fn held(root: &SysRoot) -> Vec<(String, PathBuf)> {
    let holds = |block: &SysDir| block.join("holders").names().is_ok_and(|names| !names.is_empty());
    let all = blocks(root).filter(|(_, block)| holds(block));
    all.filter_map(|(name, block)| Some((name, block.real().ok()?))).collect()
}

/// Reports the real path of a block device, and of those it is made of.
fn physical(block: &SysDir, layers: usize, report: &mut impl FnMut(PathBuf)) {
    let Ok(path) = block.real() else { return };
    report(path);
    let slaves = block.join("slaves");
    for name in slaves.names().unwrap_or_default() {
        if layers > 0 {
            physical(&slaves.join(name), layers - 1, report);
        }
    }
}

/// Mounted block devices and where they are mounted. Process 1 sees the host's mounts where the agent's own view is that
/// of its container.
fn mounts(root: &SysRoot) -> Vec<(SysDir, String)> {
    let table = ["proc/1/mountinfo", "proc/self/mountinfo"].iter().find_map(|p| fs::read(root.path(p)).ok());
    let table = String::from_utf8_lossy(&table.unwrap_or_default()).into_owned();
    table.lines().filter_map(|line| mounted(root, line)).collect()
}

/// One line of mountinfo (`proc_pid_mountinfo(5)`): id, parent, major:minor, root, mount point, options, then any number
/// of optional fields, a dash, type, source. File systems of several devices (btrfs) have a made-up major 0; their source
/// names a block device.
fn mounted(root: &SysRoot, line: &str) -> Option<(SysDir, String)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut fields = head.split(' ').skip(2);
    let (number, point) = (fields.next()?, fields.nth(1)?);
    let block = if number.starts_with("0:") {
        class_block(root, tail.split(' ').nth(1)?)?.0
    } else {
        root.dir("sys/dev/block").join(number)
    };
    Some((block, unescape(point)))
}

fn swaps(root: &SysRoot) -> Vec<(SysDir, String)> {
    let table = fs::read_to_string(root.path("proc/swaps")).unwrap_or_default();
    let sources = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    sources.filter_map(|source| class_block(root, source)).collect()
}

/// The block device behind `/dev/sda1`, and its name.
fn class_block(root: &SysRoot, source: &str) -> Option<(SysDir, String)> {
    let name = source.strip_prefix("/dev/")?;
    (!name.contains('/')).then(|| (root.dir("sys/class/block").join(name), name.to_owned()))
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Network interfaces that carry traffic, and where they are.
fn networks(root: &SysRoot) -> Vec<(String, PathBuf)> {
    let addressed = addressed(root);
    let class = root.dir("sys/class/net");
    let mut found = Vec::new();
    for name in class.names().unwrap_or_default() {
        let interface = class.join(&name);
        // The carrier of an interface that is down cannot be read at all.
        let live = interface.text("carrier").is_ok_and(|c| c == "1");
        if live && (addressed.contains(&name) || interface.link("master").is_some()) {
            found.extend(interface.real().ok().map(|path| (name, path)));
        }
    }
    found
}

/// Interfaces with an address: a route of IPv4 leads through them, or they have an address of IPv6 that is not merely
/// link local (each interface that is up has one of those). Columns: `net/ipv4/fib_trie.c`, `net/ipv6/addrconf.c`.
fn addressed(root: &SysRoot) -> BTreeSet<String> {
    const LINK_LOCAL: &str = "20";
    let routes = fs::read_to_string(root.path("proc/net/route")).unwrap_or_default();
    let inet6 = fs::read_to_string(root.path("proc/net/if_inet6")).unwrap_or_default();
    let by_route = routes.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let by_address = inet6.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(3);
        let (scope, name) = (columns.next()?, columns.nth(1)?);
        (scope != LINK_LOCAL).then_some(name)
    });
    by_route.chain(by_address).map(str::to_owned).collect()
}
