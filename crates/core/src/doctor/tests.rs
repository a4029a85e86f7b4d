//! A cluster in which all is well, and what is said of it when one thing is not.

use std::collections::BTreeMap;

use super::seen::*;
use super::*;
use crate::conditions::{Condition, ConditionType, PluggedState, Reason};
use crate::controller::World;
use crate::controller::world::{Attachment, DeviceStatus, NodeDevice, Placement, PodState, PodTrouble, Pool, Want};
use crate::names::{PodName, PodRef};
use crate::speed::Hub;
use crate::trust::Validity;

pub(super) const NOW: Seconds = 1_000_000;

fn pod(name: &str, node: &str) -> ProgramPod {
    ProgramPod {
        name: name.into(),
        node: Some(node.into()),
        created: NOW - 7_200,
        deleting: false,
        ready: Some(NOW - 7_200),
        restarts: 0,
        ended: None,
        trouble: None,
    }
}

fn right(what: &str) -> Right {
    Right { purpose: "list".to_owned(), what: what.to_owned(), allowed: true }
}

pub(super) fn well() -> Seen {
    let names = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), true)).collect::<BTreeMap<_, _>>();
    let definition = Definition { established: true, served: vec!["v1alpha2".to_owned()], trouble: None };
    let policy = Policy { exists: true, bindings: vec![("patchbay-pods".to_owned(), true)] };
    let host = Host { ready: true, since: NOW - 7_200, ..Host::default() };
    let pool = PoolSeen { slices: 1, wanted: 1, since: Some(NOW - 600), unreadable: 0 };
    let published = Published { devices: pool.clone(), ports: pool };
    let mut world = World { now: NOW, ..World::default() };
    let ports = ["usb2-0", "usb3-0"].map(|port| port.parse().unwrap()).to_vec();
    world.pools.insert("node-1".into(), Pool { ports, ..Pool::default() });
    Seen {
        now: NOW,
        version: Ok(Version { major: 1, minor: 34, text: "v1.34.4".to_owned() }),
        resources: Ok(names(&["resourceclaims", "resourceslices"])),
        definitions: Ok([("usbdevices.virtualization.deckhouse.io".to_owned(), Some(definition))].into()),
        api_version: "v1alpha2".to_owned(),
        classes: Ok(names(&["usb-devices"])),
        policies: Ok([("patchbay-pods".to_owned(), policy)].into()),
        deployment: Ok(Some(Deployment { wanted: 1, available: 1, trouble: None })),
        lease: Ok(Some(Lease { holder: "controller-x".to_owned(), renewed: NOW - 3, lasts: 15 })),
        daemon_set: Ok(Some(DaemonSet::default())),
        controllers: Ok(vec![pod("controller-x", "node-1")]),
        agents: Ok(vec![pod("agent-x", "node-1")]),
        controller_rights: Ok(vec![right("list nodes")]),
        agent_rights: Ok(vec![right("get nodes")]),
        own_rights: Ok(vec![right("list nodeusbdevices")]),
        hosts: Ok([("node-1".into(), host)].into()),
        published: Ok([("node-1".into(), published)].into()),
        claims: Ok(()),
        attachments: Ok(()),
        devices: Ok(()),
        world,
        inside: [("node-1".into(), Ok(inside()))].into(),
        leaving: vec![],
        warnings: BTreeMap::new(),
    }
}

pub(super) fn inside() -> Inside {
    Inside {
        now: NOW,
        kernel: "Linux 6.1.0-37-amd64".to_owned(),
        missing: BTreeMap::new(),
        encrypts: None,
        kubelet: None,
        certificate: Ok(Validity { not_before: NOW - 3_600, not_after: NOW + 82_800 }),
        peers: [("node-1".into(), Ok(90))].into(),
    }
}

pub(super) fn line(finding: &Finding) -> String {
    let (mark, text) = match &finding.state {
        State::Good(text) => ('+', text),
        State::Note(text, _) => ('.', text),
        State::Bad(text, _) => ('x', text),
        State::Unasked(text) => ('?', text),
    };
    format!("{mark} {}: {text}", finding.check)
}

/// What is said of a cluster in which something is otherwise, and all would be well else.
pub(super) fn news(change: impl FnOnce(&mut Seen)) -> Vec<String> {
    let mut seen = well();
    let before: Vec<_> = examine(&seen).all().map(line).collect();
    change(&mut seen);
    examine(&seen).all().map(line).filter(|line| !before.contains(line)).collect()
}

