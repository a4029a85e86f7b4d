//! Which devices the host itself is using.
//!
//! Taking away the disk a node runs from, or the network it is reached by, would take the node away. So a device is in use
//! when the host has a file system or swap space on any block device below it (also through device mapper, RAID and loop
//! devices), when device mapper or RAID has a block device below it at all, when it has a network interface below it that is
//! up and has an address or carries others (a bridge, a bond, a VLAN), or when it is a keyboard that the console listens to
//! and that is configured to be the console's.
//!
//! Everything is best effort: what cannot be read is taken as not in use. What the tables do not show, a mount in the own
//! view of a container above all, is found by [`claim`], which asks the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use patchbay_core::device::{HexId, PortPath};
use patchbay_core::host_use::{HostUse, Keyboards};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::{SysDir, SysRoot};

/// What the host uses: where in the tree of devices, and for what.
pub(crate) struct Tables(Vec<(PathBuf, HostUse)>);

/// How many layers of device mapper and RAID are looked through.
const MAX_LAYERS: usize = 8;

impl Tables {
    pub(crate) fn read(root: &SysRoot, consoles: &Keyboards) -> Self {
        let mut uses = Vec::new();
        for (block, point) in mounts(root) {
            physical(root, &block, MAX_LAYERS, &mut |path| uses.push((path, HostUse::mounted(&point))));
        }
        for (block, name) in swaps(root) {
            physical(root, &block, MAX_LAYERS, &mut |path| uses.push((path, HostUse::swap(&name))));
        }
        for (name, path) in networks(root) {
            uses.push((path, HostUse::network(&name)));
        }
        for (name, path) in keyboards(root, consoles) {
            uses.push((path, HostUse::keyboard(&name)));
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
/// A place without a device has nothing to take. `consoles` are the keyboards that consoles have for themselves. Opens each
/// disk: use `spawn_blocking`.
///
/// # Errors
/// The host uses it, and for what.
pub fn claim(root: &SysRoot, place: &PortPath, consoles: &Keyboards) -> Result<Claim, HostUse> {
    let Ok(device) = root.usb_device(place.as_str()).real() else { return Ok(Claim { _disks: Vec::new() }) };
    if let Some(host) = Tables::read(root, consoles).of(&device) {
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
fn physical(root: &SysRoot, block: &SysDir, layers: usize, report: &mut impl FnMut(PathBuf)) {
    let Ok(path) = block.real() else { return };
    report(path);
    let Some(layers) = layers.checked_sub(1) else { return };
    let slaves = block.join("slaves");
    for name in slaves.names().unwrap_or_default() {
        physical(root, &slaves.join(name), layers, report);
    }
    // A loop device is of a file, which is on something mounted, or of a disk. Partitions of one are below its own folder.
    let whole = if block.has("partition") { block.join("..") } else { block.clone() };
    let behind = whole.text("loop/backing_file").ok().and_then(|file| class_block(root, &file));
    if let Some((disk, _)) = behind {
        physical(root, &disk, layers, report);
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

/// Network interfaces that are up and have an address or carry others, and where they are. A cable that is out for a moment
/// takes neither away, so it does not make the interface anybody else's.
fn networks(root: &SysRoot) -> Vec<(String, PathBuf)> {
    let addressed = addressed(root);
    let class = root.dir("sys/class/net");
    let mut found = Vec::new();
    for name in class.names().unwrap_or_default() {
        let interface = class.join(&name);
        let carries =
            || interface.names().is_ok_and(|names| names.iter().any(|n| n == "master" || n.starts_with("upper_")));
        if is_up(&interface) && (addressed.contains(&name) || carries()) {
            found.extend(interface.real().ok().map(|path| (name, path)));
        }
    }
    found
}

/// Whether somebody has taken an interface up: `IFF_UP`, the lowest bit of its flags.
fn is_up(interface: &SysDir) -> bool {
    let flags = interface.text("flags").ok();
    flags.and_then(|f| u32::from_str_radix(f.trim_start_matches("0x"), 16).ok()).is_some_and(|flags| flags & 1 == 1)
}

/// Keyboards that the console listens to, as far as they are the console's: the kernel's name for each, and where it is. One
/// paragraph a device: ids, name, place below `/sys`, and who listens, of whom `kbd` is the console (`drivers/input/input.c`,
/// `input_devices_seq_show`; `drivers/tty/vt/keyboard.c`).
fn keyboards(root: &SysRoot, consoles: &Keyboards) -> Vec<(String, PathBuf)> {
    if *consoles == Keyboards::Free {
        return Vec::new();
    }
    let table = fs::read(root.path("proc/bus/input/devices")).unwrap_or_default();
    let table = String::from_utf8_lossy(&table).into_owned();
    table.split("\n\n").filter_map(|paragraph| keyboard(root, consoles, paragraph)).collect()
}

fn keyboard(root: &SysRoot, consoles: &Keyboards, paragraph: &str) -> Option<(String, PathBuf)> {
    let line = |head: &str| paragraph.lines().find_map(|line| line.strip_prefix(head));
    let ids = line("I: ")?;
    let id = |key: &str| ids.split(' ').find_map(|word| word.strip_prefix(key)?.parse::<HexId>().ok());
    let listens = line("H: Handlers=")?.split(' ').any(|handler| handler == "kbd");
    if !listens || !consoles.has(id("Vendor=")?, id("Product=")?) {
        return None;
    }
    let place = line("S: Sysfs=/")?;
    let path = root.dir("sys").join(place).real().ok()?;
    Some((place.rsplit('/').next()?.to_owned(), path))
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
