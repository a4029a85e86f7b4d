//! `kubectl usb ui`, in a browser: what the page shows is what the API server has, and what is done there is done.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use patchbay_api::{NodeUSBDevice, VirtualMachine, keys};
use patchbay_core::device::Device;
use patchbay_core::speed::Speed;
use serde_json::json;

use crate::browser::Browser;
use crate::cli::{Watching, plugin};
use crate::node::{Node, device};
use crate::players::{self, Awake};
use crate::program::Running;
use crate::stage::{Stage, create, eventually, get};

/// A product that would like to be more than text.
const HOSTILE: &str = "<img src=x onerror=document.title='mine'><b>Scanner";

fn made(name: &str, n: u16, speed: Speed, maker: &str, product: &str) -> Device {
    let mut device = device(name, n, speed);
    device.attributes.manufacturer = Some(maker.to_owned());
    device.attributes.product = Some(product.to_owned());
    device.attributes.name = product.to_owned();
    device
}

/// The page's element for a device.
fn row(device: &str) -> String {
    format!("[data-key=\"device {device}\"]")
}

fn is(device: &str, state: &str) -> String {
    format!("document.querySelector('{}')?.dataset.state === '{state}'", row(device))
}

fn cable(device: &str, machine: &str, state: &str) -> String {
    format!("document.querySelector('[data-key=\"cable {device} machine vm/{machine}\"]')?.dataset.state === '{state}'")
}

/// Answers of the server to somebody who is no browser: the first line.
fn asked(port: &str, head: &str) -> String {
    let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    connection.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn the_page_shows_what_is_and_does_what_is_clicked_and_typed() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let nodes = ["node-1", "node-2", "node-3"].map(|name| Node::join(&stage, name));
    nodes[1].ports(2);
    nodes[2].ports(2);
    ["blue", "green"].iter().for_each(|name| stage.namespace(name));
    stage.machine("blue", "linux-vm", "node-2", &[]);
    stage.machine_is("blue", "linux-vm", "Running", "Running");

    let mut command = plugin(&stage, &stage.admin(), "ui --no-open");
    let mut program = Watching(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut address = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let (origin, _) = address.trim().split_once("/#").unwrap();
    let port = origin.rsplit_once(':').unwrap().1;
    let mut browser = Browser::start(stage.folder(), 1280, 860);
    browser.prefers("light");
    browser.open(address.trim());
    browser.sees("document.body.innerText.includes('Nothing is plugged in')");

    // It is live, and text is text.
    nodes[0].plug(made("webcam", 1, Speed::High, "Logitech", "Webcam C920"));
    browser.sees(&is("webcam", "free"));
    nodes[1].plug(made("scanner", 3, Speed::High, "Zebra", HOSTILE));
    browser.sees(&format!("document.querySelector('{}')?.innerText.includes({HOSTILE:?})", row("scanner")));
    nodes[1].unplug("scanner");

    clicks(&stage, &mut browser);
    types(&stage, &mut browser);

    // What others do is seen.
    nodes[0].unplug("webcam");
    browser.sees(&is("webcam", "unplugged"));
    browser.sees(&cable("webcam", "blue/linux-vm", "unplugged"));
    browser.sees("document.querySelector('#log').innerText.includes('unplugged')");
    nodes[0].plug(made("webcam", 1, Speed::High, "Logitech", "Webcam C920"));
    browser.sees(&cable("webcam", "blue/linux-vm", "attached"));

    fills(&stage, &nodes, &mut browser);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    browser.evaluate("document.activeElement.blur()");
    browser.point_at(2, 2);
    for scheme in ["light", "dark"] {
        browser.prefers(scheme);
        browser.screenshot(&folder.join(format!("ui-{scheme}.png")));
    }
    browser.click(&row("token"));
    browser.sees("document.querySelector('#panel').innerText.includes('✗')");
    browser.screenshot(&folder.join("ui-why.png"));

    // The page asks nobody else, and nobody else is answered. The key survives a reload, the address does not.
    let foreign: Vec<_> = browser.requests.iter().filter(|url| !url.starts_with(&format!("{origin}/"))).collect();
    assert_eq!((foreign, &browser.complaints), (vec![], &vec![]));
    browser.reload();
    browser.sees(&is("webcam", "attached"));
    browser.evaluate("sessionStorage.clear()");
    browser.open("about:blank");
    browser.open(address.trim());
    browser.sees("document.querySelector('#trouble').innerText.includes('opens once')");
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: rebound.example", "HTTP/1.1 421"),
        (&format!("GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}"), "HTTP/1.1 401"),
        (&format!("POST /do HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: https://example.com"), "HTTP/1.1 403"),
        (&format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}"), "HTTP/1.1 200"),
    ] {
        let answer = asked(port, head);
        assert!(answer.starts_with(expected), "{head}: {answer}");
    }
    program.interrupt();
    assert!(program.0.wait().unwrap().success());
    stage.check(&controller);
}

