//! The test guest in a virtual machine, through the log of its pod: the guest's console is the pod's output.
//!
//! A [`Guest`] follows the machine, not the container: when the machine gets a new pod, or QEMU is started again in its
//! pod, it goes on with that output. When the machine moves, it goes on with that of the pod it has moved to, once the former
//! one has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use patchbay_api::keys;

use crate::stick::Stick;
use crate::{api, wait};

/// How long to wait before looking for the pod again.
const AGAIN: Duration = Duration::from_millis(50);
/// Lines an error shows.
const SHOWN: usize = 15;

/// One line of the guest's console.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it arrived here.
    pub at: Instant,
    /// When its node wrote it down, by that node's clock: the time since 1970.
    pub written: Duration,
    /// What it says.
    pub text: String,
}

#[derive(Default)]
struct Console {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

impl Console {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console of a virtual machine's guest.
pub struct Guest {
    what: String,
    console: Arc<Console>,
    from: usize,
}

impl Guest {
    /// Starts to follow the console; the machine need not exist yet.
    pub fn follow(client: kube::Client, namespace: &str, vm: &str) -> Self {
        let console = Arc::new(Console::default());
        let weak = Arc::downgrade(&console);
        let (pods, name) = (Api::<Pod>::namespaced(client, namespace), vm.to_owned());
        api::spawn(async move {
            let mut read_of: BTreeMap<String, String> = BTreeMap::new();
            // Ends when nobody holds the console any more.
            while weak.strong_count() > 0 {
                if let Some(pod) = pod_of(&pods, &name).await {
                    let last = read_of.entry(pod.clone()).or_default();
                    read(&pods, &pod, last, |time, text| {
                        weak.upgrade().map(|console| {
                            console.lines().push(Line { at: Instant::now(), written: since_1970(time), text });
                            console.more.notify_all();
                        })
                    })
                    .await;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { what: format!("the guest of {namespace}/{vm}"), console, from: 0 }
    }

    /// Only what comes from now on counts for the waits that follow.
    pub fn forget(&mut self) {
        self.from = self.console.lines().len();
    }

    /// What counts, so far.
    pub fn lines(&self) -> Vec<Line> {
        self.console.lines().iter().skip(self.from).cloned().collect()
    }

    /// What has come since this was asked last, or since [`Guest::forget`]. What it gives does not count any more.
    pub fn news(&mut self) -> Vec<Line> {
        let news = self.lines();
        self.from += news.len();
        news
    }

    /// Waits for a line for which `wanted` gives a value.
    ///
    /// # Errors
    /// After the deadline: what was awaited, and the last lines.
    pub fn wait_line<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T> {
        let deadline = wait::patient(deadline);
        let end = Instant::now() + deadline;
        let mut next = self.from;
        let mut lines = self.console.lines();
        loop {
            let fresh = lines.get(next..).unwrap_or_default();
            if let Some(value) = fresh.iter().find_map(&mut wanted) {
                return Ok(value);
            }
            next = lines.len();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let shown = next.saturating_sub(SHOWN).max(self.from);
                let last: Vec<_> = lines.iter().skip(shown).map(|line| format!("  {}", line.text)).collect();
                bail!(
                    "waited {:.1} s for {} to say {what}; it said last:\n{}",
                    deadline.as_secs_f32(),
                    self.what,
                    last.join("\n")
                );
            }
            lines = self.console.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the guest has read a stick from beginning to end, every byte as the stick has it.
    ///
    /// # Errors
    /// When it does not in time, or has read something else.
    pub fn reads(&self, stick: &Stick, deadline: Duration) -> Result<()> {
        let seen = self.sha256(stick.serial.as_deref().unwrap_or_default(), deadline)?;
        ensure!(seen == stick.sha256(), "{} reads {seen}, the stick holds {}", self.what, stick.sha256());
        Ok(())
    }

    /// Waits until the guest has exactly the devices with these serial numbers.
    ///
    /// # Errors
    /// After the deadline: what it has instead.
    pub fn has_exactly(&self, serials: &BTreeSet<String>, deadline: Duration) -> Result<()> {
        wait::wait_for(&format!("{} to have exactly {serials:?}", self.what), deadline, || {
            let present = present(self.console.lines().iter().map(|line| line.text.as_str()));
            if present == *serials { Ok(()) } else { Err(format!("{present:?}")) }
        })
    }

    /// The name in the guest of the disk with this serial number, while it has one.
    pub fn disk(&self, serial: &str) -> Option<String> {
        let mut disk = DiskOf::new(serial);
        self.console.lines().iter().for_each(|line| drop(disk.hear(&line.text)));
        disk.disk
    }

    /// Waits until the guest says that a disk is gone.
    ///
    /// # Errors
    /// After the deadline.
    pub fn loses_disk(&self, deadline: Duration) -> Result<()> {
        self.wait_line("that the disk is gone", deadline, |line| line.text.contains("guest: disk remove").then_some(()))
    }

    /// The checksum the guest computes of the stick with this serial number.
    ///
    /// # Errors
    /// When it tells none in time.
    pub fn sha256(&self, serial: &str, deadline: Duration) -> Result<String> {
        let mut disk = DiskOf::new(serial);
        self.console.lines().iter().take(self.from).for_each(|line| drop(disk.hear(&line.text)));
        self.wait_line(&format!("the checksum of {serial}"), deadline, |line| disk.hear(&line.text))
    }
}

/// Which of the guest's disks is the one with a certain serial number, as its lines tell:
///
/// ```text
/// guest: disk add sda size=8388608 serial=SN0001 up=9.11
/// guest: disk sda sha256=<64 digits> bytes=8388608 up=9.80
/// guest: disk remove sda up=31.00
/// ```
struct DiskOf<'s> {
    serial: &'s str,
    disk: Option<String>,
}

impl<'s> DiskOf<'s> {
    fn new(serial: &'s str) -> Self {
        Self { serial, disk: None }
    }

    /// Takes in a line; the checksum, if it is that disk's.
    fn hear(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_once("guest: disk ")?.1.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
        match words.as_slice() {
            ["add", disk, ..] if value("serial=") == Some(self.serial) => self.disk = Some((*disk).to_owned()),
            ["add" | "remove", disk, ..] => self.disk = self.disk.take().filter(|mine| mine != disk),
            [disk, ..] if self.disk.as_deref() == Some(disk) => return value("sha256=").map(str::to_owned),
            _ => {}
        }
        None
    }
}

/// The serial numbers of the USB devices in a guest that has said all this.
fn present<'t>(lines: impl Iterator<Item = &'t str>) -> BTreeSet<String> {
    let mut devices = BTreeMap::new();
    for text in lines.filter_map(|line| Some(line.split_once("guest: ")?.1)) {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["booted", ..] => devices.clear(),
            ["usb", "add", place, ..] => {
                let serial = words.iter().find_map(|word| word.strip_prefix("serial=")).unwrap_or_default();
                devices.insert((*place).to_owned(), serial.to_owned());
            }
            ["usb", "remove", place, ..] => drop(devices.remove(*place)),
            _ => {}
        }
    }
    devices.into_values().collect()
}

/// The newest pod that belongs to the machine and has started; not one to which it may move, as long as it has not.
async fn pod_of(pods: &Api<Pod>, vm: &str) -> Option<String> {
    let list = pods.list(&ListParams::default()).await.ok()?;
    let owned =
        |pod: &Pod| pod.owner_references().iter().any(|owner| owner.kind == "VirtualMachine" && owner.name == vm);
    let started = |pod: &Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase != "Pending")
    };
    let awaited = |pod: &Pod| {
        let said = pod.annotations();
        said.contains_key(keys::MIGRATE_FROM) && !said.contains_key(keys::ARRIVED)
    };
    let pods = list.items.into_iter().filter(|pod| owned(pod) && started(pod) && !awaited(pod));
    pods.max_by_key(|pod| pod.creation_timestamp().map(|time| time.0)).map(|pod| pod.name_any())
}

/// Reads a pod's output until its container ends or it cannot be read. Lines that are not younger than `last` were read
/// before: a connection that breaks begins with the first line again, and the next container of the pod with its own.
async fn read(pods: &Api<Pod>, pod: &str, last: &mut String, mut push: impl FnMut(&str, String) -> Option<()>) {
    let follow = LogParams { follow: true, timestamps: true, ..LogParams::default() };
    let Ok(output) = pods.log_stream(pod, &follow).await else { return };
    let mut lines = std::pin::pin!(output.lines());
    while let Ok(Some(line)) = lines.try_next().await {
        let Some((time, text)) = stamped(&line).filter(|(time, _)| *time > last.as_str()) else { continue };
        time.clone_into(last);
        if push(time, text.to_owned()).is_none() {
            return;
        }
    }
}

/// A line's time and text. The kubelet prints all times in UTC with nine decimals: their order is that of the texts. What it
/// says itself, about a file that is gone for example, has no time.
fn stamped(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(time, _)| time.starts_with(|c: char| c.is_ascii_digit()) && time.ends_with('Z'))
}

/// The time since 1970 of a time as the kubelet prints it.
fn since_1970(time: &str) -> Duration {
    let time = time.parse::<Timestamp>().ok();
    time.and_then(|time| Duration::try_from(time.duration_since(Timestamp::UNIX_EPOCH)).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { at: Instant::now(), written: Duration::ZERO, text: text.to_owned() }
    }

    #[test]
    fn the_kubelets_times_are_understood() {
        assert_eq!(since_1970("1970-01-01T00:01:00.250000000Z"), Duration::from_millis(60_250));
    }

    #[test]
    fn what_the_kubelet_says_itself_is_no_line_of_the_guest() {
        assert_eq!(
            stamped("2026-11-25T17:46:52.95Z guest: booted"),
            Some(("2026-11-25T17:46:52.95Z", "guest: booted"))
        );
        assert_eq!(stamped("failed to try resolving symlinks in path"), None);
    }

    fn guest(lines: &[&str]) -> Guest {
        let console = Arc::new(Console::default());
        console.lines().extend(lines.iter().map(|text| line(text)));
        Guest { what: "the guest of ns/vm".into(), console, from: 0 }
    }

    #[test]
    fn a_checksum_belongs_to_the_disk_that_has_the_serial_number_at_that_time() {
        let mut guest = guest(&[
            "guest: disk add sda size=8 serial=SN1 up=1.0",
            "guest: disk add sdb size=8 serial=SN12 up=1.1",
            "guest: disk sdb sha256=bb bytes=8 up=1.2",
            "guest: disk sda sha256=aa bytes=8 up=1.3",
            "guest: disk sda reads ok=20 bad=0 errors=0 up=1.4",
        ]);
        assert_eq!(guest.sha256("SN1", Duration::ZERO).unwrap(), "aa");
        assert_eq!(guest.sha256("SN12", Duration::ZERO).unwrap(), "bb");
        guest.forget();
        assert!(guest.sha256("SN1", Duration::ZERO).is_err(), "what is forgotten does not count");
        for text in [
            "guest: disk remove sda up=2.0",
            "guest: disk add sda size=8 serial=SN3 up=2.1",
            "guest: disk sda sha256=cc up=2.2",
        ] {
            guest.console.lines().push(line(text));
        }
        assert!(guest.sha256("SN1", Duration::ZERO).is_err(), "the name of a disk says nothing after it was removed");
        assert_eq!(guest.sha256("SN3", Duration::ZERO).unwrap(), "cc");
    }

    #[test]
    fn a_guest_has_what_was_added_since_its_boot_and_not_removed() {
        let said = [
            "guest: usb add 1-1 1d6b:0104 speed=480 serial=OLD product=\"Stick\" up=9.00",
            "guest: booted up=2.31",
            "guest: usb add 2-1 1d6b:0104 speed=5000 serial=SN1 product=\"Test Stick\" up=3.00",
            "guest: usb add 2-2 1d6b:0104 speed=5000 serial=SN2 product=\"Test Stick\" up=3.10",
            "guest: disk remove sda up=3.20",
            "guest: usb remove 2-1 up=3.20",
        ];
        assert_eq!(present(said.into_iter()), BTreeSet::from(["SN2".to_owned()]));
    }

    #[test]
    fn forgotten_lines_do_not_count_and_later_ones_do() {
        let mut guest = guest(&["old"]);
        guest.forget();
        let console = Arc::clone(&guest.console);
        let other = std::thread::spawn(move || {
            console.lines().push(line("new"));
            console.more.notify_all();
        });
        let text = guest.wait_line("anything", Duration::from_secs(10), |line| Some(line.text.clone())).unwrap();
        other.join().unwrap();
        assert_eq!(text, "new");
    }

    #[test]
    fn each_line_is_news_once() {
        let mut guest = guest(&["one", "two"]);
        let texts = |lines: Vec<Line>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(guest.news()), ["one", "two"]);
        guest.console.lines().push(line("three"));
        assert_eq!(texts(guest.news()), ["three"]);
        assert!(guest.news().is_empty());
    }

    #[test]
    fn the_error_shows_what_the_guest_said_last() {
        let error = guest(&["Linux version", "panic"])
            .wait_line("hello", Duration::ZERO, |_| None::<()>)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "waited 0.0 s for the guest of ns/vm to say hello; it said last:\n  Linux version\n  panic");
    }
}
