//! The health of devices, for the kubelet, which shows it in the status of pods.
//!
//! Each answer of the stream holds all devices. A kubelet forgets what it was
//! told after a while (30 s unless told otherwise), so the list is repeated as
//! long as somebody listens. Both versions of the service have one
//! implementation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::proto::{health_v1, health_v1alpha1 as proto};
use crate::server::Stopping;

/// How often the list is repeated without a change.
const REPEAT: Duration = Duration::from_secs(15);

/// After how many seconds without news the kubelet is to say "unknown".
const FORGET_SECONDS: i64 = 60;

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Nobody can tell.
    Unknown,
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// The health of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceHealth {
    /// The pool it is published in.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// How it is.
    pub state: HealthState,
    /// Why, for people; may be empty.
    pub message: String,
}

impl DeviceHealth {
    fn message(&self, now: i64) -> proto::DeviceHealth {
        let health = match self.state {
            HealthState::Unknown => proto::HealthStatus::Unknown,
            HealthState::Healthy => proto::HealthStatus::Healthy,
            HealthState::Unhealthy => proto::HealthStatus::Unhealthy,
        };
        proto::DeviceHealth {
            device: Some(proto::DeviceIdentifier { pool_name: self.pool.clone(), device_name: self.device.clone() }),
            health: health.into(),
            last_updated_time: now,
            health_check_timeout_seconds: FORGET_SECONDS,
            message: self.message.clone(),
        }
    }
}

type Answer = Result<proto::NodeWatchResourcesResponse, Status>;

/// Both `DRAResourceHealth` services.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) devices: watch::Receiver<Vec<DeviceHealth>>,
    pub(crate) stopping: Stopping,
}

impl Service {
    /// The list now, whenever it changes, and every so often.
    fn answers(&self) -> BoxStream<'static, Answer> {
        let mut listener = self.clone();
        listener.devices.mark_changed();
        stream::unfold(listener, |mut listener| async move {
            tokio::select! {
                biased;
                _ = listener.stopping.wait_for(|stop| *stop) => return None,
                () = change(&mut listener.devices) => {}
                () = tokio::time::sleep(REPEAT) => {}
            }
            let now = seconds_since_1970();
            let devices = listener.devices.borrow_and_update().clone();
            let devices = devices.iter().map(|device| device.message(now)).collect();
            let answer = proto::NodeWatchResourcesResponse { devices };
            Some((Ok(answer), listener))
        })
        .boxed()
    }
}

/// Returns at the next change; never when nobody can make one any more.
async fn change(devices: &mut watch::Receiver<Vec<DeviceHealth>>) {
    if devices.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn seconds_since_1970() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or_default()
}

#[tonic::async_trait]
impl proto::dra_resource_health_server::DraResourceHealth for Service {
    type NodeWatchResourcesStream = BoxStream<'static, Answer>;

    async fn node_watch_resources(
        &self,
        _request: Request<proto::NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        Ok(Response::new(self.answers()))
    }
}

#[tonic::async_trait]
impl health_v1::dra_resource_health_server::DraResourceHealth for Service {
    type NodeWatchResourcesStream = BoxStream<'static, Answer>;

    async fn node_watch_resources(
        &self,
        _request: Request<proto::NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        Ok(Response::new(self.answers()))
    }
}
