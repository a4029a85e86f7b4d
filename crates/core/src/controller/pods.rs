//! Ordinary pods as users of devices: the templates they make claims from, and what their claims say.
//!
//! A pod's claim asks for a device and, with it, for a port of the node the pod is to run on, or for the home node's token
//! that says that none is needed. kube-scheduler gives a device to one claim at a time, of a pod or of a virtual machine, so
//! nothing is granted here: this module says who has what, and keeps the templates true.

use std::collections::BTreeSet;

use crate::controller::UNDER_WAY_AFTER;
use crate::controller::action::{Action, Plan};
use crate::controller::devices::{Presence, home, place};
use crate::controller::view::{ClaimOfPod, View};
use crate::controller::world::{Allocated, ClaimReport, PodClaim, TemplateContent, World};
use crate::names::{ClaimName, DeviceName, Namespace, PodName};

/// A claim of an ordinary pod to which a device is allocated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'w> {
    namespace: &'w Namespace,
    name: &'w ClaimName,
    claim: &'w PodClaim,
    allocated: &'w Allocated,
}

impl<'w> Holder<'w> {
    fn of((namespace, name, claim): ClaimOfPod<'w>) -> Option<Self> {
        claim.allocated.as_ref().map(|allocated| Self { namespace, name, claim, allocated })
    }

    /// The namespace it is in.
    pub(super) fn namespace(&self) -> &'w Namespace {
        self.namespace
    }

    /// The pod, or its claim where there is none: `pod my-project/reader`.
    pub(super) fn subject(&self) -> String {
        match self.claim.pods.first() {
            Some(pod) => format!("pod {}/{pod}", self.namespace),
            None => format!("claim {}/{}", self.namespace, self.name),
        }
    }

    /// Whether the device is in reach of the pod's containers.
    pub(super) fn attached(&self, world: &World) -> bool {
        let pool = self.allocated.node.as_ref().and_then(|node| world.pools.get(node));
        pool.is_some_and(|pool| pool.in_use.contains(&self.claim.uid))
    }

    /// What is to be read of it, if the device is where it should be.
    pub(super) fn message(&self, world: &World) -> String {
        let subject = self.subject();
        let port = self.allocated.port.map(|p| format!(", port {p}")).unwrap_or_default();
        match &self.allocated.node {
            Some(node) if self.attached(world) => format!("Attached to {subject} on node {node}{port}"),
            Some(node) => format!(
                "Requested by {subject}: waiting for the kubelet and the agent of node {node}, or, if the device was away, for \
                 the container to be restarted"
            ),
            None => format!(
                "Requested by {subject}, whose claim has no port: make it from the ResourceClaimTemplate of the device's name"
            ),
        }
    }

    /// What is to be read of it while no node has the device.
    pub(super) fn message_of_absence(&self) -> String {
        format!(
            "Device is absent; {} gets it when it is plugged in again and the container is restarted",
            self.subject()
        )
    }
}

/// The pod's claim that has a device.
pub(super) fn holder<'w>(world: &'w View<'w>, object: &DeviceName) -> Option<Holder<'w>> {
    // Most clusters have none, and where a device is costs something to find out.
    if world.pod_claims.is_empty() {
        return None;
    }
    let (home, device) = place(world, object)?;
    Holder::of(world.holder(home, device)?)
}

fn holders(world: &World) -> impl Iterator<Item = Holder<'_>> {
    world.pod_claims.iter().filter_map(|((namespace, name), claim)| Holder::of((namespace, name, claim)))
}

/// The pods whose claims were made for a device and wait for it, for the end of a sentence; empty when there is none.
pub(super) fn queue(world: &View<'_>, object: &DeviceName) -> String {
    let claims = world.waiting(object).iter();
    let pods: BTreeSet<(&Namespace, &PodName)> =
        claims.flat_map(|(namespace, _, claim)| claim.pods.iter().map(move |pod| (*namespace, pod))).collect();
    let names: Vec<_> = pods.into_iter().map(|(namespace, pod)| format!("{namespace}/{pod}")).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => format!("; pod {one} waits for it"),
        many => format!("; pods {} wait for it", many.join(", ")),
    }
}

