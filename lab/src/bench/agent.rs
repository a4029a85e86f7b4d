//! The agent by itself: what it costs a node on which nobody uses a device.
//!
//! The shipped program runs against a real control plane, with a controller that gives it its certificate, on a made-up node
//! with 0, 16 and 300 devices: files in memory that look like `/sys`. What is measured is ours and not the kernel's: a
//! real `/sys` takes longer to read. For each node:
//!
//! 1. from the start of the process until its slices are seen in a watch;
//! 2. memory, processor time and wake-ups while nothing happens, but for the probe that a kubelet makes;
//! 3. storms of the kernel's messages about devices that have not changed: [`storm`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::WatchParams;

use super::made_up;
use super::stage::{Agent, Stage};
use super::store;
use super::usage::{Memory, Watched};
use crate::api;
use crate::audit::Request;
use crate::parts::Parts;
use crate::progress::step;
use crate::wait::wait_for;

mod report;
mod storm;
mod uevents;

pub(super) use report::Report;
use report::{Idle, Node, Start};

/// How many devices the nodes have.
const DEVICES: [usize; 3] = [0, 16, 300];
/// It has come to rest when none of its threads was woken for so long; it is watched doing nothing from then on.
const REST: Duration = Duration::from_secs(5);
/// For it to come to rest: the controller makes objects of its devices meanwhile, and it hears of each.
const CALM: Duration = Duration::from_secs(180);
/// For how many seconds it is watched.
const WATCHED: u32 = 60;
/// How often the kubelet probes it, as the chart says: in seconds.
const PROBED: u32 = 30;
/// For its slices to be there.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Measures, prints the table and stores it as JSON in `target/bench`. What it needs meanwhile is in `folder`, its logs in `logs`.
///
/// # Errors
/// At the first step that does not work.
pub fn run(parts: &Parts, folder: &Path, logs: &Path) -> Result<()> {
    let stage = step("starting a control plane", || Stage::open(parts, folder, logs, None))?;
    let _controller = step("starting a controller", || stage.controller("controller-1"))?;
    let measure = |devices| step(&format!("watching the agent of {devices} devices"), || node(&stage, devices));
    let report = Report {
        unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        kubernetes: parts.kubernetes.clone(),
        watched_s: WATCHED,
        program_bytes: fs::metadata(&parts.patchbay).context("cannot look at the program")?.len(),
        nodes: DEVICES.into_iter().map(measure).collect::<Result<_>>()?,
    };
    println!("\n{}", report.table());
    store(&format!("agent-{}", report.unix), "agent-latest", &serde_json::to_value(&report)?)
}

fn node(stage: &Stage, devices: usize) -> Result<Node> {
    let name = format!("node-{devices}");
    let (made_up, heart) = (made_up::node(stage.folder(), devices), stage.node(&name)?);
    let known = stage.asked(0)?.len();
    let slices = api::watch(Api::all(stage.client()), WatchParams::default());
    let mut agent = stage.agent(&name, heart, &made_up)?;
    let (first_ms, all_ms) = published(&slices, &name, devices, agent.started)?;
    agent.has_certificate()?;
    let idle = idle(stage, &agent)?;
    let start = Start { first_ms, all_ms, writes: writes(&stage.asked(known)?) };
    let storms = storm::all(stage, &agent, devices)?;
    let after = Memory::of(agent.pid())?;
    agent.stop()?;
    Ok(Node { devices, start, idle, storms, after })
}

/// When the first of its slices was seen, and when all were, in milliseconds.
fn published(
    slices: &Receiver<(Instant, ResourceSlice)>,
    node: &str,
    devices: usize,
    started: Instant,
) -> Result<(f64, f64)> {
    let mut seen = Pools::default();
    let mut first = None;
    let end = Instant::now() + PUBLISHED;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let (at, slice) =
            slices.recv_timeout(left).with_context(|| format!("the agent has not published all: {seen:?}"))?;
        let since = at.saturating_duration_since(started).as_secs_f64() * 1000.0;
        if !seen.see(node, &slice) {
            continue;
        }
        let first = *first.get_or_insert(since);
        if seen.are_whole(devices) {
            return Ok((first, since));
        }
    }
}

/// The slices of a node that were seen: of each its name, and how many devices and ports it has.
#[derive(Debug, Default)]
struct Pools {
    devices: BTreeMap<String, usize>,
    ports: BTreeMap<String, usize>,
}

impl Pools {
    /// Whether the slice is one of the node's.
    fn see(&mut self, node: &str, slice: &ResourceSlice) -> bool {
        let pool = match slice.spec.pool.name.strip_prefix(node) {
            Some("") => &mut self.devices,
            Some("-ports") => &mut self.ports,
            _ => return false,
        };
        let name = slice.metadata.name.clone().unwrap_or_default();
        pool.insert(name, slice.spec.devices.as_ref().map_or(0, Vec::len));
        true
    }

    /// All devices are there, and all ports with a token for each device.
    fn are_whole(&self, devices: usize) -> bool {
        let whole =
            |pool: &BTreeMap<String, usize>, wanted: usize| !pool.is_empty() && pool.values().sum::<usize>() == wanted;
        whole(&self.devices, devices) && whole(&self.ports, devices + made_up::PORTS)
    }
}

fn comes_to_rest(agent: &Agent) -> Result<()> {
    let mut watched = Watched::begin(agent.pid())?;
    let (mut used, mut since) = (watched.look()?, Instant::now());
    wait_for("the agent to come to rest", CALM, || {
        let now = watched.look().map_err(|error| format!("{error:#}"))?;
        if now != used {
            (used, since) = (now, Instant::now());
        }
        if since.elapsed() >= REST { Ok(()) } else { Err(format!("{} wake-ups", now.naps)) }
    })
}

/// What it uses while nothing happens.
fn idle(stage: &Stage, agent: &Agent) -> Result<Idle> {
    comes_to_rest(agent)?;
    let known = stage.asked(0)?.len();
    let (mut watched, begin) = (Watched::begin(agent.pid())?, Instant::now());
    let (mut used, mut busy_seconds) = (watched.look()?, 0);
    for second in 1..=WATCHED {
        if second % PROBED == PROBED / 2 {
            agent.probe()?;
        }
        sleep((Duration::from_secs(1) * second).saturating_sub(begin.elapsed()));
        let now = watched.look()?;
        busy_seconds += u32::from(now.naps > used.naps);
        used = now;
    }
    let requests = stage.asked(known)?;
    Ok(Idle {
        cpu_percent: used.cpu.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0,
        wakeups: used.naps,
        busy_seconds,
        writes: writes(&requests),
        requests: requests.len(),
        memory: Memory::of(agent.pid())?,
    })
}

fn writes(requests: &[Request]) -> usize {
    requests.iter().filter(|request| request.is_write()).count()
}
