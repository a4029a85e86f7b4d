//! What the cluster has told: the snapshot that is judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::conditions::Seconds;
use crate::controller::World;
use crate::controller::world::PodTrouble;
use crate::names::{Namespace, NodeName, PodName};
use crate::trust::Validity;

/// What was asked; else why it could not be, as a sentence.
pub type Asked<T> = Result<T, String>;

/// All of it. `Default` is a cluster that was asked nothing.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The time of the snapshot.
    pub now: Seconds,
    /// Of Kubernetes.
    pub version: Asked<Version>,
    /// Resources of `resource.k8s.io/v1` that we need: whether the API server has them.
    pub resources: Asked<BTreeMap<String, bool>>,
    /// The definitions that belong to the installation; None where one is missing.
    pub definitions: Asked<BTreeMap<String, Option<Definition>>>,
    /// The version that they have to serve.
    pub api_version: String,
    /// The device classes that belong to the installation: whether they are there.
    pub classes: Asked<BTreeMap<String, bool>>,
    /// The policies that belong to the installation.
    pub policies: Asked<BTreeMap<String, Policy>>,
    /// The controller's Deployment.
    pub deployment: Asked<Option<Deployment>>,
    /// The lease for which controllers compete.
    pub lease: Asked<Option<Lease>>,
    /// The agents' DaemonSet.
    pub daemon_set: Asked<Option<DaemonSet>>,
    /// Pods of controllers.
    pub controllers: Asked<Vec<ProgramPod>>,
    /// Pods of agents.
    pub agents: Asked<Vec<ProgramPod>>,
    /// What the controller needs to do, and whether it may.
    pub controller_rights: Asked<Vec<Right>>,
    /// What the agents need to do, and whether they may.
    pub agent_rights: Asked<Vec<Right>>,
    /// What the commands of `kubectl usb` need to do, and whether whoever asks may.
    pub own_rights: Asked<Vec<Right>>,
    /// The nodes.
    pub hosts: Asked<BTreeMap<NodeName, Host>>,
    /// What nodes publish, as it was read.
    pub published: Asked<BTreeMap<NodeName, Published>>,
    /// Whether the claims of [`Seen::world`] could be read.
    pub claims: Asked<()>,
    /// Whether its attachment pods could be.
    pub attachments: Asked<()>,
    /// Whether its `NodeUSBDevice`s could be.
    pub devices: Asked<()>,
    /// Devices, ports, claims and attachments.
    pub world: World,
    /// What nodes with an agent that is ready have told of themselves.
    pub inside: BTreeMap<NodeName, Asked<Inside>>,
    /// What is being deleted.
    pub leaving: Vec<Leaving>,
    /// The last warning that Kubernetes has told of a pod that waits.
    pub warnings: BTreeMap<(Namespace, PodName), String>,
}

impl Default for Seen {
    fn default() -> Self {
        fn nothing<T>() -> Asked<T> {
            Err("nothing was asked".to_owned())
        }
        Self {
            now: 0,
            version: nothing(),
            resources: nothing(),
            definitions: nothing(),
            api_version: String::new(),
            classes: nothing(),
            policies: nothing(),
            deployment: nothing(),
            lease: nothing(),
            daemon_set: nothing(),
            controllers: nothing(),
            agents: nothing(),
            controller_rights: nothing(),
            agent_rights: nothing(),
            own_rights: nothing(),
            hosts: nothing(),
            published: nothing(),
            claims: nothing(),
            attachments: nothing(),
            devices: nothing(),
            world: World::default(),
            inside: BTreeMap::new(),
            leaving: Vec::new(),
            warnings: BTreeMap::new(),
        }
    }
}

/// A version of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// As the API server writes it.
    pub text: String,
}

/// A `CustomResourceDefinition`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// The API server has taken it up.
    pub established: bool,
    /// The versions it serves.
    pub served: Vec<String>,
    /// What Kubernetes says against it.
    pub trouble: Option<String>,
}