/// Who waits for a device that nobody has: what hinders it is for kube-scheduler to say, on the pod.
pub(super) fn requested(world: &View<'_>, object: &DeviceName, plan: &mut Plan) -> Option<String> {
    let (namespace, _, claim) = world.waiting(object).iter().min_by_key(|(_, _, claim)| claim.created)?;
    let (pod, until) = (claim.pods.first()?, claim.created + UNDER_WAY_AFTER);
    if world.now < until {
        plan.wake(until);
        return None;
    }
    let (home, hub) = match home(world, object) {
        Presence::Ready { node, device } => (node, device.attributes.speed.hub()),
        Presence::NotReady { .. } | Presence::Absent { .. } => return None,
    };
    Some(format!(
        "Requested by pod {namespace}/{pod}, which is not scheduled: it fits node {home}, and nodes with a free {} USB/IP \
         port (kubectl describe pod shows what else it asks for)",
        hub.title()
    ))
}

/// Makes and deletes templates, and publishes what claims say.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    for ((namespace, device), object) in world.devices.iter().filter(|(_, d)| !d.deleting) {
        let key = (namespace.clone(), device.clone());
        if world.templates.contains_key(&key) {
            continue;
        }
        if let Some(content) = wanted(world, namespace, device) {
            let ((namespace, device), owner) = (key, object.uid.clone());
            plan.actions.push(Action::CreateTemplate { namespace, device, content, owner });
        }
    }
    for ((namespace, device), template) in world.templates.iter().filter(|(_, t)| !t.deleting) {
        let given = given(world, namespace, device);
        // The template of an absent device stays: its name is what people's manifests refer to.
        let outdated = wanted(world, namespace, device).is_some_and(|content| content != template.content);
        if !given || outdated {
            let (namespace, device, uid) = (namespace.clone(), device.clone(), template.uid.clone());
            plan.actions.push(Action::DeleteTemplate { namespace, device, uid });
        }
    }
    for holder in holders(world) {
        report(world, &holder, plan);
    }
}

/// Whether a device is its namespace's, and stays so.
fn given(world: &View<'_>, namespace: &Namespace, device: &DeviceName) -> bool {
    world.object(namespace, device).is_some_and(|d| !d.deleting)
        && world.namespaces.get(namespace) == Some(&false)
        && world.assigned(device) == Some(namespace)
}

/// What the template of a device is to ask for; None when there is to be none, or when the device is absent.
fn wanted(world: &View<'_>, namespace: &Namespace, device: &DeviceName) -> Option<TemplateContent> {
    if !given(world, namespace, device) {
        return None;
    }
    let (node, found) = match home(world, device) {
        Presence::Ready { node, device } | Presence::NotReady { node, device: Some(device), .. } => (node, device),
        Presence::NotReady { .. } | Presence::Absent { .. } => return None,
    };
    Some(TemplateContent { node: node.clone(), dra_name: found.name.clone(), hub: found.attributes.speed.hub() })
}

/// Publishes what a claim says of its device, once there is something to say.
fn report(world: &World, holder: &Holder<'_>, plan: &mut Plan) {
    let Allocated { home, device, .. } = holder.allocated;
    let present = world.pools.get(home).is_some_and(|pool| pool.devices.iter().any(|d| d.name == *device));
    let attached = present && holder.attached(world);
    let message = if present { holder.message(world) } else { holder.message_of_absence() };
    let told = holder.claim.told.as_ref();
    let until = holder.claim.created + UNDER_WAY_AFTER;
    if told.is_none() && !attached && world.now < until {
        plan.wake(until);
        return;
    }
    let since = told.filter(|t| t.attached == attached).map_or(world.now, |t| t.since);
    let report = ClaimReport { attached, message, since };
    if told != Some(&report) {
        plan.actions.push(Action::PublishClaim {
            namespace: holder.namespace.clone(),
            claim: holder.name.clone(),
            device: (home.clone(), device.clone()),
            report,
        });
    }
}
