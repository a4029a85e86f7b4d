//! Compiles the kubelet's gRPC contracts without `protoc`.
//!
//! The two health packages have the same messages under two names: the second
//! one uses the Rust types of the first, so that one answer fits both.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let contracts =
        protox::compile(["dra_v1.proto", "registration.proto", "health_v1alpha1.proto", "health_v1.proto"], ["proto"])?;
    let mut generator = tonic_prost_build::configure().build_transport(false).btree_map(".");
    for message in
        ["NodeWatchResourcesRequest", "NodeWatchResourcesResponse", "DeviceHealth", "DeviceIdentifier", "HealthStatus"]
    {
        generator =
            generator.extern_path(format!(".v1.{message}"), format!("crate::proto::health_v1alpha1::{message}"));
    }
    generator.compile_fds(contracts)?;
    Ok(())
}
