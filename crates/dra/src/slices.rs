//! The plan: from the pools a driver wants and the slices there are to the
//! writes that are needed. Pure: no I/O, no clock.
//!
//! What readers of slices (the scheduler) rely on: of a pool only the slices
//! with the highest generation count, and the pool is complete when there are as
//! many of them as each says (`resourceSliceCount`). From that follows:
//!
//! * every change of a pool gets a new generation, and all its slices are
//!   written anew with it. A pool of one slice changes in one write;
//! * slices of one generation always belong together: unless all slices of the
//!   highest generation are as wanted, the next generation is begun;
//! * a generation that was begun and is still wanted is completed, so a crash
//!   between two writes, or a slice that somebody deleted, costs only what is missing;
//! * slices that are not needed any more are deleted last: until then they
//!   are outdated, which readers ignore.
//!
//! Owner and label are put right in place: they are no part of what readers read,
//! so no new generation is needed.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, ResourcePool, ResourceSlice, ResourceSliceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest, Sha256};

use crate::pool::{NodeScope, Pool};

/// Most devices in one slice (`resource.k8s.io/v1`).
pub const MAX_DEVICES: usize = 128;

/// Who publishes: parts of the names of slices, and how our own are recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publishing {
    /// The driver's name.
    pub driver: String,
    /// The name of the node this process runs on.
    pub node: String,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create this slice.
    Create(Box<ResourceSlice>),
    /// Replace the slice; the resource version it was seen with is a precondition.
    Update(Box<ResourceSlice>),
    /// Delete the slice.
    Delete {
        /// Name of the object.
        name: String,
        /// Its uid, a precondition.
        uid: Option<String>,
    },
}

/// The writes for one pool. They only make sense in this order: when one fails,
/// the rest must wait for the next plan. Pools do not depend on each other.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolPlan {
    /// The pool's name.
    pub pool: String,
    /// The writes, at least one.
    pub actions: Vec<Action>,
}

impl Publishing {
    /// The name of a pool's slice. Node and driver are there for people; the hash
    /// makes it unique.
    pub fn slice_name(&self, pool: &str, index: usize) -> String {
        let node: String = self.node.chars().take(180).collect();
        let node = node.trim_end_matches(['.', '-']);
        let driver = self.driver.split('.').next().unwrap_or_default();
        let hash = digest(&[&self.driver, &self.node, pool], 5);
        format!("{node}-{driver}-{hash}-{index}")
    }

    /// Whether this process, or a predecessor on this node, made the slice.
    pub fn made(&self, slice: &ResourceSlice) -> bool {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        slice.spec.driver == self.driver
            && name
                .rsplit_once('-')
                .and_then(|(_, index)| index.parse().ok())
                .is_some_and(|index| self.slice_name(&slice.spec.pool.name, index) == name)
    }

    /// What a slice of a pool is to be.
    fn spec(&self, pool: &Pool, generation: i64, count: usize, devices: &[Device]) -> ResourceSliceSpec {
        let (all_nodes, node_name) = match pool.scope() {
            NodeScope::AllNodes => (Some(true), None),
            NodeScope::NodeName(name) => (None, Some(name.clone())),
        };
        ResourceSliceSpec {
            all_nodes,
            node_name,
            driver: self.driver.clone(),
            pool: ResourcePool {
                generation,
                name: pool.name().to_owned(),
                resource_slice_count: i64::try_from(count).unwrap_or(i64::MAX),
            },
            devices: (!devices.is_empty()).then(|| devices.to_vec()),
            ..ResourceSliceSpec::default()
        }
    }
}

