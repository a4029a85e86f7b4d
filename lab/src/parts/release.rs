//! Which Kubernetes a lab is made of: the one list of them.
//!
//! Each is pinned, with its etcd and all else it is compiled from, by a module file of `lab/parts/kube` and the sums next
//! to it. They share the program and Go's caches, and nothing of a release is built before somebody asks for it.

use serde::{Deserialize, Serialize};

/// A release of Kubernetes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Release {
    /// The oldest that Patchbay works with
    #[default]
    Oldest,
    /// The newest that the lab can build
    Newest,
}

impl Release {
    /// The module file.
    pub(super) const fn modules(self) -> &'static str {
        match self {
            Self::Oldest => "go.mod",
            Self::Newest => "newest.mod",
        }
    }

    /// The name of a cache entry that is different for each release. Of a name only the entries used last are kept: with
    /// names of their own, no release pushes out what another will need.
    pub(crate) fn entry(self, name: &str) -> String {
        match self {
            Self::Oldest => name.to_owned(),
            Self::Newest => format!("{name}-newest"),
        }
    }
}
