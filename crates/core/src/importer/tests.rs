use super::*;
use crate::conditions::GuestPort;
use crate::names::{ClaimRef, PodRef};

mod held;
mod pods;
mod start;

const ADDRESS: BusAddress = BusAddress { bus: 3, device: 2 };

fn claim() -> ClaimRef {
    ClaimRef { namespace: "ns".into(), name: "usb-stick".into(), uid: "claim-uid".into() }
}

fn port() -> PortName {
    "usb3-0".parse().unwrap()
}

fn guest() -> GuestPort {
    GuestPort { bus: 0, port: "1".to_owned() }
}

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "ns".into(), name: name.into(), uid: Uid::new(format!("{name}-uid")) }
}

fn remote() -> Source {
    Source::Remote { device: "stick".into(), home: "node-1".into(), claim: claim(), port: port() }
}

/// A node with one machine, one port and one attachment that wants the stick.
fn world(source: Source) -> Observed {
    let attachment = Attachment {
        pod: pod("attachment"),
        device: "stick".into(),
        vm_pod: pod("vm"),
        wanted: true,
        started: false,
        source: Some(source),
        reported: None,
        overdue: false,
    };
    Observed {
        attachments: BTreeMap::from([(attachment.pod.uid.clone(), attachment)]),
        ports: BTreeMap::from([(port(), Port { occupied: None, record: None })]),
        machines: BTreeMap::from([(pod("vm").uid, Vec::new())]),
        ..Observed::default()
    }
}

fn attachment(seen: &mut Observed) -> &mut Attachment {
    seen.attachments.values_mut().next().unwrap()
}

fn occupy(seen: &mut Observed, address: Option<BusAddress>) {
    seen.ports.insert(port(), Port { occupied: Some(Occupied { address, stuck: false }), record: Some(claim().uid) });
}

fn put_into_guest(seen: &mut Observed, address: BusAddress) {
    let item = Plugged { device: "stick".into(), address: Some(address), guest: Some(guest()) };
    seen.machines.insert(pod("vm").uid, vec![item]);
}

/// Does to the world what the shell and the kernel would do.
fn perform(seen: &mut Observed, action: &Action) {
    match action {
        Action::Call { .. } => occupy(seen, Some(ADDRESS)),
        Action::HangUp { user } => {
            seen.calls.remove(user);
        }
        Action::Plug { address, .. } => {
            put_into_guest(seen, *address);
            seen.used.insert(*address);
        }
        Action::Unplug { vm_pod, device } => seen.machines.get_mut(vm_pod).unwrap().retain(|p| p.device != *device),
        Action::Detach { port } => {
            let freed = seen.ports.get_mut(port).unwrap().occupied.take();
            seen.used.retain(|address| freed.as_ref().is_none_or(|o| o.address != Some(*address)));
        }
        Action::Forget { port } => seen.ports.get_mut(port).unwrap().record = None,
        Action::Report { pod, state } => seen.attachments.get_mut(&pod.uid).unwrap().reported = Some(state.clone()),
    }
}

/// Runs to rest; the number of actions is bounded, so a plan that runs in circles fails.
fn settle(seen: &mut Observed) -> Vec<Action> {
    let mut done = Vec::new();
    loop {
        let actions = plan(seen);
        if actions.is_empty() {
            return done;
        }
        assert!(done.len() < 20, "no rest: {done:?}");
        for action in actions {
            perform(seen, &action);
            done.push(action);
        }
    }
}

#[test]
fn a_remote_device_is_called_attached_plugged_and_reported() {
    let mut seen = world(remote());
    let done = settle(&mut seen);
    assert!(
        matches!(
            done.as_slice(),
            [
                Action::Call { .. },
                Action::Plug { address: ADDRESS, .. },
                Action::Report { state: PluggedState::Plugged(_), .. }
            ]
        ),
        "{done:?}"
    );
}

