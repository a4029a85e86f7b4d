//! From the kubelet's question to what the driver is told: the claim is read
//! from the API, compared, and reduced to this driver's part.

use std::time::Duration;

use k8s_openapi::api::resource::v1::{DeviceAllocationConfiguration, DeviceRequestAllocationResult, ResourceClaim};
use kube::{Api, Client};

use crate::driver::{AllocatedClaim, AllocatedDevice, ClaimRef, ConfigSource, DeviceConfig};

/// Why a claim cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The API server did not answer in time.
    #[error("resource claim {claim}: the API server did not answer within {seconds} s")]
    Timeout {
        /// Namespace and name.
        claim: String,
        /// The deadline.
        seconds: u64,
    },
    /// The API server could not be asked, or refused.
    #[error("resource claim {claim} could not be read from the API server")]
    Read {
        /// Namespace and name.
        claim: String,
        /// The reason.
        source: Box<kube::Error>,
    },
    /// There is no such claim (any more).
    #[error("resource claim {claim} does not exist")]
    NotFound {
        /// Namespace and name.
        claim: String,
    },
    /// A claim of this name exists, but it is another one.
    #[error("resource claim {claim} was deleted and made again: its uid is {found}, the kubelet asked for {asked}")]
    OtherUid {
        /// Namespace and name.
        claim: String,
        /// The uid in the API.
        found: String,
        /// The uid the kubelet asked for.
        asked: String,
    },
    /// The scheduler has not allocated anything, or it was taken back.
    #[error("resource claim {claim} is not allocated")]
    NotAllocated {
        /// Namespace and name.
        claim: String,
    },
    /// Allocated, but only devices of other drivers.
    #[error("resource claim {claim} has no device of driver {driver}")]
    NoDevices {
        /// Namespace and name.
        claim: String,
        /// This driver.
        driver: String,
    },
}

impl ClaimError {
    /// Whether the API's answer is not known, as opposed to known and negative.
    pub(crate) fn is_unanswered(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Read { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code >= 500 || status.code == 429,
                _ => true,
            },
            Self::NotFound { .. } | Self::OtherUid { .. } | Self::NotAllocated { .. } | Self::NoDevices { .. } => false,
        }
    }
}

/// Reads a claim from the API.
pub(crate) async fn fetch(client: &Client, asked: &ClaimRef, deadline: Duration) -> Result<ResourceClaim, ClaimError> {
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), &asked.namespace);
    match tokio::time::timeout(deadline, claims.get_opt(&asked.name)).await {
        Err(_) => Err(ClaimError::Timeout { claim: asked.to_string(), seconds: deadline.as_secs() }),
        Ok(Err(source)) => Err(ClaimError::Read { claim: asked.to_string(), source: Box::new(source) }),
        Ok(Ok(None)) => Err(ClaimError::NotFound { claim: asked.to_string() }),
        Ok(Ok(Some(claim))) => Ok(claim),
    }
}

/// Compares the claim with the kubelet's question and takes this driver's part.
///
/// # Errors
/// The claim has another uid, is not allocated, or not to this driver.
pub fn resolve(claim: &ResourceClaim, asked: &ClaimRef, driver: &str) -> Result<AllocatedClaim, ClaimError> {
    let found = claim.metadata.uid.clone().unwrap_or_default();
    if found != asked.uid {
        return Err(ClaimError::OtherUid { claim: asked.to_string(), found, asked: asked.uid.clone() });
    }
    let status = claim.status.as_ref();
    let allocation = status
        .and_then(|status| status.allocation.as_ref())
        .ok_or_else(|| ClaimError::NotAllocated { claim: asked.to_string() })?;
    let allocated = allocation.devices.clone().unwrap_or_default();
    let config = allocated.config.unwrap_or_default();
    let devices: Vec<_> = allocated
        .results
        .unwrap_or_default()
        .into_iter()
        .filter(|result| result.driver == driver)
        .map(|result| device(result, &config))
        .collect();
    if devices.is_empty() {
        return Err(ClaimError::NoDevices { claim: asked.to_string(), driver: driver.to_owned() });
    }
    Ok(AllocatedClaim {
        namespace: asked.namespace.clone(),
        name: asked.name.clone(),
        uid: found,
        labels: claim.metadata.labels.clone().unwrap_or_default(),
        annotations: claim.metadata.annotations.clone().unwrap_or_default(),
        reserved_for: status.and_then(|status| status.reserved_for.clone()).unwrap_or_default(),
        devices,
    })
}

/// One result, with the parameters that are meant for it.
fn device(result: DeviceRequestAllocationResult, config: &[DeviceAllocationConfiguration]) -> AllocatedDevice {
    let (request, subrequest) = match result.request.split_once('/') {
        Some((request, subrequest)) => (request.to_owned(), Some(subrequest.to_owned())),
        None => (result.request.clone(), None),
    };
    let config = parameters(config, &result.driver, &result.request, &request);
    AllocatedDevice {
        request,
        subrequest,
        driver: result.driver,
        pool: result.pool,
        device: result.device,
        share_id: result.share_id,
        admin_access: result.admin_access.unwrap_or(false),
        config,
    }
}

