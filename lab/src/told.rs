//! How one process tells another where the parts are: building them needs the network, which the lab's namespaces lack.

use anyhow::{Context, Result};

use crate::parts::{self, Parts, Release};

/// The variable that holds them as JSON. A person may set it, too, to use other parts.
const PARTS: &str = "PATCHBAY_LAB_PARTS";

impl Parts {
    /// The parts this process was told of; if it was told of none, they are built, with the oldest Kubernetes.
    ///
    /// # Errors
    /// When what was told makes no sense, or a part cannot be built.
    pub fn told() -> Result<Self> {
        Self::told_or_built(Release::Oldest)
    }

    /// The variable that tells another process of the parts this one was told of, or of parts with this Kubernetes.
    ///
    /// # Errors
    /// As [`Parts::told`].
    pub fn tell(release: Release) -> Result<(&'static str, String)> {
        Ok((PARTS, serde_json::to_string(&Self::told_or_built(release)?)?))
    }

    fn told_or_built(release: Release) -> Result<Self> {
        match std::env::var(PARTS) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{PARTS} does not hold a lab's parts")),
            Err(_) => parts::build(release),
        }
    }
}
