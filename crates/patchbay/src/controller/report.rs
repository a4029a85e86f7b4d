//! What the log says of actions and errors. The names of fields are the same everywhere.

use std::error::Error;
use std::time::Duration;

use patchbay_core::controller::Action;
use patchbay_core::migration::Decision;
use patchbay_core::names::{ClaimName, DeviceName, Namespace, NodeName, PodName, VmName};

use super::act::ActError;

/// The lines are the controller's.
const TARGET: &str = "patchbay::controller";

/// Says that an action was done.
pub(super) fn done(action: &Action, took: Duration) {
    let line = Line::of(action);
    tracing::info!(
        target: TARGET,
        namespace = line.namespace.map(display),
        device = line.device.map(display),
        node = line.node.map(display),
        vm = line.vm.map(display),
        claim = line.claim.map(display),
        name = line.name,
        ?took,
        "{}",
        line.what
    );
}

/// Says that an action was not done, why, and when it is tried again.
pub(super) fn failed(action: &Action, error: &ActError, again: Duration) {
    let line = Line::of(action);
    tracing::warn!(
        target: TARGET,
        namespace = line.namespace.map(display),
        device = line.device.map(display),
        node = line.node.map(display),
        vm = line.vm.map(display),
        claim = line.claim.map(display),
        name = line.name,
        error = say(error),
        ?again,
        "cannot {}",
        line.what
    );
}

/// What an action does, in the words of the log.
pub(super) fn what(action: &Action) -> &'static str {
    Line::of(action).what
}

/// Why an action was not done, in one word of a list.
pub(super) fn outcome(error: &ActError) -> &'static str {
    match error {
        ActError::Late => "Late",
        ActError::NoSource(_) | ActError::NoMachine => "Unreadable",
        ActError::Api(kube::Error::Api(status)) => {
            REASONS.iter().find(|known| **known == status.reason).copied().unwrap_or("Other")
        }
        ActError::Api(_) => "Unreachable",
    }
}

/// The reasons that an API server gives (`metav1.StatusReason`); whatever stands in its way may give others.
const REASONS: &[&str] = &[
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "Expired",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotFound",
    "RequestEntityTooLarge",
    "ServerTimeout",
    "ServiceUnavailable",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
];

/// An error in one line. Of what the API server refuses, its own words: the client's show the whole answer, twice.
pub(super) fn say(error: &(dyn Error + 'static)) -> String {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref() {
            Some(kube::Error::Api(status)) => return format!("{} ({} {})", status.message, status.code, status.reason),
            Some(other) => return other.to_string(),
            None => {}
        }
        next = error.source();
    }
    error.to_string()
}

