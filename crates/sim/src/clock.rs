//! Time. It stands still, at zero, while anybody has something to do: then everything is as quick as it can be. Slowness is
//! a fault. At rest first the seconds pass that make waits worth telling, then the minutes that make devices forgotten.
//!
//! A moment that has passed is moved into the past instead of the clock into the future, so that worlds stay the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use patchbay_core::conditions::{ConditionType, PluggedState, Reason, Seconds};
use patchbay_core::controller::world::{Attachment, PodClaim};
use patchbay_core::controller::{CLAIMS_SEEN_WITHIN, FORGET_AFTER, UNDER_WAY_AFTER, lacks_a_claim};
use patchbay_core::names::Uid;

use crate::cluster::Cluster;
use crate::steps::Steps;

/// As long as whatever takes seconds.
const A_FEW: Seconds = if UNDER_WAY_AFTER > CLAIMS_SEEN_WITHIN { UNDER_WAY_AFTER } else { CLAIMS_SEEN_WITHIN };

/// The clock's steps.
pub fn steps(cluster: &Cluster, steps: &mut Steps) {
    if !steps.at_rest() {
        return;
    }
    let mut next = cluster.clone();
    age(&mut next);
    if !Arc::ptr_eq(&next.api, &cluster.api) {
        steps.quiet(|| "a few seconds pass".to_owned(), next);
        return;
    }
    steps.rest = true;
    for (name, object) in cluster.api.seen.node_devices.iter().filter(|(_, d)| d.assigned.is_none()) {
        let absent = object.status.conditions.iter().position(|c| c.reason == Reason::NotFound && c.since == 0);
        if absent.is_none() {
            continue;
        }
        let objects = &mut next.api_mut().seen.node_devices;
        let conditions = objects.get_mut(name).map(|d| d.status.conditions.iter_mut()).into_iter().flatten();
        for condition in conditions.filter(|c| c.kind == ConditionType::Ready) {
            condition.since = -FORGET_AFTER;
        }
    }
    if !Arc::ptr_eq(&next.api, &cluster.api) {
        steps.quiet(|| "many minutes pass".to_owned(), next);
    }
}

/// Lets so much time pass that every attachment that is not in its guest, and every claim whose pod does not have
/// its device, is told of, and nobody waits any more for claims that are gone.
pub fn age(cluster: &mut Cluster) {
    let bereft: BTreeSet<Uid> = {
        let seen = &cluster.api.seen;
        seen.attachments.values().filter(|a| lacks_a_claim(seen, a)).map(|a| a.uid.clone()).collect()
    };
    let young = |a: &Attachment| {
        let plugged = matches!(a.plugged, Some(PluggedState::Plugged(_)));
        a.created == 0 && (!plugged || bereft.contains(&a.uid))
    };
    let new = |c: &PodClaim| c.created == 0 && !c.told.as_ref().is_some_and(|told| told.attached);
    let seen = &cluster.api.seen;
    if !seen.attachments.values().any(young) && !seen.pod_claims.values().any(new) {
        return;
    }
    let seen = &mut cluster.api_mut().seen;
    for attachment in seen.attachments.values_mut().filter(|a| young(a)) {
        attachment.created = -A_FEW;
    }
    for claim in seen.pod_claims.values_mut().filter(|c| new(c)) {
        claim.created = -A_FEW;
    }
}
