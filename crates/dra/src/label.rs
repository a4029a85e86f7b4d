//! The label by which a node finds its own slices: `<driver>/node`.
//!
//! Pools whose devices can be used everywhere name no node in their slices, and fields by which slices can be selected say
//! nothing of pools. Without a label every node would be told of the slices of all.

use k8s_openapi::api::resource::v1::ResourceSlice;

use crate::slices::{Publishing, digest};

/// The longest value of a label, in bytes. Names of nodes may have 253.
const MAX_VALUE: usize = 63;

/// Which of the driver's slices a watch tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Share {
    /// Those with the label of this node.
    Labelled,
    /// Those without the label: what a former version of the driver has left, and what somebody has made or edited. There
    /// are none in ordinary times.
    Unlabelled,
}

impl Share {
    pub(crate) const ALL: [Self; 2] = [Self::Labelled, Self::Unlabelled];

    /// The label selector.
    pub(crate) fn selector(self, publishing: &Publishing) -> String {
        match self {
            Self::Labelled => format!("{}={}", publishing.label(), publishing.label_value()),
            Self::Unlabelled => format!("!{}", publishing.label()),
        }
    }

    /// Where a slice belongs. One with the label of another node is in no share, and counts as if it had none.
    pub(crate) fn of(slice: &ResourceSlice, publishing: &Publishing) -> Self {
        if publishing.has_labelled(slice) { Self::Labelled } else { Self::Unlabelled }
    }
}

impl Publishing {
    /// The key of the label.
    pub fn label(&self) -> String {
        format!("{}/node", self.driver)
    }

    /// Its value: the node's name. One that is too long is cut, and followed by its digest.
    pub fn label_value(&self) -> String {
        if self.node.len() <= MAX_VALUE {
            return self.node.clone();
        }
        let head: String = self.node.chars().take(MAX_VALUE - 17).collect();
        format!("{head}-{}", digest(&[&self.node], 8))
    }

    /// Whether a slice has the label of this node.
    pub(crate) fn has_labelled(&self, slice: &ResourceSlice) -> bool {
        let value = slice.metadata.labels.as_ref().and_then(|labels| labels.get(&self.label()));
        value.is_some_and(|value| *value == self.label_value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(node: &str) -> String {
        Publishing { driver: "dra.example.com".into(), node: node.into() }.label_value()
    }

    #[test]
    fn a_nodes_name_is_its_label_unless_it_is_too_long() {
        let long = |length: usize| format!("{}.example.com", "n".repeat(length - 12));
        let cut = format!("{}-", "n".repeat(46));
        // node, what the value begins with, its length
        for (node, head, length) in [
            ("n".to_owned(), "n", 1),
            ("node-1.example.com".to_owned(), "node-1.example.com", 18),
            (long(63), long(63).as_str(), 63),
            (long(64), cut.as_str(), 63),
            (long(253), cut.as_str(), 63),
            // Labels may have such marks in the middle.
            (format!("{}.{}", "n".repeat(45), "m".repeat(45)), &format!("{}.-", "n".repeat(45)), 63),
        ] {
            let value = value(&node);
            assert!(value.starts_with(head) && value.len() == length, "{node}: {value}");
            let ends = [value.chars().next(), value.chars().next_back()];
            assert!(ends.into_iter().flatten().all(|c| c.is_ascii_alphanumeric()), "{value}");
        }
        assert_ne!(value(&long(64)), value(&long(65)), "names that begin alike");
    }

    #[test]
    fn a_slice_belongs_to_whose_label_it_has() {
        let publishing = Publishing { driver: "dra.example.com".into(), node: "node-1".into() };
        for (labels, share) in [
            (None, Share::Unlabelled),
            (Some(("dra.example.com/node", "node-1")), Share::Labelled),
            (Some(("dra.example.com/node", "node-2")), Share::Unlabelled),
            (Some(("other.example.com/node", "node-1")), Share::Unlabelled),
        ] {
            let mut slice = ResourceSlice::default();
            slice.metadata.labels = labels.map(|(key, value)| [(key.to_owned(), value.to_owned())].into());
            assert_eq!(Share::of(&slice, &publishing), share, "{labels:?}");
        }
        let selectors = Share::ALL.map(|share| share.selector(&publishing));
        assert_eq!(selectors, ["dra.example.com/node=node-1", "!dra.example.com/node"]);
    }
}
