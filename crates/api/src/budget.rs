//! `PodDisruptionBudget` of a virtual machine: nobody may evict its pods, because it moves instead.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use patchbay_core::controller::pod_name;
use patchbay_core::names::{Namespace, Uid, VmName};

use crate::meta::{self, Unreadable};
use crate::{VirtualMachine, keys};

/// The budget of a machine: its name is that of the machine's pod.
pub fn build(namespace: &Namespace, vm: &VmName, owner: &Uid) -> PodDisruptionBudget {
    let labels = meta::map([(keys::VM_NAME, vm.as_str())]);
    PodDisruptionBudget {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_string()),
            name: Some(pod_name(vm).to_string()),
            labels: Some(labels.clone()),
            owner_references: Some(vec![meta::owner(
                keys::API_VERSION,
                &VirtualMachine::kind(&()),
                vm.as_str(),
                owner,
            )]),
            ..ObjectMeta::default()
        },
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(0)),
            selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// The machine whose budget it is.
pub fn read(budget: &PodDisruptionBudget) -> Result<(Namespace, VmName), Unreadable> {
    let meta = &budget.metadata;
    Ok((Namespace::new(meta::namespace(meta)?), VmName::new(meta::label(meta, keys::VM_NAME)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_budget_allows_no_eviction_of_its_machines_pods() {
        let budget = build(&"my-project".into(), &"linux-vm".into(), &"vm-uid".into());
        assert_eq!(read(&budget), Ok(("my-project".into(), "linux-vm".into())));
        let spec = budget.spec.clone().unwrap();
        assert_eq!(spec.max_unavailable, Some(IntOrString::Int(0)));
        let pod = samples::running_vm_pod();
        assert_eq!(spec.selector.unwrap().match_labels, pod.metadata.labels);
    }
}
