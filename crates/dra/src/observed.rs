//! What the publisher knows about the slices in the API.
//!
//! Fed by a watch and by the answers to our own writes, whichever is newer: what
//! the watch still tells of a slice that we have deleted is old news. A server may leave fields out that it does not know; what it made of a write is
//! remembered, so that it is not taken for somebody's edit and written again for
//! ever.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{ResourceSlice, ResourceSliceSpec};
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::slices::{Publishing, same};

/// What an event has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noticed {
    /// Nothing that matters here.
    Nothing,
    /// A slice of ours is new or different, or the list is complete.
    Changed,
    /// A slice of ours is gone.
    Lost,
}

/// The slices of this node's pools.
#[derive(Debug)]
pub(crate) struct Observed {
    publishing: Publishing,
    pools: BTreeSet<String>,
    slices: BTreeMap<String, ResourceSlice>,
    /// Slices of a list that is not complete yet.
    listing: Option<BTreeMap<String, ResourceSlice>>,
    listed: bool,
    /// By name: what was sent and what the server made of it, where they differ.
    altered: BTreeMap<String, (ResourceSliceSpec, ResourceSliceSpec)>,
    floors: BTreeMap<String, i64>,
    /// The uids of slices that do not exist any more, until the watch knows it too.
    deleted: BTreeSet<String>,
}

impl Observed {
    pub(crate) fn new(publishing: Publishing) -> Self {
        Self {
            publishing,
            pools: BTreeSet::new(),
            slices: BTreeMap::new(),
            listing: None,
            listed: false,
            altered: BTreeMap::new(),
            floors: BTreeMap::new(),
            deleted: BTreeSet::new(),
        }
    }

    /// Sets the pools whose slices matter, whoever made them. Returns whether
    /// there is a new one, which calls for a new list.
    pub(crate) fn set_pools(&mut self, pools: BTreeSet<String>) -> bool {
        let new = !pools.is_subset(&self.pools);
        self.pools = pools;
        new
    }

