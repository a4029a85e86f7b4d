//! What only a node itself can tell: its kernel, its kubelet's way to the driver, its certificate, and whom its agent reaches.

use std::collections::BTreeMap;

use super::cluster::list;
use super::programs::pod_on;
use super::seen::{Inside, Seen};
use super::{Check, Finding, Remedy, State};
use crate::age::age;
use crate::conditions::{ConditionType, find};
use crate::names::{NodeName, PodName};
use crate::trust::BACKDATE;
use crate::trust::renewal::{self, Held};

/// With more agents than this only the slowest is named.
const NAMED: usize = 4;

/// The module without which a node lends nothing.
const LENDS: &str = "usbip-host";

/// The module without which it imports nothing, about which the check of its ports says what there is to say.
const IMPORTS: &str = "vhci-hcd";

/// Whom to ask: the nodes that are ready and have an agent that is, and the pod of each agent.
pub fn to_ask(seen: &Seen) -> BTreeMap<NodeName, PodName> {
    let ready = seen.hosts.iter().flatten().filter(|(_, host)| host.ready);
    let agent = |name: &NodeName| pod_on(seen, name).filter(|pod| pod.ready.is_some() && !pod.deleting);
    ready.filter_map(|(name, _)| Some((name.clone(), agent(name)?.name.clone()))).collect()
}

pub(super) fn examine(seen: &Seen, name: &NodeName, found: &mut Vec<Finding>) {
    let Some(asked) = seen.inside.get(name) else { return };
    match asked {
        Err(why) => Check("answers", found).add(State::Unasked(why.clone())),
        Ok(inside) => {
            kernel(seen, name, inside, found);
            kubelet(seen, name, inside, found);
            certificate(seen, name, inside, found);
            reaches(seen, name, inside, found);
        }
    }
}

fn kernel(seen: &Seen, name: &NodeName, inside: &Inside, found: &mut Vec<Finding>) {
    let mut check = Check("kernel", found);
    let version = &inside.kernel;
    if inside.encrypts.is_none() && inside.missing.is_empty() {
        return check.good(format!("{version}, with all modules"));
    }
    if let Some(why) = &inside.encrypts {
        check.bad(format!("{version}: {why}"), Remedy::AsSaid);
    }
    for (module, why) in &inside.missing {
        let text = format!("{version}: module {module} is missing ({why})");
        let remedy = Remedy::LoadModule(name.clone(), module.clone());
        match module.as_str() {
            LENDS if has_devices(seen, name) => {
                check.bad(format!("{text}, so other nodes cannot use the devices of this one"), remedy);
            }
            LENDS => check.note(format!("{text}: it is needed once a device is plugged in"), remedy),
            IMPORTS => check.note(format!("{text}: devices of other nodes cannot be used here"), remedy),
            _ => check.bad(text, remedy),
        }
    }
}

fn has_devices(seen: &Seen, name: &NodeName) -> bool {
    seen.world.node_devices.values().any(|device| {
        let ready = find(&device.status.conditions, ConditionType::Ready);
        device.status.node.as_ref() == Some(name) && ready.is_some_and(|condition| condition.reason.is_true())
    })
}

fn kubelet(seen: &Seen, name: &NodeName, inside: &Inside, found: &mut Vec<Finding>) {
    let mut check = Check("kubelet", found);
    match (&inside.kubelet, pod_on(seen, name)) {
        (None, _) => check.good("knows the driver, and reaches it"),
        (Some(why), Some(pod)) => check.bad(why.clone(), Remedy::Logs { pod: pod.name.clone(), previous: false }),
        (Some(why), None) => check.bad(why.clone(), Remedy::AsSaid),
    }
}

fn certificate(seen: &Seen, name: &NodeName, inside: &Inside, found: &mut Vec<Finding>) {
    let mut check = Check("certificate", found);
    let off = inside.now - seen.now;
    if off.abs() > BACKDATE {
        let way = if off > 0 { "ahead of" } else { "behind" };
        let text = format!(
            "the clock of the node is {} {way} that of this machine: certificates may not hold",
            age(off.abs())
        );
        return check.bad(text, Remedy::AsSaid);
    }
    let validity = match &inside.certificate {
        Ok(validity) => *validity,
        Err(why) => return check.bad(why.clone(), Remedy::ShowRequests(name.clone())),
    };
    let left = validity.not_after - inside.now;
    let life = validity.not_after - validity.not_before;
    let plan = renewal::plan(Some(Held { validity, believed: true }), inside.now);
    match (plan.usable, plan.ask) {
        (true, false) => check.good(format!("valid for another {}", age(left))),
        // Half of the time that there is for it.
        (true, true) if left > life / 6 => {
            check.note(format!("valid for another {}; the next one is asked for", age(left)), Remedy::AsSaid);
        }
        (true, true) => {
            let text = format!("valid for another {} only, and there is no next one yet", age(left));
            check.bad(text, Remedy::ShowRequests(name.clone()));
        }
        (false, _) if left < 0 => {
            check.bad(format!("expired {} ago", age(-left)), Remedy::ShowRequests(name.clone()));
        }
        (false, _) => check.bad("not valid yet", Remedy::ShowRequests(name.clone())),
    }
}

