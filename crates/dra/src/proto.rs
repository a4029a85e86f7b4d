//! The kubelet's gRPC contracts, generated from `proto/` at build time.
//!
//! Public so that tests of a driver can play the kubelet: clients are
//! generated as well.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

/// Prepare and unprepare (`k8s.io.kubelet.pkg.apis.dra.v1`).
pub mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// Registration of a plugin with the kubelet.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// Health of devices, as kubelets of Kubernetes 1.34 to 1.36 ask for it.
pub mod health_v1alpha1 {
    tonic::include_proto!("v1alpha1");
}

/// Health of devices since Kubernetes 1.37; the messages are those of
/// [`health_v1alpha1`].
pub mod health_v1 {
    tonic::include_proto!("v1");
}
