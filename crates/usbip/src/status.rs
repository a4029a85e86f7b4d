//! vhci's table of ports: the files `status`, `status.1`, ... of `vhci_hcd.0`, one for each controller.
//!
//! A line is `hub port sta spd dev sockfd local_busid` (`vhci_sysfs.c`, `port_show_vhci`):
//!
//! ```text
//! hub port sta spd dev      sockfd local_busid
//! hs  0000 006 003 00010002 000007 3-1
//! hs  0001 004 000 00000000 000000 0-0
//! ss  0008 005 000 00000000 000000 0-0
//! ```
//!
//! While a port is being attached (005) it shows neither its device nor its speed; they come with 006, when the kernel has
//! given the device an address. `sockfd` is a number in the process that attached, and means nothing to any other.
//!
//! # Numbers and names
//!
//! With P ports in each half (`CONFIG_USBIP_VHCI_HC_PORTS`), port i of controller c has the number `2Pc + i` in the USB 2
//! half and `2Pc + P + i` in the USB 3 half. Its name counts each half over all controllers: `usb2-<Pc + i>`,
//! `usb3-<Pc + i>`. A name depends on nothing but the number, so it stays when another controller cannot be read.

use std::str::SplitWhitespace;

use patchbay_core::device::PortPath;
use patchbay_core::speed::{Hub, PortName, Speed};

/// A port of vhci.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhciPort {
    /// The number `attach` and `detach` want.
    pub number: u32,
    /// Our name for it.
    pub name: PortName,
    /// What it does.
    pub state: PortState,
}

/// What a port does (`enum usbip_device_status` in `include/uapi/linux/usbip.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// 004: nothing is attached.
    Free,
    /// 005: a session is attached, its device has no address yet.
    NotAssigned,
    /// 006: its device is there.
    Used(Import),
    /// 007: its session ended in a way from which the port does not recover.
    Error,
    /// A state this version does not know.
    Other(u32),
}

/// What is attached to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Bus and device number on the home node, as given to `attach`.
    pub devid: u32,
    /// The speed given to `attach`; None when it is none we know.
    pub speed: Option<Speed>,
    /// The device's name on this node, once it has one.
    pub bus_id: Option<PortPath>,
}

impl PortState {
    fn new(code: u32, import: Import) -> Self {
        match code {
            4 => Self::Free,
            5 => Self::NotAssigned,
            6 => Self::Used(import),
            7 => Self::Error,
            other => Self::Other(other),
        }
    }
}

impl VhciPort {
    /// What is attached, when the kernel shows it.
    pub fn import(&self) -> Option<&Import> {
        match &self.state {
            PortState::Used(import) => Some(import),
            _ => None,
        }
    }
}

/// Reads the table: one text for each controller, in their order. Lines that say nothing understandable are left out.
pub fn parse<'a>(controllers: impl IntoIterator<Item = &'a str>) -> Vec<VhciPort> {
    let mut half = None;
    let mut ports = Vec::new();
    for (controller, text) in (0u32..).zip(controllers) {
        let rows: Vec<Row> = text.lines().filter_map(row).collect();
        // Every controller has as many ports; the first that shows any tells.
        let count = || u32::try_from(rows.iter().filter(|r| r.hub == Hub::Usb2).count()).ok().filter(|n| *n > 0);
        half = half.or_else(count);
        let Some(half) = half else { continue };
        ports.extend(rows.into_iter().filter_map(|row| named(row, controller, half)));
    }
    ports
}

struct Row {
    hub: Hub,
    number: u32,
    state: PortState,
}

fn row(line: &str) -> Option<Row> {
    let mut columns = line.split_whitespace();
    let hub = match columns.next()? {
        "hs" => Hub::Usb2,
        "ss" => Hub::Usb3,
        _ => return None,
    };
    let number = decimal(&mut columns)?;
    let code = decimal(&mut columns)?;
    let speed = match decimal(&mut columns)? {
        1 => Some(Speed::Low),
        2 => Some(Speed::Full),
        3 => Some(Speed::High),
        5 => Some(Speed::Super),
        6 => Some(Speed::SuperPlus),
        _ => None,
    };
    let devid = u32::from_str_radix(columns.next()?, 16).ok()?;
    let _sockfd = columns.next()?;
    let bus_id = columns.next().filter(|id| *id != "0-0").and_then(|id| id.parse().ok());
    Some(Row { hub, number, state: PortState::new(code, Import { devid, speed, bus_id }) })
}

fn decimal(columns: &mut SplitWhitespace<'_>) -> Option<u32> {
    columns.next()?.parse().ok()
}

