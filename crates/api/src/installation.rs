//! The objects that the installation is made of, and what of them tells whether it is well: `CustomResourceDefinition`,
//! `ValidatingAdmissionPolicy`, `Deployment`, `DaemonSet`, `Lease`, and the pods of our programs.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1 as apps_v1;
use k8s_openapi::api::coordination::v1 as coordination_v1;
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use patchbay_core::conditions::Seconds;
use patchbay_core::doctor::seen::{
    DaemonSet, Definition, Deployment, Ended, Host, Lease, PoolSeen, ProgramPod, Published, Taint, Toleration, Version,
};
use patchbay_core::names::{NodeName, PodName};

use crate::attachment::condition;
use crate::meta::{self, Unreadable};
use crate::slice::{Contents, Slice};
use crate::{node, pod_trouble};

/// The namespace of our programs.
pub const NAMESPACE: &str = "patchbay";

/// The name of the controller's Deployment and of its service account.
pub const CONTROLLER: &str = "controller";

/// The name of the agents' DaemonSet and of their service account.
pub const AGENT: &str = "agent";

/// The label of our programs' pods that says which it is: [`CONTROLLER`] or [`AGENT`].
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// The lease for which controllers compete.
pub const LEASE: &str = "patchbay-controller";

/// The policies.
pub const POLICIES: [&str; 5] =
    ["patchbay-agents", "patchbay-claims", "patchbay-devices", "patchbay-pods", "patchbay-requests"];

/// What of `resource.k8s.io/v1` we need.
pub const DRA: [&str; 5] =
    ["deviceclasses", "resourceclaims", "resourceclaims/status", "resourceclaimtemplates", "resourceslices"];

/// What the kernel's ending of a container that used too much memory is called.
const OUT_OF_MEMORY: &str = "OOMKilled";

/// Reads what the API server says of its version; of something that is no number, nothing is known.
pub fn version(info: &k8s_openapi::apimachinery::pkg::version::Info) -> Option<Version> {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    Some(Version { major: number(&info.major)?, minor: number(&info.minor)?, text: info.git_version.clone() })
}

/// Reads a definition.
pub fn definition(definition: &CustomResourceDefinition) -> Definition {
    let conditions = || definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is = |kind: &str| conditions().any(|c| c.type_ == kind && c.status == "True");
    let against = conditions().find(|c| ["Established", "NamesAccepted"].contains(&&*c.type_) && c.status != "True");
    let served = definition.spec.versions.iter().filter(|version| version.served);
    Definition {
        established: is("Established"),
        served: served.map(|version| version.name.clone()).collect(),
        trouble: against.and_then(|c| c.message.clone()),
    }
}

/// The policy that a binding is for, the binding's name, and whether it refuses what the policy does not allow.
pub fn binding(binding: &ValidatingAdmissionPolicyBinding) -> Option<(String, String, bool)> {
    let spec = binding.spec.as_ref()?;
    let denies = spec.validation_actions.iter().flatten().any(|action| action == "Deny");
    Some((spec.policy_name.clone()?, binding.metadata.name.clone()?, denies))
}

/// Reads a Deployment.
pub fn deployment(deployment: &apps_v1::Deployment) -> Deployment {
    let status = deployment.status.as_ref();
    let count = |number: Option<i32>, otherwise| number.map_or(otherwise, |n| u32::try_from(n).unwrap_or(0));
    let against = status.into_iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| {
        let good = if c.type_ == "ReplicaFailure" { "False" } else { "True" };
        c.status != good
    });
    Deployment {
        wanted: count(deployment.spec.as_ref().and_then(|s| s.replicas), 1),
        available: count(status.and_then(|s| s.available_replicas), 0),
        trouble: against.and_then(|c| c.message.clone()),
    }
}

/// Reads a DaemonSet.
pub fn daemon_set(set: &apps_v1::DaemonSet) -> DaemonSet {
    let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let affinity = spec.and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let tolerations = spec.into_iter().flat_map(|s| s.tolerations.iter().flatten());
    let toleration = |t: &core_v1::Toleration| Toleration {
        key: t.key.clone().filter(|key| !key.is_empty()),
        value: match t.operator.as_deref() {
            Some("Exists") => None,
            _ => Some(t.value.clone().unwrap_or_default()),
        },
        effect: t.effect.clone().filter(|effect| !effect.is_empty()),
    };
    DaemonSet {
        selector: spec.and_then(|s| s.node_selector.clone()).unwrap_or_default(),
        affinity: affinity.is_some_and(|a| a.required_during_scheduling_ignored_during_execution.is_some()),
        tolerations: tolerations.map(toleration).collect(),
    }
}

/// Reads a lease.
pub fn lease(lease: &coordination_v1::Lease) -> Lease {
    let spec = lease.spec.clone().unwrap_or_default();
    Lease {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.map_or(0, |time| time.0.as_second()),
        lasts: spec.lease_duration_seconds.unwrap_or(0).into(),
    }
}

/// Reads a node.
pub fn host(object: &core_v1::Node) -> Result<(NodeName, Host), Unreadable> {
    let (name, read) = node::read(object)?;
    let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|c| c.type_ == "Ready");
    let taints = object.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(|taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: taint.effect.clone(),
    });
    let host = Host {
        ready: read.ready,
        since: read.since,
        cordoned: read.cordoned,
        message: pod_trouble::clean(ready.and_then(|c| c.message.as_deref()).unwrap_or_default()),
        taints: taints.collect(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        address: node::address(object).map(str::to_owned),
    };
    Ok((name, host))
}

