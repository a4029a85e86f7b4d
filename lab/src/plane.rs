//! The control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as on any cluster.
//!
//! With its nodes it listens inside the lab's namespace ([`Options::of_the_lab`]); alone, for tests that need nothing but
//! the API and its controllers, on a free port of 127.0.0.1 ([`Options::alone`]). Its programs end with the [`Plane`].

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{GetParams, PostParams};
use serde_json::json;

use crate::kubeconfig;
use crate::pki::{Identity, Pki, write};
use crate::process::{Child, Program, free_port};
use crate::wait::wait_for;
use crate::{api, network};

mod flags;

use flags::flag;

/// Time until a fresh control plane must be usable.
const START: Duration = Duration::from_secs(60);

/// The place of the API server among the programs.
const SERVER: usize = 1;

/// The first address of the service network: what pods call the API server.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Where a control plane lives.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder with the programs.
    pub bin: PathBuf,
    /// Folder for its data: fast, and thrown away by the caller.
    pub state: PathBuf,
    /// Folder for its logs.
    pub logs: PathBuf,
    /// Address to listen on.
    pub listen: Ipv4Addr,
    /// Address that others are told.
    pub address: Ipv4Addr,
    /// Port of the API server.
    pub port: u16,
    /// For how long a node may say nothing before it is taken for lost; None: as long as on any cluster.
    pub grace: Option<Duration>,
}

impl Options {
    /// As the lab's nodes need it: on all addresses of the namespace, at the port of the `kubernetes` service.
    pub fn of_the_lab(bin: &Path, state: &Path, logs: &Path) -> Self {
        Self {
            bin: bin.to_owned(),
            state: state.join("plane"),
            logs: logs.to_owned(),
            listen: Ipv4Addr::UNSPECIFIED,
            address: network::GATEWAY,
            port: 443,
            grace: None,
        }
    }

    /// Without nodes, on a free port of 127.0.0.1; everything is under `state`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn alone(bin: &Path, state: &Path) -> Result<Self> {
        Ok(Self {
            bin: bin.to_owned(),
            state: state.to_owned(),
            logs: state.join("logs"),
            listen: Ipv4Addr::LOCALHOST,
            address: Ipv4Addr::LOCALHOST,
            port: free_port()?,
            grace: None,
        })
    }
}

/// A running control plane.
pub struct Plane {
    options: Options,
    pki: Pki,
    /// Where etcd listens.
    etcd: String,
    /// In the order of their start: etcd, API server, controller-manager, scheduler.
    children: Vec<Child>,
}

impl Plane {
    /// Starts the programs and waits until objects can be made and pods have their accounts.
    ///
    /// # Errors
    /// When a program ends early (the error quotes its log) or is not ready in time.
    pub fn start(options: Options) -> Result<Self> {
        for dir in [&options.state, &options.logs] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let pki = Pki::create(&options.state.join("pki"))?;
        let etcd = format!("http://127.0.0.1:{}", free_port()?);
        let mut plane = Self { options, pki, etcd, children: Vec::new() };
        plane.write_files()?;
        plane.run("etcd", flags::etcd(&plane.options.state, &plane.etcd, free_port()?))?;
        plane.run("kube-apiserver", plane.server_flags())?;
        plane.wait_ready()?;
        plane.run("kube-controller-manager", plane.manager_flags())?;
        plane.run("kube-scheduler", vec![flag("config", plane.file("scheduler.json")), "--secure-port=0".into()])?;
        plane.wait_account()?;
        Ok(plane)
    }

    /// The API server's process, for faults.
    ///
    /// # Errors
    /// When the control plane has been stopped.
    pub fn server(&mut self) -> Result<&mut Child> {
        self.children.get_mut(SERVER).context("the control plane is stopped")
    }

    /// Starts the API server again after it was killed, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Plane::start`].
    pub fn restart_server(&mut self) -> Result<()> {
        let server = self.start_program("kube-apiserver", self.server_flags())?;
        *self.server()? = server;
        self.wait_ready()
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> PathBuf {
        self.file("admin.kubeconfig")
    }

    /// The API server's port.
    pub fn port(&self) -> u16 {
        self.options.port
    }

    /// The API server's audit log: one JSON line per write, and per read of our accounts, with who did what to which object.
    pub fn audit_log(&self) -> PathBuf {
        self.options.logs.join("audit.jsonl")
    }

    /// The certificate authority, PEM.
    pub fn ca(&self) -> &str {
        self.pki.ca()
    }

    /// A kubeconfig for a user (and a group), as seen from another machine.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn sign_client(&self, user: &str, group: Option<&str>) -> Result<String> {
        Ok(kubeconfig::render(&self.url(self.options.address), self.pki.ca(), &self.pki.client(user, group)?))
    }