fn reaches(seen: &Seen, name: &NodeName, inside: &Inside, found: &mut Vec<Finding>) {
    let mut check = Check("reaches", found);
    // What keeps it from calling at all is said of its certificate.
    if !inside.certificate.as_ref().is_ok_and(|validity| validity.holds(inside.now)) {
        return;
    }
    let (mut answered, mut silent) = (Vec::new(), Vec::new());
    for node in to_ask(seen).into_keys() {
        match inside.peers.get(&node) {
            Some(Ok(took)) => answered.push((node, *took)),
            Some(Err(why)) => silent.push((node, why.clone())),
            None => silent.push((node, "its Node object has no InternalIP address".to_owned())),
        }
    }
    answered.retain(|(node, _)| node != name);
    if let Some((_, why)) = silent.iter().find(|(node, _)| node == name) {
        return check.bad(format!("not even itself: {why}"), Remedy::OpenPort(name.clone(), name.clone()));
    }
    let Some(((first, why), others)) = silent.split_first() else {
        return check.good(answers(&answered));
    };
    let mut text = format!("not {first}: {why}");
    if !others.is_empty() {
        text.push_str(&format!("; nor {}", list(others.iter().map(|(node, _)| node.as_str()))));
    }
    if !answered.is_empty() {
        text.push_str(&format!("; but {}", answers(&answered)));
    }
    check.bad(text, Remedy::OpenPort(name.clone(), first.clone()));
}

/// Which other agents answer, and how fast.
fn answers(others: &[(NodeName, u64)]) -> String {
    let Some((slowest, most)) = others.iter().max_by_key(|(_, took)| *took) else {
        return "itself; there is no other agent to reach".to_owned();
    };
    if others.len() <= NAMED {
        return list(others.iter().map(|(node, took)| format!("{node} in {}", milliseconds(*took))));
    }
    let least = others.iter().map(|(_, took)| *took).min().unwrap_or_default();
    let (least, most) = (milliseconds(least), milliseconds(*most));
    format!("{} others in {least} to {most}; {slowest} takes longest", others.len())
}

