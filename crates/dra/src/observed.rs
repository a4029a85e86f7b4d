//! What the publisher knows about the slices in the API.
//!
//! Fed by two watches ([`Share`]) and by the answers to our own writes, whichever is
//! newer: what a watch still tells of a slice that we have deleted is old news, and
//! so is that a slice is gone from a share it does not belong to any more. A server
//! may leave fields out that it does not know; what it made of a write is
//! remembered, so that it is not taken for somebody's edit and written again for
//! ever.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{ResourceSlice, ResourceSliceSpec};
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::label::Share;
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
    /// Slices of lists that are not complete yet.
    listing: BTreeMap<Share, Vec<ResourceSlice>>,
    /// Whose lists were complete once.
    listed: BTreeSet<Share>,
    /// By name: what was sent and what the server made of it, where they differ.
    altered: BTreeMap<String, (ResourceSliceSpec, ResourceSliceSpec)>,
    floors: BTreeMap<String, i64>,
    /// The uids of slices that do not exist any more, and whose they were, until the watch knows it too.
    deleted: BTreeMap<String, Share>,
}

impl Observed {
    pub(crate) fn new(publishing: Publishing) -> Self {
        Self {
            publishing,
            pools: BTreeSet::new(),
            slices: BTreeMap::new(),
            listing: BTreeMap::new(),
            listed: BTreeSet::new(),
            altered: BTreeMap::new(),
            floors: BTreeMap::new(),
            deleted: BTreeMap::new(),
        }
    }

    /// Sets the pools whose slices matter, whoever made them. Returns whether
    /// there is a new one, which calls for a new list.
    pub(crate) fn set_pools(&mut self, pools: BTreeSet<String>) -> bool {
        let new = !pools.is_subset(&self.pools);
        self.pools = pools;
        if new {
            self.listed.clear();
        }
        new
    }

    /// Whether complete lists were seen.
    pub(crate) fn is_listed(&self) -> bool {
        Share::ALL.iter().all(|share| self.listed.contains(share))
    }

    /// The highest generations ever seen, by pool.
    pub(crate) fn floors(&self) -> &BTreeMap<String, i64> {
        &self.floors
    }

    /// The slices by name, with our own content where the server altered it.
    pub(crate) fn slices(&self) -> Cow<'_, BTreeMap<String, ResourceSlice>> {
        let mut slices = Cow::Borrowed(&self.slices);
        for (name, (sent, got)) in &self.altered {
            if slices.get(name).is_some_and(|slice| slice.spec == *got)
                && let Some(slice) = slices.to_mut().get_mut(name)
            {
                slice.spec = sent.clone();
            }
        }
        slices
    }

    /// Takes an event of the watch of a share.
    pub(crate) fn event(&mut self, share: Share, event: Event<ResourceSlice>) -> Noticed {
        match event {
            Event::Init => drop(self.listing.remove(&share)),
            Event::InitApply(slice) => {
                if self.matters(&slice) {
                    self.listing.entry(share).or_default().push(slice);
                }
            }
            Event::InitDone => {
                self.list(share);
                return Noticed::Changed;
            }
            Event::Apply(slice) => return self.found(slice),
            Event::Delete(slice) => {
                if let Some(uid) = &slice.metadata.uid
                    && self.deleted.get(uid) == Some(&share)
                {
                    self.deleted.remove(uid);
                }
                let name = slice.name_any();
                // A deletion of an earlier object of this name, or of an earlier label of this one, is old news.
                let known = self.slices.get(&name);
                if known.is_some_and(|known| known.metadata.uid == slice.metadata.uid && self.share(known) == share) {
                    self.slices.remove(&name);
                    return Noticed::Lost;
                }
            }
        }
        Noticed::Nothing
    }

    /// Takes a slice that is there.
    pub(crate) fn found(&mut self, slice: ResourceSlice) -> Noticed {
        if !self.matters(&slice) || self.is_deleted(&slice) {
            return Noticed::Nothing;
        }
        let newest = self.newest(slice);
        self.keep(newest)
    }

    /// Takes the list of a share for all there is of it.
    fn list(&mut self, share: Share) {
        let listing = self.listing.remove(&share).unwrap_or_default();
        let mut listing: Vec<_> = listing.into_iter().map(|slice| self.newest(slice)).collect();
        // The list tells of them no more, or the watch after it will.
        self.deleted.retain(|uid, whose| {
            *whose != share || listing.iter().any(|slice| slice.metadata.uid.as_ref() == Some(uid))
        });
        listing.retain(|slice| !self.is_deleted(slice));
        self.slices.retain(|_, slice| Share::of(slice, &self.publishing) != share);
        for slice in listing {
            self.raise_floor(&slice);
            self.slices.insert(slice.name_any(), slice);
        }
        self.listed.insert(share);
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
        if let Some(slice) = self.slices.remove(name) {
            let share = self.share(&slice);
            self.deleted.extend(slice.metadata.uid.map(|uid| (uid, share)));
        }
        self.altered.remove(name);
    }

    fn share(&self, slice: &ResourceSlice) -> Share {
        Share::of(slice, &self.publishing)
    }

    fn is_deleted(&self, slice: &ResourceSlice) -> bool {
        slice.metadata.uid.as_ref().is_some_and(|uid| self.deleted.contains_key(uid))
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

#[cfg(test)]
mod tests;
