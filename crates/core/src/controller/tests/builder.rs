//! Worlds in a few words, and a stand-in for the shell and for everybody else.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::conditions::{Condition, GuestPort, PluggedState, Seconds};
use crate::controller::action::Action;
use crate::controller::world::{
    Allocated, Attachment, Claim, DeviceStatus, Moving, Node, NodeDevice, Operation, OperationKind, Placement,
    PodClaim, PodState, Pool, RunPolicy, Template, UsbDevice, Vm, VmPod, Want, World,
};
use crate::controller::{Plan, Planner, claim_name, plan, pod_name};
use crate::device::{Attributes, BusAddress, Device, HexId};
use crate::names::{DeviceName, Namespace, NodeName, PodName, Uid, VmName};
use crate::speed::Speed;

/// The time at which every world begins.
pub(super) const START: i64 = 1_000;

/// A world under construction, and then in motion.
#[derive(Clone)]
pub(super) struct Builder {
    pub(super) world: World,
    /// Everything that was done, in order.
    pub(super) done: Vec<Action>,
    uids: u32,
    /// It sees each world that a plan is made for, one after the other.
    planner: RefCell<Planner>,
}

/// Two namespaces, `blue` and `green`, and nothing else.
pub(super) fn world() -> Builder {
    let namespaces = [("blue".into(), false), ("green".into(), false)].into();
    let world = World { now: START, namespaces, ..World::default() };
    Builder { world, done: Vec::new(), uids: 0, planner: RefCell::default() }
}

impl Builder {
    /// A node that is ready, with one port for each half.
    pub(super) fn node(mut self, name: &str) -> Self {
        let ports = vec!["usb2-0".parse().unwrap(), "usb3-0".parse().unwrap()];
        let slices = ["devices", "ports"].map(|p| (format!("{name}-{p}"), 0)).into();
        let pool = Pool { ports, slices, ..Pool::default() };
        self.world.nodes.insert(name.into(), Node { ready: true, since: 0, cordoned: false });
        self.world.pools.insert(name.into(), pool);
        self
    }

    /// A high-speed device, plugged into a node.
    pub(super) fn device(mut self, name: &str, node: &str) -> Self {
        self.plug(name, node);
        self
    }

    /// The device is given to a namespace; everything that follows from that has happened.
    pub(super) fn assigned(mut self, name: &str, namespace: &str) -> Self {
        self.settle();
        self.assign(name, Some(namespace));
        self.settle();
        self
    }

    /// A machine that runs on a node and lists devices.
    pub(super) fn vm(mut self, namespace: &str, name: &str, node: &str, devices: &[&str]) -> Self {
        let uid = self.uid(name);
        let vm = Vm {
            uid: uid.clone(),
            generation: 1,
            deleting: false,
            policy: RunPolicy::AlwaysOnUnlessStoppedManually,
            usb_devices: devices.iter().map(|d| (*d).into()).collect(),
            status: Default::default(),
        };
        let pod = VmPod {
            uid: self.uid(name),
            vm: name.into(),
            vm_uid: uid,
            node: Some(node.into()),
            deleting: false,
            state: PodState::Running,
            trouble: None,
            moving: Default::default(),
        };
        self.world.vms.insert((namespace.into(), name.into()), vm);
        self.world.budgets.insert((namespace.into(), name.into()));
        self.world.vm_pods.insert((namespace.into(), pod_name(&name.into())), pod);
        self
    }

    /// Somebody asks for an operation.
    pub(super) fn operation(&mut self, name: &str, kind: OperationKind, vm: &str) {
        let operation = Operation {
            uid: self.uid(name),
            created: self.world.now,
            generation: 1,
            deleting: false,
            held: false,
            kind,
            vm: vm.into(),
            status: Default::default(),
        };
        self.world.operations.insert(("blue".into(), name.into()), operation);
    }

    /// Everything has happened that the world leads to, devices in their guests included.
    pub(super) fn settled(mut self) -> Self {
        self.settle();
        while self.plug_in() {
            self.settle();
        }
        self.done.clear();
        self
    }

    fn uid(&mut self, name: &str) -> Uid {
        self.uids += 1;
        Uid::new(format!("{name}-{}", self.uids))
    }