fn agent(seen: &mut Seen) -> &mut ProgramPod {
    seen.agents.as_mut().unwrap().first_mut().unwrap()
}

fn host(seen: &mut Seen) -> &mut Host {
    seen.hosts.as_mut().unwrap().get_mut(&"node-1".into()).unwrap()
}

fn set(seen: &mut Seen) -> &mut DaemonSet {
    seen.daemon_set.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn where_all_is_well_each_check_says_what_it_has_seen() {
    let report = examine(&well());
    assert_eq!(report.verdict(), Verdict::Well);
    assert_eq!(
        report.all().map(line).collect::<Vec<_>>(),
        [
            "+ API server: Kubernetes v1.34.4",
            "+ DRA: resource.k8s.io/v1 serves resourceclaims, resourceslices",
            "+ definitions: v1alpha2 of usbdevices",
            "+ device classes: usb-devices",
            "+ policies: patchbay-pods: bound, and they deny",
            "+ controller: 1 of 1 pods available",
            "+ leader: controller-x",
            "+ agents: ready on 1 of 1 nodes",
            "+ controller may: all 1 things that it takes",
            "+ agents may: all 1 things that it takes",
            "+ you may: list",
            "+ node: ready for 2h",
            "+ agent: ready for 2h",
            "+ kernel: Linux 6.1.0-37-amd64, with all modules",
            "+ kubelet: knows the driver, and reaches it",
            "+ certificate: valid for another 23h",
            "+ reaches: itself; there is no other agent to reach",
            "+ publishes: 0 devices in a ResourceSlice of 10m, 2 USB/IP ports in one of 10m",
            "+ USB/IP ports: 0 of 1 USB 2.0, 0 of 1 USB 3.0 in use",
            "+ waiting: nothing that should have come or gone",
        ]
    );
}

#[test]
fn what_could_not_be_asked_is_not_wrong_and_not_well() {
    let report = examine(&Seen::default());
    assert_eq!(report.verdict(), Verdict::Unsure);
    assert!(report.nodes.is_empty() && report.all().all(|f| matches!(f.state, State::Unasked(_))), "{report:?}");
    let both = Seen { deployment: Ok(None), ..Seen::default() };
    assert_eq!(examine(&both).verdict(), Verdict::Wrong);
}

#[test]
fn what_is_installed_badly_is_named() {
    type Change = fn(&mut Seen);
    let cases: &[(Change, &str)] = &[
        (
            |s| s.version = Ok(Version { major: 1, minor: 33, text: "v1.33.1".to_owned() }),
            "x API server: Kubernetes v1.33.1; 1.34 is the oldest that will do",
        ),
        (
            |s| s.resources = Ok([("resourceclaims".to_owned(), false)].into()),
            "x DRA: resource.k8s.io/v1 does not serve resourceclaims",
        ),
        (
            |s| s.definitions.as_mut().unwrap().values_mut().for_each(|it| *it = None),
            "x definitions: usbdevices.virtualization.deckhouse.io is missing",
        ),
        (
            |s| s.api_version = "v1beta1".to_owned(),
            "x definitions: usbdevices.virtualization.deckhouse.io serves v1alpha2, and not v1beta1",
        ),
        (
            |s| s.classes.as_mut().unwrap().values_mut().for_each(|there| *there = false),
            "x device classes: missing: usb-devices",
        ),
        (
            |s| s.policies.as_mut().unwrap().values_mut().for_each(|it| it.bindings.clear()),
            "x policies: patchbay-pods has no binding: it refuses nothing",
        ),
        (
            |s| {
                let audits = vec![("mine".to_owned(), false)];
                s.policies.as_mut().unwrap().values_mut().for_each(|it| it.bindings = audits.clone());
            },
            "x policies: patchbay-pods refuses nothing: its binding mine does not say Deny",
        ),
        (|s| s.deployment = Ok(None), "x controller: there is no Deployment controller"),
        (
            |s| s.lease.as_mut().unwrap().as_mut().unwrap().renewed = NOW - 300,
            "x leader: none: the last one, controller-x, was last heard of 5m ago",
        ),
        (
            |s| s.controller_rights.as_mut().unwrap().push(Right { allowed: false, ..right("patch pods") }),
            "x controller may: not patch pods",
        ),
        (
            |s| s.own_rights.as_mut().unwrap().push(Right { allowed: false, ..right("patch nodeusbdevices") }),
            ". you may: not patch nodeusbdevices (list)",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(news(change), [*expected]);
    }
}

#[test]
fn what_was_installed_a_moment_ago_is_not_wrong_yet() {
    let said = news(|seen| {
        for pod in [&mut seen.agents, &mut seen.controllers].into_iter().flat_map(|pods| pods.as_mut().unwrap()) {
            (pod.created, pod.ready) = (NOW - 5, None);
        }
        seen.deployment = Ok(Some(Deployment { wanted: 1, ..Deployment::default() }));
        (seen.lease, seen.published) = (Ok(None), Ok(BTreeMap::new()));
        seen.inside.clear();
    });
    assert_eq!(
        said,
        [
            ". controller: 0 of 1 pods available; the others are starting",
            ". leader: none yet: the controllers are starting",
            ". agents: ready on 0 of 1 nodes; starting on node-1",
            ". agent: starting for 5s",
            ". publishes: no ResourceSlice of its devices yet: the agent is starting",
            ". publishes: no ResourceSlice of its USB/IP ports yet: the agent is starting",
        ]
    );
}

#[test]
fn a_program_that_does_not_run_says_why() {
    let ended = |oom| Ended { at: NOW - 300, code: 137, out_of_memory: oom, words: "no certificate".to_owned() };
    let failing = |seen: &mut Seen, oom| {
        let pod = agent(seen);
        (pod.ready, pod.restarts, pod.ended) = (None, 4, Some(ended(oom)));
        pod.trouble = Some(PodTrouble::Ended { code: 137, words: "no certificate".to_owned() });
    };
    let first = "x agents: ready on 0 of 1 nodes; not on node-1".to_owned();
    let stale =
        ". publishes: 0 devices in a ResourceSlice of 10m, 2 USB/IP ports in one of 10m: of the time when an agent \
                 was ready"
            .to_owned();
    let says = |text: &str| vec![first.clone(), text.to_owned(), stale.clone()];
    assert_eq!(
        news(|seen| failing(seen, false)),
        says("x agent: pod agent-x ends with code 137 (4 restarts): no certificate")
    );
    assert_eq!(
        news(|seen| failing(seen, true)),
        says("x agent: pod agent-x was killed, because it used more memory than it may (OOMKilled) (4 restarts)")
    );
    assert_eq!(news(|seen| agent(seen).ready = None), says("x agent: pod agent-x is not ready"));
    // It may still come.
    let young = |seen: &mut Seen| (agent(seen).ready, agent(seen).created) = (None, NOW - 5);
    let first = ". agents: ready on 0 of 1 nodes; starting on node-1";
    assert_eq!(news(young), [first, ". agent: starting for 5s", stale.as_str()]);
}

#[test]
fn a_program_that_was_killed_for_its_memory_lately_will_be_again() {
    let ended = |oom, at| Some(Ended { at, code: 1, out_of_memory: oom, words: "no certificate".to_owned() });
    let after = |oom, at| {
        news(|seen| {
            let pod = agent(seen);
            (pod.restarts, pod.ended) = (2, ended(oom, at));
        })
    };
    let killed = "x agent: ready for 2h; 5m ago it was killed, because it used more memory than it may (OOMKilled) (2 \
                  restarts)";
    assert_eq!(after(true, NOW - 300), [killed]);
    let failed = ". agent: ready for 2h; 5m ago it ended with code 1 (2 restarts): no certificate";
    assert_eq!(after(false, NOW - 300), [failed]);
    assert_eq!(after(true, NOW - RECENT - 1), [""; 0]);
}

#[test]
fn a_node_without_an_agent_says_why_it_has_none() {
    let taint =
        |key: &str, effect: &str| Taint { key: key.to_owned(), value: String::new(), effect: effect.to_owned() };
    let without = |change: &dyn Fn(&mut Seen)| {
        let mut lines = news(|seen| {
            seen.agents = Ok(vec![]);
            change(seen);
        });
        lines.retain(|line| !line.contains(" publishes: ") && !line.contains(" node: "));
        lines
    };
    let wrong =
        |why: &str| vec!["x agents: ready on 0 of 1 nodes; not on node-1".to_owned(), format!("x agent: {why}")];
    assert_eq!(without(&|_| {}), wrong("none, though nothing keeps it away"));
    assert_eq!(without(&|seen| host(seen).ready = false), wrong("none: the node is not ready"));
    let tainted = |seen: &mut Seen| host(seen).taints.push(taint("storage", "NoSchedule"));
    assert_eq!(without(&tainted), wrong("none: the DaemonSet does not tolerate the node's taint storage:NoSchedule"));
    // What every DaemonSet tolerates, what is no order, and what ours tolerates.
    let harmless = |seen: &mut Seen| {
        host(seen).taints = vec![
            taint("node.kubernetes.io/unschedulable", "NoSchedule"),
            taint("storage", "PreferNoSchedule"),
            taint("gpu", "NoExecute"),
        ];
        let toleration = Toleration { key: Some("gpu".to_owned()), value: None, effect: None };
        set(seen).tolerations.push(toleration);
    };
    assert_eq!(without(&harmless), wrong("none, though nothing keeps it away"));
    let chosen = |seen: &mut Seen| drop(set(seen).selector.insert("usb".to_owned(), "yes".to_owned()));
    let expected = [
        "+ agents: ready on 0 of 0 nodes; not meant for node-1",
        ". agent: none: the DaemonSet is for nodes with the label usb=yes",
    ];
    assert_eq!(without(&chosen), expected);
}

#[test]
fn what_a_node_publishes_is_counted() {
    let node = "node-1".into();
    let seen = |seen: &mut Seen, change: &dyn Fn(&mut Published)| {
        change(seen.published.as_mut().unwrap().get_mut(&"node-1".into()).unwrap());
    };
    assert_eq!(
        news(|s| seen(s, &|published| published.ports = PoolSeen::default())),
        ["x publishes: no ResourceSlice of its USB/IP ports"]
    );
    assert_eq!(
        news(|s| seen(s, &|published| published.devices.wanted = 2)),
        ["x publishes: 1 of 2 ResourceSlices of its devices"]
    );
    assert_eq!(
        news(|s| seen(s, &|published| published.devices.unreadable = 3)),
        [". publishes: 3 devices that this version of kubectl usb cannot read"]
    );
    assert_eq!(
        news(|s| s.published.as_mut().unwrap().remove(&node).map_or((), drop)),
        ["x publishes: no ResourceSlice of its devices", "x publishes: no ResourceSlice of its USB/IP ports"]
    );
}

fn waits(created: Seconds) -> Attachment {
    Attachment {
        uid: "a".into(),
        created,
        deleting: false,
        device: "webcam".into(),
        vm_pod: PodRef { namespace: "blue".into(), name: "vm-linux-vm".into(), uid: "p".into() },
        vm: "linux-vm".into(),
        node: "node-1".into(),
        hub: Some(Hub::Usb2),
        want: Want::Plugged,
        port_claim: None,
        placement: Placement::Awaited,
        reminders: 0,
        state: PodState::Pending,
        plugged: None,
    }
}

fn attach(seen: &mut Seen, attachment: Attachment) {
    seen.world.attachments.insert(("blue".into(), "usb-webcam-1".into()), attachment);
}

#[test]
fn an_attachment_that_does_not_come_says_what_it_waits_for() {
    assert_eq!(news(|seen| attach(seen, waits(NOW - 10))), [""; 0]);
    let text =
        "x waiting: webcam into virtual machine blue/linux-vm: waiting for the kubelet and the agent of node node-1";
    assert_eq!(news(|seen| attach(seen, waits(NOW - 100))), [text]);
    let told = |seen: &mut Seen| {
        attach(seen, waits(NOW - 100));
        let key = ("blue".into(), PodName::new("usb-webcam-1"));
        seen.warnings.insert(key, "DRA driver usb.virtualization.deckhouse.io is not registered".to_owned());
    };
    let told_text = format!("{text}; Kubernetes says: DRA driver usb.virtualization.deckhouse.io is not registered");
    assert_eq!(news(told), [told_text]);
    let failed = Attachment { plugged: Some(PluggedState::Failed("no module".to_owned())), ..waits(NOW - 100) };
    let text = "x waiting: webcam into virtual machine blue/linux-vm: no module; trying again";
    assert_eq!(news(|seen| attach(seen, failed.clone())), [text]);
    // Its cable is out: nobody is to blame.
    let unplugged = |seen: &mut Seen| {
        attach(seen, failed.clone());
        let device = device(Reason::NotFound, "absent");
        seen.world.node_devices.insert("webcam".into(), device);
    };
    assert_eq!(news(unplugged), ["+ devices: 0 of 1 ready, 1 unplugged"]);
}

pub(super) fn device(reason: Reason, message: &str) -> NodeDevice {
    let (kind, message) = (ConditionType::Ready, message.to_owned());
    NodeDevice {
        uid: "d".into(),
        generation: 1,
        deleting: false,
        assigned: None,
        status: DeviceStatus {
            node: Some("node-1".into()),
            conditions: vec![Condition { kind, reason, message, since: 0 }],
            ..DeviceStatus::default()
        },
    }
}

#[test]
fn a_device_that_its_node_uses_itself_is_named() {
    let kept = |seen: &mut Seen| {
        seen.world.node_devices.insert("disk".into(), device(Reason::NotReady, "it is mounted"));
        seen.world.node_devices.insert("mouse".into(), device(Reason::Ready, "ready"));
    };
    assert_eq!(news(kept), [". devices: 1 of 2 ready; disk: it is mounted"]);
}

#[test]
fn ports_matter_to_those_who_wait_for_one() {
    let none = |seen: &mut Seen| seen.world.pools.get_mut(&"node-1".into()).unwrap().ports.clear();
    let published = "+ publishes: 0 devices in a ResourceSlice of 10m, 0 USB/IP ports in one of 10m";
    let text = "none: devices of other nodes cannot be used here";
    assert_eq!(news(none), [published, &format!(". USB/IP ports: {text}")]);
    let unschedulable = Attachment { placement: Placement::NoPlace, ..waits(NOW - 10) };
    let both = |seen: &mut Seen| {
        none(seen);
        attach(seen, unschedulable.clone());
    };
    assert_eq!(news(both), [published, &format!("x USB/IP ports: {text}, and somebody waits for one")]);
    let full = |seen: &mut Seen| {
        seen.world.ports_used.insert(("node-1".into(), Hub::Usb2), 1);
        attach(seen, unschedulable.clone());
    };
    let used = "1 of 1 USB 2.0, 0 of 1 USB 3.0 in use";
    assert_eq!(news(full), [format!("x USB/IP ports: {used}, and somebody waits for one of USB 2.0")]);
    let unused = |seen: &mut Seen| {
        seen.world.ports_used.insert(("node-1".into(), Hub::Usb2), 1);
    };
    assert_eq!(news(unused), [format!("+ USB/IP ports: {used}")]);
}

#[test]
fn what_was_deleted_and_does_not_go_is_named() {
    let leaving = |since| Leaving {
        kind: "pod",
        namespace: "blue".into(),
        name: "usb-webcam-1".to_owned(),
        node: "node-1".into(),
        since,
    };
    assert_eq!(news(|seen| seen.leaving.push(leaving(NOW - 10))), [""; 0]);
    let text = "x waiting: pod blue/usb-webcam-1 is to be deleted, and had to be gone 5m ago";
    assert_eq!(news(|seen| seen.leaving.push(leaving(NOW - 300))), [text]);
}

#[test]
fn a_node_that_is_not_ready_is_no_fault_of_its_agent() {
    let gone = |seen: &mut Seen| {
        let host = host(seen);
        (host.ready, host.since, host.message) = (false, NOW - 300, "Kubelet stopped posting node status.".to_owned());
        agent(seen).ready = None;
    };
    let lines = news(gone);
    assert!(lines.contains(&"x node: not ready for 5m: Kubelet stopped posting node status.".to_owned()), "{lines:?}");
    assert!(lines.contains(&". agent: unknown: the node is not ready".to_owned()), "{lines:?}");
    assert_eq!(news(|seen| host(seen).cordoned = true), [". node: ready for 2h; cordoned: it gets no new pods"]);
}

#[test]
fn where_no_agents_are_installed_that_is_said_once() {
    let lines = news(|seen| (seen.daemon_set, seen.agents) = (Ok(None), Ok(vec![])));
    let wrong: Vec<_> = lines.iter().filter(|line| line.starts_with('x')).collect();
    assert_eq!(wrong, ["x agents: there is no DaemonSet agent"]);
}
