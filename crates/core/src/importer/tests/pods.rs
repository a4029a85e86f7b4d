//! Devices of ordinary pods, and those that a node keeps.

use super::*;

/// A node with one port, and the claim of an ordinary pod that wants the stick.
fn pod_world(source: Source) -> Observed {
    Observed {
        pods: BTreeMap::from([(claim().uid, source)]),
        ports: BTreeMap::from([(port(), Port { occupied: None, record: None })]),
        ..Observed::default()
    }
}

fn reach_of(seen: &Observed) -> Reach {
    reach(seen).remove(&claim().uid).unwrap()
}

#[test]
fn the_device_of_a_pod_is_called_and_stays_in_reach() {
    let mut seen = pod_world(remote());
    assert_eq!(reach_of(&seen), Reach::Away("asking node node-1 for the device".to_owned()));
    let done = settle(&mut seen);
    assert!(matches!(done.as_slice(), [Action::Call { user, .. }] if *user == claim().uid), "{done:?}");
    assert_eq!(reach_of(&seen), Reach::Here(ADDRESS));
    assert_eq!(plan(&seen), []);
}

#[test]
fn the_device_of_a_pod_that_is_gone_is_given_back() {
    let mut seen = pod_world(remote());
    settle(&mut seen);
    seen.pods.clear();
    assert_eq!(settle(&mut seen), [Action::Detach { port: port() }, Action::Forget { port: port() }]);
}

#[test]
fn a_call_for_a_pod_that_is_gone_is_given_up() {
    let mut seen = pod_world(remote());
    seen.calls.insert(claim().uid, "in use on node node-3".to_owned());
    assert_eq!(plan(&seen), []);
    assert_eq!(reach_of(&seen), Reach::Away("in use on node node-3".to_owned()));
    seen.pods.clear();
    assert_eq!(plan(&seen), [Action::HangUp { user: claim().uid }]);
}

#[test]
fn a_pod_is_told_why_its_device_does_not_come() {
    let mut seen = pod_world(remote());
    seen.failures.insert(Step::Call(claim().uid), "node-1 does not answer".to_owned());
    assert_eq!((plan(&seen), reach_of(&seen)), (vec![], Reach::Away("node-1 does not answer".to_owned())));
}

#[test]
fn a_local_device_is_in_a_pods_reach_once_no_guest_has_it() {
    let mut seen = pod_world(Source::Local { device: "stick".into() });
    assert!(matches!(reach_of(&seen), Reach::Away(text) if text.contains("absent")));
    seen.local.insert("stick".into(), ADDRESS);
    put_into_guest(&mut seen, ADDRESS);
    assert!(matches!(reach_of(&seen), Reach::Away(text) if text.contains("guest")));
    settle(&mut seen);
    assert_eq!(reach_of(&seen), Reach::Here(ADDRESS));
}

#[test]
fn a_local_device_is_given_to_nobody_while_the_containers_of_a_pod_that_was_deleted_by_force_may_have_it() {
    let local = Source::Local { device: "stick".into() };
    let mut seen = world(local.clone());
    seen.local.insert("stick".into(), ADDRESS);
    seen.pods.insert("former".into(), local.clone());
    let why = "waiting for the kubelet to end the pod that had the device before";
    attachment(&mut seen).overdue = true;
    let wait = PluggedState::Waiting(why.to_owned());
    assert_eq!(settle(&mut seen), [Action::Report { pod: pod("attachment"), state: wait }]);
    seen.pods.clear();
    settle(&mut seen);
    assert_eq!(attachment(&mut seen).reported, Some(PluggedState::Plugged(guest())));

    let mut seen = pod_world(local.clone());
    seen.local.insert("stick".into(), ADDRESS);
    seen.pods.insert("former".into(), local);
    assert_eq!(reach_of(&seen), Reach::Away(why.to_owned()));
    seen.pods.remove(&Uid::new("former"));
    assert_eq!(reach_of(&seen), Reach::Here(ADDRESS));
}

#[test]
fn a_local_device_that_the_node_uses_itself_is_given_to_nobody_and_stays_with_who_has_it() {
    let local = Source::Local { device: "stick".into() };
    let why = "node node-1 uses the device itself";
    let mut seen = world(local.clone());
    seen.local.insert("stick".into(), ADDRESS);
    seen.kept.insert("stick".into(), why.to_owned());
    attachment(&mut seen).overdue = true;
    let wait = PluggedState::Waiting(why.to_owned());
    assert_eq!(settle(&mut seen), [Action::Report { pod: pod("attachment"), state: wait }]);
    seen.kept.clear();
    settle(&mut seen);
    assert_eq!(attachment(&mut seen).reported, Some(PluggedState::Plugged(guest())));
    // An old look at the node's tables takes nothing from a guest.
    seen.kept.insert("stick".into(), why.to_owned());
    assert_eq!(plan(&seen), []);

    let mut seen = pod_world(local);
    seen.local.insert("stick".into(), ADDRESS);
    seen.kept.insert("stick".into(), why.to_owned());
    assert_eq!(reach_of(&seen), Reach::Away(why.to_owned()));
    seen.kept.clear();
    assert_eq!(reach_of(&seen), Reach::Here(ADDRESS));
}
