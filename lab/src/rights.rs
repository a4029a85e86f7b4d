//! What our accounts may do, beside what they have done: the rights that their roles grant, and those that the API server's audit
//! log has seen in use.
//!
//! A right is written as `controller: patch resource.k8s.io/resourceclaims/status`: account, verb, group and resource.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::api::request;
use crate::audit::Request;
use crate::cluster::Lab;
use crate::product::ACCOUNTS;

/// The file in the folder of a lab's logs that holds what its roles grant.
const GRANTED: &str = "rights.json";
/// Verbs that are no requests of their own: the API server asks for them while it admits another one.
const ASKED_BESIDES: &[&str] = &["arbitrary-node:patch", "approve", "sign"];

/// Rights that no scenario uses, and where their use is shown.
const SHOWN_ELSEWHERE: &[&str] = &[
    // Pools that shrink by a slice of 128 devices: crates/dra/tests/publisher.rs.
    "agent: delete resource.k8s.io/resourceslices",
    // A request that the same key has made before: lab/tests/integration/renewal.rs.
    "agent: get certificates.k8s.io/certificatesigningrequests",
    // Slices of a node that is off for a minute and stays in the cluster: lab/tests/integration/changes.rs.
    "controller: delete resource.k8s.io/resourceslices",
];

type Rights = BTreeSet<String>;

fn right(account: &str, verb: &str, group: &str, resource: &str) -> String {
    let slash = if group.is_empty() { "" } else { "/" };
    format!("{account}: {verb} {group}{slash}{resource}")
}

/// Writes down what the roles of a lab grant our accounts.
///
/// # Errors
/// When the API server does not answer, or the folder of the logs cannot be written.
pub fn note(lab: &Lab) -> Result<()> {
    let path = lab.logs().join(GRANTED);
    let text = serde_json::to_vec(&granted(lab)?)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn granted(lab: &Lab) -> Result<Rights> {
    let (all, client) = (ListParams::default(), lab.api());
    let everywhere = Api::<ClusterRoleBinding>::all(client.clone());
    let within = Api::<RoleBinding>::all(client.clone());
    let mut found = Rights::new();
    for binding in request("list the bindings of cluster roles", everywhere.list(&all))? {
        for account in accounts(binding.subjects.as_deref()) {
            found.extend(of_role(lab, &binding.role_ref, None, account)?);
        }
    }
    for binding in request("list the bindings of roles", within.list(&all))? {
        for account in accounts(binding.subjects.as_deref()) {
            found.extend(of_role(lab, &binding.role_ref, binding.namespace().as_deref(), account)?);
        }
    }
    Ok(found)
}

/// Those of the subjects that are our accounts.
fn accounts(subjects: Option<&[Subject]>) -> impl Iterator<Item = &str> {
    let name =
        |s: &'_ Subject| format!("system:serviceaccount:{}:{}", s.namespace.as_deref().unwrap_or_default(), s.name);
    let ours = move |s: &&Subject| s.kind == "ServiceAccount" && name(s).starts_with(ACCOUNTS);
    subjects.unwrap_or_default().iter().filter(ours).map(|s| s.name.as_str())
}

fn of_role(lab: &Lab, role: &RoleRef, namespace: Option<&str>, account: &str) -> Result<Rights> {
    let rules = if role.kind == "ClusterRole" {
        request("read a cluster role", Api::<ClusterRole>::all(lab.api()).get(&role.name))?.rules
    } else {
        let roles = Api::<Role>::namespaced(lab.api(), namespace.unwrap_or_default());
        request("read a role", roles.get(&role.name))?.rules
    };
    Ok(rules.unwrap_or_default().iter().flat_map(|rule| of_rule(rule, account)).collect())
}

fn of_rule<'r>(rule: &'r PolicyRule, account: &'r str) -> impl Iterator<Item = String> + 'r {
    let requested = rule.verbs.iter().filter(|verb| !ASKED_BESIDES.contains(&verb.as_str()));
    requested.flat_map(move |verb| {
        rule.api_groups.iter().flatten().flat_map(move |group| {
            rule.resources.iter().flatten().map(move |resource| right(account, verb, group, resource))
        })
    })
}

/// What an audit log has seen of our accounts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    used: Rights,
    refused: Rights,
}

