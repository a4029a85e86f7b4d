//! Claims, attachment pods, and what machines say of their devices.

use super::builder::{Builder, briefs, claim_key, vm_pod, world};
use crate::conditions::PluggedState;
use crate::controller::action::Action;
use crate::controller::world::{Placement, PodState, RunPolicy};
use crate::controller::{UNDER_WAY_AFTER, attachment_name, why};
use crate::home::{MAX_LENT, no_room};
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, VmName};
use crate::speed::Hub;

/// A stick in node-1 for namespace blue, and a machine of blue on `node` that lists nothing yet.
fn offered(node: &str) -> Builder {
    let it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it.vm("blue", "vm-a", node, &[]).settled()
}

/// The same, attached.
fn attached(node: &str) -> Builder {
    let mut it = offered(node);
    it.list("blue", "vm-a", &["stick"]);
    it.settled()
}

#[test]
fn a_remote_device_gets_claim_template_and_pod_in_one_plan() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick"]);
    let done = it.act();
    assert_eq!(
        briefs(&done),
        [
            "create claim blue/usb-stick of node-1",
            "create template blue/usb2",
            "create attachment of stick to vm-a on node-2 with a usb2 port",
        ]
    );
    let Action::CreateAttachment(new) = &done[2] else { panic!("{done:?}") };
    let pod = it.pod_of("blue", "vm-a").uid.clone();
    assert_eq!(new.name, attachment_name(&"stick".into(), &pod));
    assert_eq!((&new.claim, &new.vm_pod.uid), (&claim_key("blue", "stick").1, &pod));
    assert_eq!(it.plan().actions, [], "the steps of an attachment are not worth telling at first");
}

#[test]
fn a_kubelet_that_does_not_start_an_attachment_is_reminded_of_it_for_two_minutes() {
    let mut it = attached("node-2");
    let began = it.world.now;
    (it.attachment().placement, it.attachment().state) = (Placement::Placed(began), PodState::Pending);
    it.attachment().plugged = None;
    let mut reminded = Vec::new();
    while reminded.len() < 9 {
        let plan = it.plan();
        let reminds = plan.actions.iter().filter(|a| matches!(a, Action::Remind { .. })).cloned().collect::<Vec<_>>();
        reminded.extend(reminds.iter().map(|a| (it.world.now - began, briefs(std::slice::from_ref(a)).remove(0))));
        plan.actions.into_iter().for_each(|action| it.perform(action));
        match it.plan().wake_at.filter(|_| reminded.len() < 7) {
            Some(at) => it.world.now = at,
            None => break,
        }
    }
    let text = |times: usize| format!("remind the kubelet of an attachment, {times}");
    let times = [3, 10, 30, 50, 70, 90, 110];
    assert_eq!(reminded, times.into_iter().zip((1..).map(text)).collect::<Vec<_>>());
    it.attachment().reminders = 0;
    it.attachment().state = PodState::Running;
    assert_eq!(it.clone().settled().plan().actions, [], "it runs");
    it.attachment().state = PodState::Pending;
    it.plug_in();
    assert_eq!(it.settled().plan().wake_at, None, "its claims were prepared");
}

/// Watches of different kinds are not told in order: the pod may be seen before the claim that was made before it.
#[test]
fn an_attachment_that_is_seen_before_its_claim_stays_and_one_that_has_lost_it_goes() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    let claims = std::mem::take(&mut it.world.claims);
    let plan = it.plan();
    assert_eq!((briefs(&plan.actions), plan.wake_at), (vec![], Some(it.world.now + 2)), "it is told after two seconds");
    it.world.now += 4;
    let plan = it.plan();
    assert!(!briefs(&plan.actions).contains(&"delete attachment".to_owned()));
    assert_eq!(plan.wake_at, Some(it.world.now + 1));
    it.world.now += 1;
    assert!(briefs(&it.plan().actions).contains(&"delete attachment".to_owned()), "there is none");
    it.world.claims = claims;
    assert!(!briefs(&it.plan().actions).contains(&"delete attachment".to_owned()), "it was slow");

    let mut it = attached("node-2");
    it.world.now += 5;
    it.world.claims.clear();
    assert!(briefs(&it.act()).contains(&"delete attachment".to_owned()), "it was there once");
}

