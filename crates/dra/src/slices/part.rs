//! One slice of a pool as it is to be.

use k8s_openapi::api::resource::v1::{Device, ResourcePool, ResourceSlice, ResourceSliceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{Action, Publishing, delete, list, same_frame};
use crate::pool::{NodeScope, Pool};

/// Most devices in one slice (`resource.k8s.io/v1`).
pub const MAX_DEVICES: usize = 128;

/// What a slice of a pool is to be. A device takes some 5 KiB of memory in the API's types, so it is copied only to be written.
pub(super) struct Part<'p> {
    publishing: &'p Publishing,
    pool: &'p Pool,
    name: String,
    count: usize,
    devices: &'p [Device],
}

impl<'p> Part<'p> {
    /// Those of a pool; at least one.
    pub(super) fn all(publishing: &'p Publishing, pool: &'p Pool) -> Vec<Self> {
        let chunks: Vec<&[Device]> = match pool.devices() {
            [] => vec![&[]],
            devices => devices.chunks(MAX_DEVICES).collect(),
        };
        let count = chunks.len();
        let part = |(index, devices)| {
            let name = publishing.slice_name(pool.name(), index);
            Self { publishing, pool, name, count, devices }
        };
        chunks.into_iter().enumerate().map(part).collect()
    }

    /// Whether a slice has its name.
    pub(super) fn is_named(&self, slice: &ResourceSlice) -> bool {
        slice.metadata.name.as_ref() == Some(&self.name)
    }

    /// Its content but for the devices.
    fn frame(&self, generation: i64) -> ResourceSliceSpec {
        let (all_nodes, node_name) = match self.pool.scope() {
            NodeScope::AllNodes => (Some(true), None),
            NodeScope::NodeName(name) => (None, Some(name.clone())),
        };
        ResourceSliceSpec {
            all_nodes,
            node_name,
            driver: self.publishing.driver.clone(),
            pool: ResourcePool {
                generation,
                name: self.pool.name().to_owned(),
                resource_slice_count: i64::try_from(self.count).unwrap_or(i64::MAX),
            },
            ..ResourceSliceSpec::default()
        }
    }

    /// Whether a content is its own.
    pub(super) fn is(&self, spec: &ResourceSliceSpec, generation: i64) -> bool {
        list(&spec.devices) == self.devices && same_frame(spec, &self.frame(generation))
    }

    /// Its content.
    fn spec(&self, generation: i64) -> ResourceSliceSpec {
        let devices = (!self.devices.is_empty()).then(|| self.devices.to_vec());
        ResourceSliceSpec { devices, ..self.frame(generation) }
    }

    /// The writes for it: none when what is `there` is as wanted.
    pub(super) fn write(&self, there: Option<&ResourceSlice>, generation: i64, owner: &OwnerReference) -> Vec<Action> {
        let Some(slice) = there else {
            return vec![self.create(generation, owner)];
        };
        let is_ours = is_owned(slice, owner) && self.publishing.has_labelled(slice);
        if is_ours && self.is(&slice.spec, generation) {
            return Vec::new();
        }
        // The API does not let a slice move to another node.
        if slice.spec.node_name != self.frame(generation).node_name {
            return vec![delete(slice), self.create(generation, owner)];
        }
        let mut metadata = slice.metadata.clone();
        let owners = metadata.owner_references.get_or_insert_default();
        owners.retain(|other| other.kind != owner.kind);
        owners.push(owner.clone());
        metadata.labels.get_or_insert_default().insert(self.publishing.label(), self.publishing.label_value());
        vec![Action::Update(Box::new(ResourceSlice { metadata, spec: self.spec(generation) }))]
    }

    fn create(&self, generation: i64, owner: &OwnerReference) -> Action {
        Action::Create(Box::new(ResourceSlice {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some([(self.publishing.label(), self.publishing.label_value())].into()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: self.spec(generation),
        }))
    }
}

fn is_owned(slice: &ResourceSlice, owner: &OwnerReference) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|other| other.kind == owner.kind && other.uid == owner.uid)
}
