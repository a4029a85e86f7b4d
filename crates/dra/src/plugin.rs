//! The kubelet plugin: two servers on two sockets, started and stopped in order.
//!
//! ```text
//! start:  DRA socket  -->  registration socket  -->  kubelet finds it, asks
//!         GetInfo, connects to the DRA socket, tells the outcome
//! stop:   registration socket removed (the kubelet sends nothing more)
//!         -->  calls under way finish  -->  DRA socket removed
//! ```
//!
//! The plugin has the journal for as long as it has sockets, so on one node there
//! is never a second one on the same journal: a successor waits in
//! [`Journal::open`]. A plugin on another journal (or none of ours) may take over
//! the sockets at any time: then they are its own, and the one it replaced
//! finishes the calls it has, removes nothing, and fails its [`Probe`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tonic::transport::server::Router;

use crate::driver::Driver;
use crate::health::{self, DeviceHealth};
use crate::journal::Journal;
use crate::prepare::Preparer;
use crate::probe::Probe;
use crate::proto::dra::dra_plugin_server::DraPluginServer;
use crate::proto::registration::PluginInfo;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::proto::{health_v1, health_v1alpha1};
use crate::registration::{self, Registration};
use crate::server::{Server, Stopping};
use crate::service;
use crate::socket::{self, SocketError};
use crate::turns::Turns;

/// The kubelet gives a call 45 s; ours ends before, with words.
const CALL_DEADLINE: Duration = Duration::from_secs(40);

/// For reading one claim from the API.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// Why the plugin could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The API takes only DNS names of at most 63 characters as driver names.
    #[error("driver name {name:?} is not a lower-case DNS name of at most 63 characters (like dra.example.com)")]
    DriverName {
        /// The name.
        name: String,
    },
    /// A socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A server ended by itself.
    #[error("the {server} server ended: {reason}")]
    Ended {
        /// Which one.
        server: &'static str,
        /// Why.
        reason: String,
    },
}

/// What is needed to serve a plugin.
pub struct PluginBuilder {
    driver_name: String,
    kubelet_root: PathBuf,
    client: Client,
    journal: Journal,
    health: Option<watch::Receiver<Vec<DeviceHealth>>>,
    call_deadline: Duration,
    read_deadline: Duration,
}

impl PluginBuilder {
    /// Also reports the health of devices: the whole list, whenever it changes.
    #[must_use]
    pub fn health(mut self, devices: watch::Receiver<Vec<DeviceHealth>>) -> Self {
        self.health = Some(devices);
        self
    }

    /// Other deadlines than the defaults: for a whole call (40 s; keep it below
    /// the kubelet's 45 s) and for reading one claim from the API (5 s).
    #[must_use]
    pub fn deadlines(mut self, call: Duration, read: Duration) -> Self {
        self.call_deadline = call;
        self.read_deadline = read;
        self
    }

    /// Makes the sockets and serves. When this returns, both accept calls.
    ///
    /// # Errors
    /// The driver's name is not valid or a socket cannot be made.
    pub async fn serve(self, driver: Arc<dyn Driver>) -> Result<Plugin, PluginError> {
        if !is_driver_name(&self.driver_name) {
            return Err(PluginError::DriverName { name: self.driver_name });
        }
        let folder = self.kubelet_root.join("plugins").join(&self.driver_name);
        socket::make_folder(&folder)?;
        socket::set_mode(&folder, 0o750)?;
        let registry = self.kubelet_root.join("plugins_registry");
        socket::make_folder(&registry)?;
        let endpoint = folder.join("dra.sock");
        let register = registry.join(format!("{}-reg.sock", self.driver_name));

        let (state, registration) = watch::channel(Registration::Pending);
        let info = self.info(&endpoint);
        let journal = self.journal.clone();
        let (stop, stopping) = watch::channel(false);
        let dra = Server::start(&endpoint, stop, self.dra_services(driver, &stopping))?;
        let services = tonic::transport::Server::builder()
            .add_service(RegistrationServer::new(registration::Service { info, state }));
        let register = Server::start(&register, watch::channel(false).0, services)?;
        Ok(Plugin { dra, register, registration, _journal: journal })
    }

