//! What agents publish: the ResourceSlices of each pool.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::api;
use crate::cluster::Lab;

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The uids of its slices.
    pub slices: BTreeSet<String>,
    /// The names of its devices.
    pub devices: BTreeSet<String>,
    /// The sum of its slices' generations: each write adds one.
    pub generations: i64,
}

/// All pools, by name.
///
/// # Errors
/// When the API server does not answer.
pub fn pools(lab: &Lab) -> Result<BTreeMap<String, Published>> {
    let slices = Api::<ResourceSlice>::all(lab.api());
    let mut pools = BTreeMap::<String, Published>::new();
    for slice in api::request("list the slices", slices.list(&ListParams::default()))? {
        let pool = pools.entry(slice.spec.pool.name.clone()).or_default();
        pool.slices.extend(slice.uid());
        pool.generations = pool.generations.saturating_add(slice.metadata.generation.unwrap_or_default());
        pool.devices.extend(slice.spec.devices.into_iter().flatten().map(|device| device.name));
    }
    Ok(pools)
}

/// Waits until the pools whose names end with `end` have the same devices as `before`, in slices that are all new.
///
/// # Errors
/// After the deadline.
pub fn wait_anew(lab: &Lab, before: &BTreeMap<String, Published>, end: &str, deadline: Duration) -> Result<()> {
    lab.wait_for("what was wiped to be published again", deadline, || {
        let now = pools(lab).map_err(|error| format!("{error:#}"))?;
        for (name, old) in before.iter().filter(|(name, _)| name.ends_with(end)) {
            let new = now.get(name).ok_or_else(|| format!("there is no pool {name}"))?;
            if !new.slices.is_disjoint(&old.slices) {
                return Err(format!("the pool {name} was not wiped"));
            }
            if new.devices != old.devices {
                return Err(format!("the pool {name} had {:?} and has {:?}", old.devices, new.devices));
            }
        }
        Ok(())
    })
}