#[test]
fn an_attachment_that_the_scheduler_fails_with_for_long_is_made_anew() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    it.attachment().placement = Placement::Failed(it.world.now);
    it.settle();
    let deletes = |it: &Builder| briefs(&it.plan().actions).contains(&"delete attachment".to_owned());
    let mut said = String::new();
    while !deletes(&it) {
        said = it.machine("blue", "vm-a");
        it.world.now = it.plan().wake_at.unwrap();
        let plan = it.plan();
        plan.actions.into_iter().filter(|a| !matches!(a, Action::DeleteAttachment { .. })).for_each(|a| it.perform(a));
    }
    let Placement::Failed(since) = it.attachment().placement else { panic!("it has failed") };
    assert_eq!(it.world.now - since, 15);
    assert!(said.contains("the scheduler has failed with its attachment pod"), "{said}");
    it.settle();
    it.sweep();
    let again = briefs(&it.settle());
    assert!(again.iter().any(|a| a.starts_with("create attachment of stick to vm-a")), "{again:?}");
}

#[test]
fn the_second_device_of_a_half_uses_the_same_template() {
    let mut it = offered("node-2").device("key", "node-1").assigned("key", "blue");
    it.list("blue", "vm-a", &["stick", "key"]);
    let templates = it.act().into_iter().filter(|a| matches!(a, Action::CreatePortTemplate { .. })).count();
    assert_eq!(templates, 1);
}

#[test]
fn a_local_device_needs_no_port() {
    let mut it = offered("node-1");
    it.list("blue", "vm-a", &["stick"]);
    assert_eq!(
        briefs(&it.act()),
        ["create claim blue/usb-stick of node-1", "create attachment of stick to vm-a on node-1"]
    );
}

#[test]
fn a_device_that_is_listed_twice_is_attached_once() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick", "stick"]);
    it = it.settled();
    assert_eq!(it.world.attachments.len(), 1);
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=true ready=true: attached");
}

#[test]
fn an_attached_device_says_where_it_is() {
    let it = attached("node-2");
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=True/Ready: Device is ready to use
    Attached=True/AttachedToVirtualMachine: Attached to virtual machine blue/vm-a on node node-2, guest bus 0 port 1
    ");
    assert_eq!(it.world.node_devices[&DeviceName::new("stick")].status.vm, Some("vm-a".into()));
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=true ready=true: attached");
}

#[test]
fn detaching_deletes_the_pod_and_the_claim_only_when_the_pod_is_gone() {
    let mut it = attached("node-2");
    it.list("blue", "vm-a", &[]);
    assert_eq!(briefs(&it.settle())[0], "delete attachment");
    assert_eq!(it.claims().len(), 1);
    assert!(it.usb_device("blue", "stick").contains("Attached=True"), "it is still in the guest");
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=true ready=true: attached");
    it.attachment().plugged = Some(PluggedState::Unplugged);
    it.settle();
    insta::assert_snapshot!(
        it.usb_device("blue", "stick").lines().nth(1).unwrap(),
        @"Attached=False/Available: Device is available for attachment"
    );
    it.sweep();
    assert_eq!(briefs(&it.settle())[0], "delete claim blue/usb-stick");
    assert_eq!((it.claims().len(), it.machine("blue", "vm-a").as_str()), (0, ""));
}

#[test]
fn a_device_of_another_namespace_is_not_attached_and_the_machine_says_what_to_do() {
    let mut it = offered("node-2").vm("green", "vm-b", "node-2", &["stick"]);
    it.settle();
    assert!(it.world.attachments.is_empty());
    insta::assert_snapshot!(
        it.machine("green", "vm-b"),
        @"stick attached=false ready=false: there is no USBDevice stick in namespace green: an administrator assigns one by setting spec.assignedNamespace of the NodeUSBDevice to green"
    );
}

