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

#[test]
fn a_device_is_being_brought_until_it_is_in_the_guest_or_its_way_is_blocked() {
    type Change = fn(&mut Observed);
    let table: &[(&str, Change, bool)] =
        &[
            ("it is to be called for", |_| {}, true),
            ("it is called for", |seen| drop(seen.calls.insert(pod("attachment").uid, "asking".to_owned())), true),
            ("the kernel enumerates it", |seen| occupy(seen, None), true),
            ("it is here", |seen| occupy(seen, Some(ADDRESS)), true),
            ("it is in the guest", |seen| drop(settle(seen)), false),
            ("no claim is prepared", |seen| attachment(seen).source = None, false),
            ("it is not wanted", |seen| attachment(seen).wanted = false, false),
            ("the machine does not answer", |seen| seen.machines.clear(), false),
            ("the machine moves", |seen| seen.moving = [pod("vm").uid].into(), false),
            (
                "the call has failed",
                |seen| drop(seen.failures.insert(Step::Call(pod("attachment").uid), "no".into())),
                false,
            ),
            (
                "QEMU does not take it",
                |seen| {
                    occupy(seen, Some(ADDRESS));
                    seen.failures.insert(Step::Plug(pod("attachment").uid), "no".into());
                },
                false,
            ),
            (
                "somebody else has its port",
                |seen| {
                    drop(seen.ports.insert(
                        port(),
                        Port { occupied: Some(Occupied { address: None, stuck: false }), record: None },
                    ))
                },
                false,
            ),
        ];
    for (what, change, expected) in table {
        let mut seen = world(remote());
        change(&mut seen);
        assert_eq!(is_bringing(&seen), *expected, "{what}");
    }
    let mut local = world(Source::Local { device: "stick".into() });
    assert!(!is_bringing(&local), "it is not plugged in");
    local.local.insert("stick".into(), ADDRESS);
    assert!(is_bringing(&local));
    settle(&mut local);
    assert!(!is_bringing(&local));
}
