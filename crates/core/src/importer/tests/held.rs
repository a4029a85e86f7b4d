//! What guests and pods of this node have or have had.

use super::*;

#[test]
fn a_device_is_used_here_from_the_moment_it_is_wanted_until_it_is_out_of_the_guest() {
    let used = |seen: &Observed| !used_here(seen, &BTreeSet::new()).is_empty();
    let mut seen = world(Source::Local { device: "stick".into() });
    seen.local.insert("stick".into(), ADDRESS);
    assert!(used(&seen));
    settle(&mut seen);
    assert!(used(&seen));
    attachment(&mut seen).wanted = false;
    assert!(used(&seen), "it is in the guest still");
    settle(&mut seen);
    assert!(!used(&seen));
    assert!(!used_here(&seen, &[ADDRESS].into()).is_empty(), "it is on its way into a guest");

    let pod = |source| Observed { pods: [(Uid::new("claim"), source)].into(), ..Observed::default() };
    assert!(used(&pod(Source::Local { device: "stick".into() })));
    assert!(!used(&pod(remote())), "another node's is that node's to keep");
    let mut seen = world(remote());
    settle(&mut seen);
    assert!(!used(&seen));
    let mut seen = world(Source::Local { device: "stick".into() });
    attachment(&mut seen).source = None;
    assert!(!used(&seen), "not allocated to it yet");
}

#[test]
fn what_guests_have_had_is_remembered_as_long_as_it_is_there() {
    let seen = world(remote());
    let [gone, there, now] = [1, 2, 3].map(|device| BusAddress { bus: 3, device });
    let machines = {
        let mut seen = seen;
        put_into_guest(&mut seen, now);
        seen.machines
    };
    let used = used_by_guests(&[gone, there].into(), &[there].into(), &machines);
    assert_eq!(used, [there, now].into(), "what is in a guest may not have been seen in the kernel yet");
}

#[test]
fn a_guest_has_still_what_it_had_while_all_of_it_is_in_place_and_on_the_node() {
    let had = |address, port: Option<&str>| Plugged {
        device: "stick".into(),
        address,
        guest: port.map(|port| GuestPort { bus: 0, port: port.to_owned() }),
    };
    let there = [ADDRESS].into();
    assert!(has_still(&[], &BTreeSet::new()));
    assert!(has_still(&[had(Some(ADDRESS), Some("1"))], &there));
    assert!(!has_still(&[had(Some(ADDRESS), Some("1"))], &BTreeSet::new()), "it has vanished from the node");
    assert!(!has_still(&[had(None, None)], &there), "a leftover");
    assert!(!has_still(&[had(Some(ADDRESS), None)], &there), "nobody knows where it is");
}