#[test]
fn of_two_machines_that_list_a_device_the_second_waits_for_the_first() {
    let mut it = attached("node-2").vm("blue", "vm-b", "node-1", &["stick"]);
    it.settle();
    insta::assert_snapshot!(
        it.machine("blue", "vm-b"),
        @"stick attached=false ready=true: in use by virtual machine vm-a: it is attached here when released there"
    );
    assert_eq!(it.world.attachments.len(), 1);
    it.list("blue", "vm-a", &[]);
    it.settle();
    it.sweep();
    it = it.settled();
    insta::assert_snapshot!(it.machine("blue", "vm-b"), @"stick attached=true ready=true: attached");
}

#[test]
fn of_two_machines_that_ask_at_once_one_is_served() {
    let mut it = offered("node-2").vm("blue", "vm-b", "node-1", &["stick"]);
    it.list("blue", "vm-a", &["stick"]);
    it = it.settled();
    assert_eq!(it.world.attachments.len(), 1);
    assert!(it.machine("blue", "vm-a").contains("attached=true"));
    assert!(it.machine("blue", "vm-b").contains("in use by virtual machine vm-a"));
}

#[test]
fn a_missing_port_is_told_at_once_with_what_to_do() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    it.attachment().placement = Placement::NoPlace;
    it.world.ports_used.insert(("node-2".into(), Hub::Usb2), 1);
    it.settle();
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=True/Ready: Device is ready to use
    Attached=False/NoFreeUSBIPPort: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine
    ");
    insta::assert_snapshot!(
        it.machine("blue", "vm-a"),
        @"stick attached=false ready=true: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine"
    );
}

#[test]
fn every_shortage_of_ports_says_what_is_short_on_which_node_and_what_to_do() {
    let cases: [(&str, Option<&[&str]>, usize, &str); 5] = [
        (
            "all in use",
            Some(&["usb2-0", "usb2-1", "usb3-0"]),
            2,
            "NoFreeUSBIPPort: all 2 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or \
             move the virtual machine",
        ),
        (
            "no module",
            Some(&[]),
            0,
            "NoFreeUSBIPPort: node node-2 has no USB 2.0 USB/IP ports: load the kernel module vhci-hcd there (modprobe \
             vhci-hcd)",
        ),
        (
            "all of the half are somebody else's",
            Some(&["usb3-0"]),
            0,
            "NoFreeUSBIPPort: all USB 2.0 USB/IP ports of node node-2 are used by something else (see usbip port there): \
             free one, or move the virtual machine",
        ),
        (
            "no agent",
            None,
            0,
            "NoFreeUSBIPPort: node node-2 offers no USB/IP ports: check the pod of Patchbay's agent there",
        ),
        (
            "ports are free, the scheduler has another reason",
            Some(&["usb2-0", "usb2-1"]),
            1,
            "Available: Requested by virtual machine blue/vm-a on node node-2: its attachment pod cannot be scheduled to \
             node node-2",
        ),
    ];
    for (what, ports, used, message) in cases {
        let mut it = offered("node-2");
        it.list("blue", "vm-a", &["stick"]);
        it.act();
        it.attachment().placement = Placement::NoPlace;
        it.world.now += UNDER_WAY_AFTER;
        match ports {
            Some(ports) => {
                let ports = ports.iter().map(|p| p.parse().unwrap()).collect();
                it.world.pools.get_mut(&NodeName::new("node-2")).unwrap().ports = ports;
            }
            None => drop(it.world.pools.remove(&NodeName::new("node-2"))),
        }
        it.world.ports_used.insert(("node-2".into(), Hub::Usb2), used);
        it.settle();
        for said in [it.usb_device("blue", "stick"), it.node_device("stick")] {
            assert_eq!(said.lines().last().unwrap(), format!("Attached=False/{message}"), "{what}");
        }
        let told = it.machine("blue", "vm-a");
        let (_, told) = told.split_once("ready=true: ").unwrap();
        assert!(message.ends_with(told), "{what}: {told}");
    }
}

