//! The path of the data: how fast a guest reads a disk on another node through Patchbay, through the stock tools, and one on its
//! own node; and whether any process of ours is woken up by that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figures::{Row, Times};
use super::processes::{Process, Usages};
use super::{HOME, IMPORTER, NAMESPACE, VM, attach};
use crate::case::{Case, SOON};
use crate::guest::Guest;
use crate::stick::Stick;

/// How often each kind of path is made anew and measured, in turn: a session is faster or slower than the next one of its kind.
pub(super) const SESSIONS: usize = 3;
/// How many of the guest's lines count in each. The first is not one of them.
const LINES: usize = 10;
/// For how long our processes are watched while a disk is read.
const LOAD: Duration = Duration::from_secs(60);
/// For all lines: each reads the whole disk.
const DEADLINE: Duration = Duration::from_secs(240);
/// The machine that is on the node of the disk.
const LOCAL: &str = "local-vm";
/// Other sizes of socket buffers: how they are called, and what `tcp_rmem` and `tcp_wmem` of both nodes are then (tcp(7): at least, at
/// first, at most; in bytes). The kernel's own begin with 128 and 16 KiB and grow up to 6 and 4 MiB.
const BUFFERS: [(&str, &str); 2] = [
    ("on another node, socket buffers of 1 MiB from the beginning on", "4096 1048576 6291456"),
    ("on another node, socket buffers of 64 KiB at most", "4096 65536 65536"),
];
/// Where they are.
const SYSCTLS: &str = "/proc/sys/net/ipv4";
/// Size of the disk, in bytes.
const SIZE: usize = 16 << 20;

/// What a guest has measured of a disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Path {
    /// One read of 4 KiB.
    block: Times,
    /// The whole disk from beginning to end, of this many bytes a second.
    mib_per_second: Vec<f64>,
}

impl Path {
    /// What the guest's disk does from now on.
    ///
    /// # Errors
    /// When it tells too little in time.
    pub(super) fn measure(guest: &mut Guest) -> Result<Self> {
        Self::measure_for(guest, Duration::ZERO)
    }

    /// The same for so long at least.
    fn measure_for(guest: &mut Guest, at_least: Duration) -> Result<Self> {
        guest.forget();
        let mut path = Self::default();
        let (begin, mut first) = (Instant::now(), true);
        guest.wait_line("how fast its disk is", DEADLINE, |line| {
            let (block, rate) = of_line(&line.text)?;
            if !std::mem::take(&mut first) {
                path.block.push(block);
                path.mib_per_second.push(rate / f64::from(1 << 20));
            }
            (path.mib_per_second.len() >= LINES && begin.elapsed() >= at_least).then_some(())
        })?;
        Ok(path)
    }

    /// What was measured in another session of this kind.
    pub(super) fn extend(&mut self, other: Self) {
        self.block.extend(other.block);
        self.mib_per_second.extend(other.mib_per_second);
    }

    fn rate(&self) -> f64 {
        let mut sorted = self.mib_per_second.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Its lines of the table.
    pub(super) fn rows(&self, how: &str) -> [Row; 2] {
        [
            Row::figure(&format!("a disk {how}: read from beginning to end"), self.rate(), "MiB/s"),
            Row::figure("  one read of 4 KiB", self.block.median() * 1000.0, "us"),
        ]
    }
}

/// What was measured with our processes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Data {
    pub(super) remote: Path,
    pub(super) local: Path,
    /// The remote one with other socket buffers.
    pub(super) buffers: BTreeMap<String, Path>,
    /// What our processes used while the remote one was read for a minute.
    pub(super) loaded: Vec<Process>,
}

impl Data {
    /// The lines of the table, with those of the stock tools' path.
    pub(super) fn rows(&self, hand: &Path) -> Vec<Row> {
        let mut rows: Vec<Row> = self.remote.rows("on another node").into();
        rows.extend(self.buffers.iter().flat_map(|(how, path)| path.rows(how)));
        rows.extend(hand.rows("on another node by hand, not encrypted"));
        rows.extend(self.local.rows("on the same node"));
        rows.push(Row::figure("  rate through Patchbay of that by hand", self.remote.rate() / hand.rate(), ""));
        rows.extend(self.loaded.iter().flat_map(|process| process.under_load(&[HOME, IMPORTER])));
        rows
    }
}