    pub(super) fn plug(&mut self, name: &str, node: &str) {
        let attributes = Attributes {
            vendor_id: HexId(0x0951),
            product_id: HexId(0x1666),
            bcd: HexId(0x0100),
            address: BusAddress { bus: 1, device: 2 },
            serial: Some(format!("4C53-{name}")),
            manufacturer: Some("Kingston".to_owned()),
            product: Some("DataTraveler".to_owned()),
            name: "DataTraveler".to_owned(),
            speed: Speed::High,
            port_path: "1-1".parse().unwrap(),
            class: 0,
        };
        let device = Device { name: name.into(), attributes, not_ready: None };
        self.world.pools.get_mut(&NodeName::new(node)).unwrap().devices.push(device);
    }

    pub(super) fn unplug(&mut self, name: &str) {
        for pool in self.world.pools.values_mut() {
            pool.devices.retain(|d| d.name.as_str() != name);
        }
    }

    /// Somebody deletes all that a node's agent has published.
    pub(super) fn silence(&mut self, node: &str) {
        self.world.pools.remove(&NodeName::new(node));
    }

    pub(super) fn assign(&mut self, name: &str, namespace: Option<&str>) {
        let object = self.world.node_devices.get_mut(&DeviceName::new(name)).unwrap();
        object.assigned = namespace.map(Namespace::new);
        object.generation += 1;
    }

    pub(super) fn vm_mut(&mut self, namespace: &str, name: &str) -> &mut Vm {
        self.world.vms.get_mut(&(namespace.into(), name.into())).unwrap()
    }

    /// Replaces a machine's list.
    pub(super) fn list(&mut self, namespace: &str, name: &str, devices: &[&str]) {
        let vm = self.vm_mut(namespace, name);
        vm.usb_devices = devices.iter().map(|d| (*d).into()).collect();
        vm.generation += 1;
    }

    /// The plan; that for what has changed since the last one says the same.
    pub(super) fn plan(&self) -> Plan {
        let whole = plan(&self.world);
        let mut planner = self.planner.borrow_mut();
        planner.follow(&self.world);
        assert_eq!(*planner.world(), World { now: planner.world().now, ..self.world.clone() });
        let parts = planner.plan(self.world.now);
        let sorted = |plan: &Plan| {
            let mut all = briefs(&plan.actions);
            all.sort();
            all
        };
        assert_eq!(sorted(&parts), sorted(&whole));
        let wake = |plan: &Plan| plan.wake_at.unwrap_or(Seconds::MAX);
        assert!(wake(&parts) <= wake(&whole), "{:?} instead of {:?}", parts.wake_at, whole.wake_at);
        whole
    }

    /// Carries out one plan.
    pub(super) fn act(&mut self) -> Vec<Action> {
        let actions = self.plan().actions;
        for action in &actions {
            self.perform(action.clone());
        }
        self.done.extend(actions.clone());
        actions
    }

    /// Carries out plans until there is nothing left to do.
    pub(super) fn settle(&mut self) -> Vec<Action> {
        let before = self.done.len();
        for _ in 0..20 {
            if self.act().is_empty() {
                return self.done.split_off(before);
            }
        }
        panic!("no rest: {:?}", self.done);
    }

