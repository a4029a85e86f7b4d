//! What a process uses, as the kernel counts it: memory, processor time, and how often its threads go to sleep.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The memory of a process, in MiB (`/proc/PID/smaps_rollup`, proc(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// All of its pages that are in memory: RSS.
    pub(super) resident: f64,
    /// Of that what belongs to no file: heap, stacks, and data of the program that it has changed.
    pub(super) anonymous: f64,
    /// Pages that it shares with other processes count only in part: PSS.
    pub(super) proportional: f64,
}

impl Memory {
    /// As it is now.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::of_text(&text).with_context(|| format!("{path} makes no sense"))
    }

    /// The most that was ever resident (`VmHWM` in `/proc/PID/status`), in MiB.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn peak(pid: u32) -> Result<f64> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        mib(&text, "VmHWM").with_context(|| format!("{path} makes no sense"))
    }

    /// What is pages of files: nearly all of it the program, which the kernel may drop and read again.
    pub(super) fn of_files(self) -> f64 {
        self.resident - self.anonymous
    }

    fn of_text(text: &str) -> Option<Self> {
        Some(Self { resident: mib(text, "Rss")?, anonymous: mib(text, "Anonymous")?, proportional: mib(text, "Pss")? })
    }
}

/// Of a line like `Rss:  4096 kB`.
fn mib(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: f64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// What threads have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Time on a processor.
    pub(super) cpu: Duration,
    /// How often they went to sleep, and so were woken up: voluntary context switches.
    pub(super) naps: u64,
}

/// A process, watched from some moment on.
///
/// Threads that end take their counts with them, so whoever wants to miss little looks often; looking costs the process
/// nothing.
pub(super) struct Watched {
    pid: u32,
    threads: BTreeMap<String, Thread>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Thread {
    first: Used,
    last: Used,
}

impl Watched {
    /// From now on.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn begin(pid: u32) -> Result<Self> {
        let threads = threads(pid)?.into_iter().map(|(id, now)| (id, Thread { first: now, last: now })).collect();
        Ok(Self { pid, threads })
    }

    /// What it has used since the beginning.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn look(&mut self) -> Result<Used> {
        // Those that were not there then began with nothing.
        threads(self.pid)?.into_iter().for_each(|(id, now)| self.threads.entry(id).or_default().last = now);
        Ok(self.sum())
    }

    fn sum(&self) -> Used {
        self.threads.values().fold(Used::default(), |sum, thread| Used {
            cpu: sum.cpu + thread.last.cpu.saturating_sub(thread.first.cpu),
            naps: sum.naps + thread.last.naps.saturating_sub(thread.first.naps),
        })
    }
}

/// The threads of a process by their numbers. One that ends meanwhile is left out.
fn threads(pid: u32) -> Result<Vec<(String, Used)>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        match thread(&entry.path()) {
            Ok(used) => found.push((entry.file_name().to_string_lossy().into_owned(), used)),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", entry.path().display())),
        }
    }
    Ok(found)
}

/// ESRCH: it ended while the file was open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn thread(folder: &Path) -> io::Result<Used> {
    let read = |name: &str| fs::read_to_string(folder.join(name));
    let (schedstat, status) = (read("schedstat")?, read("status")?);
    of_texts(&schedstat, &status).ok_or_else(|| io::Error::other("schedstat or status makes no sense"))
}

/// `schedstat` begins with the nanoseconds on a processor (the kernel's `Documentation/scheduler/sched-stats.rst`).
fn of_texts(schedstat: &str, status: &str) -> Option<Used> {
    let cpu = Duration::from_nanos(schedstat.split_whitespace().next()?.parse().ok()?);
    let naps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()?;
    Some(Used { cpu, naps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_files_is_what_is_not_anonymous() {
        let text = "00400000-7ffe0000 ---p 00000000 00:00 0    [rollup]\nRss:               16384 kB\nPss:    12288 kB\n\
                    Pss_Anon:           4096 kB\nAnonymous:          5120 kB\n";
        let memory = Memory::of_text(text).unwrap();
        assert_eq!(memory, Memory { resident: 16.0, anonymous: 5.0, proportional: 12.0 });
        assert!((memory.of_files() - 11.0).abs() < 1e-9);
        assert_eq!(Memory::of_text("Rss: 4 kB\n"), None);
    }

    #[test]
    fn a_thread_is_read_from_two_files_and_involuntary_switches_do_not_count() {
        let status = "Name:\tpatchbay\nvoluntary_ctxt_switches:\t41\nnonvoluntary_ctxt_switches:\t7\n";
        let used = of_texts("1500000 12 9\n", status).unwrap();
        assert_eq!(used, Used { cpu: Duration::from_micros(1500), naps: 41 });
        assert_eq!(of_texts("", status), None);
    }

    #[test]
    fn threads_that_ended_keep_what_was_seen_of_them_and_new_ones_count_from_nothing() {
        let used = |naps| Used { cpu: Duration::from_millis(naps), naps };
        let threads = [
            ("1", Thread { first: used(100), last: used(104) }),
            ("2", Thread { first: used(50), last: used(51) }),
            ("9", Thread { first: used(0), last: used(3) }),
        ];
        let threads = threads.into_iter().map(|(id, thread)| (id.to_owned(), thread)).collect();
        assert_eq!(Watched { pid: 1, threads }.sum(), used(8));
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let pid = std::process::id();
        let mut watched = Watched::begin(pid).unwrap();
        std::thread::yield_now();
        watched.look().unwrap();
        assert!(Memory::of(pid).unwrap().resident > 0.5);
        assert!(Memory::peak(pid).unwrap() > 0.5);
    }
}
