//! One node: the kubelet's folder, a plugin with its driver, and the kubelet.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use patchbay_dra::proto::dra;
use patchbay_dra::proto::dra::dra_plugin_client::DraPluginClient;
use patchbay_dra::{AllocatedClaim, BoxFuture, ClaimRef, Driver, DriverError, Journal, Plugin, Prepared, Record};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::support::{DEADLINE, FakeApi};

pub(crate) const DRIVER: &str = "dra.example.com";

/// Notes what it is asked; claims named `stuck` and, once they are prepared, those named `later` wait until the gate opens.
pub(crate) struct TestDriver {
    calls: Mutex<Vec<String>>,
    pub(crate) gate: watch::Sender<bool>,
}

impl TestDriver {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { calls: Mutex::default(), gate: watch::channel(false).0 })
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl Driver for TestDriver {
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>> {
        Box::pin(async move {
            let devices: Vec<_> = claim.devices.iter().map(|d| d.device.as_str()).collect();
            self.note(format!("prepare {} {}", claim.name, devices.join(",")));
            match claim.name.as_str() {
                "stuck" => {
                    let mut gate = self.gate.subscribe();
                    gate.wait_for(|open| *open).await.unwrap();
                }
                "broken" => return Err("no such cable: plug it in".into()),
                "crashing" => panic!("as told"),
                _ => {}
            }
            let answer = |device: &patchbay_dra::AllocatedDevice| {
                device.prepared(vec![format!("{DRIVER}/device={}", device.device)])
            };
            Ok(Prepared {
                devices: claim.devices.iter().map(answer).collect(),
                data: Some(json!({"labels": claim.labels})),
            })
        })
    }

    fn before_start<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if claim.name == "later" {
                self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            }
        })
    }

    fn unprepare<'a>(
        &'a self,
        claim: &'a ClaimRef,
        record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async move {
            let known = if record.is_some() { "known" } else { "unknown" };
            self.note(format!("unprepare {} {known}", claim.name));
            Ok(())
        })
    }
}

/// The folders of a node and the API it talks to: what outlives every process.
#[derive(Clone)]
pub(crate) struct Ground {
    root: PathBuf,
    /// Removes the folders with the last clone.
    _temporary: Option<Arc<tempfile::TempDir>>,
    pub(crate) api: FakeApi,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { root: temporary.path().to_owned(), _temporary: Some(Arc::new(temporary)), api: FakeApi::new() }
    }

    /// A node whose folders are somebody else's.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _temporary: None, api: FakeApi::new() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn journal_file(&self) -> PathBuf {
        self.root().join("state/journal.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("plugins").join(DRIVER).join("dra.sock")
    }

    pub(crate) fn registration_socket(&self) -> PathBuf {
        self.root().join("plugins_registry").join(format!("{DRIVER}-reg.sock"))
    }

    pub(crate) fn add_claim(&self, name: &str, uid: &str, device: &str) {
        self.api.put("resourceclaims", claim(name, uid, device));
    }

    /// A kubelet that is not connected yet.
    pub(crate) fn kubelet(&self) -> Kubelet {
        Kubelet(DraPluginClient::new(connect(&self.socket())))
    }

    /// The journal, as soon as nobody else has it.
    pub(crate) async fn open_journal(&self) -> Journal {
        timeout(DEADLINE, Journal::open(self.journal_file())).await.expect("somebody still has the journal").unwrap()
    }

    /// Serves a driver, with this deadline for calls.
    pub(crate) async fn serve(&self, journal: Journal, driver: Arc<dyn Driver>, deadline: Duration) -> Plugin {
        let builder = Plugin::builder(DRIVER, self.root(), self.api.client(), journal);
        builder.deadlines(deadline, Duration::from_secs(5)).serve(driver).await.unwrap()
    }
}

