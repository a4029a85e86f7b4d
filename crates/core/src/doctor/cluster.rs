//! The API server, what is installed in it, and who may do what.

use super::seen::{Asked, Right, Seen};
use super::{Check, Finding, Remedy};

/// The oldest Kubernetes that will do: the first whose DRA is stable.
const OLDEST: (u32, u32) = (1, 34);

pub(super) fn examine(seen: &Seen, found: &mut Vec<Finding>) {
    server(seen, found);
    dra(seen, found);
    definitions(seen, found);
    classes(seen, found);
    policies(seen, found);
}

fn server(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("API server", found);
    let Some(version) = check.asked(&seen.version) else { return };
    if (version.major, version.minor) < OLDEST {
        let (major, minor) = OLDEST;
        check.bad(format!("Kubernetes {}; {major}.{minor} is the oldest that will do", version.text), Remedy::Upgrade);
    } else {
        check.good(format!("Kubernetes {}", version.text));
    }
}

fn dra(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("DRA", found);
    let Some(resources) = check.asked(&seen.resources) else { return };
    match missing(resources.iter().map(|(name, there)| (name, *there))) {
        None => check.good(format!("resource.k8s.io/v1 serves {}", list(resources.keys()))),
        Some(missing) => check.bad(format!("resource.k8s.io/v1 does not serve {missing}"), Remedy::ServeDra),
    }
}

fn definitions(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("definitions", found);
    let Some(definitions) = check.asked(&seen.definitions) else { return };
    let version = &seen.api_version;
    let mut well = 0_usize;
    for (name, definition) in definitions {
        match definition {
            None => check.bad(format!("{name} is missing"), Remedy::Install),
            Some(it) if !it.established => {
                let why = it.trouble.as_deref().unwrap_or("the API server has not taken it up");
                check.bad(format!("{name}: {why}"), Remedy::Describe("customresourcedefinition", name.clone()));
            }
            Some(it) if !it.served.contains(version) => {
                let served = if it.served.is_empty() { "nothing".to_owned() } else { list(&it.served) };
                check.bad(format!("{name} serves {served}, and not {version}"), Remedy::Install);
            }
            Some(_) => well += 1,
        }
    }
    if well == definitions.len() {
        let names = definitions.keys().map(|name| name.split('.').next().unwrap_or_default());
        check.good(format!("{version} of {}", list(names)));
    }
}

fn classes(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("device classes", found);
    let Some(classes) = check.asked(&seen.classes) else { return };
    match missing(classes.iter().map(|(name, there)| (name, *there))) {
        None => check.good(list(classes.keys())),
        Some(missing) => check.bad(format!("missing: {missing}"), Remedy::Install),
    }
}

fn policies(seen: &Seen, found: &mut Vec<Finding>) {
    let mut check = Check("policies", found);
    let Some(policies) = check.asked(&seen.policies) else { return };
    let mut well = 0_usize;
    for (name, policy) in policies {
        if !policy.exists {
            check.bad(format!("{name} is missing: nothing refuses what it is for"), Remedy::Install);
        } else if policy.bindings.is_empty() {
            check.bad(format!("{name} has no binding: it refuses nothing"), Remedy::Install);
        } else if !policy.bindings.iter().any(|(_, denies)| *denies) {
            let names = list(policy.bindings.iter().map(|(name, _)| name));
            check.bad(format!("{name} refuses nothing: its binding {names} does not say Deny"), Remedy::Install);
        } else {
            well += 1;
        }
    }
    if well == policies.len() {
        check.good(format!("{}: bound, and they deny", list(policies.keys())));
    }
}

/// What programs and people may do.
pub(super) fn rights(seen: &Seen, found: &mut Vec<Finding>) {
    for (name, rights) in [("controller may", &seen.controller_rights), ("agents may", &seen.agent_rights)] {
        let mut check = Check(name, found);
        let Some(rights) = check.asked(rights) else { continue };
        match refused(rights) {
            None => check.good(format!("all {} things that it takes", rights.len())),
            Some(refused) => check.bad(format!("not {refused}"), Remedy::Install),
        }
    }
    own(&seen.own_rights, found);
}

/// What whoever asks may not do is no fault of the installation.
fn own(rights: &Asked<Vec<Right>>, found: &mut Vec<Finding>) {
    let mut check = Check("you may", found);
    let Some(rights) = check.asked(rights) else { return };
    let refused: Vec<_> = rights.iter().filter(|right| !right.allowed).collect();
    if refused.is_empty() {
        let mut purposes: Vec<_> = rights.iter().map(|right| right.purpose.as_str()).collect();
        purposes.dedup();
        return check.good(list(purposes));
    }
    let said = refused.iter().map(|right| format!("{} ({})", right.what, right.purpose));
    check.note(format!("not {}", list(said)), Remedy::AsSaid);
}

fn refused(rights: &[Right]) -> Option<String> {
    missing(rights.iter().map(|right| (&right.what, right.allowed)))
}

/// The names of what is not there; None when all are.
fn missing<'n>(all: impl Iterator<Item = (&'n String, bool)>) -> Option<String> {
    let names: Vec<_> = all.filter(|(_, there)| !there).map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| list(names))
}

/// Names with commas between them.
pub(super) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for name in names {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name.as_ref());
    }
    text
}
