//! CDI specifications: how a container gets what a claim brings (device nodes,
//! mounts, environment). One file per claim in a folder that the container
//! runtime watches (`/var/run/cdi`), format 0.6.0 of the Container Device
//! Interface.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{fs, io};

use serde::Serialize;

use crate::atomic_file;

/// The oldest version of the format that has all fields used here.
const VERSION: &str = "0.6.0";

/// Why a CDI file could not be written, removed or listed.
#[derive(Debug, thiserror::Error)]
#[error("{action} CDI file {path}")]
pub struct CdiError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What a container gets with a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edits {
    /// Environment variables, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Bind mounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// A device node for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the node, if another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// Any of `r`, `w`, `m`; everything if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// Owner in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A bind mount for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Path on the node.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Mount options (`ro`, `bind`, ...).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cdi_version: &'a str,
    kind: &'a str,
    devices: Vec<SpecDevice<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice<'a> {
    name: String,
    container_edits: &'a Edits,
}

/// The CDI files of one driver. All methods block on the disk.
#[derive(Debug, Clone)]
pub struct CdiFolder {
    folder: PathBuf,
    vendor: String,
    class: String,
}

impl CdiFolder {
    /// Files in `folder` for CDI devices of the kind `vendor/class`. The driver's
    /// name makes a good vendor.
    pub fn new(folder: impl Into<PathBuf>, vendor: impl Into<String>, class: impl Into<String>) -> Self {
        Self { folder: folder.into(), vendor: vendor.into(), class: class.into() }
    }

    /// Writes, or replaces, the file of a claim. `devices` are names, unique in
    /// the claim, with what a container gets. Returns the full CDI names in the
    /// same order.
    ///
    /// # Errors
    /// The folder cannot be made or the file cannot be written.
    pub fn write(&self, claim_uid: &str, devices: &[(String, Edits)]) -> Result<Vec<String>, CdiError> {
        let kind = format!("{}/{}", self.vendor, self.class);
        let name = |device: &str| format!("{claim_uid}-{device}");
        let spec = Spec {
            cdi_version: VERSION,
            kind: &kind,
            devices: devices
                .iter()
                .map(|(device, edits)| SpecDevice { name: name(device), container_edits: edits })
                .collect(),
        };
        let path = self.path(claim_uid);
        serde_json::to_vec_pretty(&spec)
            .map_err(io::Error::from)
            .and_then(|content| {
                fs::create_dir_all(&self.folder)?;
                atomic_file::replace(&path, &content, 0o644)
            })
            .map_err(|source| CdiError { action: "write", path, source })?;
        Ok(devices.iter().map(|(device, _)| format!("{kind}={}", name(device))).collect())
    }

    /// Removes the file of a claim; one that does not exist is fine.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, claim_uid: &str) -> Result<(), CdiError> {
        let path = self.path(claim_uid);
        atomic_file::remove(&path).map_err(|source| CdiError { action: "remove", path, source })
    }

    /// The uids of claims that have a file: to find those nobody needs any more.
    ///
    /// # Errors
    /// The folder exists and cannot be read.
    pub fn claims(&self) -> Result<BTreeSet<String>, CdiError> {
        let failed = |source| CdiError { action: "list", path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.map_err(failed)?,
        };
        let prefix = self.prefix();
        let mut claims = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let claim = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".json"));
            claims.extend(claim.map(str::to_owned));
        }
        Ok(claims)
    }

    fn prefix(&self) -> String {
        format!("{}-{}_", self.vendor, self.class)
    }

    fn path(&self, claim_uid: &str) -> PathBuf {
        self.folder.join(format!("{}{claim_uid}.json", self.prefix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claims_file_comes_changes_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let folder = CdiFolder::new(root.path().join("cdi"), "dra.example.com", "device");
        assert!(folder.claims().unwrap().is_empty());
        let edits = |path: &str| Edits {
            device_nodes: vec![DeviceNode {
                path: path.into(),
                permissions: Some("rw".into()),
                ..DeviceNode::default()
            }],
            ..Edits::default()
        };
        folder.write("u1", &[("a".into(), edits("/dev/old"))]).unwrap();
        let ids = folder.write("u1", &[("a".into(), edits("/dev/x")), ("b".into(), Edits::default())]).unwrap();
        assert_eq!(ids, ["dra.example.com/device=u1-a", "dra.example.com/device=u1-b"]);
        let path = root.path().join("cdi/dra.example.com-device_u1.json");
        let found: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(
            found,
            json!({
                "cdiVersion": "0.6.0",
                "kind": "dra.example.com/device",
                "devices": [
                    {"name": "u1-a", "containerEdits":
                        {"deviceNodes": [{"path": "/dev/x", "permissions": "rw"}]}},
                    {"name": "u1-b", "containerEdits": {}},
                ],
            })
        );
        assert_eq!(folder.claims().unwrap(), ["u1".to_owned()].into());
        folder.remove("u1").unwrap();
        folder.remove("u1").unwrap();
        assert_eq!(fs::read_dir(root.path().join("cdi")).unwrap().count(), 0);
    }
}
