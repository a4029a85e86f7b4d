//! What a guest has, by what it has said: a pure fold of the lines of its console.

use std::collections::BTreeMap;

/// A change of what a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It has started, and has nothing yet.
    Booted,
    /// A device with this serial number has come.
    Came(String),
    /// It has gone.
    Went(String),
    /// It has read something else than before: the line.
    Wrong(String),
    /// QEMU has ended by a defect of its own that is known, and the guest with it.
    Aborted,
}

/// Where a known defect of QEMU's (7.2) is: when a device vanishes while the guest reads from it, QEMU may find a transfer in a state
/// that it believes to be impossible (`usb_packet_check_state`, `usb_packet_copy`), and aborts. It needs nothing of ours for that.
const DEFECT: &str = "hw/usb/core.c";

/// A guest, as far as it has told.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Whether it has started since [`Witness::restarts`].
    booted: bool,
    /// Serial numbers by places, and whether they count.
    devices: BTreeMap<String, (String, bool)>,
    /// Serial numbers and checksums by the names of disks.
    disks: BTreeMap<String, (String, Option<String>)>,
}

impl Witness {
    /// The guest is about to start anew: what it has said so far does not count any more.
    pub(super) fn restarts(&mut self) {
        *self = Self::default();
    }

    /// A device, or all, is about to go and come again: that it is there counts when the guest has said so once more.
    pub(super) fn doubts(&mut self, serial: Option<&str>) {
        let doubted = |it: &str| serial.is_none_or(|serial| serial == it);
        self.devices.values_mut().filter(|(it, _)| doubted(it)).for_each(|(_, counts)| *counts = false);
        self.disks.retain(|_, (it, _)| !doubted(it));
    }

    /// Whether it has started.
    pub(super) fn booted(&self) -> bool {
        self.booted
    }

    /// Whether it has a device.
    pub(super) fn has(&self, serial: &str) -> bool {
        self.devices.values().any(|(it, counts)| *counts && it == serial)
    }

    /// What it has read of a disk that it has: the checksum of all of it.
    pub(super) fn read(&self, serial: &str) -> Option<&str> {
        self.disks.values().find(|(it, _)| it == serial).and_then(|(_, checksum)| checksum.as_deref())
    }

    /// Takes in a line; what has changed by it.
    pub(super) fn hear(&mut self, line: &str) -> Option<Change> {
        if line.starts_with("patchbay: QEMU was ended by signal 6") && line.contains(DEFECT) {
            self.restarts();
            return Some(Change::Aborted);
        }
        let words: Vec<&str> = line.split_once("guest: ")?.1.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).unwrap_or_default().to_owned();
        match words.as_slice() {
            ["booted", ..] => {
                *self = Self { booted: true, ..Self::default() };
                return Some(Change::Booted);
            }
            ["usb", "add", place, ..] => {
                self.devices.insert((*place).to_owned(), (value("serial="), true));
                return Some(Change::Came(value("serial=")));
            }
            ["usb", "remove", place, ..] => return self.devices.remove(*place).map(|(serial, _)| Change::Went(serial)),
            ["disk", "add", disk, ..] => {
                self.disks.insert((*disk).to_owned(), (value("serial="), None));
            }
            ["disk", "remove", disk, ..] => {
                self.disks.remove(*disk);
            }
            ["disk", _, "reads", ..] if value("bad=") != "0" => return Some(Change::Wrong(line.to_owned())),
            ["disk", disk, ..] if !value("sha256=").is_empty() => {
                if let Some((_, checksum)) = self.disks.get_mut(*disk) {
                    *checksum = Some(value("sha256="));
                }
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: [&str; 5] = [
        "guest: booted up=2.31",
        "guest: usb add 2-1 1d6b:0104 speed=5000 serial=SN1 product=\"Test Stick\" up=3.00",
        "guest: disk add sda size=8 serial=SN1 up=3.10",
        "guest: disk sda serial=SN1 sha256=aa bytes=8 up=3.20",
        "guest: disk sda reads ok=20 bad=0 errors=1 up=4.20",
    ];

    fn witness(lines: &[&str]) -> Witness {
        let mut witness = Witness::default();
        lines.iter().for_each(|line| drop(witness.hear(line)));
        witness
    }

    #[test]
    fn a_guest_has_a_device_and_has_read_it_until_that_goes() {
        let mut guest = witness(&SAID);
        assert!(guest.booted() && guest.has("SN1") && !guest.has("SN2"));
        assert_eq!((guest.read("SN1"), guest.read("SN2")), (Some("aa"), None));
        assert_eq!(guest.hear("guest: disk remove sda up=5.00"), None);
        assert_eq!(guest.hear("guest: usb remove 2-1 up=5.01"), Some(Change::Went("SN1".into())));
        assert!(!guest.has("SN1") && guest.read("SN1").is_none());
        assert_eq!(guest.hear("guest: usb remove 2-1 up=5.02"), None);
    }

    #[test]
    fn what_is_doubted_counts_again_when_it_was_said_once_more() {
        let mut guest = witness(&SAID);
        guest.doubts(Some("SN2"));
        assert!(guest.has("SN1"));
        guest.doubts(Some("SN1"));
        assert!(guest.booted() && !guest.has("SN1") && guest.read("SN1").is_none());
        assert_eq!(guest.hear("guest: usb remove 2-1 up=5.01"), Some(Change::Went("SN1".into())), "it was there still");
        SAID[1..4].iter().for_each(|line| drop(guest.hear(line)));
        assert!(guest.has("SN1") && guest.read("SN1") == Some("aa"));
        guest.doubts(None);
        assert!(!guest.has("SN1"));
    }

    #[test]
    fn a_guest_that_starts_anew_has_nothing_until_it_says_so() {
        let mut guest = witness(&SAID);
        assert_eq!(guest.hear("guest: booted up=2.00"), Some(Change::Booted));
        assert!(guest.booted() && !guest.has("SN1"));
        guest.restarts();
        assert!(!guest.booted());
    }

    #[test]
    fn that_qemu_has_ended_counts_when_it_was_by_the_defect_that_is_known() {
        let mut guest = witness(&SAID);
        assert_eq!(
            guest.hear("patchbay: QEMU was ended by signal 6; its last words: cpu.c:9: x: Assertion `y' failed."),
            None
        );
        assert!(guest.has("SN1"));
        let line =
            "patchbay: QEMU was ended by signal 6; its last words: ../../hw/usb/core.c:563: x: Assertion `y' failed.";
        assert_eq!(guest.hear(line), Some(Change::Aborted));
        assert!(!guest.booted() && !guest.has("SN1"));
    }

    #[test]
    fn a_wrong_block_is_told_and_one_that_could_not_be_read_is_not() {
        let mut guest = witness(&SAID);
        let line = "guest: disk sda reads ok=20 bad=1 errors=0 up=4.20";
        assert_eq!(guest.hear(line), Some(Change::Wrong(line.to_owned())));
        assert_eq!(guest.hear("Linux version 6.1"), None);
    }
}