impl Seen {
    /// Takes in a line.
    fn line(&mut self, line: &str) {
        let Some(request) = Request::of_line(line) else { return };
        let Some(account) = request.account() else { return };
        let of = |verb: &str| right(account, verb, &request.group, &request.resource);
        // What is applied and was not there is made, which takes another right.
        if request.granted == Some(true) && request.verb == "patch" && request.code == 201 {
            self.used.insert(of("create"));
        }
        match request.granted {
            Some(true) => self.used.insert(of(&request.verb)),
            Some(false) => self.refused.insert(of(&request.verb)),
            None => false,
        };
    }
}

/// What a whole run of labs says against the roles, one line each: rights that nobody has used, and those that were missing.
/// `folders` are those of the labs' logs.
///
/// # Errors
/// When a log cannot be read, or there is none.
pub fn complaints(folders: &[PathBuf]) -> Result<Vec<String>> {
    let (mut granted, mut seen) = (Rights::new(), Seen::default());
    for folder in folders {
        let read = |name: &str| fs::read_to_string(folder.join(name));
        // A lab that did not come up has none.
        let Ok(text) = read(GRANTED) else { continue };
        granted.extend(serde_json::from_str::<Rights>(&text).context("what roles grant cannot be read")?);
        let log = read("audit.jsonl").with_context(|| format!("no audit log in {}", folder.display()))?;
        log.lines().for_each(|line| seen.line(line));
    }
    anyhow::ensure!(!granted.is_empty(), "no lab has told what its roles grant");
    Ok(compare(&granted, &seen))
}

fn compare(granted: &Rights, seen: &Seen) -> Vec<String> {
    let unused = granted
        .difference(&seen.used)
        .filter(|right| !SHOWN_ELSEWHERE.contains(&right.as_str()))
        .map(|right| format!("granted and never used: {right}"));
    let missing = seen.refused.iter().map(|right| format!("tried and not granted: {right}"));
    unused.chain(missing).collect()
}

/// The folders of logs that were made at this time or later, in milliseconds since 1970.
///
/// # Errors
/// When the folder of all cannot be read.
pub fn folders_since(runs: &Path, begin: u128) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(runs).with_context(|| format!("cannot read {}", runs.display()))?;
    let late = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.parse::<u128>().is_ok_and(|made| made >= begin)
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(late).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn roles_and_log_speak_of_the_same_rights() {
        let rule: PolicyRule = serde_json::from_value(json!({
            "apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/status"], "verbs": ["patch", "arbitrary-node:patch"],
        }))
        .unwrap();
        let granted: Rights = of_rule(&rule, "controller").collect();
        assert_eq!(granted, Rights::from(["controller: patch resource.k8s.io/resourceclaims/status".to_owned()]));

        let line = |user: &str, decision: &str| {
            json!({
                "verb": "patch", "user": {"username": user},
                "objectRef": {"resource": "resourceclaims", "subresource": "status", "apiGroup": "resource.k8s.io"},
                "annotations": {"authorization.k8s.io/decision": decision},
            })
            .to_string()
        };
        let controller = "system:serviceaccount:patchbay:controller";
        let mut seen = Seen::default();
        seen.line(&line("system:serviceaccount:blue:controller", "allow"));
        seen.line("{\"kind\":\"Eve");
        assert_eq!(seen, Seen::default());
        assert_eq!(
            compare(&granted, &seen),
            ["granted and never used: controller: patch resource.k8s.io/resourceclaims/status"]
        );
        seen.line(&line(controller, "allow"));
        assert_eq!(compare(&granted, &seen), [""; 0]);
        seen.line(&line("system:serviceaccount:patchbay:agent", "forbid"));
        assert_eq!(
            compare(&granted, &seen),
            ["tried and not granted: agent: patch resource.k8s.io/resourceclaims/status"]
        );
    }

    #[test]
    fn the_core_group_has_no_name() {
        assert_eq!(right("agent", "get", "", "nodes"), "agent: get nodes");
    }
}