/// A row under its name; None when its number is not one of that controller's half.
fn named(row: Row, controller: u32, half: u32) -> Option<VhciPort> {
    let before = half.checked_mul(2)?.checked_mul(controller)?;
    let offset = if row.hub == Hub::Usb3 { half } else { 0 };
    let within = row.number.checked_sub(before)?.checked_sub(offset).filter(|i| *i < half)?;
    let index = u16::try_from(half.checked_mul(controller)?.checked_add(within)?).ok()?;
    Some(VhciPort { number: row.number, name: PortName { hub: row.hub, index }, state: row.state })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "hub port sta spd dev      sockfd local_busid\n";
    const FREE: &str = "004 000 00000000 000000 0-0";

    /// A controller of a kernel with `half` ports in each half, all free.
    fn free(controller: u32, half: u32) -> String {
        let first = controller * 2 * half;
        let lines = (first..first + 2 * half).map(|n| {
            let hub = if n < first + half { "hs" } else { "ss" };
            format!("{hub}  {n:04} {FREE}\n")
        });
        HEAD.to_owned() + &lines.collect::<String>()
    }

    fn names(ports: &[VhciPort]) -> Vec<(u32, String)> {
        ports.iter().map(|p| (p.number, p.name.to_string())).collect()
    }

    #[test]
    fn a_used_a_free_and_an_attaching_port_are_read() {
        let text = format!(
            "{HEAD}hs  0000 006 003 00010002 000007 3-1\nhs  0001 {FREE}\nss  0002 005 000 00000000 000000 0-0\n\
             ss  0003 006 005 0002001f 000012 4-2\n"
        );
        let ports = parse([text.as_str()]);
        let used = |devid, speed, id: &str| {
            PortState::Used(Import { devid, speed: Some(speed), bus_id: Some(id.parse().unwrap()) })
        };
        let states: Vec<_> = ports.iter().map(|p| p.state.clone()).collect();
        let expected = [
            used(0x0001_0002, Speed::High, "3-1"),
            PortState::Free,
            PortState::NotAssigned,
            used(0x0002_001f, Speed::Super, "4-2"),
        ];
        assert_eq!(states, expected);
        assert_eq!(ports[0].import().unwrap().devid, 0x0001_0002);
        assert_eq!(ports[1].import(), None);
    }

    #[test]
    fn names_count_each_half_over_all_controllers() {
        let (first, second) = (free(0, 2), free(1, 2));
        let expected = [
            (0, "usb2-0"),
            (1, "usb2-1"),
            (2, "usb3-0"),
            (3, "usb3-1"),
            (4, "usb2-2"),
            (5, "usb2-3"),
            (6, "usb3-2"),
            (7, "usb3-3"),
        ];
        let expected: Vec<_> = expected.iter().map(|(n, name)| (*n, (*name).to_owned())).collect();
        assert_eq!(names(&parse([first.as_str(), second.as_str()])), expected);
    }

    #[test]
    fn debian_s_fifteen_ports_in_eight_controllers_are_all_named() {
        let texts: Vec<_> = (0..8).map(|c| free(c, 15)).collect();
        let ports = parse(texts.iter().map(String::as_str));
        assert_eq!(ports.len(), 240);
        let last = ports.last().unwrap();
        assert_eq!((last.number, last.name.to_string()), (239, "usb3-119".to_owned()));
        assert_eq!(ports[15].name.to_string(), "usb3-0");
    }

    #[test]
    fn names_stay_when_another_controller_says_nothing() {
        let (first, third) = (free(0, 8), free(2, 8));
        let whole = parse([first.as_str(), free(1, 8).as_str(), third.as_str()]);
        let partial = parse([first.as_str(), HEAD, third.as_str()]);
        assert_eq!(names(&partial[16..]), names(&whole[32..]));
    }

    #[test]
    fn a_controller_that_is_not_ready_shows_ports_that_are_not_free() {
        // Its lines have a wider socket column.
        let text = format!("{HEAD}hs  0000 005 000 00000000 0000000000000000 0-0\n");
        assert_eq!(parse([text.as_str()])[0].state, PortState::NotAssigned);
    }

    #[test]
    fn broken_and_unknown_states_are_told_apart() {
        let text = format!("{HEAD}hs  0000 007 000 00000000 000000 0-0\nhs  0001 009 000 00000000 000000 0-0\n");
        let states: Vec<_> = parse([text.as_str()]).into_iter().map(|p| p.state).collect();
        assert_eq!(states, [PortState::Error, PortState::Other(9)]);
    }

    #[test]
    fn lines_that_make_no_sense_cost_themselves() {
        for odd in [
            "",
            "hs",
            "hs 0001",
            "xs  0001 004 000 00000000 000000 0-0",
            "hs  000x 004 000 00000000 000000 0-0",
            "hs  0099 004 000 00000000 000000 0-0",
            "ss  0000 004 000 00000000 000000 0-0",
        ] {
            let text = format!("{HEAD}hs  0000 {FREE}\n{odd}\nss  0001 {FREE}\n");
            assert!(names(&parse([text.as_str()])).contains(&(0, "usb2-0".to_owned())), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_table(texts in proptest::collection::vec("(hs|ss|\\PC{0,4})?[ 0-9a-f\n-]{0,120}|.{0,80}", 0..4)) {
            let ports = parse(texts.iter().map(String::as_str));
            prop_assert!(ports.iter().all(|p| p.name.hub == Hub::Usb2 || p.number > 0));
        }

        #[test]
        fn every_port_of_every_kernel_has_its_own_name(half in 1u32..30, controllers in 1u32..9) {
            let texts: Vec<_> = (0..controllers).map(|c| free(c, half)).collect();
            let ports = parse(texts.iter().map(String::as_str));
            prop_assert_eq!(ports.len(), usize::try_from(2 * half * controllers).unwrap());
            for port in &ports {
                // What the kernel does with the number: controller, port of the hub, half.
                let (controller, rhport, upper) = (port.number / (2 * half), port.number % half, port.number / half % 2);
                prop_assert_eq!(u32::from(port.name.index), controller * half + rhport);
                prop_assert_eq!(port.name.hub == Hub::Usb3, upper == 1);
            }
        }
    }
}
