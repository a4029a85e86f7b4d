//! Against plain files: which writes are made, and what is said when they fail.

use std::io;
use std::os::fd::AsFd;

use patchbay_usb::fixture::Fixture;
use patchbay_usb::root::explain;

use super::*;

fn port() -> PortPath {
    "1-2".parse().unwrap()
}

fn node() -> Fixture {
    let node = Fixture::new();
    node.usbip_host();
    node
}

/// What was last written to an attribute of usbip-host.
fn told(node: &Fixture, attribute: &str) -> String {
    node.read(&format!("sys/bus/usb/drivers/usbip-host/{attribute}"))
}

fn probed(node: &Fixture) -> String {
    node.read("sys/bus/usb/drivers_probe")
}

#[test]
fn binding_takes_the_device_from_its_driver() {
    let node = node();
    node.device("1-2");
    bind(node.root(), &port()).unwrap();
    assert_eq!(told(&node, "match_busid"), "add 1-2");
    assert_eq!(node.read("sys/bus/usb/drivers/usb/unbind"), "1-2");
    assert_eq!(told(&node, "bind"), "1-2");
    assert_eq!(probed(&node), "");
}

#[test]
fn binding_a_bound_device_writes_nothing() {
    let node = node();
    node.device("1-2").exported("1-2", 2);
    bind(node.root(), &port()).unwrap();
    assert_eq!((told(&node, "match_busid"), told(&node, "bind")), (String::new(), String::new()));
}

#[test]
fn a_device_without_any_driver_can_be_bound() {
    let node = node();
    node.device("1-2").driver(None);
    bind(node.root(), &port()).unwrap();
    assert_eq!(told(&node, "bind"), "1-2");
}

#[test]
fn another_node_s_device_is_not_lent_out() {
    let node = node();
    node.imported(0, "3-1");
    let refused = bind(node.root(), &"3-1".parse().unwrap());
    assert!(matches!(refused, Err(HostError::Imported(_))));
    assert_eq!(told(&node, "match_busid"), "");
}

#[test]
fn a_failed_bind_gives_the_device_back() {
    let node = node();
    node.device("1-2");
    node.refuse("sys/bus/usb/drivers/usbip-host/bind");
    let error = bind(node.root(), &port()).unwrap_err();
    assert!(matches!(error, HostError::Sys(_)), "{error}");
    assert_eq!(probed(&node), "1-2");
}

#[test]
fn without_the_module_the_error_names_the_command() {
    let node = Fixture::new();
    node.device("1-2");
    assert!(!modules_present(node.root()));
    let error = bind(node.root(), &port()).unwrap_err();
    assert!(error.to_string().ends_with("modprobe usbip-host"), "{error}");
    assert_eq!(bound(node.root()).unwrap(), []);
}

#[test]
fn a_device_that_is_gone_is_an_error_to_lend_and_none_to_take_back() {
    let node = node();
    assert!(matches!(bind(node.root(), &port()), Err(HostError::Gone(_))));
    assert!(matches!(status(node.root(), &port()), Err(HostError::Gone(_))));
    end(node.root(), &port()).unwrap();
    release(node.root(), &port()).unwrap();
    assert_eq!((told(&node, "unbind"), probed(&node)), (String::new(), String::new()));
}

#[test]
fn the_status_is_read() {
    let node = node();
    let stick = node.device("1-2");
    assert!(matches!(status(node.root(), &port()), Err(HostError::NotBound(_))));
    for (number, expected) in [(1, ExportStatus::Available), (2, ExportStatus::Used), (3, ExportStatus::Error)] {
        stick.set("usbip_status", format!("{number}\n"));
        assert_eq!(status(node.root(), &port()).unwrap(), expected);
    }
    stick.set("usbip_status", "4\n");
    let error = status(node.root(), &port()).unwrap_err();
    assert!(error.to_string().contains("usbip_status holds \"4\""), "{error}");
}

