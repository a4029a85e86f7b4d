//! The self-probe: whether a kubelet would reach the plugin now.
//!
//! A plugin can be useless while its process is well: somebody has removed a
//! socket file, another instance has put its own there, or the process answers
//! nobody. So the probe goes the kubelet's way: by the paths of the sockets,
//! with the kubelet's calls (`GetInfo`, and `NodePrepareResources` of no claim,
//! which touches nothing). When it fails, end the process: the next one makes
//! the sockets anew, and what is prepared stays prepared.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::driver::chain;
use crate::proto::dra::NodePrepareResourcesRequest;
use crate::proto::dra::dra_plugin_client::DraPluginClient;
use crate::proto::registration::InfoRequest;
use crate::proto::registration::registration_client::RegistrationClient;
use crate::socket::{Owner, SocketFile};

/// Why a kubelet does not reach the plugin.
#[derive(Debug, thiserror::Error)]
#[error("the kubelet does not reach the {server} socket {path}: {fault}")]
pub struct Unreachable {
    /// Which of the two sockets: `DRA` or `registration`.
    pub server: &'static str,
    /// Its path.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a socket.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no file at its path.
    #[error("somebody has removed it; a restart of this process makes it anew")]
    Removed,
    /// Another file is at its path.
    #[error(
        "somebody has put something else in its place; if that is not a newer instance of this driver, \
         a restart of this process takes it back"
    )]
    Replaced,
    /// The file at its path could not be looked at.
    #[error("it cannot be looked at: {0}")]
    Unseen(io::Error),
    /// Nobody has answered in time.
    #[error("no answer within {} ms; the process hangs or the node is overloaded", .0.as_millis())]
    Silent(Duration),
    /// The server has ended, or answers with an error.
    #[error("its server has ended or does not work: {0}")]
    Broken(String),
}

/// Checks whether a kubelet would reach the plugin. Cheap to clone; see
/// [`crate::Plugin::probe`].
#[derive(Debug, Clone)]
pub struct Probe {
    pub(crate) dra: SocketFile,
    pub(crate) registration: SocketFile,
}

impl Probe {
    /// Calls the plugin through both of its sockets, as a kubelet would. Returns
    /// after the deadline at the latest.
    ///
    /// # Errors
    /// What a kubelet would stumble over.
    pub async fn check(&self, deadline: Duration) -> Result<(), Unreachable> {
        let registration = check("registration", &self.registration, deadline, |channel| async move {
            RegistrationClient::new(channel).get_info(InfoRequest {}).await.map(drop)
        });
        let dra = check("DRA", &self.dra, deadline, |channel| async move {
            let nothing = NodePrepareResourcesRequest { claims: Vec::new() };
            DraPluginClient::new(channel).node_prepare_resources(nothing).await.map(drop)
        });
        futures::try_join!(registration, dra).map(drop)
    }
}

async fn check<C>(
    server: &'static str,
    file: &SocketFile,
    deadline: Duration,
    call: impl FnOnce(Channel) -> C,
) -> Result<(), Unreachable>
where
    C: Future<Output = Result<(), Status>>,
{
    let dial = async {
        match file.owner() {
            Ok(Owner::Us) => {}
            Ok(Owner::Other) => return Err(Fault::Replaced),
            Ok(Owner::Nobody) => return Err(Fault::Removed),
            Err(error) => return Err(Fault::Unseen(error)),
        }
        let broken = |error: tonic::transport::Error| Fault::Broken(chain(&error));
        let endpoint = Endpoint::from_shared(format!("unix://{}", file.path().display())).map_err(broken)?;
        let channel = endpoint.connect().await.map_err(broken)?;
        call(channel).await.map_err(|status| Fault::Broken(status.to_string()))
    };
    let outcome = timeout(deadline, dial).await.unwrap_or(Err(Fault::Silent(deadline)));
    outcome.map_err(|fault| Unreachable { server, path: file.path().to_owned(), fault })
}