    /// The agents: every attachment that has begun is in its guest now. False when there was none.
    pub(super) fn plug_in(&mut self) -> bool {
        let mut any = false;
        let begun = |a: &&mut Attachment| a.want == Want::Plugged && a.plugged.is_none() && !a.is_unschedulable();
        for pod in self.world.attachments.values_mut().filter(begun) {
            pod.plugged = Some(PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }));
            pod.placement = Placement::Placed(self.world.now);
            any = true;
        }
        any
    }

    /// An ordinary pod makes a claim from a device's template.
    pub(super) fn pod_claim(&mut self, namespace: &str, pod: &str, device: &str) -> Uid {
        let uid = self.uid(pod);
        let claim = PodClaim {
            uid: uid.clone(),
            created: self.world.now,
            made_for: Some(device.into()),
            pods: vec![pod.into()],
            allocated: None,
            told: None,
        };
        self.world.pod_claims.insert((namespace.into(), format!("{pod}-claim").as_str().into()), claim);
        uid
    }

    /// The scheduler allocates a device, and a port or the home node's token, to the claim of a pod.
    pub(super) fn allocate(
        &mut self,
        namespace: &str,
        pod: &str,
        device: (&str, &str),
        node: &str,
        port: Option<&str>,
    ) {
        let key = (namespace.into(), format!("{pod}-claim").as_str().into());
        self.world.pod_claims.get_mut(&key).unwrap().allocated = Some(Allocated {
            home: device.0.into(),
            device: device.1.into(),
            node: Some(node.into()),
            port: port.map(|p| p.parse().unwrap()),
        });
    }

    /// The agents and kubelets: everything that is being deleted is gone now.
    pub(super) fn sweep(&mut self) {
        self.world.attachments.retain(|_, a| !a.deleting);
        self.world.claims.retain(|_, c| !c.deleting);
        self.world.vm_pods.retain(|_, p| !p.deleting);
    }

    pub(super) fn attachment(&mut self) -> &mut Attachment {
        self.world.attachments.values_mut().next().unwrap()
    }

    /// The attachments that are made for a node.
    pub(super) fn attachments_on(&mut self, node: &str) -> Vec<&mut Attachment> {
        self.world.attachments.values_mut().filter(|a| a.node.as_str() == node).collect()
    }

    /// Carries out one action.
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::CreateNodeDevice { name, status } => {
                let uid = self.uid(name.as_str());
                let object = NodeDevice { uid, generation: 1, deleting: false, assigned: None, status };
                self.world.node_devices.insert(name, object);
            }
            Action::PublishNodeDevice { name, status } => {
                self.world.node_devices.get_mut(&name).unwrap().status = status
            }
            Action::ForgetNodeDevice { name, .. } => drop(self.world.node_devices.remove(&name)),
            Action::CreateDevice { namespace, name, status, .. } => {
                let object = UsbDevice { uid: self.uid(name.as_str()), generation: 1, deleting: false, status };
                self.world.devices.insert((namespace, name), object);
            }
            Action::PublishDevice { namespace, name, status } => {
                self.world.devices.get_mut(&(namespace, name)).unwrap().status = status;
            }
            Action::DeleteDevice { namespace, name, .. } => drop(self.world.devices.remove(&(namespace, name))),
            Action::CreateClaim { namespace, name, device, node, .. } => {
                let claim = Claim { uid: self.uid(name.as_str()), deleting: false, device, node };
                self.world.claims.insert((namespace, name), claim);
            }
            Action::DeleteClaim { namespace, name, .. } => drop(self.world.claims.remove(&(namespace, name))),
            Action::CreatePortTemplate { namespace, hub } => drop(self.world.port_templates.insert((namespace, hub))),
            Action::CreateTemplate { namespace, device, content, .. } => {
                let template = Template { uid: self.uid(device.as_str()), deleting: false, content };
                self.world.templates.insert((namespace, device), template);
            }
            Action::DeleteTemplate { namespace, device, .. } => {
                drop(self.world.templates.remove(&(namespace, device)));
            }
            Action::PublishClaim { namespace, claim, report, .. } => {
                self.world.pod_claims.get_mut(&(namespace, claim)).unwrap().told = Some(report);
            }
            Action::CreateAttachment(new) => {
                let (uid, key) = (self.uid(new.name.as_str()), (new.vm_pod.namespace.clone(), new.name.clone()));
                self.world.attachments.insert(key, new.made(uid, self.world.now));
            }
            Action::DeleteAttachment { namespace, name, .. } => {
                self.world.attachments.get_mut(&(namespace, name)).unwrap().deleting = true;
            }
            Action::CreateVmPod { namespace, vm, pod } => {
                let (uid, vm_uid) =
                    (self.uid(pod.as_str()), self.world.vms[&(namespace.clone(), vm.clone())].uid.clone());
                self.world.vm_pods.insert((namespace, pod), pending(uid, vm, vm_uid, Moving::default()));
            }
            Action::CreateTargetPod { namespace, vm, pod, source_uid, .. } => {
                let (uid, vm_uid) =
                    (self.uid(pod.as_str()), self.world.vms[&(namespace.clone(), vm.clone())].uid.clone());
                let moving = Moving { from: Some(source_uid), ..Moving::default() };
                self.world.vm_pods.insert((namespace, pod), pending(uid, vm, vm_uid, moving));
            }
            Action::AskToMove { namespace, name, to, .. } => {
                let moving = &mut self.world.vm_pods.get_mut(&(namespace, name)).unwrap().moving;
                (moving.to, moving.decision, moving.report) = (Some(to), None, None);
            }
            Action::Decide { namespace, name, target, decision, .. } => {
                let moving = &mut self.world.vm_pods.get_mut(&(namespace, name)).unwrap().moving;
                assert_eq!(moving.to.as_ref().map(|to| &to.uid), Some(&target), "it is to move elsewhere");
                assert_eq!(moving.decision, None, "it is decided already");
                moving.decision = Some(decision);
            }
            Action::MarkArrived { namespace, name, .. } => {
                self.world.vm_pods.get_mut(&(namespace, name)).unwrap().moving.arrived = true;
            }
            Action::Plug { namespace, name, .. } => {
                self.world.attachments.get_mut(&(namespace, name)).unwrap().want = Want::Plugged;
            }
            Action::Remind { namespace, name, times, .. } => {
                self.world.attachments.get_mut(&(namespace, name)).unwrap().reminders = times;
            }
            Action::CreateBudget { namespace, vm } => drop(self.world.budgets.insert((namespace, vm))),
            Action::CreateOperation { namespace, name, kind, vm, .. } => {
                assert_eq!(namespace.as_str(), "blue");
                self.operation(name.as_str(), kind, vm.as_str());
            }
            Action::HoldOperation { namespace, name, .. } => {
                self.world.operations.get_mut(&(namespace, name)).unwrap().held = true;
            }
            Action::ReleaseOperation { namespace, name, .. } => {
                let key = (namespace, name);
                self.world.operations.get_mut(&key).unwrap().held = false;
                self.world.operations.retain(|k, o| *k != key || !o.deleting);
            }
            Action::DeleteVmPod { namespace, name, .. } => {
                self.world.vm_pods.get_mut(&(namespace, name)).unwrap().deleting = true;
            }
            Action::PublishVm { namespace, name, status } => {
                self.world.vms.get_mut(&(namespace, name)).unwrap().status = status;
            }
            Action::PublishOperation { namespace, name, status } => {
                self.world.operations.get_mut(&(namespace, name)).unwrap().status = status;
            }
            Action::DeleteSlice { name } => {
                for pool in self.world.pools.values_mut() {
                    pool.slices.remove(&name);
                }
                self.world.pools.retain(|_, pool| !pool.slices.is_empty());
            }
        }
    }

    /// What the `NodeUSBDevice` says, one condition a line.
    pub(super) fn node_device(&self, name: &str) -> String {
        text(&self.world.node_devices[&DeviceName::new(name)].status)
    }

    /// What the `USBDevice` says.
    pub(super) fn usb_device(&self, namespace: &str, name: &str) -> String {
        text(&self.world.devices[&(namespace.into(), name.into())].status)
    }

    /// What the machine says of its devices, one a line.
    pub(super) fn machine(&self, namespace: &str, name: &str) -> String {
        let vm: &Vm = &self.world.vms[&(Namespace::new(namespace), VmName::new(name))];
        let line = |u: &crate::controller::world::VmUsbStatus| {
            format!("{} attached={} ready={}: {}", u.name, u.attached, u.ready, u.message)
        };
        vm.status.usb_devices.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// What the machine says of itself, one condition a line.
    pub(super) fn machine_conditions(&self, namespace: &str, name: &str) -> String {
        lines(&self.world.vms[&(Namespace::new(namespace), VmName::new(name))].status.conditions)
    }

    /// What an operation says: its phase, and the condition `Completed`.
    pub(super) fn told(&self, operation: &str) -> String {
        let status = &self.world.operations[&("blue".into(), operation.into())].status;
        format!("{} {}", status.phase.map_or("(none)", |p| p.as_str()), lines(&status.conditions))
    }

    /// The uid of a machine's pod, for the names that follow from it.
    pub(super) fn pod_of(&self, namespace: &str, vm: &str) -> &VmPod {
        &self.world.vm_pods[&(Namespace::new(namespace), pod_name(&VmName::new(vm)))]
    }

    pub(super) fn claims(&self) -> BTreeMap<String, String> {
        self.world.claims.iter().map(|((ns, name), c)| (format!("{ns}/{name}"), c.node.to_string())).collect()
    }
}

