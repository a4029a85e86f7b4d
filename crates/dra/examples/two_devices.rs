//! A whole DRA driver: two devices that do not exist. A pod that uses one gets an
//! environment variable with its name. `two_devices.yaml` runs it in a cluster.
//!
//! The order matters, and is that of every driver: the journal first, because a
//! former process may still be alive; then what a crash has left; then the
//! sockets. The end is orderly when a signal asks for it.
//!
//! ```text
//! NODE_NAME=node-1 cargo run -p patchbay-dra --example two_devices
//! ```

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::resource::v1::Device;
use patchbay_dra::cdi::{CdiFolder, Edits};
use patchbay_dra::{
    AllocatedClaim, BoxFuture, ClaimRef, DeviceHealth, Driver, DriverError, HealthState, Journal, NodeScope, Patience,
    Plugin, Pool, Prepared, Publishing, Record, SlicePublisher, liveness,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const DRIVER: &str = "two.example.com";
const DEVICES: [&str; 2] = ["left", "right"];
const KUBELET: &str = "/var/lib/kubelet";
/// Where container runtimes look for CDI files.
const CDI: &str = "/var/run/cdi";
/// Where the kubelet's liveness probe asks.
const LIVENESS: &str = "0.0.0.0:8080";

struct TwoDevices {
    cdi: CdiFolder,
}

impl Driver for TwoDevices {
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>> {
        Box::pin(async move {
            // Here the devices would be made usable.
            let variable = |request: &str| request.to_uppercase().replace('-', "_");
            let gets = |env: String| Edits { env: vec![env], ..Edits::default() };
            let edits: Vec<_> = claim
                .devices
                .iter()
                .map(|d| (d.device.clone(), gets(format!("DEVICE_{}={}", variable(&d.request), d.device))))
                .collect();
            let ids = self.cdi.write(&claim.uid, &edits).map_err(|error| DriverError::caused_by(&error))?;
            let answers = claim.devices.iter().zip(ids).map(|(device, id)| device.prepared(vec![id]));
            Ok(answers.collect::<Vec<_>>().into())
        })
    }

    fn unprepare<'a>(
        &'a self,
        claim: &'a ClaimRef,
        _record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async move { self.cdi.remove(&claim.uid).map_err(|error| DriverError::caused_by(&error)) })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let node = std::env::var("NODE_NAME").context("set NODE_NAME to the name of this node")?;
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    // Waits for a former process on this node, however long that takes.
    let journal = tokio::select! {
        journal = Journal::open(format!("{KUBELET}/plugins/{DRIVER}/journal.json")) => journal?,
        _ = term.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let cdi = CdiFolder::new(CDI, DRIVER, "device");
    cdi.remove_orphans(&journal)?;

    let client = kube::Client::try_default().await?;
    let devices = DEVICES.map(|name| Device { name: name.to_owned(), ..Device::default() });
    let (pool, left_out) = Pool::new(&node, NodeScope::NodeName(node.clone()), devices);
    left_out.iter().for_each(|device| tracing::warn!("{device}"));
    // A driver whose devices come and go sends the pools whenever they change.
    let (_wanted, pools) = watch::channel(Some(vec![pool]));
    let publishing = Publishing { driver: DRIVER.to_owned(), node: node.clone() };
    let _publisher = SlicePublisher::start(client.clone(), publishing, pools, Patience::default());

    // The same with their health. These are always well.
    let well = |device: &str| DeviceHealth {
        pool: node.clone(),
        device: device.to_owned(),
        state: HealthState::Healthy,
        message: String::new(),
    };
    let (_report, health) = watch::channel(DEVICES.map(well).to_vec());

    let builder = Plugin::builder(DRIVER, KUBELET, client, journal).health(health);
    let mut plugin = builder.serve(Arc::new(TwoDevices { cdi })).await?;
    let listener = TcpListener::bind(LIVENESS).await.with_context(|| format!("liveness port {LIVENESS}"))?;
    tokio::spawn(liveness::serve(listener, plugin.probe()));

    tokio::select! {
        error = plugin.failed() => return Err(error.into()),
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Calls under way finish; what is prepared and published stays for the next.
    plugin.stop().await;
    Ok(())
}
