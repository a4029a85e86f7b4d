//! What has not come, or not gone, for too long.

use super::{Remedy, STUCK_AFTER, Seen};
use crate::conditions::{ConditionType, Reason, find};
use crate::controller::World;
use crate::controller::status::{no_free_port, step};
use crate::controller::world::{Attachment, Want};
use crate::names::{DeviceName, Namespace, NodeName, PodName};

/// Something that waits on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its pod.
    pub pod: PodName,
    /// The node.
    pub node: NodeName,
    /// The device it waits for.
    pub device: DeviceName,
    /// What it waits for, as a sentence.
    pub message: String,
}

/// Attachments and ordinary pods that should have their device by now. Those whose cable is out are not among them.
pub fn stuck(world: &World) -> Vec<Stuck> {
    let attachments = world.attachments.iter().filter(|(_, a)| is_stuck(world, a));
    let attachments = attachments.map(|((namespace, pod), a)| Stuck {
        namespace: namespace.clone(),
        pod: pod.clone(),
        node: a.node.clone(),
        device: a.device.clone(),
        message: format!(
            "{} into virtual machine {namespace}/{}: {}",
            a.device,
            a.vm,
            no_free_port(world, a).unwrap_or_else(|| step(a))
        ),
    });
    let claims = world.pod_claims.iter().filter_map(|((namespace, _), claim)| {
        let told = claim.told.as_ref().filter(|told| !told.attached && world.now - told.since >= STUCK_AFTER)?;
        let allocated = claim.allocated.as_ref()?;
        let device = claim.made_for.as_ref().unwrap_or(&allocated.device);
        let pod = claim.pods.first().filter(|_| !is_unplugged(world, device))?;
        Some(Stuck {
            namespace: namespace.clone(),
            pod: pod.clone(),
            node: allocated.node.clone()?,
            device: device.clone(),
            message: format!("{device} into pod {namespace}/{pod}: {}", told.message),
        })
    });
    attachments.chain(claims).collect()
}

fn is_stuck(world: &World, attachment: &Attachment) -> bool {
    attachment.want == Want::Plugged
        && !attachment.deleting
        && !attachment.holds()
        && world.now - attachment.created >= STUCK_AFTER
        && !is_unplugged(world, &attachment.device)
}

/// Whether the cable is out: then there is nothing to wait for but somebody's hand.
fn is_unplugged(world: &World, device: &DeviceName) -> bool {
    let status = world.node_devices.get(device).map(|device| &device.status);
    let ready = status.and_then(|status| find(&status.conditions, ConditionType::Ready));
    ready.is_some_and(|ready| ready.reason == Reason::NotFound)
}

/// What somebody waits for on a node, and what to do.
pub(super) fn on(seen: &Seen, node: &NodeName) -> Vec<(String, Remedy)> {
    let waits = stuck(&seen.world).into_iter().filter(|stuck| stuck.node == *node).map(|stuck| {
        let said = seen.warnings.get(&(stuck.namespace, stuck.pod));
        let said = said.map(|text| format!("; Kubernetes says: {text}")).unwrap_or_default();
        (stuck.message + &said, Remedy::Why(stuck.device))
    });
    let left = seen.leaving.iter().filter(|it| it.node == *node && seen.now - it.since >= STUCK_AFTER).map(|it| {
        let (kind, namespace, name) = (it.kind, &it.namespace, &it.name);
        let ago = crate::age::age(seen.now - it.since);
        let text = format!("{kind} {namespace}/{name} is to be deleted, and had to be gone {ago} ago");
        (text, Remedy::Show(kind, namespace.clone(), name.clone()))
    });
    waits.chain(left).collect()
}