/// The conditions of a device as `kubectl` would show them.
pub(super) fn text(status: &DeviceStatus) -> String {
    lines(&status.conditions)
}

fn lines(conditions: &[Condition]) -> String {
    let lines = conditions.iter().map(|c| {
        let truth = if c.reason.is_true() { "True" } else { "False" };
        format!("{}={truth}/{}: {}", c.kind.as_str(), c.reason.as_str(), c.message)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A pod that was just made.
fn pending(uid: Uid, vm: VmName, vm_uid: Uid, moving: Moving) -> VmPod {
    VmPod { uid, vm, vm_uid, node: None, deleting: false, state: PodState::Pending, trouble: None, moving }
}

/// An action's kind and subject.
pub(super) fn brief(action: &Action) -> String {
    match action {
        Action::CreateNodeDevice { name, .. } => format!("create nusb {name}"),
        Action::PublishNodeDevice { name, .. } => format!("publish nusb {name}"),
        Action::ForgetNodeDevice { name, .. } => format!("forget nusb {name}"),
        Action::CreateDevice { namespace, name, .. } => format!("create usb {namespace}/{name}"),
        Action::PublishDevice { namespace, name, .. } => format!("publish usb {namespace}/{name}"),
        Action::DeleteDevice { namespace, name, .. } => format!("delete usb {namespace}/{name}"),
        Action::CreateClaim { namespace, name, node, .. } => format!("create claim {namespace}/{name} of {node}"),
        Action::DeleteClaim { namespace, name, .. } => format!("delete claim {namespace}/{name}"),
        Action::CreatePortTemplate { namespace, hub } => format!("create template {namespace}/{hub}"),
        Action::CreateTemplate { namespace, device, content, .. } => {
            format!("create device template {namespace}/{device} of {} {}", content.node, content.hub)
        }
        Action::DeleteTemplate { namespace, device, .. } => format!("delete device template {namespace}/{device}"),
        Action::PublishClaim { namespace, claim, report, .. } => {
            format!("publish claim {namespace}/{claim} attached={}: {}", report.attached, report.message)
        }
        Action::CreateAttachment(new) => {
            let port = new.hub.map(|h| format!(" with a {h} port")).unwrap_or_default();
            let what = if new.want == Want::Reserved { "reservation" } else { "attachment" };
            format!("create {what} of {} to {} on {}{port}", new.device, new.vm, new.node)
        }
        Action::DeleteAttachment { .. } => "delete attachment".to_owned(),
        Action::CreateVmPod { pod, .. } => format!("create pod {pod}"),
        Action::DeleteVmPod { name, .. } => format!("delete pod {name}"),
        Action::PublishVm { namespace, name, .. } => format!("publish vm {namespace}/{name}"),
        Action::CreateTargetPod { pod, source, .. } => format!("create target pod {pod} for {source}"),
        Action::AskToMove { name, to, .. } => format!("ask {name} to move to {}", to.name),
        Action::Decide { name, decision, .. } => format!("decide {name}: {}", decision.as_str()),
        Action::MarkArrived { name, .. } => format!("mark {name} arrived"),
        Action::Plug { .. } => "plug attachment".to_owned(),
        Action::Remind { times, .. } => format!("remind the kubelet of an attachment, {times}"),
        Action::CreateBudget { vm, .. } => format!("create budget of {vm}"),
        Action::CreateOperation { name, kind, .. } => format!("create operation {name} {}", kind.as_str()),
        Action::HoldOperation { name, .. } => format!("hold operation {name}"),
        Action::ReleaseOperation { name, .. } => format!("release operation {name}"),
        Action::PublishOperation { name, .. } => format!("publish operation {name}"),
        Action::DeleteSlice { name } => format!("delete slice {name}"),
    }
}

/// All of them, one a line.
pub(super) fn briefs(actions: &[Action]) -> Vec<String> {
    actions.iter().map(brief).collect()
}

/// The key of a device's claim.
pub(super) fn claim_key(namespace: &str, device: &str) -> (Namespace, crate::names::ClaimName) {
    (namespace.into(), claim_name(&device.into()))
}

/// The name of a machine's pod.
pub(super) fn vm_pod(vm: &str) -> PodName {
    pod_name(&vm.into())
}