#[test]
fn a_device_without_a_port_changes_nothing_that_is_said_of_the_others() {
    let mut it = attached("node-2").device("key", "node-1").assigned("key", "blue");
    let before = (it.usb_device("blue", "stick"), it.node_device("stick"));
    it.list("blue", "vm-a", &["stick", "key"]);
    it.act();
    it.world.ports_used.insert(("node-2".into(), Hub::Usb2), 1);
    for attachment in it.world.attachments.values_mut().filter(|a| a.device.as_str() == "key") {
        attachment.placement = Placement::NoPlace;
    }
    it.world.now += 100;
    let done = briefs(&it.settle());
    assert!(!done.contains(&"publish usb blue/stick".to_owned()), "{done:?}");
    assert_eq!((it.usb_device("blue", "stick"), it.node_device("stick")), before);
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @r"
    stick attached=true ready=true: attached
    key attached=false ready=true: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine
    ");
}

#[test]
fn a_device_its_home_node_cannot_lend_says_so_in_the_words_of_that_node() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    let lent = (1..=MAX_LENT).map(|n| format!("1-{n}").parse().unwrap()).collect();
    let why = no_room(&"node-1".into(), &"2-1".parse().unwrap(), &lent, &lent).unwrap();
    it.attachment().plugged = Some(PluggedState::Waiting(why));
    it.world.now += UNDER_WAY_AFTER;
    it.settle();
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=True/Ready: Device is ready to use
    Attached=False/Available: Requested by virtual machine blue/vm-a on node node-2: node node-1 lends out 16 devices, the most that its kernel can: detach one of them, plug this one into another node, or use it on node-1 itself
    ");
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=false ready=true: node node-1 lends out 16 devices, the most that its kernel can: detach one of them, plug this one into another node, or use it on node-1 itself");
}

#[test]
fn an_attachment_that_has_lost_a_claim_is_made_anew() {
    let mut it = attached("node-2");
    it.attachment().plugged = Some(PluggedState::ClaimLost);
    let done = briefs(&it.settle());
    assert_eq!(done[0], "delete attachment", "{done:?}");
    it.sweep();
    it = it.settled();
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=true ready=true: attached");
}

#[test]
fn an_attachment_whose_port_belongs_to_nobody_any_more_is_made_anew() {
    let mut it = attached("node-2");
    let claim: (Namespace, ClaimName) = ("blue".into(), "port-of-it".into());
    it.attachment().port_claim = Some(claim.1.clone());
    it.attachment().state = PodState::Running;
    it.world.port_claims.insert(claim.clone());
    assert_eq!(it.plan().actions, []);
    it.world.port_claims.remove(&claim);
    let plan = it.plan();
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(it.world.now + 5)), "it may be told yet");
    it.world.now += 5;
    assert_eq!(briefs(&it.plan().actions)[0], "delete attachment");
    // Before it runs, its claim may be one that nobody has allocated yet.
    (it.attachment().state, it.attachment().placement) = (PodState::Pending, Placement::Awaited);
    assert_eq!(it.plan().actions, []);
}

#[test]
fn a_slow_attachment_tells_the_step_it_is_at() {
    let mut it = offered("node-2");
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    let due = it.world.now + UNDER_WAY_AFTER;
    assert_eq!(it.plan().wake_at, Some(due));
    it.world.now = due;
    it.settle();
    insta::assert_snapshot!(
        it.machine("blue", "vm-a"),
        @"stick attached=false ready=true: waiting for the kubelet and the agent of node node-2"
    );
    it.attachment().plugged = Some(PluggedState::Failed("node-1: connection refused".to_owned()));
    it.settle();
    insta::assert_snapshot!(
        it.usb_device("blue", "stick").lines().nth(1).unwrap(),
        @"Attached=False/Available: Requested by virtual machine blue/vm-a on node node-2: node-1: connection refused; trying again"
    );
}

#[test]
fn an_attachment_waits_for_a_device_that_is_unplugged_for_a_while() {
    let mut it = attached("node-2");
    it.unplug("stick");
    let done = it.settle();
    assert!(
        done.iter().all(|a| matches!(
            a,
            Action::PublishNodeDevice { .. } | Action::PublishDevice { .. } | Action::PublishVm { .. }
        )),
        "{done:?}"
    );
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=False/NotFound: Device is absent on the host: it was last plugged into node node-1
    Attached=False/Available: Device is absent; it returns to virtual machine blue/vm-a on node node-2 when it is plugged in again
    ");
}