#[test]
fn a_session_is_the_number_of_its_socket_and_ends_with_minus_one() {
    let node = node();
    let stick = node.device("1-2");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(export(node.root(), &port(), socket.as_fd()), Err(HostError::NotBound(_))));
    stick.exported("1-2", 1);
    export(node.root(), &port(), socket.as_fd()).unwrap();
    let written = || node.read(&format!("{}/usbip_sockfd", stick.folder()));
    assert_eq!(written(), socket.as_raw_fd().to_string());
    end(node.root(), &port()).unwrap();
    assert_ne!(written(), "-1", "there is no session to end");
    stick.set("usbip_status", "2\n");
    end(node.root(), &port()).unwrap();
    assert_eq!(written(), "-1");
}

#[test]
fn releasing_frees_the_place_and_lets_the_host_driver_in() {
    let node = node();
    let stick = node.device("1-2");
    stick.exported("1-2", 2);
    assert!(matches!(release(node.root(), &port()), Err(HostError::Busy { .. })));
    assert_eq!(told(&node, "unbind"), "", "the kernel does not survive it");
    stick.set("usbip_status", "1\n");
    release(node.root(), &port()).unwrap();
    assert_eq!((told(&node, "unbind"), told(&node, "rebind")), ("1-2".to_owned(), "1-2".to_owned()));
    assert_eq!(probed(&node), "1-2");
    assert_eq!(told(&node, "match_busid"), "", "del would spoil the place");
}

#[test]
fn what_is_withheld_is_authorised_when_it_is_bound_and_not_before() {
    let node = node();
    let stick = node.device("1-2");
    let authorized = || node.read(&format!("{}/authorized", stick.folder()));
    stick.set("authorized", "0\n");
    node.refuse("sys/bus/usb/drivers/usbip-host/bind");
    assert!(bind(node.root(), &port()).is_err());
    assert_eq!(authorized(), "0\n", "the node's drivers would have it");
    std::fs::remove_file(node.root().path("sys/bus/usb/drivers/usbip-host/bind")).unwrap();
    node.write("sys/bus/usb/drivers/usbip-host/bind", "");
    bind(node.root(), &port()).unwrap();
    assert_eq!(authorized(), "1");

    // After a crash between the two.
    stick.set("authorized", "0\n").exported("1-2", 1);
    bind(node.root(), &port()).unwrap();
    assert_eq!(authorized(), "1");
}

#[test]
fn releasing_what_is_with_its_host_driver_writes_nothing() {
    let node = node();
    node.device("1-2");
    release(node.root(), &port()).unwrap();
    assert_eq!((told(&node, "unbind"), told(&node, "rebind"), probed(&node)), Default::default());
}

#[test]
fn releasing_after_a_crash_finds_a_driver_but_never_rebinds_what_it_has_not_unbound() {
    let node = node();
    node.device("1-2").driver(None);
    release(node.root(), &port()).unwrap();
    assert_eq!((told(&node, "rebind"), probed(&node)), (String::new(), "1-2".to_owned()));
}

#[test]
fn bound_devices_and_taken_places_are_listed_in_order() {
    let node = node();
    for port in ["1-10", "1-2"] {
        node.device(port).exported(port, 1);
    }
    node.write("sys/bus/usb/drivers/usbip-host/match_busid", "1-10 1-2 2-7.1 \n");
    let names = |places: Vec<PortPath>| list(places);
    assert_eq!(names(bound(node.root()).unwrap()), "1-2, 1-10");
    assert_eq!(names(table(node.root())), "1-2, 1-10, 2-7.1");
}

#[test]
fn an_error_of_sysfs_names_the_file_and_the_reason() {
    let node = node();
    node.device("1-2");
    node.refuse("sys/bus/usb/drivers/usbip-host/match_busid");
    let error = bind(node.root(), &port()).unwrap_err();
    let text = explain(&error);
    assert!(text.starts_with("cannot write \"add 1-2\" to ") && text.contains("/match_busid: "), "{text}");
    let no_space = io::Error::from(Errno::NOSPC).to_string();
    assert!(text.ends_with(&no_space), "{text}");
}