/// A `ValidatingAdmissionPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// It is there.
    pub exists: bool,
    /// Its bindings, and whether each denies what the policy does not allow.
    pub bindings: Vec<(String, bool)>,
}

/// A `Deployment`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    /// How many pods it shall have.
    pub wanted: u32,
    /// How many are available.
    pub available: u32,
    /// What Kubernetes says against it.
    pub trouble: Option<String>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who has it; empty when it was given back.
    pub holder: String,
    /// When that was said last.
    pub renewed: Seconds,
    /// How long it holds from then on, in seconds.
    pub lasts: Seconds,
}

/// A `DaemonSet`, as far as it says which nodes get a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonSet {
    /// The labels that nodes must have.
    pub selector: BTreeMap<String, String>,
    /// Whether it has a node affinity, too.
    pub affinity: bool,
    /// What its pods tolerate.
    pub tolerations: Vec<Toleration>,
}

/// What pods tolerate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// The key of the taint; None for all.
    pub key: Option<String>,
    /// The value of the taint; None for all.
    pub value: Option<String>,
    /// The effect of the taint; None for all.
    pub effect: Option<String>,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `NoExecute` or `PreferNoSchedule`.
    pub effect: String,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// It is ready.
    pub ready: bool,
    /// Since when it is so.
    pub since: Seconds,
    /// It shall get no new pods.
    pub cordoned: bool,
    /// What the node, or Kubernetes on its behalf, says of it.
    pub message: String,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address in the cluster (`InternalIP`), by which agents call each other.
    pub address: Option<String>,
}

/// What a node tells of itself: what `patchbay check` prints there, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// What its clock says.
    pub now: Seconds,
    /// Name and release of the kernel, like `Linux 6.1.0-37-amd64`.
    pub kernel: String,
    /// Modules that are needed and not there, and why they could not be loaded.
    pub missing: BTreeMap<String, String>,
    /// Why the kernel does not take over an encrypted connection; None where it does.
    pub encrypts: Option<String>,
    /// Why the kubelet does not reach the driver; None where it does.
    pub kubelet: Option<String>,
    /// When its certificate is valid, or why there is none that can be used.
    pub certificate: Asked<Validity>,
    /// The agents it was to call, itself among them: after how many microseconds each has answered, or why it has not.
    pub peers: BTreeMap<NodeName, Asked<u64>>,
}

/// A pod of a program of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramPod {
    /// Its name.
    pub name: PodName,
    /// Where it is; None before it was scheduled.
    pub node: Option<NodeName>,
    /// When it was created.
    pub created: Seconds,
    /// It is being deleted.
    pub deleting: bool,
    /// Since when it is ready; None when it is not.
    pub ready: Option<Seconds>,
    /// How often its container was started again.
    pub restarts: u32,
    /// How the container before the present one has ended.
    pub ended: Option<Ended>,
    /// What keeps it from running.
    pub trouble: Option<PodTrouble>,
}

/// How a container has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Seconds,
    /// The code.
    pub code: i32,
    /// The kernel has ended it, because it used more memory than it may.
    pub out_of_memory: bool,
    /// Its last words, or those of the kubelet.
    pub words: String,
}

/// Something that somebody needs to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What it is for, such as the command of `kubectl usb`.
    pub purpose: String,
    /// What is done, such as `patch pods/status`.
    pub what: String,
    /// It is allowed.
    pub allowed: bool,
}

/// What a node publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Of the pool of its devices.
    pub devices: PoolSeen,
    /// Of the pool of its ports.
    pub ports: PoolSeen,
}

/// The slices of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSeen {
    /// How many slices of the newest generation there are.
    pub slices: usize,
    /// How many there have to be.
    pub wanted: usize,
    /// When the oldest of them was created.
    pub since: Option<Seconds>,
    /// Entries that cannot be read.
    pub unreadable: usize,
}

/// Something of ours that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// `pod` or `resourceclaim`.
    pub kind: &'static str,
    /// Where.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: NodeName,
    /// When it had to be gone.
    pub since: Seconds,
}
