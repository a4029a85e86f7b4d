//! Against plain files: what is written for which port, and what is said when it cannot be.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use patchbay_usb::fixture::Fixture;

use super::*;

const HEAD: &str = "hub port sta spd dev      sockfd local_busid\n";
const FOLDER: &str = "sys/devices/platform/vhci_hcd.0";

/// Two controllers with two ports in each half; these numbers are in use.
fn node(used: &[u32]) -> Fixture {
    let node = Fixture::new();
    for controller in 0..2 {
        let lines = (controller * 4..controller * 4 + 4).map(|n| {
            let hub = if n % 4 < 2 { "hs" } else { "ss" };
            let rest = if used.contains(&n) { "006 003 00010002 000007 3-1" } else { "004 000 00000000 000000 0-0" };
            format!("{hub}  {n:04} {rest}\n")
        });
        let suffix = if controller == 0 { String::new() } else { format!(".{controller}") };
        node.write(&format!("{FOLDER}/status{suffix}"), HEAD.to_owned() + &lines.collect::<String>());
    }
    node.write(&format!("{FOLDER}/attach"), "");
    node.write(&format!("{FOLDER}/detach"), "");
    node
}

fn name(text: &str) -> PortName {
    text.parse().unwrap()
}

fn told(node: &Fixture, attribute: &str) -> String {
    node.read(&format!("{FOLDER}/{attribute}"))
}

/// What is written when a session is attached; the socket's number as S.
fn attached(node: &Fixture, port: &str, speed: Speed) -> Result<String, VhciError> {
    let (socket, _peer) = UnixStream::pair().unwrap();
    attach(node.root(), name(port), socket.as_fd(), 0x0001_0002, speed)?;
    Ok(told(node, "attach").replacen(&format!(" {} ", socket.as_raw_fd()), " S ", 1))
}

#[test]
fn a_session_is_attached_by_the_number_of_its_port() {
    for (port, speed, expected) in [
        ("usb2-0", Speed::Low, "0 S 65538 1"),
        ("usb2-1", Speed::Full, "1 S 65538 2"),
        ("usb2-3", Speed::High, "5 S 65538 3"),
        ("usb3-0", Speed::Super, "2 S 65538 5"),
        ("usb3-3", Speed::SuperPlus, "7 S 65538 5"),
    ] {
        assert_eq!(attached(&node(&[]), port, speed).unwrap(), expected, "{port}");
    }
}

#[test]
fn a_device_never_lands_in_the_other_half() {
    let node = node(&[]);
    for (port, speed) in [("usb3-0", Speed::High), ("usb2-0", Speed::Super)] {
        assert!(matches!(attached(&node, port, speed), Err(VhciError::WrongHub { .. })), "{port}");
    }
    let error = attached(&node, "usb2-0", Speed::Super).unwrap_err();
    assert_eq!(error.to_string(), "a device of 5000 Mbit/s does not fit port usb2-0: it needs a usb3 port");
    assert_eq!(told(&node, "attach"), "");
}

#[test]
fn a_taken_port_and_one_that_is_not_there_are_refused() {
    let node = node(&[1]);
    assert!(matches!(attached(&node, "usb2-1", Speed::High), Err(VhciError::Taken(_))));
    assert!(!is_free(node.root(), name("usb2-1")) && !is_free(node.root(), name("usb2-9")));
    assert!(is_free(node.root(), name("usb2-0")));
    assert!(matches!(attached(&node, "usb2-9", Speed::High), Err(VhciError::NoSuchPort(_))));
    assert_eq!(told(&node, "attach"), "");
}

#[test]
fn a_port_is_freed_by_its_number_and_a_free_one_is_left_alone() {
    let node = node(&[6]);
    detach(node.root(), name("usb3-1")).unwrap();
    assert_eq!(told(&node, "detach"), "");
    detach(node.root(), name("usb3-2")).unwrap();
    assert_eq!(told(&node, "detach"), "6");
}

#[test]
fn a_port_that_does_not_exist_is_free() {
    detach(node(&[]).root(), name("usb3-7")).unwrap();
    detach(Fixture::new().root(), name("usb3-0")).unwrap();
}

#[test]
fn without_the_module_the_error_names_the_command() {
    let error = ports(Fixture::new().root()).unwrap_err();
    assert!(error.to_string().ends_with("modprobe vhci-hcd"), "{error}");
}

#[test]
fn a_failing_write_is_an_error() {
    let node = node(&[0]);
    node.refuse(&format!("{FOLDER}/attach"));
    node.refuse(&format!("{FOLDER}/detach"));
    assert!(matches!(attached(&node, "usb2-1", Speed::High), Err(VhciError::Sys(_))));
    assert!(matches!(detach(node.root(), name("usb2-0")), Err(VhciError::Sys(_))));
}

#[test]
fn both_controllers_ports_are_counted() {
    let ports = ports(node(&[]).root()).unwrap();
    assert_eq!((count(&ports, Hub::Usb2), count(&ports, Hub::Usb3)), (4, 4));
}

#[test]
fn the_device_of_a_port_is_found_when_sysfs_has_it() {
    let node = node(&[0]);
    let ports = ports(node.root()).unwrap();
    assert_eq!(device_of(node.root(), &ports[0]), None, "sysfs is not ready");
    node.imported(0, "3-1").set("devnum", "12\n");
    let expected = ("3-1".parse().unwrap(), BusAddress { bus: 3, device: 12 });
    assert_eq!(device_of(node.root(), &ports[0]), Some(expected));
    assert_eq!(device_of(node.root(), &ports[1]), None, "a free port has none");
}
