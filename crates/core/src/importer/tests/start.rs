//! When the pod of an attachment is started.

use super::*;
use crate::importer::start::TAKEN_IN;

#[test]
fn a_pod_is_started_when_its_claim_is_seen_and_no_device_has_been_on_its_way_for_a_while() {
    let quiet = Start::After(TAKEN_IN);
    let table = [
        ("nothing was seen yet", Starting { seen: false, unwanted: false, bringing: false }, Start::NotYet),
        ("others' devices are on their way", Starting { seen: false, unwanted: false, bringing: true }, Start::NotYet),
        ("its own may be", Starting { seen: true, unwanted: false, bringing: true }, Start::NotYet),
        ("all are in, or cannot come", Starting { seen: true, unwanted: false, bringing: false }, quiet),
        ("it is given up", Starting { seen: true, unwanted: true, bringing: true }, Start::Now),
        ("it is given up before it was seen", Starting { seen: false, unwanted: true, bringing: true }, Start::Now),
        ("it is given up while nothing happens", Starting { seen: true, unwanted: true, bringing: false }, Start::Now),
    ];
    for (what, known, expected) in table {
        assert_eq!(start(known), expected, "{what}");
    }
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
