//! The home agent's decisions: who may have a device, and when it goes back to its host driver.
//!
//! Default deny. A request is granted only if the API server, asked now, says all of this: the claim exists with that uid, is
//! allocated to that device of this node, and is reserved for a pod that runs on the caller's node and wants the device
//! plugged; and the device is assigned to the claim's namespace. What may resolve itself is answered with a wait.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::device::PortPath;
use crate::names::{ClaimRef, DeviceName, Namespace, NodeName, PodRef};

/// The most devices a node lends out at a time: the places in the table of usbip-host (`MAX_BUSID` in
/// `drivers/usb/usbip/stub.h`).
pub const MAX_LENT: usize = 16;

/// For so long the node that uses a device may take it out of its guest in its own order after the assignment was withdrawn.
pub const TO_LET_GO: Duration = Duration::from_secs(30);

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The caller, by its certificate.
    pub peer: NodeName,
    /// The claim it names.
    pub claim: ClaimRef,
    /// The device it names, as published by this node.
    pub device: DeviceName,
}

/// What the API server says about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// The claim of that namespace and name, if there is one.
    pub claim: Option<Claim>,
    /// The pods it is reserved for, as far as they exist.
    pub pods: Vec<Pod>,
    /// The namespaces to which a `NodeUSBDevice` of this node's device is assigned; at most one.
    pub assigned: Option<Namespace>,
}

/// A claim as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Namespace, name, uid.
    pub claim: ClaimRef,
    /// The pools and devices of our driver it is allocated to.
    pub allocated: Vec<(NodeName, DeviceName)>,
}

/// A pod a claim is reserved for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// The pod.
    pub pod: PodRef,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// It wants the device plugged, and is not being deleted.
    pub wants: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may have the device.
    Grant,
    /// Not now; for people.
    Wait(String),
    /// Not now, because the device is not assigned to the claim's namespace, or not any more; for people.
    Withdrawn(String),
    /// No; for people.
    Deny(String),
}

/// Judges a request to the agent of node `home`.
pub fn authorise(home: &NodeName, request: &Request, evidence: &Evidence) -> Verdict {
    let deny = |text: String| Verdict::Deny(text);
    let Request { peer, claim, device } = request;
    let Some(found) = evidence.claim.as_ref().filter(|c| c.claim == *claim) else {
        return deny(format!("claim {claim} does not exist with uid {}", claim.uid));
    };
    if !found.allocated.iter().any(|(pool, name)| pool == home && name == device) {
        return deny(format!("claim {claim} is not allocated to device {device} of node {home}"));
    }
    let mut there = evidence.pods.iter().filter(|p| p.node.as_ref() == Some(peer)).peekable();
    if there.peek().is_none() {
        return deny(format!("claim {claim} is not reserved for a pod on node {peer}"));
    }
    // The claim of a device that changes namespaces is taken back by the controller, in its order: first out of the guest.
    if evidence.assigned.as_ref() != Some(&claim.namespace) {
        return Verdict::Withdrawn(format!("device {device} is not assigned to namespace {}", claim.namespace));
    }
    if there.any(|p| p.wants) {
        Verdict::Grant
    } else {
        Verdict::Wait(format!("no pod on node {peer} wants device {device} now"))
    }
}

/// Why the device at `place` of node `home` cannot be lent out beside those that are; None when it can.
///
/// `lent` are the places of devices that are bound to usbip-host or about to be, `table` those in its table. What is in the
/// table and not lent is lost: its device was pulled out while it was lent, and only the same place can use it again.
pub fn no_room(
    home: &NodeName,
    place: &PortPath,
    lent: &BTreeSet<PortPath>,
    table: &BTreeSet<PortPath>,
) -> Option<String> {
    if lent.contains(place) || table.contains(place) || lent.union(table).count() < MAX_LENT {
        return None;
    }
    let way_out = format!("detach one of them, plug this one into another node, or use it on {home} itself");
    Some(match table.difference(lent).count() {
        0 => format!("node {home} lends out {} devices, the most that its kernel can: {way_out}", lent.len()),
        lost => format!(
            "node {home} lends out {} devices, and {lost} of the {MAX_LENT} places of its kernel are lost to devices that \
             were pulled out while lent: {way_out}, or free the lost places there (modprobe -r usbip-host, which detaches \
             all; modprobe usbip-host)",
            lent.len()
        ),
    })
}

