//! What a driver implements, and what it is told.
//!
//! The framework has already done what every driver has to do when
//! [`Driver::prepare`] is called: the claim was read from the API and is the one
//! the kubelet means, it is allocated, only this driver's devices are listed, a
//! `Preparing` record is on the disk, and nobody else works on this claim.

use std::collections::BTreeMap;
use std::fmt;

use futures::future::BoxFuture;
use k8s_openapi::api::resource::v1::ResourceClaimConsumerReference;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::Record;

/// A driver: makes allocated devices usable on this node and takes them back.
///
/// All methods may be called again for the same claim (the kubelet retries
/// after errors, for ever; processes crash) and may find the work done or half
/// done. They are cancelled, by dropping the future, when the deadline of the
/// call has passed; that leaves what a crash at that moment would leave. Calls
/// for different claims run at the same time.
pub trait Driver: Send + Sync + 'static {
    /// Makes the devices of a claim usable.
    ///
    /// # Errors
    /// Words for the person who reads the pod's events: what is wrong and what
    /// to do. The kubelet asks again later.
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>>;

    /// Called when a claim is prepared and that is on the disk, before the kubelet is told: as long as this takes, it starts no
    /// container of the pod. For what is more urgent than that; it needs a deadline of its own, and the claim may be undone meanwhile.
    fn before_start<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, ()> {
        let _ = claim;
        Box::pin(std::future::ready(()))
    }

    /// Undoes [`Driver::prepare`]. Also called for claims that were never
    /// prepared (then without a record), and must succeed for them: whatever is
    /// already undone, or was never done, is fine.
    ///
    /// # Errors
    /// As for [`Driver::prepare`].
    fn unprepare<'a>(
        &'a self,
        claim: &'a ClaimRef,
        record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>>;
}

/// Which claim the kubelet talks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRef {
    /// Namespace of the ResourceClaim.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: the identity.
    pub uid: String,
}

impl fmt::Display for ClaimRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A claim with the devices of this driver that were allocated to it.
#[derive(Debug, Clone, PartialEq)]
pub struct AllocatedClaim {
    /// Namespace of the ResourceClaim.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, equal to the one the kubelet asked for.
    pub uid: String,
    /// Labels of the claim.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the claim.
    pub annotations: BTreeMap<String, String>,
    /// Who may use the claim (pods, on whichever node).
    pub reserved_for: Vec<ResourceClaimConsumerReference>,
    /// The devices of this driver, at least one, in the order of the allocation.
    pub devices: Vec<AllocatedDevice>,
}

/// One device that was allocated to a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocatedDevice {
    /// Name of the request in the claim, without the sub-request.
    pub request: String,
    /// The alternative that was chosen, for requests with `firstAvailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subrequest: Option<String>,
    /// The driver, always this one.
    pub driver: String,
    /// The pool the device was published in.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// Which share of a device that several claims may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// Whether the claim has administrative access: the device may be in use by
    /// another claim as well.
    #[serde(default)]
    pub admin_access: bool,
    /// Parameters for this driver, those of the class first; later ones win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<DeviceConfig>,
}

impl AllocatedDevice {
    /// The answer for this device, with the CDI names a container gets.
    pub fn prepared(&self, cdi_ids: Vec<String>) -> PreparedDevice {
        PreparedDevice {
            request: self.request.clone(),
            pool: self.pool.clone(),
            device: self.device.clone(),
            share_id: self.share_id.clone(),
            cdi_ids,
        }
    }
}

/// Parameters for a device, as written in a class or a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Who wrote them: an administrator or a user.
    pub source: ConfigSource,
    /// The parameters: the driver's own format, not checked by anybody yet.
    pub parameters: Value,
}

/// Where parameters come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigSource {
    /// A DeviceClass: written by an administrator.
    Class,
    /// The claim: written by a user.
    Claim,
}

/// What a driver answers to a successful prepare.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prepared {
    /// The devices that are usable now, each one of those allocated.
    pub devices: Vec<PreparedDevice>,
    /// Kept in the journal for the driver; `None` leaves what is there.
    pub data: Option<Value>,
}

impl From<Vec<PreparedDevice>> for Prepared {
    fn from(devices: Vec<PreparedDevice>) -> Self {
        Self { devices, data: None }
    }
}

/// One usable device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedDevice {
    /// Name of the request in the claim, without the sub-request.
    pub request: String,
    /// The pool the device was published in.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// Which share of a device that several claims may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// Full CDI names (`vendor/class=device`) that a container using the request
    /// gets. May be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_ids: Vec<String>,
}

impl PreparedDevice {
    /// Whether this answers for that allocated device.
    pub(crate) fn answers(&self, allocated: &AllocatedDevice) -> bool {
        self.request == allocated.request
            && self.pool == allocated.pool
            && self.device == allocated.device
            && self.share_id == allocated.share_id
    }
}

/// Why a driver could not do what was asked, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DriverError(String);

impl From<String> for DriverError {
    fn from(words: String) -> Self {
        Self(words)
    }
}

impl From<&str> for DriverError {
    fn from(words: &str) -> Self {
        Self(words.to_owned())
    }
}

impl DriverError {
    /// An error with all its causes, one after the other.
    pub fn caused_by(error: &dyn std::error::Error) -> Self {
        Self(chain(error))
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        // Many errors repeat their cause; once is enough for a person.
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = next.source();
    }
    words
}
