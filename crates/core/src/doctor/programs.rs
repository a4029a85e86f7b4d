//! The controller, and the agents as a whole.

use super::cluster::list;
use super::placement::{Absence, absence};
use super::seen::{Lease, ProgramPod, Seen};
use super::{Check, Finding, RECENT, Remedy, STUCK_AFTER};
use crate::age::age;
use crate::conditions::Seconds;
use crate::controller::world::PodTrouble;
use crate::names::NodeName;

/// How far apart the clocks of whoever asks and of the cluster may be, in seconds, before a lease looks old.
const SKEW: Seconds = 30;

/// The name of a workload: kind and name.
pub(super) type Workload = (&'static str, &'static str);

const CONTROLLER: Workload = ("deployment", "controller");
/// The agents.
pub(super) const AGENT: Workload = ("daemonset", "agent");

pub(super) fn examine(seen: &Seen, found: &mut Vec<Finding>) {
    controller(seen, found);
    leader(seen, found);
    agents(seen, found);
}

fn controller(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("controller", found);
    let Some(deployment) = check.asked(&seen.deployment) else { return };
    let Some(it) = deployment else {
        return check.bad("there is no Deployment controller", Remedy::Install);
    };
    let describe = Remedy::Describe(CONTROLLER.0, CONTROLLER.1.to_owned());
    if it.wanted == 0 {
        return check.bad("it is scaled to no pods", Remedy::Install);
    }
    let count = format!("{} of {} pods available", it.available, it.wanted);
    let pods = seen.controllers.iter().flatten().filter(|pod| !pod.deleting);
    if let Some((why, remedy)) = pods.clone().find_map(|pod| trouble(pod, CONTROLLER)) {
        return check.bad(format!("{count}: {why}"), remedy);
    }
    if it.available < it.wanted && pods.clone().any(|pod| is_starting(pod, seen.now)) {
        return check.note(format!("{count}; the others are starting"), Remedy::AsSaid);
    }
    if it.available < it.wanted {
        let why = it.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return check.bad(format!("{count}{why}"), describe);
    }
    match pods.clone().find_map(|pod| past(pod, seen.now, CONTROLLER)) {
        Some(Past::Worse(why, remedy)) => check.bad(format!("{count}; {why}"), remedy),
        Some(Past::Known(why, remedy)) => check.note(format!("{count}; {why}"), remedy),
        None => check.good(count),
    }
}

fn leader(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("leader", found);
    let Some(lease) = check.asked(&seen.lease) else { return };
    let describe = Remedy::Describe("lease", "patchbay-controller".to_owned());
    let mut controllers = seen.controllers.iter().flatten();
    match lease {
        None if controllers.any(|pod| is_starting(pod, seen.now)) => {
            check.note("none yet: the controllers are starting", Remedy::AsSaid);
        }
        None => check.bad("no controller has ever led", Remedy::Describe(CONTROLLER.0, CONTROLLER.1.to_owned())),
        Some(Lease { holder, .. }) if holder.is_empty() => check.bad("none: the last one has ended", describe),
        Some(lease) if seen.now > lease.renewed + lease.lasts + SKEW => {
            let (ago, holder) = (age(seen.now - lease.renewed), &lease.holder);
            check.bad(format!("none: the last one, {holder}, was last heard of {ago} ago"), describe);
        }
        Some(lease) => check.good(lease.holder.clone()),
    }
}