/// A device that is bound to usbip-host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// A session is using it.
    pub in_session: bool,
    /// The request of its session, or of the last one, judged anew; None when nothing is known of it.
    pub verdict: Option<Verdict>,
    /// Another request that would be granted waits for it.
    pub contested: bool,
    /// How long the verdict has been [`Verdict::Withdrawn`].
    pub withdrawn_for: Duration,
}

/// What to do with a bound device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keeping {
    /// Leave it as it is.
    Keep,
    /// End the session, keep the device bound for the one that waits.
    Cut,
    /// End the session if there is one, and give the device back to its host driver.
    Release,
}

/// Whether a bound device stays bound.
///
/// A session is ended at once when its right is denied; while its right merely waits (its pod is on its way out, or the device
/// is leaving its namespace) only when somebody else has a right to the device, so that an ordinary detach is the importer's
/// to do, in its order. An assignment that was withdrawn is not left to the importer for ever: after [`TO_LET_GO`] the session
/// is ended, whether or not anybody else wants the device. A session of which nothing is known (an agent that lost its records)
/// is ended for whoever asks with a right. A device without session stays bound as long as its last user has the right to it:
/// that one is about to call again.
pub fn keeping(bound: &Bound) -> Keeping {
    match (&bound.verdict, bound.in_session) {
        (Some(Verdict::Grant), _) => Keeping::Keep,
        (_, true) if bound.contested => Keeping::Cut,
        (_, false) if bound.contested => Keeping::Keep,
        (Some(Verdict::Withdrawn(_)), true) if bound.withdrawn_for >= TO_LET_GO => Keeping::Release,
        (None | Some(Verdict::Wait(_) | Verdict::Withdrawn(_)), true) => Keeping::Keep,
        (Some(Verdict::Deny(_)), true) | (_, false) => Keeping::Release,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let claim = ClaimRef { namespace: "ns".into(), name: "usb-stick".into(), uid: "1".into() };
        Request { peer: "node-2".into(), claim, device: "stick".into() }
    }

    fn evidence() -> Evidence {
        let pod = PodRef { namespace: "ns".into(), name: "usb-stick-x".into(), uid: "7".into() };
        Evidence {
            claim: Some(Claim { claim: request().claim, allocated: vec![("node-1".into(), "stick".into())] }),
            pods: vec![Pod { pod, node: Some("node-2".into()), wants: true }],
            assigned: Some("ns".into()),
        }
    }

    fn judge(change: impl FnOnce(&mut Evidence)) -> Verdict {
        let mut evidence = evidence();
        change(&mut evidence);
        authorise(&"node-1".into(), &request(), &evidence)
    }

    #[test]
    fn a_request_that_the_api_server_confirms_is_granted() {
        assert_eq!(judge(|_| {}), Verdict::Grant);
    }

    #[test]
    fn any_missing_piece_of_evidence_denies() {
        type Change = fn(&mut Evidence);
        let cases: [(&str, Change); 6] = [
            ("no claim", |e| e.claim = None),
            ("a claim of another uid", |e| e.claim.as_mut().unwrap().claim.uid = "2".into()),
            ("not allocated", |e| e.claim.as_mut().unwrap().allocated.clear()),
            ("allocated to another device", |e| {
                e.claim.as_mut().unwrap().allocated = vec![("node-1".into(), "key".into())]
            }),
            ("allocated on another node", |e| {
                e.claim.as_mut().unwrap().allocated = vec![("node-3".into(), "stick".into())]
            }),
            ("reserved for a pod elsewhere", |e| e.pods[0].node = Some("node-3".into())),
        ];
        for (what, change) in cases {
            assert!(matches!(judge(change), Verdict::Deny(_)), "{what}");
        }
    }

    #[test]
    fn a_pod_that_does_not_want_the_device_yet_waits() {
        assert!(matches!(judge(|e| e.pods[0].wants = false), Verdict::Wait(_)));
    }

    #[test]
    fn a_device_that_leaves_its_namespace_is_not_granted_and_its_importer_has_some_time_to_let_go() {
        for assigned in [None, Some("other".into())] {
            let verdict = judge(|e| e.assigned.clone_from(&assigned));
            assert_eq!(verdict, Verdict::Withdrawn("device stick is not assigned to namespace ns".to_owned()));
            let keeping = |in_session, contested, withdrawn_for| {
                keeping(&Bound { in_session, verdict: Some(verdict.clone()), contested, withdrawn_for })
            };
            let (a_moment, long) = (TO_LET_GO - Duration::from_nanos(1), TO_LET_GO);
            assert_eq!(keeping(true, false, a_moment), Keeping::Keep, "its attachment is on its way out");
            assert_eq!(keeping(true, false, long), Keeping::Release, "the importer does not let go");
            assert_eq!(keeping(true, true, a_moment), Keeping::Cut);
            assert_eq!(keeping(false, false, Duration::ZERO), Keeping::Release);
        }
    }

    /// Places 1-1 to 1-n.
    fn places(from: usize, to: usize) -> BTreeSet<PortPath> {
        (from..=to).map(|n| format!("1-{n}").parse().unwrap()).collect()
    }

    #[test]
    fn a_device_beyond_the_kernels_limit_is_told_which_limit_where_and_what_to_do() {
        let none = BTreeSet::new();
        let said = |place: &str, lent: &BTreeSet<PortPath>, table: &BTreeSet<PortPath>| {
            no_room(&"node-1".into(), &place.parse().unwrap(), lent, table)
        };
        for (what, place, lent, table) in [
            ("nothing is lent", "1-1", none.clone(), none.clone()),
            ("one place is left", "2-1", places(1, 15), places(1, 15)),
            ("it is lent already", "1-16", places(1, 16), places(1, 16)),
            ("the lost place is its own", "1-16", places(1, 15), places(1, 16)),
        ] {
            assert_eq!(said(place, &lent, &table), None, "{what}");
        }
        let full = "node node-1 lends out 16 devices, the most that its kernel can: detach one of them, plug this one into \
                    another node, or use it on node-1 itself";
        assert_eq!(said("2-1", &places(1, 16), &places(1, 16)).as_deref(), Some(full));
        assert_eq!(said("2-1", &places(1, 16), &none).as_deref(), Some(full), "those about to be bound count too");
        assert_eq!(
            said("2-1", &places(1, 14), &places(1, 16)).as_deref(),
            Some(
                "node node-1 lends out 14 devices, and 2 of the 16 places of its kernel are lost to devices that were \
                 pulled out while lent: detach one of them, plug this one into another node, or use it on node-1 \
                 itself, or free the lost places there (modprobe -r usbip-host, which detaches all; modprobe usbip-host)"
            )
        );
    }

    #[test]
    fn a_session_without_right_never_stays_and_one_with_right_always_does() {
        let verdicts =
            [None, Some(Verdict::Grant), Some(Verdict::Deny(String::new())), Some(Verdict::Wait(String::new()))];
        for verdict in verdicts {
            for (in_session, contested) in [(false, false), (false, true), (true, false), (true, true)] {
                let bound = Bound { in_session, verdict: verdict.clone(), contested, withdrawn_for: Duration::ZERO };
                let keeping = keeping(&bound);
                if verdict == Some(Verdict::Grant) {
                    assert_eq!(keeping, Keeping::Keep, "{bound:?}");
                } else if in_session && matches!(verdict, Some(Verdict::Deny(_))) {
                    assert_ne!(keeping, Keeping::Keep, "{bound:?}");
                }
                if keeping == Keeping::Cut {
                    assert!(in_session && contested, "{bound:?}");
                }
            }
        }
    }
}