/// What the log says of an action.
#[derive(Debug, Default)]
struct Line<'a> {
    /// What is done.
    what: &'static str,
    namespace: Option<&'a Namespace>,
    device: Option<&'a DeviceName>,
    node: Option<&'a NodeName>,
    vm: Option<&'a VmName>,
    claim: Option<&'a ClaimName>,
    /// The object's name, where none of the others is it.
    name: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The line for an action.
    fn of(action: &'a Action) -> Self {
        let none = Self::default();
        let device = |what, name| Self { what, device: Some(name), ..Self::default() };
        let local = |what, namespace, name| Self { namespace: Some(namespace), ..device(what, name) };
        let pod = |what, namespace, name: &'a PodName| Self {
            what,
            namespace: Some(namespace),
            name: Some(name.as_str()),
            ..Self::default()
        };
        match action {
            Action::CreateNodeDevice { name, status } => {
                Self { node: status.node.as_ref(), ..device("create NodeUSBDevice", name) }
            }
            Action::PublishNodeDevice { name, status } => {
                Self { node: status.node.as_ref(), vm: status.vm.as_ref(), ..device("publish NodeUSBDevice", name) }
            }
            Action::ForgetNodeDevice { name, .. } => device("forget NodeUSBDevice", name),
            Action::CreateDevice { namespace, name, status, .. } => {
                Self { node: status.node.as_ref(), ..local("create USBDevice", namespace, name) }
            }
            Action::PublishDevice { namespace, name, status } => Self {
                node: status.node.as_ref(),
                vm: status.vm.as_ref(),
                ..local("publish USBDevice", namespace, name)
            },
            Action::DeleteDevice { namespace, name, .. } => local("delete USBDevice", namespace, name),
            Action::CreateClaim { namespace, name, device, node, .. } => {
                Self { claim: Some(name), node: Some(node), ..local("create claim", namespace, device) }
            }
            Action::DeleteClaim { namespace, name, .. } => {
                Self { what: "delete claim", namespace: Some(namespace), claim: Some(name), ..none }
            }
            Action::CreatePortTemplate { namespace, hub } => {
                Self { what: "create port template", namespace: Some(namespace), name: Some(hub.as_str()), ..none }
            }
            Action::CreateTemplate { namespace, device, content, .. } => {
                Self { node: Some(&content.node), ..local("create template", namespace, device) }
            }
            Action::DeleteTemplate { namespace, device, .. } => local("delete template", namespace, device),
            Action::PublishClaim { namespace, claim, device: (home, device), .. } => {
                Self { claim: Some(claim), node: Some(home), ..local("publish claim", namespace, device) }
            }
            Action::CreateAttachment(new) => Self {
                node: Some(&new.node),
                vm: Some(&new.vm),
                claim: Some(&new.claim),
                name: Some(new.name.as_str()),
                ..local("create attachment", &new.vm_pod.namespace, &new.device)
            },
            Action::DeleteAttachment { namespace, name, .. } => {
                Self { what: "delete attachment", namespace: Some(namespace), name: Some(name.as_str()), ..none }
            }
            Action::CreateVmPod { namespace, vm, pod } => Self {
                what: "create VM pod",
                namespace: Some(namespace),
                vm: Some(vm),
                name: Some(pod.as_str()),
                ..none
            },
            Action::DeleteVmPod { namespace, name, .. } => {
                Self { what: "delete VM pod", namespace: Some(namespace), name: Some(name.as_str()), ..none }
            }
            Action::PublishVm { namespace, name, status } => Self {
                what: "publish VirtualMachine",
                namespace: Some(namespace),
                vm: Some(name),
                node: status.node.as_ref(),
                ..none
            },
            Action::CreateTargetPod { namespace, vm, pod, .. } => Self {
                what: "create target pod",
                namespace: Some(namespace),
                vm: Some(vm),
                name: Some(pod.as_str()),
                ..none
            },
            Action::AskToMove { namespace, name, .. } => pod("ask to move the machine of pod", namespace, name),
            Action::Decide { namespace, name, decision: Decision::Target, .. } => {
                pod("decide for the target of pod", namespace, name)
            }
            Action::Decide { namespace, name, decision: Decision::Source, .. } => {
                pod("decide for the source, pod", namespace, name)
            }
            Action::MarkArrived { namespace, name, .. } => pod("mark pod as arrived", namespace, name),
            Action::Plug { namespace, name, .. } => pod("plug attachment", namespace, name),
            Action::Remind { namespace, name, .. } => pod("remind the kubelet of attachment", namespace, name),
            Action::CreateBudget { namespace, vm } => {
                Self { what: "create PodDisruptionBudget", namespace: Some(namespace), vm: Some(vm), ..none }
            }
            Action::CreateOperation { namespace, name, vm, .. } => Self {
                what: "create VirtualMachineOperation",
                namespace: Some(namespace),
                vm: Some(vm),
                name: Some(name.as_str()),
                ..none
            },
            Action::HoldOperation { namespace, name, .. } => Self {
                what: "hold VirtualMachineOperation",
                namespace: Some(namespace),
                name: Some(name.as_str()),
                ..none
            },
            Action::ReleaseOperation { namespace, name, .. } => Self {
                what: "release VirtualMachineOperation",
                namespace: Some(namespace),
                name: Some(name.as_str()),
                ..none
            },
            Action::PublishOperation { namespace, name, .. } => Self {
                what: "publish VirtualMachineOperation",
                namespace: Some(namespace),
                name: Some(name.as_str()),
                ..none
            },
            Action::DeleteSlice { name } => Self { what: "delete slice", name: Some(name), ..none },
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server() {
        let status = Status::failure("pods \"a\" is forbidden: exceeded quota", "Forbidden").with_code(403);
        let error = ActError::Api(kube::Error::Api(status.boxed()));
        assert_eq!(say(&error), "pods \"a\" is forbidden: exceeded quota (403 Forbidden)");
        assert_eq!(say(&ActError::Late), "no answer from the API server within 10s");
    }

    #[test]
    fn the_outcomes_that_are_counted_are_of_a_list() {
        let refused =
            |reason: &str| ActError::Api(kube::Error::Api(Status::failure("", reason).with_code(403).boxed()));
        let outcomes = [refused("Forbidden"), refused("MyOwnReason 12345"), ActError::Late, ActError::NoMachine];
        assert_eq!(outcomes.each_ref().map(outcome), ["Forbidden", "Other", "Late", "Unreadable"]);
    }
}
