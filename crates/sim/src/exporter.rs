//! The agent's loop on the node where devices are plugged in: it answers calls and keeps bindings.

use std::collections::BTreeSet;
use std::time::Duration;

use patchbay_core::controller::world::PodState;
use patchbay_core::home::{self, Bound, Evidence, Keeping, Pod, Request, Verdict, authorise, keeping};
use patchbay_core::importer::{Reach, Step, reach};
use patchbay_core::names::{ClaimRef, DeviceName, NodeName, PodRef, Uid};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::custody;
use crate::importer::{Call, observe};
use crate::kernel::{Binding, Local, Node};
use crate::laws;
use crate::pods::{Record, State};
use crate::scenario::Scenario;
use crate::steps::Steps;

/// What the API server says about a request to the agent of `home`.
pub fn evidence(api: &Api, home: &NodeName, request: &Request) -> Evidence {
    let key = (request.claim.namespace.clone(), request.claim.name.clone());
    let mut evidence = Evidence::default();
    if let (Some(claim), Some(rest)) = (api.seen.claims.get(&key), api.claims.get(&key)) {
        let allocated =
            if rest.reserved.is_empty() { Vec::new() } else { vec![(claim.node.clone(), rest.dra_name.clone())] };
        let claim = ClaimRef { namespace: key.0.clone(), name: key.1.clone(), uid: claim.uid.clone() };
        evidence.claim = Some(home::Claim { claim, allocated });
        let pods = api.seen.attachments.iter().filter(|(_, a)| rest.reserved.contains(&a.uid));
        evidence.pods = pods
            .map(|((namespace, name), a)| Pod {
                pod: PodRef { namespace: namespace.clone(), name: name.clone(), uid: a.uid.clone() },
                node: Some(a.node.clone()),
                wants: !a.deleting && a.state != PodState::Ended,
            })
            .collect();
    }
    if let (Some(claim), Some(ask)) = (api.seen.pod_claims.get(&key), api.asks.get(&key)) {
        let allocated = claim.allocated.iter().map(|a| (a.home.clone(), a.device.clone())).collect();
        let claim = ClaimRef { namespace: key.0.clone(), name: key.1.clone(), uid: claim.uid.clone() };
        evidence.claim = Some(home::Claim { claim, allocated });
        let pods = api.pods.iter().filter(|(_, p)| p.uid == ask.pod);
        evidence.pods = pods
            .map(|((namespace, name), p)| Pod {
                pod: PodRef { namespace: namespace.clone(), name: name.clone(), uid: p.uid.clone() },
                node: p.node.clone(),
                wants: !p.deleting,
            })
            .collect();
    }
    evidence.assigned = api.assigned(home, &request.device);
    evidence
}

/// The steps of the agents as exporters.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    for (home, node) in &cluster.nodes {
        publish(cluster, home, steps);
        for (caller, other) in &cluster.nodes {
            for (uid, call) in other.agent.calls.iter().filter(|(_, c)| c.home == *home) {
                answer(cluster, home, caller, uid, call, steps);
            }
        }
        for (device, local) in &node.plugged {
            if let Some(binding) = &local.binding {
                keep(cluster, scenario, (home, device), binding, steps);
            }
        }
    }
}

/// The slices follow sysfs.
fn publish(cluster: &Cluster, name: &NodeName, steps: &mut Steps) {
    let (Some(node), Some(pool)) = (cluster.node(name), cluster.api.seen.pools.get(name)) else { return };
    let devices: Vec<_> = node.plugged.values().map(|l| l.device.clone()).collect();
    let (ports, in_use) = (node.offered(), in_use(cluster, name, node));
    if devices != pool.devices || ports != pool.ports || in_use != pool.in_use {
        let mut next = cluster.clone();
        if let Some(pool) = next.api_mut().seen.pools.get_mut(name) {
            (pool.devices, pool.ports, pool.in_use) = (devices, ports, in_use);
        }
        steps.quiet(|| format!("{name}'s agent publishes its devices and ports"), next);
    }
}

/// The claims of pods whose containers have been given what is in reach now.
fn in_use(cluster: &Cluster, name: &NodeName, node: &Node) -> BTreeSet<Uid> {
    if node.pods.is_empty() {
        return BTreeSet::new();
    }
    let reach = reach(&observe(cluster, name, node));
    let here = |(uid, record): (&Uid, &Record)| match (&record.state, reach.get(uid)) {
        (State::Given(given), Some(Reach::Here(address))) => (given == address).then(|| uid.clone()),
        _ => None,
    };
    node.pods.iter().filter_map(here).collect()
}