/// The disk.
pub(super) fn stick() -> Stick {
    Stick::new("bench-disk").strings(Some("Patchbay"), Some("Bench Disk")).size(SIZE)
}

/// Reads it from both places. Returns its name besides; it stays plugged in.
///
/// # Errors
/// When a guest does not read it.
pub(super) fn paths(case: &Case<'_>, guest: &mut Guest) -> Result<(Data, String)> {
    let (device, _) = case.plug(HOME, &stick())?;
    case.assign(&device, NAMESPACE)?;
    let loaded = on_other_node(case, guest, &device, |guest| {
        let before = Usages::look(case.lab)?;
        Path::measure_for(guest, LOAD)?;
        Ok(Usages::look(case.lab)?.since(before))
    })?;
    let (mut remote, mut buffers) = (Path::default(), BTreeMap::<_, Path>::new());
    for _ in 0..SESSIONS {
        remote.extend(on_other_node(case, guest, &device, Path::measure)?);
        for (how, sizes) in BUFFERS {
            let path = with_buffers(case, sizes, || on_other_node(case, guest, &device, Path::measure))?;
            buffers.entry(how.to_owned()).or_default().extend(path);
        }
    }

    let mut near = case.vm(LOCAL, HOME, &[&device])?;
    let local = Path::measure(&mut near).context("a disk on the same node")?;
    case.delete_vm(LOCAL)?;
    case.lab.assert_no_leaks(SOON)?;
    Ok((Data { remote, local, buffers, loaded }, device))
}

/// Does something while both nodes give their sockets buffers of these sizes.
fn with_buffers<T>(case: &Case<'_>, sizes: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let nodes = [case.lab.node(HOME)?, case.lab.node(IMPORTER)?];
    let former = nodes.iter().map(|node| node.run(&format!("cd {SYSCTLS}; cat tcp_rmem tcp_wmem")));
    let former: Vec<String> = former.collect::<Result<_>>()?;
    for node in nodes {
        node.run(&format!("cd {SYSCTLS}; echo {sizes} >tcp_rmem; echo {sizes} >tcp_wmem"))?;
    }
    let done = what()?;
    for (node, former) in nodes.iter().zip(former) {
        let (read, write) = former.split_once('\n').context("two lines")?;
        node.run(&format!("cd {SYSCTLS}; echo {read} >tcp_rmem; echo {write} >tcp_wmem"))?;
    }
    Ok(done)
}

/// Does something while a machine of another node has it, which has it no more in the end.
fn on_other_node<T>(
    case: &Case<'_>,
    guest: &mut Guest,
    device: &str,
    what: impl FnOnce(&mut Guest) -> Result<T>,
) -> Result<T> {
    guest.forget();
    case.set_devices(VM, &[device])?;
    attach::comes(guest)?;
    let done = what(guest).context("a disk on another node")?;
    guest.forget();
    case.set_devices(VM, &[])?;
    attach::goes(guest)?;
    case.lab.assert_no_leaks(SOON)?;
    Ok(done)
}

/// Time of a block, and bytes a second.
fn of_line(line: &str) -> Option<(Duration, f64)> {
    let words = line.split_once(" measured ")?.1;
    let value = |key: &str| words.split_whitespace().find_map(|word| word.strip_prefix(key));
    Some((Duration::from_micros(value("block_us=")?.parse().ok()?), value("bytes_per_second=")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_line_is_understood() {
        let line = "guest: disk sda measured block_us=812 bytes_per_second=4096000 up=9.11";
        assert_eq!(of_line(line), Some((Duration::from_micros(812), 4_096_000.0)));
        assert_eq!(of_line("guest: disk sda reads ok=20 bad=0 errors=0 up=10.80"), None);
    }
}