/// Reads a pod of one of our programs.
pub fn program_pod(pod: &core_v1::Pod) -> Result<ProgramPod, Unreadable> {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let container = containers.and_then(|containers| containers.first());
    let states = container.into_iter().flat_map(|c| [c.state.as_ref(), c.last_state.as_ref()]).flatten();
    let ended = states.filter_map(|state| state.terminated.as_ref()).next();
    let ready = condition(pod, "Ready").filter(|c| c.status == "True");
    Ok(ProgramPod {
        name: PodName::new(meta::name(&pod.metadata)?),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(NodeName::new),
        created: time(pod.metadata.creation_timestamp.as_ref()),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ready: ready.map(|c| time(c.last_transition_time.as_ref())),
        restarts: container.map_or(0, |c| u32::try_from(c.restart_count).unwrap_or(0)),
        ended: ended.map(|it| Ended {
            at: time(it.finished_at.as_ref()),
            code: it.exit_code,
            out_of_memory: it.reason.as_deref() == Some(OUT_OF_MEMORY),
            words: pod_trouble::last_words(it),
        }),
        trouble: pod_trouble::read(pod),
    })
}

fn time(time: Option<&Time>) -> Seconds {
    time.map_or(0, meta::seconds)
}

/// What is published, slice by slice: how much of each pool is there.
pub fn published<'s>(slices: impl IntoIterator<Item = &'s Slice>) -> BTreeMap<NodeName, Published> {
    let mut all: BTreeMap<NodeName, Published> = BTreeMap::new();
    let mut newest: BTreeMap<(&NodeName, bool), i64> = BTreeMap::new();
    for slice in slices {
        let is_ports = matches!(slice.contents, Contents::Ports(_));
        let node = all.entry(slice.node.clone()).or_default();
        let pool = if is_ports { &mut node.ports } else { &mut node.devices };
        let generation = newest.entry((&slice.node, is_ports)).or_insert(slice.generation);
        if slice.generation > *generation {
            (*pool, *generation) = (PoolSeen::default(), slice.generation);
        }
        if slice.generation == *generation {
            pool.slices += 1;
            pool.wanted = usize::try_from(slice.count).unwrap_or(0);
            pool.since = Some(pool.since.map_or(slice.created, |since| since.min(slice.created)));
            pool.unreadable += slice.skipped.len();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn versions_of_vendors_are_read_and_others_are_not() {
        let info = |minor: &str| k8s_openapi::apimachinery::pkg::version::Info {
            major: "1".to_owned(),
            minor: minor.to_owned(),
            git_version: "v1.34.4+k3s1".to_owned(),
            ..Default::default()
        };
        assert_eq!(version(&info("34+")).map(|v| (v.major, v.minor)), Some((1, 34)));
        assert_eq!(version(&info("")), None);
    }

    #[test]
    fn a_definition_whose_names_are_taken_says_by_whom() {
        let read = |conditions: Value| {
            let mut object = serde_json::to_value(&crate::crds::all()[0]).unwrap();
            object["status"] = json!({"conditions": conditions});
            definition(&serde_json::from_value(object).unwrap())
        };
        let good =
            read(json!([{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]));
        let served = vec!["v1alpha2".to_owned()];
        assert_eq!(good, Definition { established: true, served: served.clone(), trouble: None });
        let taken = json!([{"type": "NamesAccepted", "status": "False", "message": "\"nusb\" is already in use"},
            {"type": "Established", "status": "False", "message": "not all names are accepted"}]);
        let trouble = Some("\"nusb\" is already in use".to_owned());
        assert_eq!(read(taken), Definition { established: false, served, trouble });
    }

    fn pod(container: Value) -> ProgramPod {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:02:00Z"});
        let pod = json!({
            "metadata": {"name": "agent-x", "creationTimestamp": "1970-01-01T00:01:00Z"},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"conditions": [ready], "containerStatuses": [container]},
        });
        program_pod(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    #[test]
    fn a_container_that_was_killed_for_its_memory_is_told_from_others() {
        let ended = |reason: &str, message: &str| {
            json!({"name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 137, "reason": reason, "message": message,
                    "finishedAt": "1970-01-01T00:01:30Z"}}})
        };
        let killed = pod(ended(OUT_OF_MEMORY, ""));
        assert_eq!((killed.ready, killed.restarts, killed.trouble), (Some(120), 2, None));
        let last = killed.ended.unwrap();
        assert!(last.out_of_memory && last.at == 90, "{last:?}");
        let last = pod(ended("Error", "INFO x\npatchbay: no certificate")).ended.unwrap();
        assert_eq!((last.out_of_memory, last.words.as_str()), (false, "no certificate"));
    }

    #[test]
    fn of_a_pool_only_the_newest_generation_counts() {
        let slice = |generation, count, created| Slice {
            name: format!("s{created}"),
            node: "node-1".into(),
            created,
            generation,
            count,
            contents: Contents::Devices(vec![]),
            skipped: vec![],
        };
        let all = published(&[slice(1, 1, 5), slice(2, 2, 30), slice(1, 1, 6)]);
        let devices = PoolSeen { slices: 1, wanted: 2, since: Some(30), unreadable: 0 };
        assert_eq!(all[&NodeName::new("node-1")], Published { devices, ports: PoolSeen::default() });
    }

    #[test]
    fn a_toleration_without_a_key_is_for_all_taints() {
        let text = json!({"spec": {"selector": {}, "template": {"spec": {"containers": [], "nodeSelector": {"usb": "yes"},
            "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]}}}});
        let set = daemon_set(&serde_json::from_value(text).unwrap());
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            Toleration { key: None, value: None, effect: None },
            Toleration { key: some("a"), value: some("b"), effect: some("NoSchedule") },
        ];
        assert_eq!((set.tolerations.as_slice(), set.affinity, set.selector.len()), (expected.as_slice(), false, 1));
    }
}