    /// What the kubelet is told when it asks who we are.
    fn info(&self, endpoint: &Path) -> PluginInfo {
        let mut services = vec!["v1.DRAPlugin".to_owned()];
        if self.health.is_some() {
            services.push("v1alpha1.DRAResourceHealth".to_owned());
            services.push("v1.DRAResourceHealth".to_owned());
        }
        PluginInfo {
            r#type: "DRAPlugin".to_owned(),
            name: self.driver_name.clone(),
            endpoint: endpoint.to_string_lossy().into_owned(),
            supported_versions: services,
        }
    }

    /// What is served on the DRA socket.
    fn dra_services(self, driver: Arc<dyn Driver>, stopping: &Stopping) -> Router {
        let health = self.health.map(|devices| health::Service::new(devices, stopping.clone()));
        let preparer = Arc::new(Preparer {
            driver,
            driver_name: self.driver_name,
            client: self.client,
            journal: self.journal,
            turns: Turns::default(),
            read_deadline: self.read_deadline,
        });
        let plugin = service::Service { preparer, deadline: self.call_deadline };
        tonic::transport::Server::builder()
            .add_service(DraPluginServer::new(plugin))
            .add_optional_service(
                health.clone().map(health_v1alpha1::dra_resource_health_server::DraResourceHealthServer::new),
            )
            .add_optional_service(health.map(health_v1::dra_resource_health_server::DraResourceHealthServer::new))
    }
}

/// A running plugin. Dropping it ends both servers at once, as a crash would;
/// use [`Plugin::stop`] to leave in an orderly way.
#[derive(Debug)]
pub struct Plugin {
    dra: Server,
    register: Server,
    registration: watch::Receiver<Registration>,
    /// Last: nobody else may have it while the sockets are there.
    _journal: Journal,
}

impl Plugin {
    /// Starts to describe a plugin.
    ///
    /// `kubelet_root` is the kubelet's folder (`/var/lib/kubelet`), which must be
    /// mounted at the same path as on the node: the kubelet is told the path of
    /// the socket in it.
    pub fn builder(
        driver_name: impl Into<String>,
        kubelet_root: impl Into<PathBuf>,
        client: Client,
        journal: Journal,
    ) -> PluginBuilder {
        PluginBuilder {
            driver_name: driver_name.into(),
            kubelet_root: kubelet_root.into(),
            client,
            journal,
            health: None,
            call_deadline: CALL_DEADLINE,
            read_deadline: READ_DEADLINE,
        }
    }

    /// What the kubelet has said, now and whenever it changes.
    pub fn registration(&self) -> watch::Receiver<Registration> {
        self.registration.clone()
    }

    /// Checks whether a kubelet would reach the plugin: for a liveness probe
    /// ([`crate::liveness`]).
    pub fn probe(&self) -> Probe {
        Probe { dra: self.dra.file(), registration: self.register.file() }
    }

    /// Returns when one of the servers has ended by itself, which only a defect
    /// or a lost runtime causes.
    pub async fn failed(&mut self) -> PluginError {
        let (server, reason) = tokio::select! {
            reason = self.dra.ended() => ("DRA", reason),
            reason = self.register.ended() => ("registration", reason),
        };
        PluginError::Ended { server, reason }
    }

    /// Leaves in an orderly way: the kubelet sends nothing more, calls under way
    /// finish. Takes at most 20 s.
    pub async fn stop(self) {
        self.register.stop().await;
        self.dra.stop().await;
    }
}

/// A lower-case DNS subdomain of at most 63 characters.
fn is_driver_name(name: &str) -> bool {
    name.len() <= 63 && name.split('.').all(crate::pool::is_label)
}
