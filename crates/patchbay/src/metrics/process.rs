//! What the program itself needs, under the names that all programs use for it.

use std::fmt;
use std::fs::read_to_string;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{gauges, list, sample, samples};

/// Ticks of a second in `/proc/<pid>/stat`, on every architecture that we build for (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let version = vec![env!("CARGO_PKG_VERSION").to_owned()];
        samples(&mut encoder, &list::BUILD, gauges([(version, 1_u64)]))?;
        if let Some(bytes) = read_to_string("/proc/self/status").ok().as_deref().and_then(resident) {
            sample(&mut encoder, &list::MEMORY, ConstGauge::new(bytes))?;
        }
        if let Some(seconds) = read_to_string("/proc/self/stat").ok().as_deref().and_then(processor) {
            sample(&mut encoder, &list::PROCESSOR, ConstCounter::new(seconds))?;
        }
        Ok(())
    }
}

/// Resident bytes, from the text of `/proc/<pid>/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Seconds of processor time, from the text of `/proc/<pid>/stat`: user and system, the 14th and 15th field.
fn processor(stat: &str) -> Option<f64> {
    // The second field is a name in parentheses, with whatever somebody has put into it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_read_whatever_the_program_is_called() {
        assert_eq!(resident("Name:\tpatchbay\nVmRSS:\t    6800 kB\nThreads:\t1\n"), Some(6800 * 1024));
        assert_eq!(resident("Name:\tkthreadd\n"), None);
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 4 0 100 1 2 3";
        assert_eq!(processor(stat), Some(2.0));
        assert_eq!(processor("42 (a"), None);
    }
}