    /// A kubeconfig with a token of a service account, as seen from this machine: its bearer may do what pods of that
    /// account may.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn account(&self, namespace: &str, name: &str) -> Result<String> {
        self.token(namespace, name, None)
    }

    /// The same with the token that a kubelet would mount into `pod` of that account: it says which pod that is, and on which
    /// node, and lives as long as the pod.
    ///
    /// # Errors
    /// When there is no such account, or the pod is not one of its pods.
    pub fn account_of_pod(&self, namespace: &str, name: &str, pod: &str) -> Result<String> {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            uid: None,
        };
        self.token(namespace, name, Some(bound))
    }

    fn token(&self, namespace: &str, name: &str, bound: Option<BoundObjectReference>) -> Result<String> {
        let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(api::connect(&self.admin())?, namespace);
        let spec =
            TokenRequestSpec { expiration_seconds: Some(3600), bound_object_ref: bound, ..TokenRequestSpec::default() };
        let wanted = TokenRequest { spec, ..TokenRequest::default() };
        let params = PostParams::default();
        let answer = accounts.create_token_request(name, &params, &wanted);
        let status = api::request(&format!("a token of {namespace}/{name}"), answer)?.status;
        let token = status.context("the API server has answered without a token")?.token;
        Ok(kubeconfig::with_token(&self.url(Ipv4Addr::LOCALHOST), self.pki.ca(), &token))
    }

    /// Fails if one of the programs has ended.
    ///
    /// # Errors
    /// With the end of that program's log.
    pub fn check(&mut self) -> Result<()> {
        self.children.iter_mut().try_for_each(Child::check)
    }

    /// Process ids of etcd, API server, controller-manager and scheduler, in this order, for measurements.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::pid).collect()
    }

    /// Stops all of it. Dropping does the same.
    pub fn stop(&mut self) {
        // The last started first: nothing complains in its log about a server that is gone.
        while let Some(mut child) = self.children.pop() {
            child.kill();
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.options.state.join(name)
    }

    fn url(&self, address: Ipv4Addr) -> String {
        format!("https://{address}:{}", self.options.port)
    }

    fn run(&mut self, name: &str, flags: Vec<String>) -> Result<()> {
        let child = self.start_program(name, flags)?;
        self.children.push(child);
        Ok(())
    }

    fn start_program(&self, name: &str, flags: Vec<String>) -> Result<Child> {
        let log = self.options.logs.join(format!("{name}.log"));
        Program::new(name, self.options.bin.join(name), log).args(flags).start()
    }

    fn write_files(&self) -> Result<()> {
        let addresses = [Ipv4Addr::LOCALHOST, SERVICE, self.options.address].map(IpAddr::from);
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        self.pki.store("apiserver", &self.pki.server("kube-apiserver", &names, &addresses)?)?;
        self.pki.store("kubelet-client", &self.pki.client("kube-apiserver", Some("system:masters"))?)?;
        // The controllers share one identity, which therefore may do everything.
        for (file, user, group) in [
            ("admin.kubeconfig", "admin", Some("system:masters")),
            ("manager.kubeconfig", "system:kube-controller-manager", Some("system:masters")),
            ("scheduler.kubeconfig", "system:kube-scheduler", None),
        ] {
            let identity: Identity = self.pki.client(user, group)?;
            write(&self.file(file), &kubeconfig::render(&self.url(Ipv4Addr::LOCALHOST), self.pki.ca(), &identity))?;
        }
        write(&self.file("audit.json"), &flags::audit_policy())?;
        write(&self.file("scheduler.json"), &self.scheduler_config())
    }

    fn scheduler_config(&self) -> String {
        json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": self.file("scheduler.kubeconfig"), "qps": 500, "burst": 1000},
            "leaderElection": {"leaderElect": false}, "enableProfiling": false,
        })
        .to_string()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let client = api::connect(&self.admin())?;
        let children = &mut self.children;
        wait_for("the API server to be ready", START, || {
            if let Err(error) = children.iter_mut().try_for_each(Child::check) {
                return Ok(Err(error));
            }
            let readyz =
                kube::core::Request::new("").get("readyz", &GetParams::default()).map_err(|error| error.to_string())?;
            api::request("GET /readyz", client.request_text(readyz))
                .map(|_| Ok(()))
                .map_err(|error| format!("{error:#}"))
        })?
    }

    fn wait_account(&mut self) -> Result<()> {
        let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(api::connect(&self.admin())?, "default");
        let children = &mut self.children;
        wait_for("the account of the namespace default", START, || {
            if let Err(error) = children.iter_mut().try_for_each(Child::check) {
                return Ok(Err(error));
            }
            api::request("get the account", accounts.get("default"))
                .map(|_| Ok(()))
                .map_err(|error| format!("{error:#}"))
        })?
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}
