//! What watches tell, in the orders in which they may.

use super::*;

const NODE: &str = "node-1";

/// A version of the one slice, with the label of a node or without.
fn slice(version: u64, label: Option<&str>) -> ResourceSlice {
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": "node-1-a-0", "uid": "1", "resourceVersion": version.to_string(),
            "labels": label.map(|node| serde_json::json!({"driver.example.com/node": node})),
        },
        "spec": {
            "driver": "driver.example.com",
            "nodeName": NODE,
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1},
        },
    }))
    .unwrap()
}

fn list(observed: &mut Observed, share: Share, slices: Vec<ResourceSlice>) {
    observed.event(share, Event::Init);
    for slice in slices {
        observed.event(share, Event::InitApply(slice));
    }
    assert_eq!(observed.event(share, Event::InitDone), Noticed::Changed);
}

/// Knows what the two shares held.
fn knows(labelled: Vec<ResourceSlice>, unlabelled: Vec<ResourceSlice>) -> Observed {
    let mut observed = Observed::new(Publishing { driver: "driver.example.com".into(), node: NODE.into() });
    assert!(observed.set_pools(BTreeSet::from([NODE.to_owned()])));
    list(&mut observed, Share::Labelled, labelled);
    assert!(!observed.is_listed(), "there may be more");
    list(&mut observed, Share::Unlabelled, unlabelled);
    assert!(observed.is_listed());
    observed
}

fn ours(version: u64) -> ResourceSlice {
    slice(version, Some(NODE))
}

/// Knows the slice and has deleted it, ahead of the watch.
fn ahead() -> Observed {
    let mut observed = knows(vec![ours(1)], vec![]);
    assert_eq!(observed.slices().len(), 1);
    observed.deleted("node-1-a-0");
    observed
}

/// The versions that are known.
fn versions(observed: &Observed) -> Vec<String> {
    observed.slices().values().filter_map(|slice| slice.metadata.resource_version.clone()).collect()
}

#[test]
fn a_watch_that_lags_does_not_bring_back_a_deleted_slice() {
    let mut observed = ahead();
    list(&mut observed, Share::Unlabelled, vec![]);
    assert_eq!(observed.event(Share::Labelled, Event::Apply(ours(2))), Noticed::Nothing);
    assert_eq!(observed.event(Share::Labelled, Event::Delete(ours(2))), Noticed::Nothing);
    assert!(observed.slices().is_empty());
    assert!(observed.deleted.is_empty(), "nothing is remembered for ever");
}

#[test]
fn neither_does_a_list_from_before() {
    let mut observed = ahead();
    list(&mut observed, Share::Labelled, vec![ours(1)]);
    assert!(observed.slices().is_empty());
    list(&mut observed, Share::Labelled, vec![]);
    assert!(observed.deleted.is_empty(), "nothing is remembered for ever");
}

#[test]
fn a_slice_that_loses_its_label_is_known_in_whichever_order_the_watches_tell() {
    let gone = || (Share::Labelled, Event::Delete(ours(1)));
    let there = || (Share::Unlabelled, Event::Apply(slice(2, None)));
    for events in [[gone(), there()], [there(), gone()]] {
        let mut observed = knows(vec![ours(1)], vec![]);
        for (share, event) in events {
            observed.event(share, event);
        }
        assert_eq!(versions(&observed), ["2"]);
    }
}

#[test]
fn a_slice_that_was_given_its_label_stays_when_it_leaves_the_others() {
    let mut observed = knows(vec![], vec![slice(1, None)]);
    observed.wrote(&ours(1), ours(2));
    assert_eq!(observed.event(Share::Unlabelled, Event::Delete(slice(1, None))), Noticed::Nothing);
    list(&mut observed, Share::Unlabelled, vec![]);
    assert_eq!(versions(&observed), ["2"]);
    assert_eq!(observed.event(Share::Labelled, Event::Delete(ours(2))), Noticed::Lost);
}

#[test]
fn a_slice_with_another_nodes_label_is_known_once_it_is_found_until_the_next_list() {
    let mut observed = knows(vec![ours(1)], vec![]);
    assert_eq!(observed.event(Share::Labelled, Event::Delete(ours(1))), Noticed::Lost);
    assert_eq!(observed.found(slice(2, Some("node-2"))), Noticed::Changed);
    list(&mut observed, Share::Labelled, vec![]);
    assert_eq!(versions(&observed), ["2"]);
    list(&mut observed, Share::Unlabelled, vec![]);
    assert_eq!(versions(&observed), [""; 0]);
}