/// One request: denied, told to wait, or granted, which binds the device.
fn answer(cluster: &Cluster, home: &NodeName, caller: &NodeName, uid: &Uid, call: &Call, steps: &mut Steps) {
    let device = &call.request.device;
    let local = cluster.node(home).and_then(|n| n.plugged.get(device));
    let verdict = authorise(home, &call.request, &evidence(&cluster.api, home, &call.request));
    let granting = local.and_then(|l| l.binding.as_ref()).and_then(|b| b.granting.as_ref());
    let word = match (verdict, local) {
        (Verdict::Deny(why), _) => {
            let mut next = cluster.clone();
            let label = || format!("{home}'s agent denies {device} to {caller}: {why}");
            next.change(caller, |n| {
                n.agent.calls.remove(uid);
                n.agent.failures.insert(Step::Call(uid.clone()), why.clone());
            });
            steps.quiet(label, next);
            return;
        }
        (Verdict::Wait(why) | Verdict::Withdrawn(why), _) => why,
        (Verdict::Grant, None) => format!("device {device} is absent on node {home}"),
        (Verdict::Grant, Some(_)) if granting == Some(&(caller.clone(), uid.clone())) => return,
        (Verdict::Grant, Some(_)) if granting.is_some() || cluster.session(home, device).is_some() => {
            format!("device {device} is still in use by another session")
        }
        (Verdict::Grant, Some(_)) => {
            if !laws::entitled(cluster, &call.request) {
                steps.broken(format!("{home}'s agent would grant {device} to {caller}, which has no right to it"));
            }
            let mut next = cluster.clone();
            let binding =
                Binding { request: Some(call.request.clone()), granting: Some((caller.clone(), uid.clone())) };
            next.change(home, |n| {
                if let Some(local) = n.plugged.get_mut(device) {
                    (local.binding, local.withheld) = (Some(binding), false);
                }
            });
            steps.quiet(|| format!("{home}'s agent grants {device} to {caller}"), next);
            return;
        }
    };
    if word != call.word {
        let mut next = cluster.clone();
        let label = || format!("{home}'s agent tells {caller} to wait: {word}");
        next.change(caller, |n| {
            if let Some(call) = n.agent.calls.get_mut(uid) {
                call.word.clone_from(&word);
            }
        });
        steps.quiet(label, next);
    }
}

/// One bound device: sessions without right end, unused devices go to their own driver, or to nobody.
fn keep(
    cluster: &Cluster,
    scenario: &Scenario,
    (home, device): (&NodeName, &DeviceName),
    binding: &Binding,
    steps: &mut Steps,
) {
    let mut next = cluster.clone();
    if let Some((caller, uid)) = &binding.granting {
        if cluster.node(caller).is_some_and(|n| n.agent.calls.get(uid).is_some_and(|c| c.home == *home)) {
            return;
        }
        change(&mut next, home, device, |local| local.binding = Some(Binding { granting: None, ..binding.clone() }));
        steps.quiet(|| format!("{home}'s agent notices that {caller} has hung up"), next);
        return;
    }
    let judge = |request: &Request| authorise(home, request, &evidence(&cluster.api, home, request));
    let asking = |c: &Call| c.home == *home && c.request.device == *device && judge(&c.request) == Verdict::Grant;
    let bound = Bound {
        in_session: cluster.session(home, device).is_some(),
        verdict: binding.request.as_ref().map(judge),
        contested: cluster.nodes.values().flat_map(|n| n.agent.calls.values()).any(asking),
        // Nobody here takes so long that the home agent does not wait for it.
        withdrawn_for: Duration::ZERO,
    };
    match keeping(&bound) {
        Keeping::Keep => {}
        Keeping::Cut => {
            next.end_session(home, device);
            steps.quiet(|| format!("{home}'s agent cuts the session of {device}"), next);
        }
        Keeping::Release => {
            next.end_session(home, device);
            let withheld = custody::withheld(cluster, scenario, home, device);
            change(&mut next, home, device, |local| (local.binding, local.withheld) = (None, withheld));
            let to = if withheld { "nobody" } else { "its driver" };
            steps.quiet(|| format!("{home}'s agent gives {device} back to {to}"), next);
        }
    }
}

fn change(cluster: &mut Cluster, home: &NodeName, device: &DeviceName, change: impl FnOnce(&mut Local)) {
    cluster.change(home, |n| {
        if let Some(local) = n.plugged.get_mut(device) {
            change(local);
        }
    });
}