/// The parameters for this driver that apply to a request: those that name no
/// request, the request, or the chosen alternative. Those of the class first.
fn parameters(
    config: &[DeviceAllocationConfiguration],
    driver: &str,
    full_request: &str,
    request: &str,
) -> Vec<DeviceConfig> {
    let mut found: Vec<_> = config
        .iter()
        .filter(|entry| {
            entry
                .requests
                .as_ref()
                .is_none_or(|names| names.is_empty() || names.iter().any(|n| n == full_request || n == request))
        })
        .filter_map(|entry| {
            let opaque = entry.opaque.as_ref().filter(|o| o.driver == driver)?;
            let source = match entry.source.as_str() {
                "FromClass" => ConfigSource::Class,
                _ => ConfigSource::Claim,
            };
            Some(DeviceConfig { source, parameters: opaque.parameters.0.clone() })
        })
        .collect();
    // Stable: the order within a source is the API's.
    found.sort_by_key(|entry| entry.source != ConfigSource::Class);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DRIVER: &str = "dra.example.com";

    fn asked() -> ClaimRef {
        ClaimRef { namespace: "ns".into(), name: "c".into(), uid: "u1".into() }
    }

    fn claim(allocation: serde_json::Value) -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "c", "uid": "u1", "annotations": {"a": "b"}},
            "spec": {},
            "status": {
                "allocation": allocation,
                "reservedFor": [{"resource": "pods", "name": "p", "uid": "p1"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn only_this_drivers_devices_are_taken_and_sub_requests_are_stripped() {
        let claim = claim(json!({"devices": {"results": [
            {"driver": "other.example.com", "pool": "p", "device": "d0", "request": "gpu"},
            {"driver": DRIVER, "pool": "p", "device": "d1", "request": "port/fast"},
            {"driver": DRIVER, "pool": "p", "device": "d2", "request": "plain"},
        ]}}));
        let resolved = resolve(&claim, &asked(), DRIVER).unwrap();
        let found: Vec<_> =
            resolved.devices.iter().map(|d| (d.device.as_str(), d.request.as_str(), d.subrequest.as_deref())).collect();
        assert_eq!(found, [("d1", "port", Some("fast")), ("d2", "plain", None)]);
        assert_eq!(resolved.reserved_for[0].name, "p");
        assert_eq!(resolved.annotations["a"], "b");
    }

    #[test]
    fn parameters_reach_the_devices_they_are_meant_for_class_first() {
        let entry = |source: &str, driver: &str, requests: serde_json::Value, value: u32| {
            json!({"source": source, "requests": requests,
                   "opaque": {"driver": driver, "parameters": {"v": value}}})
        };
        let claim = claim(json!({"devices": {
            "results": [
                {"driver": DRIVER, "pool": "p", "device": "d1", "request": "a/x"},
                {"driver": DRIVER, "pool": "p", "device": "d2", "request": "b"},
            ],
            "config": [
                entry("FromClaim", DRIVER, json!(["a"]), 1),
                entry("FromClass", DRIVER, json!(null), 2),
                entry("FromClaim", "other.example.com", json!([]), 3),
                entry("FromClaim", DRIVER, json!(["a/x"]), 4),
                entry("FromClaim", DRIVER, json!(["a/y"]), 5),
            ],
        }}));
        let resolved = resolve(&claim, &asked(), DRIVER).unwrap();
        let values = |n: usize| -> Vec<u64> {
            resolved.devices[n].config.iter().map(|c| c.parameters["v"].as_u64().unwrap()).collect()
        };
        assert_eq!(values(0), [2, 1, 4]);
        assert_eq!(values(1), [2]);
        assert_eq!(resolved.devices[0].config[0].source, ConfigSource::Class);
    }

    #[test]
    fn a_claim_made_again_under_the_same_name_is_refused() {
        let mut other = claim(json!(null));
        other.metadata.uid = Some("u2".into());
        let error = resolve(&other, &asked(), DRIVER).unwrap_err();
        assert!(matches!(error, ClaimError::OtherUid { .. }), "{error}");
    }

    #[test]
    fn a_claim_without_allocation_or_without_our_devices_says_so() {
        let error = resolve(&claim(json!(null)), &asked(), DRIVER).unwrap_err();
        assert_eq!(error.to_string(), "resource claim ns/c is not allocated");
        let foreign = json!({"devices": {"results": [
            {"driver": "other.example.com", "pool": "p", "device": "d", "request": "r"}]}});
        let error = resolve(&claim(foreign), &asked(), DRIVER).unwrap_err();
        assert!(error.to_string().contains("no device of driver dra.example.com"));
    }
}
