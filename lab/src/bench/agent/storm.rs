//! Storms: thousands of messages of the kernel about devices that have not changed. A hub with a loose plug makes such.
//!
//! They come all at once, as fast as the kernel takes them, which is more than anybody reads; and spread over some seconds, which is
//! the worst that can be done to one who looks at every message.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::uevents::Kernel;
use super::writes;
use crate::bench::made_up::{CONTROLLER, place};
use crate::bench::stage::{Agent, Stage};
use crate::bench::usage::Watched;

/// Messages of a storm.
pub(super) const MESSAGES: u32 = 5000;
/// How long storms last, in seconds.
const LASTING: [u32; 2] = [0, 10];
/// It is over when the agent has slept for so long.
const QUIET: Duration = Duration::from_secs(1);
/// It has to be over by then.
const OVER: Duration = Duration::from_secs(60);
/// How often the agent is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A storm, and what the agent did about it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Storm {
    /// As it was meant to last, in seconds; 0: all at once.
    pub(super) meant_s: u32,
    /// As long as it has lasted.
    pub(super) lasted_ms: f64,
    /// Processor time.
    pub(super) cpu_ms: f64,
    /// How often its threads were woken up.
    pub(super) wakeups: u64,
    /// From the last message until the agent slept again.
    pub(super) quiet_ms: f64,
    /// What it has written to the API server.
    pub(super) writes: usize,
}

/// All storms, one after the other.
///
/// # Errors
/// When the kernel says nothing on our behalf, or the agent does not come to rest.
pub(super) fn all(stage: &Stage, agent: &Agent, devices: usize) -> Result<Vec<Storm>> {
    let kernel = Kernel::open()?;
    LASTING.into_iter().map(|seconds| once(stage, agent, &kernel, devices, seconds)).collect()
}

fn once(stage: &Stage, agent: &Agent, kernel: &Kernel, devices: usize, seconds: u32) -> Result<Storm> {
    let paths: Vec<_> = (0..devices.max(1)).map(|n| format!("{CONTROLLER}/{}", place(n))).collect();
    let known = stage.asked(0)?.len();
    let lasting = Duration::from_secs(seconds.into());
    let (mut watched, begin) = (Watched::begin(agent.pid())?, Instant::now());
    let mut looked = begin;
    for (n, path) in (0..MESSAGES).zip(paths.iter().cycle()) {
        sleep((lasting * n / MESSAGES).saturating_sub(begin.elapsed()));
        kernel.says_changed(path)?;
        if looked.elapsed() >= LOOK {
            watched.look()?;
            looked = Instant::now();
        }
    }
    let last = Instant::now();
    let (mut used, mut moved) = (watched.look()?, last);
    while moved.elapsed() < QUIET {
        if last.elapsed() > OVER {
            bail!("the agent has not come to rest within {} s of a storm", OVER.as_secs());
        }
        sleep(LOOK);
        let now = watched.look()?;
        if now != used {
            (used, moved) = (now, Instant::now());
        }
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(Storm {
        meant_s: seconds,
        lasted_ms: ms(last - begin),
        cpu_ms: ms(used.cpu),
        wakeups: used.naps,
        quiet_ms: ms(moved - last),
        writes: writes(&stage.asked(known)?),
    })
}
