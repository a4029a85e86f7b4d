//! What our programs need to do, and `SubjectAccessReview`s that ask whether they may. The same as `charts/patchbay/templates/rbac.yaml`;
//! a test compares them.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use patchbay_core::DRIVER;
use patchbay_core::trust::SIGNER;

use crate::authorities;
use crate::installation::{LEASE, NAMESPACE};
use crate::keys::GROUP;

/// Verbs on resources of a group.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The API group.
    pub group: &'static str,
    /// The resources, with their subresource behind a `/`.
    pub resources: &'static [&'static str],
    /// The only object; None for all.
    pub object: Option<&'static str>,
    /// The only namespace; None for all.
    pub namespace: Option<&'static str>,
    /// The verbs.
    pub verbs: &'static [&'static str],
    /// The minor version of Kubernetes 1 from which on it is needed.
    pub from: u32,
}

const fn rule(group: &'static str, resources: &'static [&'static str], verbs: &'static [&'static str]) -> Rule {
    Rule { group, resources, object: None, namespace: None, verbs, from: 0 }
}

const DRA: &str = "resource.k8s.io";
const LEASES: &str = "coordination.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";

/// What the controller needs.
pub const CONTROLLER: &[Rule] = &[
    rule("", &["nodes", "namespaces"], &["list", "watch"]),
    rule("", &["pods"], &["get", "list", "watch", "create", "patch", "delete"]),
    rule(DRA, &["resourceslices"], &["list", "watch", "delete"]),
    rule(DRA, &["resourceclaims", "resourceclaimtemplates"], &["list", "watch", "create", "delete"]),
    rule(DRA, &["resourceclaims/status"], &["patch"]),
    Rule { object: Some(DRIVER), from: 36, ..rule(DRA, &["resourceclaims/driver"], &["arbitrary-node:patch"]) },
    rule(GROUP, &["nodeusbdevices", "usbdevices"], &["list", "watch", "create", "delete"]),
    rule(GROUP, &["virtualmachines"], &["list", "watch"]),
    rule(GROUP, &["virtualmachineoperations"], &["get", "list", "watch", "create", "patch"]),
    rule("policy", &["poddisruptionbudgets"], &["list", "watch", "create"]),
    rule(
        GROUP,
        &["nodeusbdevices/status", "usbdevices/status", "virtualmachines/status", "virtualmachineoperations/status"],
        &["patch"],
    ),
    rule("events.k8s.io", &["events"], &["create", "patch"]),
    rule(CERTIFICATES, &["certificatesigningrequests"], &["list", "watch"]),
    rule(CERTIFICATES, &["certificatesigningrequests/approval", "certificatesigningrequests/status"], &["update"]),
    Rule { object: Some(SIGNER), ..rule(CERTIFICATES, &["signers"], &["approve", "sign"]) },
    Rule { namespace: Some(NAMESPACE), ..rule(LEASES, &["leases"], &["create"]) },
    Rule { namespace: Some(NAMESPACE), object: Some(LEASE), ..rule(LEASES, &["leases"], &["get", "patch"]) },
    Rule {
        namespace: Some(NAMESPACE),
        object: Some(authorities::NAME),
        ..rule("", &["secrets", "configmaps"], &["get", "list", "watch", "create", "patch"])
    },
];

/// What an agent needs.
pub const AGENT: &[Rule] = &[
    rule("", &["pods"], &["get", "list", "watch"]),
    rule("", &["pods/status"], &["patch"]),
    rule("", &["nodes"], &["get"]),
    rule(DRA, &["resourceslices"], &["list", "watch", "create", "update", "delete"]),
    rule(DRA, &["resourceclaims"], &["get"]),
    rule(GROUP, &["nodeusbdevices"], &["list", "watch"]),
    rule(CERTIFICATES, &["certificatesigningrequests"], &["get", "watch", "create"]),
    Rule {
        namespace: Some(NAMESPACE),
        object: Some(authorities::NAME),
        ..rule("", &["configmaps"], &["list", "watch"])
    },
];

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    group: String,
    resource: String,
    object: Option<String>,
    namespace: Option<String>,
    verb: String,
}

impl Need {
    /// A verb on all objects of a resource, in a namespace or in all.
    pub fn new(verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            object: None,
            namespace: namespace.map(str::to_owned),
            verb: verb.to_owned(),
        }
    }

    /// For people: `patch pods/status`.
    pub fn title(&self) -> String {
        let place = self.namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        format!("{} {}{place}", self.verb, self.resource)
    }

    fn attributes(&self) -> ResourceAttributes {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource.as_str(), None),
        };
        ResourceAttributes {
            group: Some(self.group.clone()),
            resource: Some(resource.to_owned()),
            subresource,
            name: self.object.clone(),
            namespace: self.namespace.clone(),
            verb: Some(self.verb.clone()),
            ..ResourceAttributes::default()
        }
    }

    /// Asks whether a service account of our namespace may do it.
    pub fn of_account(&self, account: &str) -> SubjectAccessReview {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"];
        SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{NAMESPACE}:{account}")),
                groups: Some(groups.map(str::to_owned).to_vec()),
                resource_attributes: Some(self.attributes()),
                ..SubjectAccessReviewSpec::default()
            },
            status: None,
        }
    }

    /// Asks whether whoever asks may do it.
    pub fn of_mine(&self) -> SelfSubjectAccessReview {
        SelfSubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(self.attributes()),
                ..SelfSubjectAccessReviewSpec::default()
            },
            status: None,
        }
    }
}

/// The rules as single needs, of those that a Kubernetes of this minor version asks for.
pub fn needs(rules: &[Rule], minor: u32) -> Vec<Need> {
    let rules = rules.iter().filter(|rule| rule.from <= minor);
    let pairs =
        rules.flat_map(|r| r.resources.iter().flat_map(move |resource| r.verbs.iter().map(move |v| (r, resource, v))));
    pairs
        .map(|(rule, resource, verb)| Need {
            object: rule.object.map(str::to_owned),
            ..Need::new(verb, rule.group, resource, rule.namespace)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subresource_is_asked_for_as_one() {
        let need = Need::new("patch", "", "pods/status", Some("blue"));
        let asked = need.of_mine().spec.resource_attributes.unwrap();
        assert_eq!((asked.resource.as_deref(), asked.subresource.as_deref()), (Some("pods"), Some("status")));
        assert_eq!(need.title(), "patch pods/status in namespace blue");
    }

    #[test]
    fn what_only_a_newer_kubernetes_asks_for_is_not_asked_of_an_older_one() {
        let count = |minor| needs(CONTROLLER, minor).iter().filter(|need| need.verb.starts_with("arbitrary")).count();
        assert_eq!((count(35), count(36)), (0, 1));
    }
}
