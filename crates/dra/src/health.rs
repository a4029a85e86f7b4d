//! The health of devices, for the kubelet, which shows it in the status of pods.
//!
//! Each answer of the stream holds all devices. A kubelet forgets what it was
//! told after a while (30 s unless told otherwise), so the list is repeated as
//! long as somebody listens. When the driver has stopped reporting (the sender of
//! the list is gone), every device's health is unknown: nothing stays green only
//! because nobody looks. Both versions of the service have one implementation.

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
    devices: watch::Receiver<Vec<DeviceHealth>>,
    stopping: Stopping,
    repeat: Duration,
}

impl Service {
    pub(crate) fn new(devices: watch::Receiver<Vec<DeviceHealth>>, stopping: Stopping) -> Self {
        Self { devices, stopping, repeat: REPEAT }
    }

    /// The list now, whenever it changes, and every so often.
    fn answers(&self) -> BoxStream<'static, Answer> {
        let mut reports = Reports { devices: self.devices.clone(), ended: false };
        reports.devices.mark_changed();
        let (stopping, repeat) = (self.stopping.clone(), self.repeat);
        stream::unfold((reports, stopping), move |(mut reports, mut stopping)| async move {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return None,
                () = reports.change() => {}
                () = tokio::time::sleep(repeat) => {}
            }
            let now = seconds_since_1970();
            let devices = reports.list().iter().map(|device| device.message(now)).collect();
            let answer = proto::NodeWatchResourcesResponse { devices };
            Some((Ok(answer), (reports, stopping)))
        })
        .boxed()
    }
}

/// What the driver reports, as one listener has heard it.
struct Reports {
    devices: watch::Receiver<Vec<DeviceHealth>>,
    /// Nobody reports any more.
    ended: bool,
}

impl Reports {
    /// Returns at the next change; that nobody can make one any more is the last.
    async fn change(&mut self) {
        if self.ended {
            std::future::pending::<()>().await;
        }
        self.ended = self.devices.changed().await.is_err();
    }

    /// The health of all devices now.
    fn list(&mut self) -> Vec<DeviceHealth> {
        let mut devices = self.devices.borrow_and_update().clone();
        if self.ended {
            for device in &mut devices {
                device.state = HealthState::Unknown;
                device.message = "the driver does not report this device's health any more".to_owned();
            }
        }
        devices
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

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn device(state: HealthState) -> DeviceHealth {
        DeviceHealth { pool: "pool".into(), device: "d1".into(), state, message: String::new() }
    }

    /// Answers that are repeated after this time; the sender of stop comes along.
    fn answers(
        devices: watch::Receiver<Vec<DeviceHealth>>,
        repeat: Duration,
    ) -> (BoxStream<'static, Answer>, watch::Sender<bool>) {
        let (stop, stopping) = watch::channel(false);
        (Service { devices, stopping, repeat }.answers(), stop)
    }

    /// The states in the next list.
    async fn next(answers: &mut BoxStream<'static, Answer>) -> Option<Vec<proto::HealthStatus>> {
        let answer = tokio::time::timeout(DEADLINE, answers.next()).await.expect("no list");
        Some(answer?.unwrap().devices.iter().map(proto::DeviceHealth::health).collect())
    }

    #[tokio::test]
    async fn the_list_comes_at_once_and_with_each_change() {
        let (report, devices) = watch::channel(Vec::new());
        let (mut answers, _stop) = answers(devices, DEADLINE * 2);
        assert_eq!(next(&mut answers).await, Some(vec![]));
        for (state, expected) in [
            (HealthState::Healthy, proto::HealthStatus::Healthy),
            (HealthState::Unhealthy, proto::HealthStatus::Unhealthy),
            (HealthState::Unknown, proto::HealthStatus::Unknown),
        ] {
            report.send_replace(vec![device(state)]);
            assert_eq!(next(&mut answers).await, Some(vec![expected]));
        }
    }

    #[tokio::test]
    async fn the_list_is_repeated_before_the_kubelet_forgets_it() {
        assert!(REPEAT.as_secs() * 2 <= u64::try_from(FORGET_SECONDS).unwrap());
        let (_report, devices) = watch::channel(vec![device(HealthState::Healthy)]);
        let (mut answers, _stop) = answers(devices, Duration::from_millis(5));
        for _ in 0..4 {
            assert_eq!(next(&mut answers).await, Some(vec![proto::HealthStatus::Healthy]));
        }
    }

    #[tokio::test]
    async fn devices_that_nobody_reports_on_any_more_are_unknown() {
        let (report, devices) = watch::channel(vec![device(HealthState::Healthy)]);
        let (mut answers, _stop) = answers(devices, Duration::from_millis(5));
        assert_eq!(next(&mut answers).await, Some(vec![proto::HealthStatus::Healthy]));
        drop(report);
        for _ in 0..3 {
            assert_eq!(next(&mut answers).await, Some(vec![proto::HealthStatus::Unknown]));
        }
    }

    #[tokio::test]
    async fn the_stream_ends_when_the_plugin_stops() {
        let (_report, devices) = watch::channel(Vec::new());
        let (mut answers, stop) = answers(devices, DEADLINE * 2);
        assert!(next(&mut answers).await.is_some());
        stop.send_replace(true);
        assert_eq!(next(&mut answers).await, None);
    }
}
