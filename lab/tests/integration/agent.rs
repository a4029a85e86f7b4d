//! The agent as a program, on a node that is a folder: no modules, no uevents, and a kubelet that only has folders.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use patchbay_api::NodeUSBDevice;
use patchbay_core::DRIVER;
use patchbay_lab::process::free_port;
use patchbay_usb::fixture::Fixture;

use crate::node::Node;
use crate::program::Running;
use crate::stage::{SOON, Stage, eventually, get};

/// Starts the agent of node-1.
pub(crate) fn start(stage: &Stage, fixture: &Fixture) -> Running {
    start_with(stage, fixture, free_port().unwrap(), &[])
}

/// The same, with the port on which other agents call it, and more options.
pub(crate) fn start_with(stage: &Stage, fixture: &Fixture, port: u16, more: &[&str]) -> Running {
    let path = |name: &str| stage.folder().join(name).display().to_string();
    let arguments = [
        "agent".to_owned(),
        "--node=node-1".to_owned(),
        format!("--root={}", fixture.root().path("").display()),
        format!("--kubelet={}", path("kubelet")),
        format!("--cdi={}", path("cdi")),
        format!("--state={}", path("state")),
        "--namespace=patchbay".to_owned(),
        format!("--port={port}"),
        format!("--health-port={}", free_port().unwrap()),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Running::agent(stage, "node-1", &arguments)
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_agent_without_modules_says_so_publishes_what_is_there_and_ends_in_order() {
    let stage = Stage::open();
    // Only the object: the agent is a real one here.
    let _node = Node::silent(&stage, "node-1");
    let fixture = Fixture::new();
    let mut agent = start(&stage, &fixture);
    agent.says("agent runs", SOON);
    for module in ["usbip-host", "vhci-hcd", "tls"] {
        assert!(agent.has_said(&format!("the module {module} is missing on this node")), "{:?}", agent.complaints());
    }
    for pool in ["node-1", "node-1-ports"] {
        eventually(&format!("an empty slice of the pool {pool}"), || {
            let slices = stage.slices(pool)?;
            let empty = slices.len() == 1 && slices[0].spec.devices.iter().flatten().next().is_none();
            if empty { Ok(()) } else { Err(format!("{slices:?}")) }
        });
    }
    // There is no controller: what needs a certificate waits, and nothing else does.
    agent.says("a certificate is asked for", SOON);
    assert!(agent.has_said("without a certificate this node"), "{:?}", agent.complaints());
    // A kubelet would find it, and call it.
    let sockets = [
        stage.folder().join(format!("kubelet/plugins_registry/{DRIVER}-reg.sock")),
        stage.folder().join(format!("kubelet/plugins/{DRIVER}/dra.sock")),
    ];
    for socket in &sockets {
        UnixStream::connect(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    }
    agent.stop();
    for socket in &sockets {
        assert!(!socket.exists(), "{} is still there", socket.display());
    }
    assert_eq!(stage.slices("node-1").unwrap().len(), 1, "the slices stay");
    let writes: Vec<_> = stage.writes("agent").iter().map(ToString::to_string).collect();
    let requests = writes.iter().filter(|write| write.contains("certificatesigningrequests")).count();
    assert_eq!((writes.len(), requests), (3, 1), "{writes:?}");
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn what_an_agent_finds_becomes_an_object_of_the_cluster() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let _node = Node::silent(&stage, "node-1");
    let fixture = Fixture::new();
    fixture.device("1-2").strings("Logitech", "Webcam C920", "ABC123456");
    let mut agent = start(&stage, &fixture);
    let name = eventually("a NodeUSBDevice", || {
        let objects = crate::stage::list::<NodeUSBDevice>(&stage.all(), &kube::api::ListParams::default())?;
        let found = objects.iter().find_map(|object| object.metadata.name.clone());
        found.ok_or_else(|| "none".to_owned())
    });
    assert!(name.starts_with("logitech-webcam-c920-"), "{name}");
    stage.node_device_is(&name, "Ready", "Ready");
    let attributes = get::<NodeUSBDevice>(&stage.all(), &name).unwrap().status.unwrap().attributes.unwrap();
    assert_eq!((attributes.serial.as_deref(), attributes.port_path.as_str()), (Some("ABC123456"), "1-2"));

    // The next agent finds what this one has left, and has nothing to write.
    agent.says("this node has a certificate", SOON);
    let writes = stage.writes("agent").len();
    agent.process().kill();
    let mut agent = start(&stage, &fixture);
    agent.says("agent runs", SOON);
    stage.passes(Duration::from_secs(2));
    agent.stop();
    assert_eq!(stage.writes("agent").len(), writes);
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_device_that_is_assigned_is_with_nobody_unless_nodes_use_what_comes_back() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let _node = Node::silent(&stage, "node-1");
    stage.namespace("tenant");
    let fixture = Fixture::new();
    let stick = fixture.device("1-2");
    stick.strings("ACME", "Stick", "S1");
    let keyboard = fixture.device("1-3");
    keyboard.strings("ACME", "Keyboard", "K1").keyboard("input3", "sysrq kbd event3");
    let authorized = |expected: &str| {
        let file = format!("{}/authorized", stick.folder());
        eventually(&format!("authorized to be {expected}"), || match fixture.read(&file).trim() {
            found if found == expected => Ok(()),
            found => Err(found.to_owned()),
        });
    };
    let named = |product: &str| {
        eventually(&format!("a NodeUSBDevice of the {product}"), || {
            let objects = crate::stage::list::<NodeUSBDevice>(&stage.all(), &kube::api::ListParams::default())?;
            let mut names = objects.into_iter().filter_map(|object| object.metadata.name);
            names.find(|name| name.starts_with(&format!("acme-{product}-"))).ok_or_else(|| "none".to_owned())
        })
    };
    let mut agent = start(&stage, &fixture);
    let (name, keys) = (named("stick"), named("keyboard"));
    stage.assign(&name, Some("tenant"));
    authorized("0");
    stage.node_device_is(&name, "Ready", "Ready");
    // What a former agent has withheld is known to the next one.
    agent.stop();
    let mut agent = start(&stage, &fixture);
    stage.assign(&name, None);
    authorized("1");
    stage.assign(&name, Some("tenant"));
    authorized("0");
    stage.node_device_is(&keys, "Ready", "Ready");
    agent.stop();

    let mut agent =
        start_with(&stage, &fixture, free_port().unwrap(), &["--return-to-host", "--console-keyboards=46f4:0001"]);
    authorized("1");
    let ready = stage.node_device_is(&keys, "Ready", "NotReady");
    assert!(ready.message.contains("console"), "{ready:?}");
    agent.stop();
    stage.check(&controller);
}
