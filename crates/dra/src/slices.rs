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

mod part;

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{ResourceSlice, ResourceSliceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use sha2::{Digest, Sha256};

use self::part::Part;
use crate::pool::Pool;

pub use self::part::MAX_DEVICES;

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
    let layout = Part::all(publishing, pool);
    let highest = present.iter().map(|slice| slice.spec.pool.generation).max().unwrap_or_default().max(floor);
    let mut latest = present.iter().filter(|slice| slice.spec.pool.generation == highest).peekable();
    let continues = latest.peek().is_some()
        && latest.all(|slice| layout.iter().any(|part| part.is_named(slice) && part.is(&slice.spec, highest)));
    let generation = if continues { highest } else { highest.saturating_add(1) };
    let mut actions = Vec::new();
    for part in &layout {
        let there = present.iter().find(|slice| part.is_named(slice));
        actions.extend(part.write(there.copied(), generation, owner));
    }
    let obsolete = |slice: &&&ResourceSlice| !layout.iter().any(|part| part.is_named(slice));
    actions.extend(present.iter().filter(obsolete).copied().map(delete));
    actions
}

fn delete(slice: &ResourceSlice) -> Action {
    Action::Delete { name: slice.metadata.name.clone().unwrap_or_default(), uid: slice.metadata.uid.clone() }
}

/// Whether two contents mean the same: an absent list is an empty list, an
/// absent flag is false.
pub(crate) fn same(a: &ResourceSliceSpec, b: &ResourceSliceSpec) -> bool {
    list(&a.devices) == list(&b.devices) && same_frame(a, b)
}

/// The same of all but the devices.
fn same_frame(a: &ResourceSliceSpec, b: &ResourceSliceSpec) -> bool {
    // Each field by its name, so that none is forgotten.
    let ResourceSliceSpec {
        all_nodes,
        devices: _,
        driver,
        node_name,
        node_selector,
        per_device_node_selection,
        pool,
        shared_counters,
    } = a;
    let is_set = |flag: Option<bool>| flag == Some(true);
    is_set(*all_nodes) == is_set(b.all_nodes)
        && *driver == b.driver
        && *node_name == b.node_name
        && *node_selector == b.node_selector
        && is_set(*per_device_node_selection) == is_set(b.per_device_node_selection)
        && *pool == b.pool
        && list(shared_counters) == list(&b.shared_counters)
}

fn list<T>(all: &Option<Vec<T>>) -> &[T] {
    all.as_deref().unwrap_or_default()
}
