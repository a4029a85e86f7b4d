//! Events tell the story of devices and machines, each step once.

use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use patchbay_api::USBDevice;
use patchbay_core::speed::Speed;
use patchbay_lab::events::{self, Told};

use crate::node::{Node, device};
use crate::players::{self, Awake};
use crate::program::Running;
use crate::stage::{Stage, eventually, is_gone};

/// Waits until exactly this was told of an object, in this order. A line that ends in `...` begins so.
fn tells(stage: &Stage, about: &str, wanted: &[&str]) {
    eventually(&format!("the Events of {about}"), || {
        let told: Vec<String> = all(stage)?.iter().filter(|t| t.about == about).map(ToString::to_string).collect();
        let fits = |(told, wanted): (&String, &&str)| match wanted.strip_suffix("...") {
            Some(begin) => told.starts_with(begin),
            None => told == wanted,
        };
        if told.len() == wanted.len() && told.iter().zip(wanted).all(fits) { Ok(()) } else { Err(format!("{told:#?}")) }
    });
}

/// What was told, but for the steps of an attachment: whether one takes so long that it is told is the machine's matter on
/// which the test runs.
fn all(stage: &Stage) -> Result<Vec<Told>, String> {
    let told = events::all(stage.client()).map_err(|error| format!("{error:#}"))?;
    let step = |told: &Told| told.reason == "Attaching" || told.note.starts_with("Requested by");
    Ok(told.into_iter().filter(|told| !step(told)).collect())
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn the_life_of_a_device_is_told_in_order_and_a_new_controller_tells_nothing_again() {
    let stage = Stage::open();
    let mut controller = Running::leader(&stage, "controller-1");
    let home = Node::join(&stage, "node-1");
    home.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.node_device_is("webcam", "Assigned", "Assigned");
    home.unplug("webcam");
    stage.node_device_is("webcam", "Ready", "NotFound");
    stage.device_is("blue", "webcam", "Ready", "NotFound");
    home.plug(device("webcam", 2, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.device_is("blue", "webcam", "Ready", "Ready");
    stage.assign("webcam", None);
    stage.node_device_is("webcam", "Assigned", "Available");
    eventually("the USBDevice to be gone", || is_gone(&stage.within::<USBDevice>("blue"), "webcam"));
    // The controller's last write: one that ends with the controller would count as refused.
    eventually("its template to be gone", || is_gone(&stage.within::<ResourceClaimTemplate>("blue"), "webcam"));

    let told = || {
        let life = [
            "Normal Ready x2: Device is ready to use",
            "Normal InProgress: the USBDevice in namespace blue is being created",
            "Normal Assigned: Namespace is assigned for the device",
            "Warning NotFound: Device is absent on the host: it was last plugged into node node-1",
            "Normal InProgress: waiting until the USBDevice in namespace blue is gone",
            "Normal Available: No namespace is assigned for the device: set spec.assignedNamespace",
        ];
        tells(&stage, "NodeUSBDevice/webcam", &life);
        let given = ["Normal Ready x2: Device is ready to use", "Warning NotFound: Device is absent on the host: ..."];
        tells(&stage, "blue/USBDevice/webcam", &given);
        let node = [
            "Warning USBDeviceNotFound: USB device webcam: Device is absent on the host: ...",
            "Normal USBDeviceReady: USB device webcam: Device is ready to use",
        ];
        tells(&stage, "Node/node-1", &node);
    };
    told();
    stage.check(&controller);
    controller.stop();

    let before = all(&stage).unwrap();
    let again = Running::leader(&stage, "controller-2");
    // What it tells of another device it would have told of this one before.
    home.plug(device("token", 3, Speed::High));
    tells(&stage, "NodeUSBDevice/token", &["Normal Ready: Device is ready to use"]);
    told();
    assert_eq!(all(&stage).unwrap().len(), before.len() + 1);
    stage.check(&again);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_machine_is_told_of_with_its_devices_and_what_they_lack() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(1);
    stage.namespace("blue");
    for (name, n) in [("webcam", 1), ("token", 2)] {
        home.plug(device(name, n, Speed::High));
        stage.node_device_is(name, "Ready", "Ready");
        stage.assign(name, Some("blue"));
        stage.node_device_is(name, "Assigned", "Assigned");
    }
    stage.awake(Awake { kubelets: false, ..players::ALL });
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    eventually("its node to be told", || {
        let message = stage.machine_is("blue", "linux-vm", "Running", "Starting").message;
        if message.starts_with("node node-2") { Ok(()) } else { Err(message) }
    });
    stage.awake(players::ALL);
    stage.is_attached("blue", "linux-vm", "webcam");
    stage.list("blue", "linux-vm", &["webcam", "token"]);
    stage.device_is("blue", "token", "Attached", "NoFreeUSBIPPort");
    stage.list("blue", "linux-vm", &["token"]);
    stage.is_attached("blue", "linux-vm", "token");
    home.unplug("token");
    stage.device_is("blue", "token", "Ready", "NotFound");
    stage.machine_is("blue", "linux-vm", "USBDevicesAttached", "NotFound");

    let free = "all 1 USB 2.0 USB/IP ports of node node-2 are in use: ...";
    let life = [
        "Normal Starting: its pod is being made and scheduled",
        "Normal Starting: node node-2 is starting it",
        "Normal Running: it runs on node node-2",
        "Normal AttachedToVirtualMachine: USB device webcam is attached on node node-2, guest bus 0 port ...",
        &format!("Warning NoFreeUSBIPPort: 1 of 2 USB devices are attached; token: {free}"),
        "Normal Available: USB device webcam is detached",
        "Normal AttachedToVirtualMachine: USB device token is attached on node node-2, guest bus 0 port ...",
        "Normal AllAttached: the USB device is attached",
        "Warning NotFound: 0 of 1 USB devices are attached; token: Device is absent on the host: ...",
    ];
    tells(&stage, "blue/VirtualMachine/linux-vm", &life);
    let webcam = [
        "Normal Ready: Device is ready to use",
        "Normal AttachedToVirtualMachine: Attached to virtual machine blue/linux-vm on node node-2, guest bus 0 port ...",
        "Normal Available: Device is available for attachment",
    ];
    tells(&stage, "blue/USBDevice/webcam", &webcam);
    let token = [
        "Normal Ready: Device is ready to use",
        &format!("Warning NoFreeUSBIPPort: {free}"),
        "Normal AttachedToVirtualMachine: Attached to virtual machine blue/linux-vm on node node-2, guest bus 0 port ...",
        "Warning NotFound: Device is absent on the host: ...",
        "Normal Available: Device is absent; it returns to virtual machine blue/linux-vm on node node-2 when ...",
    ];
    tells(&stage, "blue/USBDevice/token", &token);
    let importer = [&*format!(
        "Warning NoFreeUSBIPPort: virtual machine blue/linux-vm: 1 of 2 USB devices are attached; token: {free}"
    )];
    tells(&stage, "Node/node-2", &importer);
    stage.check(&controller);
}
