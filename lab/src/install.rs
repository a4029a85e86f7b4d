//! How the product comes into the lab: the manifests of the repository's `deploy` folder, unchanged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::kubectl::Kubectl;
use crate::policies;

/// The repository this program was built from.
pub fn repository() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().unwrap_or(lab)
}

/// Applies every manifest of `deploy/`, in the order of their names, and waits until its policies are in force.
///
/// # Errors
/// When there is none, or the API server refuses one.
pub fn install(kubectl: &Kubectl) -> Result<()> {
    let folder = repository().join("deploy");
    for file in manifests(&folder)? {
        kubectl.apply(&file).with_context(|| format!("cannot install {}", file.display()))?;
    }
    policies::wait_in_force(&kubectl.kubeconfig)
}

fn manifests(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "{} has no manifests", folder.display());
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_applied_in_the_order_of_their_names_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["20-agent.yaml", "10-crds.yaml", "README.md"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(manifests(dir.path()).unwrap(), ["10-crds.yaml", "20-agent.yaml"].map(|name| dir.path().join(name)));
    }
}
