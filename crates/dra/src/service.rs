//! The gRPC service the kubelet calls. Every claim of a call is worked on in a
//! task of its own, under one deadline, and every claim asked for is in the
//! answer. The tasks outlive a call that the kubelet gives up: half of a prepare
//! because a kubelet restarted would help nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::driver::{ClaimRef, PreparedDevice, chain};
use crate::prepare::{PrepareError, Preparer};
use crate::proto::dra;

/// The `DRAPlugin` service.
pub(crate) struct Service {
    pub(crate) preparer: Arc<Preparer>,
    /// For a whole call; below the kubelet's own.
    pub(crate) deadline: Duration,
}

impl Service {
    /// Works on each claim and answers by uid; errors are in words.
    async fn each<T, W>(
        &self,
        verb: &'static str,
        claims: Vec<dra::Claim>,
        work: impl Fn(Arc<Preparer>, ClaimRef) -> W,
    ) -> BTreeMap<String, Result<T, String>>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, PrepareError>> + Send + 'static,
    {
        let tasks: Vec<_> = claims
            .into_iter()
            .map(|claim| {
                let claim = ClaimRef { namespace: claim.namespace, name: claim.name, uid: claim.uid };
                let work = work(Arc::clone(&self.preparer), claim.clone());
                let task = tokio::spawn(tokio::time::timeout(self.deadline, work));
                (claim, task)
            })
            .collect();
        let mut answers = BTreeMap::new();
        for (claim, task) in tasks {
            let answer = self.outcome(task).await;
            match &answer {
                Ok(_) => tracing::debug!(%claim, uid = claim.uid, "kubelet is told that the claim is {verb}d"),
                Err(error) => {
                    tracing::warn!(%claim, uid = claim.uid, error, "claim not {verb}d");
                }
            }
            answers.insert(claim.uid, answer);
        }
        answers
    }

    /// How the work on one claim ended.
    async fn outcome<T>(
        &self,
        task: JoinHandle<Result<Result<T, PrepareError>, tokio::time::error::Elapsed>>,
    ) -> Result<T, String> {
        match task.await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(chain(&error)),
            Ok(Err(_)) => Err(format!("not finished within {} s; the kubelet will ask again", self.deadline.as_secs())),
            Err(crash) => Err(format!("the driver failed internally: {crash}")),
        }
    }
}

#[tonic::async_trait]
impl dra::dra_plugin_server::DraPlugin for Service {
    async fn node_prepare_resources(
        &self,
        request: Request<dra::NodePrepareResourcesRequest>,
    ) -> Result<Response<dra::NodePrepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let answers =
            self.each("prepare", claims, |preparer, claim| async move { preparer.prepare(&claim).await }).await;
        let claims = answers.into_iter().map(|(uid, answer)| (uid, prepared(answer))).collect();
        Ok(Response::new(dra::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<dra::NodeUnprepareResourcesRequest>,
    ) -> Result<Response<dra::NodeUnprepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let answers =
            self.each("unprepare", claims, |preparer, claim| async move { preparer.unprepare(&claim).await }).await;
        let claims = answers
            .into_iter()
            .map(|(uid, answer)| {
                let error = answer.err().unwrap_or_default();
                (uid, dra::NodeUnprepareResourceResponse { error })
            })
            .collect();
        Ok(Response::new(dra::NodeUnprepareResourcesResponse { claims }))
    }
}

/// The kubelet's form of an answer.
fn prepared(answer: Result<Vec<PreparedDevice>, String>) -> dra::NodePrepareResourceResponse {
    match answer {
        Err(error) => dra::NodePrepareResourceResponse { devices: Vec::new(), error },
        Ok(devices) => dra::NodePrepareResourceResponse {
            devices: devices.into_iter().map(device).collect(),
            error: String::new(),
        },
    }
}

fn device(device: PreparedDevice) -> dra::Device {
    dra::Device {
        request_names: vec![device.request],
        pool_name: device.pool,
        device_name: device.device,
        cdi_device_ids: device.cdi_ids,
        share_id: device.share_id,
    }
}
