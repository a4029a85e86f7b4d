//! What the node does with a device itself.

use patchbay_core::host_use::Keyboards;

use super::*;
use crate::host_use::claim;

const HEAD: &str = "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n";

fn reason(node: &Fixture) -> Option<String> {
    only(node).host_use.map(|host| host.to_string())
}

fn mount(node: &Fixture, line: &str) {
    node.write("proc/1/mountinfo", format!("{HEAD}{line}\n"));
}

#[test]
fn a_mounted_partition_is_named_with_its_mount_point() {
    let node = Fixture::new();
    node.device("1-1").block("sda", "8:0").block("sda/sda1", "8:1");
    mount(&node, "90 22 8:17 / /mnt/other rw - vfat /dev/sdb1 rw");
    assert_eq!(reason(&node), None);
    mount(&node, r"90 22 8:1 / /mnt/my\040stick rw,nosuid shared:7 master:3 - vfat /dev/sda1 rw");
    assert_eq!(reason(&node).as_deref(), Some("mounted at /mnt/my stick"));
}

#[test]
fn the_view_of_this_process_counts_where_process_1_hides() {
    let node = Fixture::new();
    node.device("1-1").block("sda", "8:0");
    node.write("proc/self/mountinfo", "90 22 8:0 / /data rw - ext4 /dev/sda rw\n");
    assert!(reason(&node).is_some());
}

#[test]
fn file_systems_with_made_up_numbers_swap_and_mapped_disks_are_seen() {
    let node = Fixture::new();
    node.device("1-1").block("sda", "8:0").block("sda/sda1", "8:1");
    mount(&node, "90 22 0:45 /@ /srv rw - btrfs /dev/sda1 rw,subvol=/@");
    assert!(reason(&node).is_some());
    mount(&node, "90 22 254:0 / /crypt rw - ext4 /dev/mapper/secret rw");
    assert_eq!(reason(&node), None);
    let mapped = "sys/devices/virtual/block/dm-0";
    node.write(&format!("{mapped}/dev"), "254:0\n");
    node.link("sys/dev/block/254:0", mapped);
    node.link(&format!("{mapped}/slaves/sda1"), "sys/class/block/sda1");
    assert!(reason(&node).unwrap().contains("/crypt"));
    mount(&node, "");
    assert_eq!(reason(&node), None);
    node.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda1  partition\t1\t0\t-2\n");
    assert_eq!(reason(&node).as_deref(), Some("swap space on sda1"));
}

#[test]
fn a_disk_that_others_are_made_of_is_held_also_when_nothing_is_mounted() {
    let node = Fixture::new();
    let disk = node.device("1-1");
    disk.block("sda", "8:0").block("sda/sda1", "8:1");
    let folder = node.root().dir("sys/class/block/sda1").real().unwrap();
    std::fs::create_dir(folder.join("holders")).unwrap();
    assert_eq!(reason(&node), None);
    std::fs::create_dir(folder.join("holders/dm-0")).unwrap();
    assert_eq!(reason(&node).as_deref(), Some("held: sda1"));
}

#[test]
fn a_mount_point_named_to_deceive_is_published_clean() {
    let node = Fixture::new();
    node.device("1-1").block("sda", "8:0");
    mount(&node, "90 22 8:0 / /media/\u{202e}\u{1b}[2J\\012x rw - vfat /dev/sda rw");
    assert_eq!(reason(&node).as_deref(), Some("mounted at /media/ [2J x"));
}

#[test]
fn what_is_used_at_the_last_moment_cannot_be_claimed() {
    let node = Fixture::new();
    let place = "1-1".parse().unwrap();
    assert!(claim(node.root(), &place, &Keyboards::Free).is_ok(), "nothing is plugged in there");
    node.device("1-1").block("sda", "8:0").block("sda/sda1", "8:1");
    node.device("1-2").block("sdb", "8:16");
    node.write("dev/sda", "");
    assert!(claim(node.root(), &place, &Keyboards::Free).is_ok());
    mount(&node, "90 22 8:16 / /mnt/other rw - vfat /dev/sdb rw");
    assert!(claim(node.root(), &place, &Keyboards::Free).is_ok(), "the other one is mounted");
    mount(&node, "90 22 8:1 / /mnt/stick rw - vfat /dev/sda1 rw");
    assert_eq!(claim(node.root(), &place, &Keyboards::Free).unwrap_err(), HostUse::mounted("/mnt/stick"));
}