/// A process of the test driver on a node.
pub(crate) struct Node {
    pub(crate) ground: Ground,
    pub(crate) driver: Arc<TestDriver>,
    pub(crate) journal: Journal,
    pub(crate) plugin: Plugin,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_on(Ground::new(), Duration::from_secs(20)).await
    }

    pub(crate) async fn start_on(ground: Ground, deadline: Duration) -> Self {
        let driver = TestDriver::new();
        let journal = ground.open_journal().await;
        let plugin = ground.serve(journal.clone(), driver.clone(), deadline).await;
        Self { ground, driver, journal, plugin }
    }

    /// Ends without a word, as a crash would.
    pub(crate) fn crash(self) -> Ground {
        self.ground
    }

    pub(crate) fn add_claim(&self, name: &str, uid: &str, device: &str) {
        self.ground.add_claim(name, uid, device);
    }

    pub(crate) fn kubelet(&self) -> Kubelet {
        self.ground.kubelet()
    }
}

fn claim(name: &str, uid: &str, device: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "ns", "name": name, "uid": uid, "labels": {"a": "b"}},
        "spec": {},
        "status": {"allocation": {"devices": {"results": [
            {"driver": DRIVER, "pool": "pool", "device": device, "request": "port/fast"},
            {"driver": "other.example.com", "pool": "p", "device": "d", "request": "gpu"},
        ]}}},
    })
}

pub(crate) fn connect(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect_lazy()
}

/// Calls a plugin, over one connection.
#[derive(Clone)]
pub(crate) struct Kubelet(DraPluginClient<Channel>);

impl Kubelet {
    /// Answers by uid, or the error.
    pub(crate) async fn prepare(&self, claims: &[(&str, &str)]) -> Vec<(String, Result<Vec<dra::Device>, String>)> {
        let request = dra::NodePrepareResourcesRequest { claims: messages(claims) };
        let mut client = self.0.clone();
        let answer = client.node_prepare_resources(request);
        let answer = timeout(DEADLINE, answer).await.unwrap();
        let claims = answer.unwrap().into_inner().claims.into_iter();
        claims
            .map(|(uid, answer)| match answer.error.as_str() {
                "" => (uid, Ok(answer.devices)),
                error => (uid, Err(error.to_owned())),
            })
            .collect()
    }

    pub(crate) async fn prepare_one(&self, name: &str, uid: &str) -> Result<Vec<dra::Device>, String> {
        let mut answers = self.prepare(&[(name, uid)]).await;
        assert_eq!(answers.len(), 1);
        let (answered, answer) = answers.remove(0);
        assert_eq!(answered, uid);
        answer
    }

    /// Asks again until somebody answers, as kubelets do: no process may serve at
    /// the moment, or the connection has just ended.
    pub(crate) async fn prepare_persistently(&self, name: &str, uid: &str) {
        let mut client = self.0.clone();
        let asking = async {
            loop {
                let request = dra::NodePrepareResourcesRequest { claims: messages(&[(name, uid)]) };
                match client.node_prepare_resources(request).await {
                    Ok(answer) => return answer.into_inner(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let answer = timeout(DEADLINE, asking).await.expect("nobody answers");
        assert_eq!(answer.claims[uid].error, "");
    }

    /// Prepares and unprepares one claim for ever, whatever comes of it.
    pub(crate) async fn annoy(mut self, name: &str, uid: &str) {
        loop {
            let claims = messages(&[(name, uid)]);
            let prepare = dra::NodePrepareResourcesRequest { claims: claims.clone() };
            let _ = self.0.node_prepare_resources(prepare).await;
            let _ = self.0.node_unprepare_resources(dra::NodeUnprepareResourcesRequest { claims }).await;
        }
    }

    pub(crate) async fn unprepare(&self, name: &str, uid: &str) -> String {
        let request = dra::NodeUnprepareResourcesRequest { claims: messages(&[(name, uid)]) };
        let mut client = self.0.clone();
        let answer = client.node_unprepare_resources(request);
        let answer = timeout(DEADLINE, answer).await.unwrap();
        answer.unwrap().into_inner().claims[uid].error.clone()
    }
}

fn messages(claims: &[(&str, &str)]) -> Vec<dra::Claim> {
    claims
        .iter()
        .map(|(name, uid)| dra::Claim { namespace: "ns".into(), name: (*name).into(), uid: (*uid).into() })
        .collect()
}
