//! Names and identifiers, one type each, so that a node's name cannot be passed where a device's is meant.
//!
//! A name is copied much more often than it is made: copies share one text.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Takes the text as it is: names come from the API server, which has checked them.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into().into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl From<&str> for $type {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

name! {
    /// A Kubernetes node.
    NodeName
}
name! {
    /// A Kubernetes namespace.
    Namespace
}
name! {
    /// A device: the name of its DRA device, its `NodeUSBDevice` and its `USBDevice`. A DNS label.
    DeviceName
}
name! {
    /// A `VirtualMachine`.
    VmName
}
name! {
    /// A `VirtualMachineOperation`.
    OperationName
}
name! {
    /// A pod.
    PodName
}
name! {
    /// A `ResourceClaim`.
    ClaimName
}
name! {
    /// The uid of a Kubernetes object: a new object of an old name has another one.
    Uid
}

/// A pod, beyond doubt: its name may be used again, its uid never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: PodName,
    /// Its uid.
    pub uid: Uid,
}

/// A claim, beyond doubt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimRef {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ClaimName,
    /// Its uid.
    pub uid: Uid,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ClaimRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