fn agents(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("agents", found);
    let Some(set) = check.asked(&seen.daemon_set) else { return };
    let Some(set) = set else {
        return check.bad("there is no DaemonSet agent", Remedy::Install);
    };
    let (Some(hosts), Some(_)) = (check.asked(&seen.hosts), check.asked(&seen.agents)) else { return };
    let mut left_out = Vec::new();
    let mut without = Vec::new();
    let mut starting = Vec::new();
    let mut ready = 0_usize;
    for (name, host) in hosts {
        match pod_on(seen, name) {
            Some(pod) if pod.ready.is_some() => ready += 1,
            Some(pod) if is_starting(pod, seen.now) => starting.push(name.as_str()),
            Some(_) => without.push(name.as_str()),
            None => match absence(name, host, set) {
                Absence::Chosen(_) => left_out.push(name.as_str()),
                Absence::Wrong(..) => without.push(name.as_str()),
            },
        }
    }
    let mut text = format!("ready on {ready} of {} nodes", hosts.len() - left_out.len());
    if !left_out.is_empty() {
        text.push_str(&format!("; not meant for {}", list(&left_out)));
    }
    if !starting.is_empty() {
        text.push_str(&format!("; starting on {}", list(&starting)));
    }
    if without.is_empty() && starting.is_empty() {
        return check.good(text);
    }
    if without.is_empty() {
        return check.note(text, Remedy::AsSaid);
    }
    check.bad(format!("{text}; not on {}", list(&without)), Remedy::Describe(AGENT.0, AGENT.1.to_owned()));
}

/// The agent's pod on a node: of several, the one that is not on its way out.
pub(super) fn pod_on<'s>(seen: &'s Seen, node: &NodeName) -> Option<&'s ProgramPod> {
    let here = seen.agents.iter().flatten().filter(|pod| pod.node.as_ref() == Some(node));
    here.min_by_key(|pod| (pod.deleting, pod.ready.is_none()))
}

/// What keeps a pod from running, and what to do.
pub(super) fn trouble(pod: &ProgramPod, workload: Workload) -> Option<(String, Remedy)> {
    let name = &pod.name;
    let describe = Remedy::Describe("pod", name.to_string());
    Some(match pod.trouble.as_ref()? {
        PodTrouble::Unschedulable(why) => (format!("pod {name} cannot be scheduled: {why}"), describe),
        PodTrouble::NoImage(why) => (format!("pod {name} does not get its image: {why}"), describe),
        PodTrouble::NotStarted(why) => (format!("pod {name} cannot be started: {why}"), describe),
        PodTrouble::Ended { .. } if pod.ended.as_ref().is_some_and(|ended| ended.out_of_memory) => {
            (format!("pod {name} {MEMORY} ({} restarts)", pod.restarts), Remedy::MoreMemory(workload.1))
        }
        PodTrouble::Ended { code, words } => {
            let logs = Remedy::Logs { pod: name.clone(), previous: true };
            (format!("pod {name} ends with code {code} ({} restarts): {words}", pod.restarts), logs)
        }
    })
}

/// What the kubelet calls `OOMKilled`.
const MEMORY: &str = "was killed, because it used more memory than it may (OOMKilled)";

/// What has happened to a pod that is well now.
pub(super) enum Past {
    /// It will happen again.
    Worse(String, Remedy),
    /// It may be of interest.
    Known(String, Remedy),
}

/// How its container has ended lately, if it has.
pub(super) fn past(pod: &ProgramPod, now: Seconds, workload: Workload) -> Option<Past> {
    let ended = pod.ended.as_ref().filter(|ended| now - ended.at <= RECENT && pod.restarts > 0)?;
    let (ago, times) = (age(now - ended.at), pod.restarts);
    if ended.out_of_memory {
        let why = format!("{ago} ago it {MEMORY} ({times} restarts)");
        return Some(Past::Worse(why, Remedy::MoreMemory(workload.1)));
    }
    let logs = Remedy::Logs { pod: pod.name.clone(), previous: true };
    Some(Past::Known(format!("{ago} ago it ended with code {} ({times} restarts): {}", ended.code, ended.words), logs))
}

/// Whether a pod is so young that what it does not do yet may still come by itself.
pub(super) fn is_starting(pod: &ProgramPod, now: Seconds) -> bool {
    pod.trouble.is_none() && !pod.deleting && now - pod.created < STUCK_AFTER
}