#[test]
fn nothing_is_plugged_or_unplugged_while_the_machine_moves() {
    let moving = || BTreeSet::from([pod("vm").uid]);
    // Not in yet: it is fetched, and waits.
    let mut seen = Observed { moving: moving(), ..world(remote()) };
    assert!(matches!(settle(&mut seen).as_slice(), [Action::Call { .. }]));
    attachment(&mut seen).overdue = true;
    let [Action::Report { state: PluggedState::Waiting(text), .. }] = &plan(&seen)[..] else {
        panic!("{:?}", plan(&seen))
    };
    assert!(text.contains("being moved"), "{text}");
    // In: it stays, with its port, also if it is not wanted any more or is back under another number.
    let mut seen = world(remote());
    settle(&mut seen);
    seen.moving = moving();
    assert_eq!(plan(&seen), []);
    for change in [
        |seen: &mut Observed| attachment(seen).wanted = false,
        |seen: &mut Observed| occupy(seen, Some(BusAddress { bus: 3, device: 9 })),
    ] {
        let mut seen = seen.clone();
        change(&mut seen);
        let done = settle(&mut seen);
        assert!(done.iter().all(|action| matches!(action, Action::Report { .. })), "{done:?}");
    }
    // Switched off for the switch: it is said, and it comes back, as if it were new, when the machine stays.
    seen.machines.insert(pod("vm").uid, Vec::new());
    let done = settle(&mut seen);
    assert!(matches!(done.as_slice(), [Action::Report { state: PluggedState::Waiting(_), .. }]), "{done:?}");
    let leftover = Plugged { device: "stick".into(), address: None, guest: None };
    seen.machines.insert(pod("vm").uid, vec![leftover]);
    seen.moving.clear();
    let done = settle(&mut seen);
    assert!(
        matches!(
            done.as_slice(),
            [
                Action::Unplug { .. },
                Action::Detach { .. },
                Action::Call { .. },
                Action::Plug { .. },
                Action::Report { state: PluggedState::Plugged(_), .. }
            ]
        ),
        "{done:?}"
    );
}

#[test]
fn a_local_device_needs_no_port_and_no_call() {
    let mut seen = world(Source::Local { device: "stick".into() });
    seen.local.insert("stick".into(), ADDRESS);
    seen.ports.clear();
    let done = settle(&mut seen);
    assert!(matches!(done.as_slice(), [Action::Plug { .. }, Action::Report { .. }]), "{done:?}");
}

#[test]
fn nothing_happens_before_the_claims_are_prepared() {
    let mut seen = world(remote());
    attachment(&mut seen).source = None;
    assert_eq!(plan(&seen), []);
}

#[test]
fn detaching_unplugs_then_frees_the_port_then_reports() {
    let mut seen = world(remote());
    settle(&mut seen);
    attachment(&mut seen).wanted = false;
    let done = settle(&mut seen);
    assert!(
        matches!(
            done.as_slice(),
            [
                Action::Unplug { .. },
                Action::Detach { .. },
                Action::Forget { .. },
                Action::Report { state: PluggedState::Unplugged, .. }
            ] | [
                Action::Unplug { .. },
                Action::Detach { .. },
                Action::Report { state: PluggedState::Unplugged, .. },
                Action::Forget { .. }
            ]
        ),
        "{done:?}"
    );
}

