//! A whole DRA driver: publishes two devices that do not exist and logs what the
//! kubelet asks for.
//!
//! ```text
//! NODE_NAME=node-1 cargo run -p patchbay-dra --example two_devices
//! ```

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::resource::v1::Device;
use patchbay_dra::cdi::{CdiFolder, Edits};
use patchbay_dra::{
    AllocatedClaim, BoxFuture, ClaimRef, Driver, DriverError, Journal, NodeScope, Patience, Plugin, Pool, Prepared,
    Publishing, Record, SlicePublisher,
};
use tokio::sync::watch;

const DRIVER: &str = "two.example.com";
const KUBELET: &str = "/var/lib/kubelet";

struct TwoDevices {
    cdi: CdiFolder,
}

impl Driver for TwoDevices {
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>> {
        Box::pin(async move {
            let mut devices = Vec::new();
            for device in &claim.devices {
                let edits =
                    Edits { env: vec![format!("TWO_{}={}", device.request, device.device)], ..Edits::default() };
                devices.push((device.device.clone(), edits));
            }
            let ids = self.cdi.write(&claim.uid, &devices).map_err(|error| DriverError::caused_by(&error))?;
            tracing::info!(claim = claim.name, ?ids, "prepare");
            let answers = claim.devices.iter().zip(ids);
            let answers = answers.map(|(device, id)| device.prepared(vec![id]));
            Ok(answers.collect::<Vec<_>>().into())
        })
    }

    fn unprepare<'a>(
        &'a self,
        claim: &'a ClaimRef,
        _record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async move {
            tracing::info!(claim = claim.name, "unprepare");
            let removed = self.cdi.remove(&claim.uid);
            removed.map_err(|error| DriverError::caused_by(&error))
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let node = std::env::var("NODE_NAME").context("set NODE_NAME to the name of this node")?;
    let client = kube::Client::try_default().await?;

    let devices = ["left", "right"].map(|name| Device { name: name.to_owned(), ..Device::default() });
    let (pool, left_out) = Pool::new(&node, NodeScope::NodeName(node.clone()), devices);
    left_out.iter().for_each(|device| tracing::warn!("{device}"));
    let (_wanted, pools) = watch::channel(Some(vec![pool]));
    let publishing = Publishing { driver: DRIVER.to_owned(), node };
    let _publisher = SlicePublisher::start(client.clone(), publishing, pools, Patience::default());

    let journal = Journal::open(format!("{KUBELET}/plugins/{DRIVER}/journal.json")).await;
    let driver = Arc::new(TwoDevices { cdi: CdiFolder::new("/var/run/cdi", DRIVER, "device") });
    let mut plugin = Plugin::builder(DRIVER, KUBELET, client, journal).serve(driver).await?;
    tokio::select! {
        error = plugin.failed() => Err(error.into()),
        _ = tokio::signal::ctrl_c() => {
            plugin.stop().await;
            Ok(())
        }
    }
}