#[test]
fn a_device_that_returns_in_another_node_gets_a_new_claim_and_a_new_attachment() {
    let mut it = attached("node-2");
    it.unplug("stick");
    it.settle();
    it.plug("stick", "node-2");
    assert_eq!(briefs(&it.settle())[0], "delete attachment");
    it.sweep();
    it = it.settled();
    assert_eq!(it.claims(), [("blue/usb-stick".to_owned(), "node-2".to_owned())].into());
    assert_eq!(it.attachment().hub, None);
}

#[test]
fn a_stopped_machine_gives_its_devices_back() {
    let mut it = attached("node-2");
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    let done = briefs(&it.settle());
    assert!(
        done.contains(&"delete pod vm-vm-a".to_owned()) && done.contains(&"delete attachment".to_owned()),
        "{done:?}"
    );
    it.sweep();
    it.settle();
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=false ready=true: the virtual machine is stopped");
    assert!(it.claims().is_empty());
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOn;
    assert_eq!(briefs(&it.settle())[0], "create pod vm-vm-a");
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=false ready=true: waiting for the virtual machine to run");
}

#[test]
fn a_new_pod_of_a_machine_gets_a_new_attachment() {
    let mut it = attached("node-2");
    let old = it.world.attachments.keys().next().unwrap().clone();
    it.world.vm_pods.get_mut(&("blue".into(), vm_pod("vm-a"))).unwrap().state = PodState::Ended;
    it.settle();
    it.sweep();
    it.settle();
    let pod = it.world.vm_pods.values_mut().next().unwrap();
    (pod.node, pod.state) = (Some("node-2".into()), PodState::Running);
    it = it.settled();
    assert_eq!(it.world.attachments.len(), 1);
    assert!(!it.world.attachments.contains_key(&old));
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=true ready=true: attached");
}

#[test]
fn a_machine_that_is_to_end_on_a_dead_node_says_what_to_do_about_the_node() {
    let mut it = attached("node-2");
    it.world.nodes.get_mut(&NodeName::new("node-2")).unwrap().ready = false;
    it.settle();
    assert!(
        it.usb_device("blue", "stick").contains("Attached=True/AttachedToVirtualMachine: Attached to virtual machine")
    );
    it.world.vm_pods.get_mut(&("blue".into(), vm_pod("vm-a"))).unwrap().deleting = true;
    it.settle();
    assert!(it.attachment().deleting);
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=True/Ready: Device is ready to use
    Attached=False/Available: Not yet released by virtual machine blue/vm-a on node node-2: node node-2 is not ready: check the node, its kubelet and its network; if it is off for sure, delete it, or give it the taint node.kubernetes.io/out-of-service=nodeshutdown:NoExecute
    ");
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=false ready=true: waiting for the machine's pod to end: node node-2 is not ready: check the node, its kubelet and its network; if it is off for sure, delete it, or give it the taint node.kubernetes.io/out-of-service=nodeshutdown:NoExecute");
    let (key, node) = (("blue".into(), VmName::new("vm-a")), NodeName::new("node-2"));
    let trouble = why::machine(&it.world, &key.0, &key.1, &it.world.vms[&key]).unwrap_err();
    assert_eq!(trouble.remedy, why::Remedy::HealNode(node));
    assert!(trouble.why.contains("waiting for its pod to end: node node-2 is not ready"), "{}", trouble.why);
    // Somebody has done so, and the machine starts on another node.
    it.sweep();
    assert_eq!(briefs(&it.settle())[0], "create pod vm-vm-a");
    insta::assert_snapshot!(it.machine("blue", "vm-a"), @"stick attached=false ready=true: waiting for the virtual machine to run");
}

#[test]
fn a_machine_in_a_namespace_that_is_being_deleted_is_not_started() {
    let mut it = offered("node-2");
    it.world.vm_pods.clear();
    it.world.namespaces.insert("blue".into(), true);
    assert!(!it.plan().actions.iter().any(|a| matches!(a, Action::CreateVmPod { .. })));
    it.world.namespaces.insert("blue".into(), false);
    assert!(it.plan().actions.iter().any(|a| matches!(a, Action::CreateVmPod { .. })));
}
