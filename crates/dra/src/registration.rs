//! The registration service: tells the kubelet who we are, hears what it thinks.

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::proto::registration as proto;

/// What the kubelet has said about this plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// Nothing yet.
    Pending,
    /// The kubelet uses the plugin.
    Registered,
    /// The kubelet refused it, with the reason.
    Refused(String),
}

/// The `Registration` service. Answers from memory: the kubelet waits 1 s.
pub(crate) struct Service {
    pub(crate) info: proto::PluginInfo,
    pub(crate) state: watch::Sender<Registration>,
}

#[tonic::async_trait]
impl proto::registration_server::Registration for Service {
    async fn get_info(&self, _request: Request<proto::InfoRequest>) -> Result<Response<proto::PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<proto::RegistrationStatus>,
    ) -> Result<Response<proto::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let state = if status.plugin_registered {
            tracing::info!(driver = self.info.name, "registered with the kubelet");
            Registration::Registered
        } else {
            tracing::error!(driver = self.info.name, error = status.error, "the kubelet refused the plugin");
            Registration::Refused(status.error)
        };
        self.state.send_replace(state);
        Ok(Response::new(proto::RegistrationStatusResponse {}))
    }
}