#[test]
fn a_device_is_held_until_it_is_out_of_the_guest_and_its_port_is_free() {
    let none = Held::default();
    let both = Held { claims: [claim().uid].into(), local: ["stick".into()].into() };
    assert!(both.has(&claim().uid, &[]) && both.has(&"other".into(), &["stick".into()]));
    assert!(!both.has(&"other".into(), &["key".into()]));
    let mut seen = world(remote());
    assert_eq!(held(&seen), none);
    settle(&mut seen);
    let of_claim = Held { claims: [claim().uid].into(), ..Held::default() };
    assert_eq!(held(&seen), of_claim);
    attachment(&mut seen).wanted = false;
    for action in plan(&seen) {
        perform(&mut seen, &action);
        assert_eq!(held(&seen), of_claim, "after {action:?}");
    }
    settle(&mut seen);
    assert_eq!(held(&seen), none);

    let mut seen = world(Source::Local { device: "stick".into() });
    seen.local.insert("stick".into(), ADDRESS);
    settle(&mut seen);
    assert_eq!(held(&seen), none, "its attachment has it, whatever claim another one had before");
    attachment(&mut seen).wanted = false;
    assert_eq!(held(&seen), Held { local: ["stick".into()].into(), ..Held::default() });
    settle(&mut seen);
    assert_eq!(held(&seen), none);
    // The record of its claim is marked before the pod is seen to be on its way out.
    attachment(&mut seen).source = None;
    put_into_guest(&mut seen, ADDRESS);
    assert_eq!(held(&seen), Held { local: ["stick".into()].into(), ..Held::default() });
}

#[test]
fn an_attachment_pod_that_is_gone_leaves_nothing_behind() {
    let mut seen = world(remote());
    settle(&mut seen);
    seen.attachments.clear();
    settle(&mut seen);
    assert_eq!(seen.ports[&port()], Port { occupied: None, record: None });
    assert_eq!(seen.machines[&pod("vm").uid], []);
}

#[test]
fn a_device_that_vanished_is_taken_out_of_qemu_and_called_again() {
    let mut seen = world(remote());
    settle(&mut seen);
    seen.ports.get_mut(&port()).unwrap().occupied = None;
    let first = plan(&seen);
    assert!(first.iter().any(|a| matches!(a, Action::Unplug { .. })), "{first:?}");
    assert!(first.iter().any(|a| matches!(a, Action::Call { .. })), "{first:?}");
    assert!(first.iter().any(|a| matches!(a, Action::Report { state: PluggedState::Waiting(_), .. })), "{first:?}");
    settle(&mut seen);
    assert_eq!(attachment(&mut seen).reported, Some(PluggedState::Plugged(guest())));
}

#[test]
fn a_device_that_was_enumerated_anew_is_plugged_anew() {
    let mut seen = world(remote());
    settle(&mut seen);
    occupy(&mut seen, Some(BusAddress { bus: 3, device: 9 }));
    let done = settle(&mut seen);
    assert!(matches!(done.first(), Some(Action::Report { .. } | Action::Unplug { .. })), "{done:?}");
    assert_eq!(seen.machines[&pod("vm").uid][0].address, Some(BusAddress { bus: 3, device: 9 }));
}

#[test]
fn an_agent_that_starts_again_adopts_what_it_finds() {
    let mut seen = world(remote());
    occupy(&mut seen, Some(ADDRESS));
    put_into_guest(&mut seen, ADDRESS);
    let done = settle(&mut seen);
    assert!(matches!(done.as_slice(), [Action::Report { state: PluggedState::Plugged(_), .. }]), "{done:?}");
}

#[test]
fn ports_of_somebody_else_are_left_alone() {
    let mut seen = world(remote());
    seen.ports.insert(port(), Port { occupied: Some(Occupied { address: Some(ADDRESS), stuck: false }), record: None });
    attachment(&mut seen).overdue = true;
    let actions = plan(&seen);
    assert!(
        matches!(actions.as_slice(), [Action::Report { state: PluggedState::Waiting(text), .. }] if text.contains("usbip port")),
        "{actions:?}"
    );
}