    /// Whether a complete list was seen.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed
    }

    /// The highest generations ever seen, by pool.
    pub(crate) fn floors(&self) -> &BTreeMap<String, i64> {
        &self.floors
    }

    /// The slices by name, with our own content where the server altered it.
    pub(crate) fn slices(&self) -> BTreeMap<String, ResourceSlice> {
        let mut slices = self.slices.clone();
        for (name, (sent, got)) in &self.altered {
            if let Some(slice) = slices.get_mut(name)
                && slice.spec == *got
            {
                slice.spec = sent.clone();
            }
        }
        slices
    }

    /// Takes an event of the watch.
    pub(crate) fn event(&mut self, event: Event<ResourceSlice>) -> Noticed {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(slice) => {
                if self.matters(&slice) {
                    let newest = self.newest(slice);
                    self.listing.get_or_insert_default().insert(newest.name_any(), newest);
                }
            }
            Event::InitDone => {
                self.slices = self.listing.take().unwrap_or_default();
                // The list tells of them no more, or the watch after it will.
                self.deleted.retain(|uid| self.slices.values().any(|slice| slice.metadata.uid.as_ref() == Some(uid)));
                self.slices.retain(|_, slice| !is_among(&self.deleted, slice));
                let slices: Vec<_> = self.slices.values().cloned().collect();
                slices.iter().for_each(|slice| self.raise_floor(slice));
                self.listed = true;
                return Noticed::Changed;
            }
            Event::Apply(slice) => {
                if self.matters(&slice) && !is_among(&self.deleted, &slice) {
                    let newest = self.newest(slice);
                    return self.keep(newest);
                }
            }
            Event::Delete(slice) => {
                if let Some(uid) = &slice.metadata.uid {
                    self.deleted.remove(uid);
                }
                let name = slice.name_any();
                // A deletion of an earlier object of this name is old news.
                let known = self.slices.get(&name);
                if known.is_some_and(|known| known.metadata.uid == slice.metadata.uid) {
                    self.slices.remove(&name);
                    return Noticed::Lost;
                }
            }
        }
        Noticed::Nothing
    }

    /// Takes the server's answer to a write. Returns whether it altered it.
    pub(crate) fn wrote(&mut self, sent: &ResourceSlice, got: ResourceSlice) -> bool {
        let name = got.name_any();
        let altered = !same(&sent.spec, &got.spec);
        if altered {
            self.altered.insert(name, (sent.spec.clone(), got.spec.clone()));
        } else {
            self.altered.remove(&name);
        }
        let newest = self.newest(got);
        self.keep(newest);
        altered
    }

    /// Takes note that a slice does not exist.
    pub(crate) fn deleted(&mut self, name: &str) {
        let known = self.slices.remove(name);
        self.deleted.extend(known.and_then(|slice| slice.metadata.uid));
        self.altered.remove(name);
    }

    fn matters(&self, slice: &ResourceSlice) -> bool {
        slice.spec.driver == self.publishing.driver
            && (self.pools.contains(&slice.spec.pool.name) || self.publishing.made(slice))
    }

    /// The slice, or what is known of it when that is newer: the watch may lag
    /// behind our own writes. Resource versions of one type are comparable
    /// numbers; any other kind of version counts as new.
    fn newest(&self, mut slice: ResourceSlice) -> ResourceSlice {
        // Nobody here reads them, and they are half of the object.
        slice.metadata.managed_fields = None;
        let version = |slice: &ResourceSlice| {
            let version = slice.metadata.resource_version.as_deref();
            version.and_then(|version| version.parse::<u64>().ok())
        };
        match self.slices.get(&slice.name_any()) {
            Some(known)
                if known.metadata.uid == slice.metadata.uid
                    && version(known).is_some()
                    && version(&slice).is_some()
                    && version(known) > version(&slice) =>
            {
                known.clone()
            }
            _ => slice,
        }
    }

    fn keep(&mut self, slice: ResourceSlice) -> Noticed {
        self.raise_floor(&slice);
        let name = slice.name_any();
        if self.slices.get(&name) == Some(&slice) {
            return Noticed::Nothing;
        }
        self.slices.insert(name, slice);
        Noticed::Changed
    }

    fn raise_floor(&mut self, slice: &ResourceSlice) {
        let pool = &slice.spec.pool;
        let floor = self.floors.entry(pool.name.clone()).or_default();
        *floor = pool.generation.max(*floor);
    }
}

fn is_among(uids: &BTreeSet<String>, slice: &ResourceSlice) -> bool {
    slice.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(version: u64) -> ResourceSlice {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "node-1-a-0", "uid": "1", "resourceVersion": version.to_string()},
            "spec": {
                "driver": "driver.example.com",
                "nodeName": "node-1",
                "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
            },
        }))
        .unwrap()
    }

    /// Knows the slice and has deleted it, ahead of the watch.
    fn ahead() -> Observed {
        let mut observed = Observed::new(Publishing { driver: "driver.example.com".into(), node: "node-1".into() });
        observed.set_pools(BTreeSet::from(["node-1".to_owned()]));
        for event in [Event::Init, Event::InitApply(slice(1)), Event::InitDone] {
            observed.event(event);
        }
        assert_eq!(observed.slices().len(), 1);
        observed.deleted("node-1-a-0");
        observed
    }

    #[test]
    fn a_watch_that_lags_does_not_bring_back_a_deleted_slice() {
        let mut observed = ahead();
        assert_eq!(observed.event(Event::Apply(slice(2))), Noticed::Nothing);
        assert_eq!(observed.event(Event::Delete(slice(2))), Noticed::Nothing);
        assert!(observed.slices().is_empty());
        assert!(observed.deleted.is_empty(), "nothing is remembered for ever");
    }

    #[test]
    fn neither_does_a_list_from_before() {
        let mut observed = ahead();
        for event in [Event::Init, Event::InitApply(slice(1)), Event::InitDone] {
            observed.event(event);
        }
        assert!(observed.slices().is_empty());
        for event in [Event::Init, Event::InitDone] {
            observed.event(event);
        }
        assert!(observed.deleted.is_empty(), "nothing is remembered for ever");
    }
}