/// Assigns the webcam with the pointer.
fn clicks(stage: &Stage, browser: &mut Browser) {
    browser.click(&row("webcam"));
    browser.sees("document.querySelector('#panel').innerText.includes('No namespace is assigned')");
    browser.evaluate("document.querySelector('#panel select').value = 'blue'");
    browser.click("#panel .acts button.first");
    eventually("the webcam to be assigned", || {
        let assigned = get(&stage.all::<NodeUSBDevice>(), "webcam")?.spec.assigned_namespace;
        if assigned.as_deref() == Some("blue") { Ok(()) } else { Err(format!("{assigned:?}")) }
    });
    browser.sees("document.querySelector('.said').innerText === 'webcam is assigned to namespace blue'");
    browser.press("Escape");
    browser.sees("!document.querySelector('#panel').open");
    browser.sees(&is("webcam", "idle"));
}

/// Attaches it, takes it out and attaches it again, with the keyboard alone.
fn types(stage: &Stage, browser: &mut Browser) {
    let focus = |key: &str| format!("document.activeElement.dataset.key === '{key}'");
    browser.press("/");
    browser.sees("document.activeElement.id === 'filter'");
    browser.press("Tab");
    browser.sees(&focus("device webcam"));
    browser.sees("document.querySelector('#tip').innerText.includes('lists it')");
    browser.press("Enter");
    browser.sees("document.activeElement.innerText === 'Attach'");
    browser.press("Enter");
    stage.is_attached("blue", "linux-vm", "webcam");
    browser.sees(&cable("webcam", "blue/linux-vm", "attached"));
    browser.press("Escape");
    browser.sees(&focus("device webcam"));
    browser.press("ArrowRight");
    browser.sees(&focus("machine vm/blue/linux-vm"));

    // The first press asks whether it is meant.
    browser.press("Enter");
    browser.sees("document.activeElement.innerText === 'Detach'");
    browser.press("Enter");
    browser.sees("document.activeElement.innerText.startsWith('Really?')");
    browser.press("Enter");
    browser.sees(&is("webcam", "idle"));
    let machine = get(&stage.within::<VirtualMachine>("blue"), "linux-vm").unwrap();
    assert!(machine.spec.usb_devices.is_empty());
    browser.sees("document.activeElement.innerText === 'Attach'");
    browser.press("Enter");
    browser.sees(&cable("webcam", "blue/linux-vm", "attached"));
    browser.press("Escape");
    browser.sees(&focus("machine vm/blue/linux-vm"));
    browser.press("ArrowLeft");
    browser.sees(&focus("device webcam"));
}

/// Brings everything on that there is to see.
fn fills(stage: &Stage, nodes: &[Node; 3], browser: &mut Browser) {
    for (node, devices) in nodes.iter().zip([
        vec![
            made("token", 2, Speed::Full, "Yubico", "YubiKey 5"),
            made("camera", 3, Speed::High, "Axis", "Document Camera"),
            made("stick", 4, Speed::Super, "SanDisk", "Extreme Pro"),
            made("dongle", 5, Speed::Full, "Thales", "Sentinel HL"),
        ],
        vec![
            made("uart", 1, Speed::Full, "FTDI", "FT232R USB UART"),
            made("scanner", 3, Speed::High, "Zebra", "DS2208 Barcode Scanner"),
        ],
        vec![made("modem", 1, Speed::High, "Huawei", "E3372 LTE Modem")],
    ]) {
        devices.into_iter().for_each(|device| node.plug(device));
    }
    for (device, namespace) in [
        ("token", "blue"),
        ("camera", "blue"),
        ("uart", "blue"),
        ("stick", "green"),
        ("dongle", "green"),
        ("scanner", "green"),
    ] {
        stage.node_device_is(device, "Ready", "Ready");
        stage.assign(device, Some(namespace));
        stage.node_device_is(device, "Assigned", "Assigned");
    }
    nodes[0].unplug("dongle");
    stage.node_device_is("dongle", "Ready", "NotFound");
    stage.machine("blue", "build-agent", "node-3", &[]);
    stage.machine("green", "accounting", "node-2", &["stick", "dongle"]);
    let off: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": keys::API_VERSION, "kind": "VirtualMachine", "metadata": {"name": "windows", "namespace": "green"},
        "spec": {"image": "none", "runPolicy": "AlwaysOff", "usbDevices": [{"name": "scanner"}]},
    }))
    .unwrap();
    create(&stage.within("green"), &off);
    stage.is_attached("green", "accounting", "stick");
    // The camera has the last port of node-2: the token finds none.
    stage.list("blue", "linux-vm", &["webcam", "camera"]);
    stage.is_attached("blue", "linux-vm", "camera");
    stage.list("blue", "linux-vm", &["webcam", "camera", "token"]);
    stage.device_is("blue", "token", "Attached", "NoFreeUSBIPPort");
    // An agent that sleeps lets its device wait.
    stage.awake(Awake { agents: false, ..players::ALL });
    stage.list("blue", "build-agent", &["uart"]);
    for (device, machine, state) in [
        ("webcam", "blue/linux-vm", "attached"),
        ("token", "blue/linux-vm", "failed"),
        ("camera", "blue/linux-vm", "attached"),
        ("uart", "blue/build-agent", "waiting"),
        ("stick", "green/accounting", "attached"),
        ("dongle", "green/accounting", "unplugged"),
        ("scanner", "green/windows", "off"),
    ] {
        browser.sees(&cable(device, machine, state));
    }
    browser.sees(&is("modem", "free"));
}
