//! Each node: whether it is ready, its agent, what that publishes, and who waits there.

use super::placement::{Absence, absence};
use super::programs::{AGENT, Past, is_starting, past, pod_on, trouble};
use super::seen::{Host, PoolSeen, Seen};
use super::{Check, Finding, Remedy, inside, waiting};
use crate::age::age;
use crate::conditions::{ConditionType, Reason, find};
use crate::controller::world::{Attachment, NodeDevice};
use crate::names::{DeviceName, NodeName};
use crate::speed::Hub;

pub(super) fn examine(seen: &Seen) -> Vec<(NodeName, Vec<Finding>)> {
    let hosts = seen.hosts.iter().flatten();
    hosts.map(|(name, host)| (name.clone(), node(seen, name, host))).collect()
}

fn node(seen: &Seen, name: &NodeName, host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    health(seen, name, host, &mut found);
    if !agent(seen, name, host, &mut found) {
        return found;
    }
    inside::examine(seen, name, &mut found);
    publishes(seen, name, &mut found);
    ports(seen, name, &mut found);
    devices(seen, name, &mut found);
    waits(seen, name, &mut found);
    found
}

fn health(seen: &Seen, name: &NodeName, host: &Host, found: &mut Vec<Finding>) {
    let mut check = Check("node", found);
    let since = age(seen.now - host.since);
    match (host.ready, host.cordoned) {
        (true, false) => check.good(format!("ready for {since}")),
        (true, true) => check.note(format!("ready for {since}; cordoned: it gets no new pods"), Remedy::AsSaid),
        (false, _) => {
            let why = if host.message.is_empty() { "" } else { ": " };
            check.bad(format!("not ready for {since}{why}{}", host.message), Remedy::HealNode(name.clone()));
        }
    }
}

/// Says how the agent is; false where there shall be none.
fn agent(seen: &Seen, name: &NodeName, host: &Host, found: &mut Vec<Finding>) -> bool {
    let mut check = Check("agent", found);
    if check.asked(&seen.agents).is_none() {
        return true;
    }
    let Some(pod) = pod_on(seen, name) else {
        let Some(set) = check.asked(&seen.daemon_set) else { return true };
        let absence = set.as_ref().map(|set| absence(name, host, set));
        match absence {
            None => check.note("none: there is no DaemonSet agent", Remedy::AsSaid),
            Some(Absence::Chosen(why)) => {
                check.note(why, Remedy::AsSaid);
                return false;
            }
            Some(Absence::Wrong(why, remedy)) => check.bad(why, remedy),
        }
        return true;
    };
    let describe = Remedy::Describe("pod", pod.name.to_string());
    match (pod.ready, trouble(pod, AGENT)) {
        _ if !host.ready => check.note("unknown: the node is not ready", Remedy::AsSaid),
        (None, Some((why, remedy))) => check.bad(why, remedy),
        (None, None) if pod.deleting => check.note(format!("pod {} is on its way out", pod.name), Remedy::AsSaid),
        (None, None) if is_starting(pod, seen.now) => {
            check.note(format!("starting for {}", age(seen.now - pod.created)), Remedy::AsSaid);
        }
        (None, None) => check.bad(format!("pod {} is not ready", pod.name), describe),
        (Some(since), _) => {
            let ready = format!("ready for {}", age(seen.now - since));
            match past(pod, seen.now, AGENT) {
                Some(Past::Worse(why, remedy)) => check.bad(format!("{ready}; {why}"), remedy),
                Some(Past::Known(why, remedy)) => check.note(format!("{ready}; {why}"), remedy),
                None => check.good(ready),
            }
        }
    }
    true
}

/// What to look at where an agent does not do what it should.
fn look_at_agent(seen: &Seen, name: &NodeName) -> Remedy {
    match pod_on(seen, name) {
        Some(pod) => Remedy::Logs { pod: pod.name.clone(), previous: false },
        None => Remedy::Describe(AGENT.0, AGENT.1.to_owned()),
    }
}