/// The first bytes of a digest of some texts, in hex digits.
pub(crate) fn digest(parts: &[&str], bytes: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The writes that turn what is observed into what is wanted, by pool.
///
/// `observed` holds, by name, the slices of this driver that this node has made
/// and those of the wanted pools, whoever made them. `floors` holds, by pool, the
/// highest generation that was ever seen: it is not used again for other content.
pub fn plan(
    publishing: &Publishing,
    owner: &OwnerReference,
    wanted: &[Pool],
    observed: &BTreeMap<String, ResourceSlice>,
    floors: &BTreeMap<String, i64>,
) -> Vec<PoolPlan> {
    let mut by_pool: BTreeMap<&str, Vec<&ResourceSlice>> = BTreeMap::new();
    for slice in observed.values() {
        let pool = slice.spec.pool.name.as_str();
        by_pool.entry(pool).or_default().push(slice);
    }
    let wanted: BTreeMap<&str, &Pool> = wanted.iter().map(|pool| (pool.name(), pool)).collect();
    let mut plans = Vec::new();
    for (name, pool) in &wanted {
        let present = by_pool.remove(name).unwrap_or_default();
        let floor = floors.get(*name).copied().unwrap_or_default();
        plans.push(PoolPlan { pool: (*name).to_owned(), actions: plan_pool(publishing, owner, pool, &present, floor) });
    }
    for (name, present) in by_pool {
        let ours = present.into_iter().filter(|slice| publishing.made(slice));
        plans.push(PoolPlan { pool: name.to_owned(), actions: ours.map(delete).collect() });
    }
    plans.retain(|plan| !plan.actions.is_empty());
    plans
}

fn plan_pool(
    publishing: &Publishing,
    owner: &OwnerReference,
    pool: &Pool,
    present: &[&ResourceSlice],
    floor: i64,
) -> Vec<Action> {
    let chunks: Vec<&[Device]> = match pool.devices() {
        [] => vec![&[]],
        devices => devices.chunks(MAX_DEVICES).collect(),
    };
    let layout = |generation| -> Vec<(String, ResourceSliceSpec)> {
        chunks
            .iter()
            .enumerate()
            .map(|(index, devices)| {
                let spec = publishing.spec(pool, generation, chunks.len(), devices);
                (publishing.slice_name(pool.name(), index), spec)
            })
            .collect()
    };
    let highest = present.iter().map(|slice| slice.spec.pool.generation).max().unwrap_or_default().max(floor);
    let current = layout(highest);
    let mut latest = present.iter().filter(|slice| slice.spec.pool.generation == highest).peekable();
    let continues = latest.peek().is_some()
        && latest.all(|slice| current.iter().any(|(name, spec)| is_named(slice, name) && same(&slice.spec, spec)));
    let layout = if continues { current } else { layout(highest.saturating_add(1)) };
    let mut actions = Vec::new();
    for (name, spec) in &layout {
        let there = present.iter().find(|slice| is_named(slice, name));
        actions.extend(write(publishing, there.copied(), name, spec, owner));
    }
    let obsolete = |slice: &&&ResourceSlice| !layout.iter().any(|(name, _)| is_named(slice, name));
    actions.extend(present.iter().filter(obsolete).copied().map(delete));
    actions
}

/// The writes for one slice: none when it is as wanted.
fn write(
    publishing: &Publishing,
    there: Option<&ResourceSlice>,
    name: &str,
    spec: &ResourceSliceSpec,
    owner: &OwnerReference,
) -> Vec<Action> {
    let create = |spec: &ResourceSliceSpec| {
        Action::Create(Box::new(ResourceSlice {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([(publishing.label(), publishing.label_value())].into()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: spec.clone(),
        }))
    };
    let Some(slice) = there else {
        return vec![create(spec)];
    };
    if same(&slice.spec, spec) && is_owned(slice, owner) && publishing.has_labelled(slice) {
        return Vec::new();
    }
    // The API does not let a slice move to another node.
    if slice.spec.node_name != spec.node_name {
        return vec![delete(slice), create(spec)];
    }
    let mut slice = slice.clone();
    let owners = slice.metadata.owner_references.get_or_insert_default();
    owners.retain(|other| other.kind != owner.kind);
    owners.push(owner.clone());
    slice.metadata.labels.get_or_insert_default().insert(publishing.label(), publishing.label_value());
    slice.spec = spec.clone();
    vec![Action::Update(Box::new(slice))]
}

fn delete(slice: &ResourceSlice) -> Action {
    Action::Delete { name: slice.metadata.name.clone().unwrap_or_default(), uid: slice.metadata.uid.clone() }
}

fn is_named(slice: &ResourceSlice, name: &str) -> bool {
    slice.metadata.name.as_deref() == Some(name)
}

fn is_owned(slice: &ResourceSlice, owner: &OwnerReference) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|other| other.kind == owner.kind && other.uid == owner.uid)
}

/// Whether two contents mean the same: an absent list is an empty list, an
/// absent flag is false.
pub(crate) fn same(a: &ResourceSliceSpec, b: &ResourceSliceSpec) -> bool {
    fn list<T>(all: &Option<Vec<T>>) -> &[T] {
        all.as_deref().unwrap_or_default()
    }
    // Each field by its name, so that none is forgotten.
    let ResourceSliceSpec {
        all_nodes,
        devices,
        driver,
        node_name,
        node_selector,
        per_device_node_selection,
        pool,
        shared_counters,
    } = a;
    let is_set = |flag: Option<bool>| flag == Some(true);
    is_set(*all_nodes) == is_set(b.all_nodes)
        && list(devices) == list(&b.devices)
        && *driver == b.driver
        && *node_name == b.node_name
        && *node_selector == b.node_selector
        && is_set(*per_device_node_selection) == is_set(b.per_device_node_selection)
        && *pool == b.pool
        && list(shared_counters) == list(&b.shared_counters)
}