#[test]
fn what_is_wrong_with_a_port_is_told_and_nothing_is_done_to_it() {
    let occupied = Some(Occupied { address: Some(ADDRESS), stuck: true });
    let cases = [
        ("no such port", None, "port usb3-0 is not there: load the kernel module vhci-hcd (modprobe vhci-hcd)"),
        (
            "somebody else's",
            Some(Port { occupied: occupied.clone(), record: None }),
            "port usb3-0 is used by something else on this node (see usbip port): free it",
        ),
    ];
    for (what, state, message) in cases {
        // Before a call, and while one goes on.
        for calls in [BTreeMap::new(), BTreeMap::from([(pod("attachment").uid, "asking".to_owned())])] {
            let mut seen = world(remote());
            seen.calls = calls;
            seen.ports = state.clone().map(|s| (port(), s)).into_iter().collect();
            attachment(&mut seen).overdue = true;
            let report = Action::Report { pod: pod("attachment"), state: PluggedState::Waiting(message.to_owned()) };
            assert_eq!(plan(&seen), [report], "{what}");
        }
    }
}

#[test]
fn a_call_that_nobody_wants_is_given_up() {
    let mut seen = world(remote());
    seen.calls.insert(pod("attachment").uid, "in use".to_owned());
    attachment(&mut seen).wanted = false;
    assert!(matches!(plan(&seen).as_slice(), [Action::HangUp { .. }]));
}

#[test]
fn a_record_is_not_forgotten_while_a_call_that_is_given_up_may_still_need_it() {
    let mut seen = world(remote());
    let uid = pod("attachment").uid;
    seen.ports.insert(port(), Port { occupied: None, record: Some(claim().uid) });
    seen.calls.insert(uid.clone(), "asking".to_owned());
    attachment(&mut seen).wanted = false;
    assert_eq!(plan(&seen), [Action::HangUp { user: uid.clone() }]);
    seen.calls.remove(&uid);
    assert_eq!(plan(&seen), [Action::Forget { port: port() }]);
}

#[test]
fn a_pod_that_was_started_and_has_lost_a_claim_gives_its_device_back_and_says_so() {
    let mut seen = world(remote());
    settle(&mut seen);
    attachment(&mut seen).source = None;
    attachment(&mut seen).started = true;
    let done = settle(&mut seen);
    assert!(
        matches!(
            done.as_slice(),
            [
                Action::Report { state: PluggedState::ClaimLost, .. },
                Action::Unplug { .. },
                Action::Detach { .. },
                Action::Forget { .. }
            ]
        ),
        "{done:?}"
    );
}

#[test]
fn a_failed_step_is_told_and_not_repeated_until_its_time() {
    let mut seen = world(remote());
    let uid = pod("attachment").uid;
    seen.failures.insert(Step::Call(uid), "node-1: connection refused".to_owned());
    let actions = plan(&seen);
    assert!(matches!(actions.as_slice(), [Action::Report { state: PluggedState::Failed(_), .. }]), "{actions:?}");
}

#[test]
fn a_machine_that_does_not_let_go_does_not_keep_the_port() {
    let mut seen = world(remote());
    settle(&mut seen);
    attachment(&mut seen).wanted = false;
    seen.failures.insert(Step::Unplug(pod("vm").uid, "stick".into()), "no answer".to_owned());
    assert!(plan(&seen).iter().any(|a| matches!(a, Action::Detach { .. })));
}

#[test]
fn a_machine_that_started_again_gets_its_device_again_as_if_it_were_new() {
    let mut seen = world(remote());
    settle(&mut seen);
    seen.machines.insert(pod("vm").uid, Vec::new());
    seen.failures.insert(Step::Detach(port()), "busy".to_owned());
    settle(&mut seen);
    assert_eq!(attachment(&mut seen).reported, Some(PluggedState::Failed("busy".to_owned())));
    seen.failures.clear();
    let done = settle(&mut seen);
    let steps = done.iter().filter(|a| !matches!(a, Action::Report { .. })).collect::<Vec<_>>();
    assert!(
        matches!(steps.as_slice(), [Action::Detach { .. }, Action::Call { .. }, Action::Plug { reset: false, .. }]),
        "{done:?}"
    );
    assert_eq!(attachment(&mut seen).reported, Some(PluggedState::Plugged(guest())));

    let mut seen = world(Source::Local { device: "stick".into() });
    seen.local.insert("stick".into(), ADDRESS);
    let done = settle(&mut seen);
    assert!(done.iter().any(|a| matches!(a, Action::Plug { reset: false, .. })), "{done:?}");
    seen.machines.insert(pod("vm").uid, Vec::new());
    let done = settle(&mut seen);
    assert!(done.iter().any(|a| matches!(a, Action::Plug { reset: true, .. })), "{done:?}");
}