fn publishes(seen: &Seen, name: &NodeName, found: &mut Vec<Finding>) {
    let mut check = Check("publishes", found);
    let Some(all) = check.asked(&seen.published) else { return };
    let here = all.get(name).cloned().unwrap_or_default();
    let mut well = true;
    let starting = pod_on(seen, name).is_some_and(|pod| is_starting(pod, seen.now));
    for (pool, what) in [(&here.devices, "devices"), (&here.ports, "USB/IP ports")] {
        let PoolSeen { slices, wanted, unreadable, .. } = pool;
        if *slices == 0 && starting {
            check.note(format!("no ResourceSlice of its {what} yet: the agent is starting"), Remedy::AsSaid);
        } else if *slices == 0 {
            check.bad(format!("no ResourceSlice of its {what}"), look_at_agent(seen, name));
        } else if slices < wanted {
            check.bad(format!("{slices} of {wanted} ResourceSlices of its {what}"), look_at_agent(seen, name));
        } else if *unreadable > 0 {
            let text = format!("{unreadable} {what} that this version of kubectl usb cannot read");
            check.note(text, Remedy::AsSaid);
        } else {
            continue;
        }
        well = false;
    }
    if !well {
        return;
    }
    let pool = seen.world.pools.get(name);
    let [devices, ports] = [pool.map_or(0, |p| p.devices.len()), pool.map_or(0, |p| p.ports.len())];
    let ago = |pool: &PoolSeen| age(seen.now - pool.since.unwrap_or(seen.now));
    let text = format!(
        "{} in a ResourceSlice of {}, {} in one of {}",
        count(devices, "device"),
        ago(&here.devices),
        count(ports, "USB/IP port"),
        ago(&here.ports)
    );
    match pod_on(seen, name).is_some_and(|pod| pod.ready.is_some()) || seen.agents.is_err() {
        true => check.good(text),
        false => check.note(format!("{text}: of the time when an agent was ready"), Remedy::AsSaid),
    }
}

/// A number and what is counted.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn ports(seen: &Seen, name: &NodeName, found: &mut Vec<Finding>) {
    let Some(pool) = seen.world.pools.get(name).filter(|pool| !pool.silent) else { return };
    let mut check = Check("USB/IP ports", found);
    if check.asked(&seen.claims).is_none() {
        return;
    }
    let waits = |hub: Option<Hub>| {
        let waits = |a: &&Attachment| a.node == *name && a.is_unschedulable() && a.hub.is_some() && !a.deleting;
        seen.world.attachments.values().filter(waits).any(|a| hub.is_none() || a.hub == hub)
    };
    if pool.ports.is_empty() {
        let text = "none: devices of other nodes cannot be used here";
        return match waits(None) {
            true => check.bad(format!("{text}, and somebody waits for one"), Remedy::LoadVhci(name.clone())),
            false => check.note(text, Remedy::LoadVhci(name.clone())),
        };
    }
    let used = |hub: Hub| seen.world.ports_used.get(&(name.clone(), hub)).copied().unwrap_or(0);
    let all = |hub: Hub| pool.ports.iter().filter(|port| port.hub == hub).count();
    let said = Hub::ALL.map(|hub| format!("{} of {} {}", used(hub), all(hub), hub.title())).join(", ") + " in use";
    match Hub::ALL.into_iter().find(|hub| used(*hub) >= all(*hub) && waits(Some(*hub))) {
        Some(hub) => check.bad(format!("{said}, and somebody waits for one of {}", hub.title()), Remedy::ShowPorts),
        None => check.good(said),
    }
}

/// The devices that are, or were, plugged into the node.
fn devices(seen: &Seen, name: &NodeName, found: &mut Vec<Finding>) {
    let here = |device: &NodeDevice| device.status.node.as_ref() == Some(name);
    let here: Vec<_> = seen.world.node_devices.iter().filter(|(_, device)| here(device)).collect();
    let mut check = Check("devices", found);
    if check.asked(&seen.devices).is_none() || here.is_empty() {
        return;
    }
    let (mut ready, mut unplugged) = (0, 0);
    let mut kept: Option<(&DeviceName, &str)> = None;
    for (device, object) in &here {
        match find(&object.status.conditions, ConditionType::Ready) {
            Some(condition) if condition.reason.is_true() => ready += 1,
            Some(condition) if condition.reason == Reason::NotFound => unplugged += 1,
            Some(condition) => kept = kept.or(Some((device, &condition.message))),
            None => kept = kept.or(Some((device, "nothing is said of it yet"))),
        }
    }
    let mut text = format!("{ready} of {} ready", here.len());
    if unplugged > 0 {
        text.push_str(&format!(", {unplugged} unplugged"));
    }
    match kept {
        Some((device, why)) => check.note(format!("{text}; {device}: {why}"), Remedy::Why(device.clone())),
        None => check.good(text),
    }
}

fn waits(seen: &Seen, name: &NodeName, found: &mut Vec<Finding>) {
    let mut check = Check("waiting", found);
    if check.asked(&seen.attachments).is_none() || check.asked(&seen.claims).is_none() {
        return;
    }
    let waits = waiting::on(seen, name);
    if waits.is_empty() {
        return check.good("nothing that should have come or gone");
    }
    for (text, remedy) in waits {
        check.bad(text, remedy);
    }
}
