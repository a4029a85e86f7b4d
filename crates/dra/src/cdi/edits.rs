//! What a container gets with a device.

use serde::Serialize;

/// What a container gets with a device. At least one thing: the runtime refuses
/// a device that changes nothing.
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
    /// Permission bits in the container (`0o666`); those of the node if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
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

impl Edits {
    /// Why a runtime would refuse them (`ContainerEdits.Validate` of the CDI
    /// library).
    pub(super) fn problem(&self) -> Option<String> {
        if *self == Self::default() {
            return Some("a container gets nothing with it: give it no CDI name instead".to_owned());
        }
        let variable = self.env.iter().find(|text| text.find('=').is_none_or(|at| at == 0));
        if let Some(text) = variable {
            return Some(format!("environment variable {text:?} is not NAME=value"));
        }
        if self.device_nodes.iter().any(|node| node.path.is_empty()) {
            return Some("a device node has no path in the container".to_owned());
        }
        let permissions = self.device_nodes.iter().filter_map(|node| node.permissions.as_deref());
        if let Some(text) = permissions.into_iter().find(|text| text.chars().any(|c| !"rwm".contains(c))) {
            return Some(format!("permissions {text:?} of a device node are not of r, w and m"));
        }
        if self.mounts.iter().any(|mount| mount.host_path.is_empty() || mount.container_path.is_empty()) {
            return Some("a mount lacks one of its paths".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_that_a_runtime_refuses_are_found() {
        let env = |text: &str| Edits { env: vec![text.into()], ..Edits::default() };
        let node = |path: &str, permissions: Option<&str>| Edits {
            device_nodes: vec![DeviceNode {
                path: path.into(),
                permissions: permissions.map(str::to_owned),
                ..DeviceNode::default()
            }],
            ..Edits::default()
        };
        let mount = |host: &str, container: &str| Edits {
            mounts: vec![Mount { host_path: host.into(), container_path: container.into(), options: vec![] }],
            ..Edits::default()
        };
        for good in [env("A="), env("A=b=c"), node("/dev/x", None), node("/dev/x", Some("rw")), mount("/a", "/b")] {
            assert_eq!(good.problem(), None);
        }
        for (bad, words) in [
            (Edits::default(), "gets nothing"),
            (env("A"), "NAME=value"),
            (env("=b"), "NAME=value"),
            (node("", None), "no path"),
            (node("/dev/x", Some("rx")), "not of r, w and m"),
            (mount("", "/b"), "lacks one"),
            (mount("/a", ""), "lacks one"),
        ] {
            let problem = bad.problem().unwrap();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