#[test]
fn a_port_on_which_no_device_comes_up_is_freed_and_called_for_again() {
    let mut seen = world(remote());
    let occupied = Some(Occupied { address: None, stuck: true });
    seen.ports.insert(port(), Port { occupied, record: Some(claim().uid) });
    let done = settle(&mut seen);
    assert!(
        matches!(
            done.as_slice(),
            [Action::Detach { .. }, Action::Call { .. }, Action::Plug { .. }, Action::Report { .. }]
        ),
        "{done:?}"
    );
}

#[test]
fn a_call_waits_until_the_record_of_the_former_claim_is_forgotten() {
    let mut seen = world(remote());
    seen.ports.insert(port(), Port { occupied: None, record: Some("former-claim".into()) });
    assert_eq!(plan(&seen), [Action::Forget { port: port() }], "the call would write a record that is then forgotten");
    settle(&mut seen);
    assert_eq!(attachment(&mut seen).reported, Some(PluggedState::Plugged(guest())));
}

#[test]
fn a_port_that_is_allocated_twice_stays_with_the_guest_that_has_it_until_that_one_is_out() {
    // Whichever comes first in order.
    for second in ["a", "z"] {
        let mut seen = world(remote());
        settle(&mut seen);
        let mut other = attachment(&mut seen).clone();
        let theirs = ClaimRef { namespace: "ns".into(), name: "usb-key".into(), uid: "their-uid".into() };
        (other.pod, other.device, other.overdue, other.reported) = (pod(second), "key".into(), true, None);
        other.source =
            Some(Source::Remote { device: "key".into(), home: "node-1".into(), claim: theirs.clone(), port: port() });
        seen.attachments.insert(other.pod.uid.clone(), other);
        let wait = PluggedState::Waiting("port usb3-0 is being freed".to_owned());
        assert_eq!(settle(&mut seen), [Action::Report { pod: pod(second), state: wait }]);
        seen.attachments.remove(&pod("attachment").uid);
        for _ in ["unplug", "detach", "forget"] {
            let actions = plan(&seen);
            assert!(!actions.iter().any(|a| matches!(a, Action::Call { .. })), "{actions:?}");
            actions.iter().for_each(|a| perform(&mut seen, a));
        }
        assert!(matches!(plan(&seen).first(), Some(Action::Call { claim, .. }) if *claim == theirs));
    }
}

#[test]
fn a_device_that_changes_hands_on_one_node_leaves_the_first_guest_before_it_enters_the_second() {
    let mut seen = world(Source::Local { device: "stick".into() });
    seen.local.insert("stick".into(), ADDRESS);
    let item = Plugged { device: "stick".into(), address: Some(ADDRESS), guest: Some(guest()) };
    seen.machines.insert(pod("former-vm").uid, vec![item]);
    let done = settle(&mut seen);
    assert!(matches!(done.as_slice(), [Action::Unplug { .. }, Action::Plug { .. }, Action::Report { .. }]), "{done:?}");
}

#[test]
fn a_call_that_another_one_has_made_needless_is_given_up() {
    let mut seen = world(remote());
    settle(&mut seen);
    let uid = pod("attachment").uid;
    seen.calls.insert(uid.clone(), "in use".to_owned());
    assert_eq!(plan(&seen), [Action::HangUp { user: uid }]);
}
