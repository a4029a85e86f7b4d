//! Which object an action writes, and which others have to be there first.

use patchbay_api::port;
use patchbay_core::controller::World;
use patchbay_core::controller::{Action, pod_name};
use patchbay_core::names::Namespace;

use super::cache::ObjectKey;

/// The kinds of object the controller writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    NodeDevice,
    Device,
    Vm,
    Operation,
    Budget,
    VmPod,
    Attachment,
    Claim,
    PortTemplate,
    Template,
    Slice,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Its kind.
    pub(super) kind: Kind,
    /// Its namespace and name.
    pub(super) key: ObjectKey,
}

impl Target {
    fn global(kind: Kind, name: impl ToString) -> Self {
        Self { kind, key: (String::new(), name.to_string()) }
    }

    fn in_namespace(kind: Kind, namespace: &Namespace, name: impl ToString) -> Self {
        Self { kind, key: (namespace.to_string(), name.to_string()) }
    }

    /// The object that an action writes.
    pub(super) fn of(action: &Action) -> Self {
        match action {
            Action::CreateNodeDevice { name, .. }
            | Action::PublishNodeDevice { name, .. }
            | Action::ForgetNodeDevice { name, .. } => Self::global(Kind::NodeDevice, name),
            Action::CreateDevice { namespace, name, .. }
            | Action::PublishDevice { namespace, name, .. }
            | Action::DeleteDevice { namespace, name, .. } => Self::in_namespace(Kind::Device, namespace, name),
            Action::CreateClaim { namespace, name, .. } | Action::DeleteClaim { namespace, name, .. } => {
                Self::in_namespace(Kind::Claim, namespace, name)
            }
            Action::CreatePortTemplate { namespace, hub } => {
                Self::in_namespace(Kind::PortTemplate, namespace, port::template_name(*hub))
            }
            Action::CreateTemplate { namespace, device, .. } | Action::DeleteTemplate { namespace, device, .. } => {
                Self::in_namespace(Kind::Template, namespace, device)
            }
            Action::PublishClaim { namespace, claim, .. } => Self::in_namespace(Kind::Claim, namespace, claim),
            Action::CreateAttachment(new) => Self::in_namespace(Kind::Attachment, &new.vm_pod.namespace, &new.name),
            Action::DeleteAttachment { namespace, name, .. }
            | Action::Plug { namespace, name, .. }
            | Action::Remind { namespace, name, .. } => Self::in_namespace(Kind::Attachment, namespace, name),
            Action::CreateVmPod { namespace, pod, .. } | Action::CreateTargetPod { namespace, pod, .. } => {
                Self::in_namespace(Kind::VmPod, namespace, pod)
            }
            Action::DeleteVmPod { namespace, name, .. }
            | Action::AskToMove { namespace, name, .. }
            | Action::Decide { namespace, name, .. }
            | Action::MarkArrived { namespace, name, .. } => Self::in_namespace(Kind::VmPod, namespace, name),
            Action::PublishVm { namespace, name, .. } => Self::in_namespace(Kind::Vm, namespace, name),
            Action::CreateBudget { namespace, vm } => Self::in_namespace(Kind::Budget, namespace, pod_name(vm)),
            Action::CreateOperation { namespace, name, .. }
            | Action::PublishOperation { namespace, name, .. }
            | Action::HoldOperation { namespace, name, .. }
            | Action::ReleaseOperation { namespace, name, .. } => Self::in_namespace(Kind::Operation, namespace, name),
            Action::DeleteSlice { name } => Self::global(Kind::Slice, name),
        }
    }

    /// The objects an action needs: it waits while they are being written, and keeps others from writing them.
    pub(super) fn needs(action: &Action) -> Vec<Self> {
        let Action::CreateAttachment(new) = action else { return Vec::new() };
        let namespace = &new.vm_pod.namespace;
        let claim = Self::in_namespace(Kind::Claim, namespace, &new.claim);
        let template = new.hub.map(|h| Self::in_namespace(Kind::PortTemplate, namespace, port::template_name(h)));
        std::iter::once(claim).chain(template).collect()
    }
}

/// Whether an action would write what is there already.
pub(super) fn is_done(action: &Action, world: &World) -> bool {
    match action {
        Action::PublishNodeDevice { name, status } => world.node_devices.get(name).is_some_and(|d| d.status == *status),
        Action::PublishDevice { namespace, name, status } => {
            world.devices.get(&(namespace.clone(), name.clone())).is_some_and(|d| d.status == *status)
        }
        Action::PublishClaim { namespace, claim, report, .. } => {
            world.pod_claims.get(&(namespace.clone(), claim.clone())).is_some_and(|c| c.told.as_ref() == Some(report))
        }
        Action::PublishVm { namespace, name, status } => {
            world.vms.get(&(namespace.clone(), name.clone())).is_some_and(|v| v.status == *status)
        }
        Action::PublishOperation { namespace, name, status } => {
            world.operations.get(&(namespace.clone(), name.clone())).is_some_and(|o| o.status == *status)
        }
        _ => false,
    }
}
