//! A control plane with Patchbay's manifests in it, and what people do there: the vocabulary of the tests.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use patchbay_api::device_status::{Condition, DeviceStatus};
use patchbay_api::virtual_machine::UsbDeviceStatus;
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine, keys};
use patchbay_lab::api::{self, request};
use patchbay_lab::helm::Helm;
use patchbay_lab::kubectl::Kubectl;
use patchbay_lab::manifests;
use patchbay_lab::object_node;
use patchbay_lab::parts::Parts;
use patchbay_lab::plane::{Options, Plane};
use patchbay_lab::wait::wait_for;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::audit::{self, Tail, Write};
use crate::players::{self, Agents, Awake};
use crate::program::Running;

/// For what happens by itself.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// The stage. Everything on it ends with it.
pub(crate) struct Stage {
    client: Client,
    awake: watch::Sender<Awake>,
    agents: Agents,
    plane: Plane,
    folder: Option<TempDir>,
}

impl Stage {
    /// A fresh control plane with our manifests; kubelets and agents are awake.
    pub(crate) fn open() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let plane = Plane::start(Options::alone(&parts().bin, folder.path()).unwrap()).unwrap();
        let kubectl = kubectl(&plane, folder.path());
        manifests::apply(&kubectl).unwrap();
        let client = api::connect(&plane.admin()).unwrap();
        let (awake, players) = watch::channel(players::ALL);
        let stage = Self { client, awake, agents: Agents::default(), plane, folder: Some(folder) };
        api::spawn(players::play(stage.client(), stage.agents.clone(), players));
        stage
    }

    /// Applies objects given as YAML.
    pub(crate) fn apply_yaml(&self, yaml: &str) {
        kubectl(&self.plane, self.folder()).apply_yaml(yaml).unwrap();
    }

    /// Helm with the administrator's identity.
    pub(crate) fn helm(&self) -> Helm {
        Helm { program: parts().bin.join("helm"), kubeconfig: self.admin(), log: self.logs().join("helm.log") }
    }

    /// The parts of the lab.
    pub(crate) fn parts(&self) -> &'static Parts {
        parts()
    }

    /// The administrator's client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The control plane, for faults.
    pub(crate) fn plane(&mut self) -> &mut Plane {
        &mut self.plane
    }

    /// The port of the API server.
    pub(crate) fn port(&self) -> u16 {
        self.plane.port()
    }

    /// A folder that goes with the stage.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it is there until the stage is dropped").path()
    }

    /// The folder of all logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// The administrator's kubeconfig.
    pub(crate) fn admin(&self) -> PathBuf {
        self.plane.admin()
    }

    /// A kubeconfig of one of our service accounts, with a token that belongs to no pod.
    pub(crate) fn account(&self, name: &str) -> PathBuf {
        let path = self.folder().join(format!("{name}.kubeconfig"));
        if !path.exists() {
            std::fs::write(&path, self.plane.account("patchbay", name).unwrap()).unwrap();
        }
        path
    }

    /// A kubeconfig with the token that the kubelet of a node mounts into the pod of the agent there.
    pub(crate) fn agent_of(&self, node: &str) -> PathBuf {
        self.account_on("agent", node)
    }

    /// The same of another of our service accounts.
    pub(crate) fn account_on(&self, account: &str, node: &str) -> PathBuf {
        let path = self.folder().join(format!("{account}-{node}.kubeconfig"));
        if !path.exists() {
            let kubeconfig = object_node::account_on(&self.plane, self.client(), account, node).unwrap();
            std::fs::write(&path, kubeconfig).unwrap();
        }
        path
    }

    /// The client of the agent of a node, who from now on also answers for the attachments there.
    pub(crate) fn hire(&self, node: &str) -> Client {
        let client = api::connect(&self.agent_of(node)).unwrap();
        self.agents.hire(node, client.clone());
        client
    }

    /// A person, known by a certificate.
    pub(crate) fn person(&self, name: &str) -> Client {
        let path = self.folder().join(format!("person-{name}.kubeconfig"));
        std::fs::write(&path, self.plane.sign_client(name, None).unwrap()).unwrap();
        api::connect(&path).unwrap()
    }

    /// The administrator, acting as one of the cluster's own accounts.
    pub(crate) fn acting_as(&self, account: &str) -> Client {
        api::connect_as(&self.plane.admin(), Some(account)).unwrap()
    }

    /// Who of the players is awake from now on.
    pub(crate) fn awake(&self, awake: Awake) {
        self.awake.send_replace(awake);
    }

    /// The writes of one of our accounts, leases and Events left out.
    pub(crate) fn writes(&self, account: &str) -> Vec<Write> {
        audit::read(&self.plane.audit_log()).into_iter().filter(|write| write.is_of(account)).collect()
    }

    /// The API server's audit log.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.plane.audit_log()
    }

    /// The writes from now on, as they come.
    pub(crate) fn tail(&self) -> Tail {
        Tail::new(&self.plane.audit_log())
    }

    /// How often the lease of the controllers was written.
    pub(crate) fn renewals(&self) -> usize {
        let lease = |write: &&Write| write.object == "patchbay/patchbay-controller" && write.what.ends_with(" leases");
        audit::read(&self.plane.audit_log()).iter().filter(lease).count()
    }

    /// Checks that the controller has nothing to complain of, and that nothing it did was refused.
    pub(crate) fn check(&self, controller: &Running) {
        assert_eq!(controller.complaints(), Vec::<String>::new());
        let refused: Vec<_> = self.writes("controller").into_iter().filter(Write::is_refused).collect();
        assert_eq!(refused, [], "refused");
    }

    /// All objects of a kind.
    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client())
    }

    /// The objects of a kind in a namespace.
    pub(crate) fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), namespace)
    }

    /// Makes a namespace, and waits until pods can be made in it.
    pub(crate) fn namespace(&self, name: &str) {
        let namespace = serde_json::from_value::<Namespace>(json!({"metadata": {"name": name}})).unwrap();
        create(&self.all(), &namespace);
        let accounts: Api<ServiceAccount> = self.within(name);
        eventually("the account of the namespace", || get(&accounts, "default").map(drop));
    }

    /// An administrator gives a device to a namespace, or to none.
    pub(crate) fn assign(&self, device: &str, namespace: Option<&str>) {
        merge(&self.all::<NodeUSBDevice>(), device, json!({"spec": {"assignedNamespace": namespace}}));
    }

    /// Somebody makes a virtual machine.
    pub(crate) fn machine(&self, namespace: &str, name: &str, node: &str, devices: &[&str]) {
        let machine: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": keys::API_VERSION, "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"image": "none", "nodeSelector": {"kubernetes.io/hostname": node}, "usbDevices": names(devices)},
        }))
        .unwrap();
        create(&self.within(namespace), &machine);
    }

    /// Its owner changes its list of devices.
    pub(crate) fn list(&self, namespace: &str, machine: &str, devices: &[&str]) {
        merge(&self.within::<VirtualMachine>(namespace), machine, json!({"spec": {"usbDevices": names(devices)}}));
    }

    /// Waits until a `NodeUSBDevice` has a condition with this reason.
    pub(crate) fn node_device_is(&self, name: &str, kind: &str, reason: &str) -> Condition {
        let objects: Api<NodeUSBDevice> = self.all();
        eventually(&format!("NodeUSBDevice {name} to have {kind} with reason {reason}"), || {
            find(conditions(get(&objects, name)?.status), kind, reason)
        })
    }

    /// Waits until a `USBDevice` has a condition with this reason.
    pub(crate) fn device_is(&self, namespace: &str, name: &str, kind: &str, reason: &str) -> Condition {
        let objects: Api<USBDevice> = self.within(namespace);
        eventually(&format!("USBDevice {namespace}/{name} to have {kind} with reason {reason}"), || {
            find(conditions(get(&objects, name)?.status), kind, reason)
        })
    }

    /// Waits until both objects of a device say that it is in a virtual machine, and the machine says so, too.
    pub(crate) fn is_attached(&self, namespace: &str, machine: &str, device: &str) {
        let subject = format!("virtual machine {namespace}/{machine} on node");
        eventually(&format!("both objects of {device} to be attached to {subject}"), || {
            let of_namespace = get(&self.within::<USBDevice>(namespace), device)?.status;
            for status in [of_namespace, get(&self.all::<NodeUSBDevice>(), device)?.status] {
                let message = find(conditions(status), "Attached", "AttachedToVirtualMachine")?.message;
                if !message.contains(&subject) || !message.contains("guest bus 0 port") {
                    return Err(message);
                }
            }
            Ok(())
        });
        let entry = self.entry(namespace, machine, device, |e| e.attached);
        assert!(entry.ready && entry.address.is_some(), "{entry:?}");
    }

    /// Checks that a device whose node is not ready is in its machine all the same.
    pub(crate) fn is_attached_though_not_ready(&self, namespace: &str, machine: &str, device: &str) {
        self.device_is(namespace, device, "Attached", "AttachedToVirtualMachine");
        self.entry(namespace, machine, device, |e| e.attached && !e.ready);
    }

    /// How many slices the controller has deleted so far.
    pub(crate) fn deletions(&self) -> usize {
        self.writes("controller").iter().filter(|write| write.what == "delete resourceslices").count()
    }

    /// Waits until the controller has written nothing for a second.
    pub(crate) fn rest(&self) {
        let (mut writes, mut since) = (0, Instant::now());
        eventually("the controller to come to rest", || {
            let now = self.writes("controller").len();
            if now != writes {
                (writes, since) = (now, Instant::now());
            }
            if since.elapsed() >= Duration::from_secs(1) { Ok(()) } else { Err(format!("{writes} writes")) }
        })
    }

    /// Lets some time pass, in which something must not happen.
    pub(crate) fn passes(&self, time: Duration) {
        let begin = Instant::now();
        let over = || if begin.elapsed() >= time { Ok(()) } else { Err("not yet".to_owned()) };
        wait_for("time to pass", time * 2, over).unwrap();
    }

    /// Waits until what a machine's status says of a device is as it should be.
    pub(crate) fn entry(
        &self,
        namespace: &str,
        machine: &str,
        device: &str,
        good: impl Fn(&UsbDeviceStatus) -> bool,
    ) -> UsbDeviceStatus {
        eventually(&format!("the status of {namespace}/{machine} to be right about {device}"), || {
            let entries = self.entries(namespace, machine)?;
            let found = entries.iter().find(|e| e.name == device);
            found.filter(|e| good(e)).cloned().ok_or_else(|| format!("{entries:?}"))
        })
    }

    /// What a machine's status says of its devices.
    pub(crate) fn entries(&self, namespace: &str, machine: &str) -> Result<Vec<UsbDeviceStatus>, String> {
        let status = get(&self.within::<VirtualMachine>(namespace), machine)?.status;
        Ok(status.and_then(|status| status.usb_devices).unwrap_or_default())
    }

    /// Waits until a `VirtualMachine` has a condition with this reason.
    pub(crate) fn machine_is(&self, namespace: &str, name: &str, kind: &str, reason: &str) -> Condition {
        let objects: Api<VirtualMachine> = self.within(namespace);
        eventually(&format!("VirtualMachine {namespace}/{name} to have {kind} with reason {reason}"), || {
            let status = get(&objects, name)?.status;
            find(status.and_then(|status| status.conditions), kind, reason)
        })
    }

    /// The attachment pods of a namespace.
    pub(crate) fn attachments(&self, namespace: &str) -> Result<Vec<Pod>, String> {
        list(&self.within(namespace), &ListParams::default().labels(keys::ATTACHMENT))
    }

    /// Waits until no attachment pod and no claim is left in a namespace.
    pub(crate) fn nothing_is_attached(&self, namespace: &str) {
        let claims: Api<ResourceClaim> = self.within(namespace);
        eventually(&format!("nothing to be left of attachments in {namespace}"), || {
            let pods = self.attachments(namespace)?.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
            let claims = list(&claims, &ListParams::default())?.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
            if pods.is_empty() && claims.is_empty() { Ok(()) } else { Err(format!("{pods:?} {claims:?}")) }
        });
    }

    /// The slices of a pool.
    pub(crate) fn slices(&self, pool: &str) -> Result<Vec<ResourceSlice>, String> {
        let slices = list(&self.all::<ResourceSlice>(), &ListParams::default())?;
        Ok(slices.into_iter().filter(|slice| slice.spec.pool.name == pool).collect())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.plane.stop();
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let _ = std::fs::remove_dir_all(folder.path().join("etcd"));
            eprintln!("the logs are in {}", folder.keep().join("logs").display());
        }
    }
}