#[test]
fn a_network_interface_counts_when_it_is_up_and_has_an_address() {
    let node = Fixture::new();
    let modem = node.device("1-1");
    modem.network("wwan0");
    assert_eq!(reason(&node), None, "up, but without an address");
    node.write("proc/net/if_inet6", "fe80000000000000020000fffe000001 03 40 20 80    wwan0\n");
    assert_eq!(reason(&node), None, "each interface has a link-local address");
    node.write("proc/net/if_inet6", "20010db8000000000000000000000001 03 40 00 80    wwan0\n");
    assert_eq!(reason(&node).as_deref(), Some("network interface wwan0"));
    node.write("proc/net/if_inet6", "");
    node.write("proc/net/route", "Iface\tDestination\tGateway\nwwan0\t0000A8C0\t00000000\n");
    assert!(reason(&node).is_some());
    modem.set("1:1.0/net/wwan0/flags", "0x1002\n");
    assert_eq!(reason(&node), None, "it was taken down");
    modem.unset("1:1.0/net/wwan0/flags");
    assert_eq!(reason(&node), None, "it vanishes");
}

#[test]
fn a_network_interface_that_carries_others_counts_without_an_address() {
    for (what, link) in [("a member of a bridge", "master"), ("below a VLAN", "upper_eth1.7")] {
        let node = Fixture::new();
        let adapter = node.device("1-1");
        adapter.network("eth1");
        assert_eq!(reason(&node), None);
        node.link(&format!("{}/1:1.0/net/eth1/{link}", adapter.folder()), "sys/devices/virtual/net/other");
        assert_eq!(reason(&node).as_deref(), Some("network interface eth1"), "{what}");
    }
}

#[test]
fn a_file_system_on_a_loop_device_of_a_disk_is_seen() {
    let node = Fixture::new();
    node.device("1-1").block("sda", "8:0");
    let looped = "sys/devices/virtual/block/loop0";
    node.write(&format!("{looped}/loop0p1/partition"), "1\n");
    node.link("sys/dev/block/259:7", &format!("{looped}/loop0p1"));
    mount(&node, "90 22 259:7 / /mnt/looped rw - ext4 /dev/loop0p1 rw");
    node.write(&format!("{looped}/loop/backing_file"), "/var/lib/images/disk.img\n");
    assert_eq!(reason(&node), None);
    node.write(&format!("{looped}/loop/backing_file"), "/dev/sda\n");
    assert_eq!(reason(&node).as_deref(), Some("mounted at /mnt/looped"));
}

#[test]
fn a_keyboard_of_the_console_is_the_nodes_when_that_is_configured() {
    let node = Fixture::new();
    node.device("1-1").keyboard("input3", "sysrq kbd event3 leds");
    node.device("1-10").keyboard("input4", "event4");
    node.device("1-2").keyboard("input5", "mouse0 event5");
    let table = [
        ("none", [None, None, None]),
        ("all", [Some("console keyboard input3"), None, None]),
        ("04d9:a1cd,46f4:0001", [Some("console keyboard input3"), None, None]),
        ("04d9:a1cd", [None, None, None]),
    ];
    for (configured, expected) in table {
        let consoles = configured.parse().unwrap();
        let found = scan_with(node.root(), &consoles, []).devices;
        let uses: Vec<_> = found.iter().map(|d| d.host_use.as_ref().map(ToString::to_string)).collect();
        assert_eq!(uses, expected.map(|text| text.map(str::to_owned)), "{configured}");
        let claimed = claim(node.root(), &"1-1".parse().unwrap(), &consoles);
        assert_eq!(claimed.is_err(), expected[0].is_some(), "{configured}");
    }
    node.write("proc/bus/input/devices", b"I: Vendor=46f4\n\nS: Sysfs=/\nH: Handlers=kbd\n\n\xff\nI: \n\n");
    assert!(scan_with(node.root(), &Keyboards::All, []).devices.iter().all(|d| d.host_use.is_none()), "odd tables");
}

#[test]
fn a_withheld_device_has_all_its_strings_and_is_not_in_use() {
    let node = Fixture::new();
    let stick = node.device("1-1");
    stick.strings("ACME", "Stick", "S1");
    assert!(only(&node).authorized);
    stick.set("authorized", "0\n");
    let found = only(&node);
    assert_eq!((found.authorized, found.host_use, found.attributes.serial.as_deref()), (false, None, Some("S1")));
}

#[test]
fn another_device_on_the_same_hub_is_not_the_one_in_use() {
    let node = Fixture::new();
    node.device("1-1").block("sda", "8:0");
    node.device("1-10");
    mount(&node, "90 22 8:0 / /data rw - ext4 /dev/sda rw");
    let used: Vec<_> = scan(node.root()).devices.iter().map(|d| d.host_use.is_some()).collect();
    assert_eq!(used, [true, false]);
}