/// Microseconds, for people.
fn milliseconds(micros: u64) -> String {
    format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::super::seen::Asked;
    use super::super::tests::{NOW, device, inside, line, news, well};
    use super::*;
    use crate::conditions::Reason;
    use crate::trust::Validity;

    fn says(change: impl FnOnce(&mut Inside)) -> Vec<String> {
        let mut told = inside();
        change(&mut told);
        news(|seen| drop(seen.inside.insert("node-1".into(), Ok(told))))
    }

    #[test]
    fn a_kernel_that_lacks_something_is_named_with_what_it_costs() {
        let lacks =
            |module: &str| says(|told| drop(told.missing.insert(module.to_owned(), "there is no modprobe".to_owned())));
        let start = "kernel: Linux 6.1.0-37-amd64: module";
        let why = "is missing (there is no modprobe)";
        assert_eq!(
            lacks("usbip-host"),
            [format!(". {start} usbip-host {why}: it is needed once a device is plugged in")]
        );
        assert_eq!(
            lacks("vhci-hcd"),
            [format!(". {start} vhci-hcd {why}: devices of other nodes cannot be used here")]
        );
        assert_eq!(lacks("tls"), [format!("x {start} tls {why}")]);
        let said = says(|told| {
            told.encrypts = Some("it has no TLS".to_owned());
            told.missing = ["tls", "vhci-hcd"].map(|module| (module.to_owned(), "no".to_owned())).into();
        });
        assert_eq!(said.len(), 3, "each is told: {said:?}");
        let cannot = "this node's kernel cannot do TLS 1.3 with ChaCha20-Poly1305";
        let said = says(|told| told.encrypts = Some(cannot.to_owned()));
        assert_eq!(said, [format!("x kernel: Linux 6.1.0-37-amd64: {cannot}")]);
    }

    #[test]
    fn a_module_that_is_needed_at_once_is_wrong_to_be_missing() {
        let said = news(|seen| {
            let told = seen.inside.get_mut(&"node-1".into()).unwrap().as_mut().unwrap();
            told.missing.insert("usbip-host".to_owned(), "not found".to_owned());
            seen.world.node_devices.insert("stick".into(), device(Reason::Ready, "ready"));
        });
        let kernel = said.iter().find(|line| line.contains("kernel")).unwrap();
        assert_eq!(
            kernel,
            "x kernel: Linux 6.1.0-37-amd64: module usbip-host is missing (not found), so other nodes cannot use the devices of \
             this one"
        );
    }

    #[test]
    fn a_kubelet_that_does_not_reach_the_driver_is_wrong() {
        let said = says(|told| told.kubelet = Some("the kubelet has not registered the driver".to_owned()));
        assert_eq!(said, ["x kubelet: the kubelet has not registered the driver"]);
    }

    #[test]
    fn a_certificate_is_told_of_by_the_time_that_is_left() {
        let life = 86_400;
        let left = |left| {
            says(|told| told.certificate = Ok(Validity { not_before: NOW + left - life, not_after: NOW + left }))
        };
        assert_eq!(left(life / 3), [". certificate: valid for another 8h; the next one is asked for"]);
        assert_eq!(left(life / 6), ["x certificate: valid for another 4h only, and there is no next one yet"]);
        assert_eq!(left(-600), ["x certificate: expired 10m ago"], "whom it reaches is not judged then");
        assert_eq!(left(life + 600), ["x certificate: not valid yet"]);
        let none = "this node has no certificate: the controller has not signed the request of this node yet";
        assert_eq!(says(|told| told.certificate = Err(none.to_owned())), [format!("x certificate: {none}")]);
    }

    #[test]
    fn a_clock_that_is_wrong_is_said_before_anything_of_the_certificate() {
        let is = |clock| says(|told| told.now = clock);
        let end = "that of this machine: certificates may not hold";
        assert_eq!(is(NOW + 600), [format!("x certificate: the clock of the node is 10m ahead of {end}")]);
        assert_eq!(is(NOW - 600), [format!("x certificate: the clock of the node is 10m behind {end}")]);
    }

    /// What node-1 says of a cluster in which so many others have an agent, and it got these answers.
    fn reached(ready: &[&str], peers: &[(&str, Asked<u64>)]) -> String {
        let mut seen = well();
        for name in ready {
            let host = seen.hosts.as_ref().unwrap().values().next().unwrap().clone();
            seen.hosts.as_mut().unwrap().insert((*name).into(), host);
            let mut pod = seen.agents.as_ref().unwrap().first().unwrap().clone();
            pod.node = Some((*name).into());
            seen.agents.as_mut().unwrap().push(pod);
        }
        let told = seen.inside.get_mut(&"node-1".into()).unwrap().as_mut().unwrap();
        told.peers.extend(peers.iter().map(|(name, took)| ((*name).into(), took.clone())));
        let mut found = Vec::new();
        examine(&seen, &"node-1".into(), &mut found);
        line(found.iter().find(|finding| finding.check == "reaches").unwrap())
    }

    #[test]
    fn each_pair_is_told_with_its_time_or_why_it_has_none() {
        let silent = || Err("10.0.0.2:3241 took longer than 5s while shaking hands".to_owned());
        let two = ["node-2", "node-3"];
        let said = reached(&two, &[("node-2", Ok(812)), ("node-3", Ok(12_345))]);
        assert_eq!(said, "+ reaches: node-2 in 0.8 ms, node-3 in 12.3 ms");
        let said = reached(&two, &[("node-2", silent()), ("node-3", Ok(1_000))]);
        let start = "x reaches: not node-2: 10.0.0.2:3241 took longer than 5s while shaking hands";
        assert_eq!(said, format!("{start}; but node-3 in 1.0 ms"));
        let said = reached(&two, &[("node-2", silent()), ("node-3", silent())]);
        assert_eq!(said, format!("{start}; nor node-3"));
        let said = reached(&["node-2"], &[]);
        assert_eq!(said, "x reaches: not node-2: its Node object has no InternalIP address");
        let said = reached(&[], &[("node-1", silent())]);
        assert!(said.starts_with("x reaches: not even itself: "), "{said}");
        let many: Vec<String> = (2..9).map(|n| format!("node-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let answers: Vec<_> = many.iter().zip(1..).map(|(name, n)| (*name, Ok(n * 100))).collect();
        assert_eq!(reached(&many, &answers), "+ reaches: 7 others in 0.1 ms to 0.7 ms; node-8 takes longest");
    }

    #[test]
    fn an_agent_that_is_not_ready_is_not_missed() {
        let said = reached(&[], &[("node-2", Err("refused".to_owned()))]);
        assert_eq!(said, "+ reaches: itself; there is no other agent to reach");
    }

    #[test]
    fn a_node_that_could_not_be_asked_is_not_judged() {
        let why = "cannot ask the agent, which takes the right to create pods/exec in namespace patchbay";
        let said = news(|seen| drop(seen.inside.insert("node-1".into(), Err(why.to_owned()))));
        assert_eq!(said, [format!("? answers: {why}")]);
    }
}