fn kubectl(plane: &Plane, folder: &Path) -> Kubectl {
    Kubectl { program: parts().bin.join("kubectl"), kubeconfig: plane.admin(), log: folder.join("logs/kubectl.log") }
}

fn parts() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(|| Parts::told().unwrap())
}

/// Waits until a look succeeds.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    wait_for(what, SOON, look).unwrap()
}

/// Reads an object.
pub(crate) fn get<K>(api: &Api<K>, name: &str) -> Result<K, String>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    request("read it", api.get(name)).map_err(|error| format!("{name}: {error:#}"))
}

/// Whether there is no object of this name.
pub(crate) fn is_gone<K>(api: &Api<K>, name: &str) -> Result<(), String>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    match request("read it", api.get_opt(name)).map_err(|error| format!("{error:#}"))? {
        None => Ok(()),
        Some(there) => Err(format!("{:?}", there.meta())),
    }
}

/// Lists objects.
pub(crate) fn list<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, String>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    Ok(request("list them", api.list(params)).map_err(|error| format!("{error:#}"))?.items)
}

/// Makes an object.
pub(crate) fn create<K>(api: &Api<K>, object: &K)
where
    K: Resource + Clone + DeserializeOwned + serde::Serialize + Debug,
{
    request("make it", api.create(&PostParams::default(), object)).unwrap();
}

/// Changes some fields of an object.
pub(crate) fn merge<K>(api: &Api<K>, name: &str, patch: Value)
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    request("change it", api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).unwrap();
}

/// Deletes an object.
pub(crate) fn delete<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    request("delete it", api.delete(name, &DeleteParams::default())).unwrap();
}

fn names(devices: &[&str]) -> Vec<Value> {
    devices.iter().map(|name| json!({"name": name})).collect()
}

fn conditions(status: Option<DeviceStatus>) -> Option<Vec<Condition>> {
    status.and_then(|status| status.conditions)
}

fn find(conditions: Option<Vec<Condition>>, kind: &str, reason: &str) -> Result<Condition, String> {
    let conditions = conditions.unwrap_or_default();
    let found = conditions.iter().find(|c| c.type_ == kind && c.reason == reason);
    found.cloned().ok_or_else(|| format!("{conditions:?}"))
}
