//! QEMU's arguments for a machine. Pure.
//!
//! The order of the devices and the kind of machine are part of every saved state, so a change here makes the states that
//! machine images bring unusable; the tests below hold the whole list for that reason.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use patchbay_qmp::usb::{BUSES, PORTS};

use super::machine::Machine;

/// Without KVM: the x86-64-v2 level that distributions ask for, on a processor that does not call for costly mitigations.
const TCG_CPU: &str = "qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2";

/// What people can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wish {
    /// KVM if the node lets us, but not for a saved state
    Auto,
    /// KVM or nothing
    Kvm,
    /// QEMU's own translation
    Tcg,
}

/// How the guest's processors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The hardware's virtualisation.
    Kvm,
    /// QEMU's own translation.
    Tcg,
}

impl Accelerator {
    /// Chooses. A saved state has in it which processor the guest has found, and only the translated one is the same on
    /// every node, so states are made and restored with that.
    pub(crate) fn choose(wish: Wish, has_state: bool, kvm_opens: bool) -> Self {
        match wish {
            Wish::Kvm => Self::Kvm,
            Wish::Auto if kvm_opens && !has_state => Self::Kvm,
            Wish::Auto | Wish::Tcg => Self::Tcg,
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// What the pod gives the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// Number of processors.
    pub(crate) cpus: u32,
    /// Memory in bytes.
    pub(crate) memory: u64,
    /// How the processors are made.
    pub(crate) accelerator: Accelerator,
}

/// Folders that QEMU uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places<'a> {
    /// Holds the sockets.
    pub(crate) run_dir: &'a Path,
    /// Holds the firmware, if it is not where QEMU looks by itself.
    pub(crate) firmware: Option<&'a Path>,
}

impl Places<'_> {
    /// The monitor for the node's agent.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("qmp.sock")
    }

    /// The monitor for the part of the node's agent that moves machines.
    pub(crate) fn migration_socket(&self) -> PathBuf {
        self.run_dir.join("migration.sock")
    }

    /// All monitors.
    pub(crate) fn sockets(&self) -> [PathBuf; 3] {
        [self.agent_socket(), self.engine_socket(), self.migration_socket()]
    }

    /// The monitor for this process: a monitor serves one client at a time, so each has its own.
    pub(crate) fn engine_socket(&self) -> PathBuf {
        self.run_dir.join("engine.sock")
    }
}

/// How a machine comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Birth {
    /// It boots.
    Boots,
    /// It goes on from a saved state; this is the number of its descriptor, which QEMU inherits.
    Restores(RawFd),
    /// It comes from another node: the agent has QEMU load it, and lets it run.
    Arrives,
}

/// The arguments, without the program.
pub(crate) fn arguments(machine: &Machine, hardware: &Hardware, places: &Places<'_>, birth: Birth) -> Vec<OsString> {
    let mut list = List::default();
    list.text("-nodefaults").text("-no-user-config").pair("-display", "none");
    if let Some(firmware) = places.firmware {
        list.pair("-L", firmware);
    }
    processors_and_memory(&mut list, hardware);
    for number in 0..BUSES {
        list.pair("-device", format!("qemu-xhci,id=usb{number},p2={PORTS},p3={PORTS}"));
    }
    // Standard input is /dev/null and signals stay signals, so this is the console's output and nothing else.
    list.pair("-chardev", "stdio,id=console,signal=off").pair("-serial", "chardev:console");
    for socket in places.sockets() {
        list.text("-qmp").option("unix:", &socket, ",server=on,wait=off");
    }
    boot(&mut list, machine);
    match birth {
        Birth::Boots => {}
        Birth::Restores(state) => drop(list.pair("-incoming", format!("fd:{state}"))),
        Birth::Arrives => drop(list.pair("-incoming", "defer").text("-S")),
    }
    list.0
}

fn processors_and_memory(list: &mut List, hardware: &Hardware) {
    let mebibytes = hardware.memory >> 20;
    // Nothing may follow the machine's state in its stream: see `patchbay_qmp::migration`.
    list.pair("-machine", "q35,suppress-vmdesc=on");
    match hardware.accelerator {
        Accelerator::Kvm => list.pair("-accel", "kvm").pair("-cpu", "host"),
        Accelerator::Tcg => {
            // For translated code; QEMU would take up to 1 GiB, more than the pod's limit leaves.
            let buffer = if mebibytes < 512 { 64 } else { 128 };
            list.pair("-accel", format!("tcg,tb-size={buffer}")).pair("-cpu", TCG_CPU)
        }
    };
    list.pair("-smp", hardware.cpus.to_string()).pair("-m", format!("{mebibytes}M"));
}

fn boot(list: &mut List, machine: &Machine) {
    if let Some(kernel) = &machine.kernel {
        list.pair("-kernel", kernel);
    }
    if let Some(initrd) = &machine.initrd {
        list.pair("-initrd", initrd);
    }
    if let Some(append) = &machine.append {
        list.pair("-append", append);
    }
    if let Some(disk) = &machine.disk {
        let format = if disk.extension().is_some_and(|extension| extension == "qcow2") { "qcow2" } else { "raw" };
        list.text("-drive").option("file=", disk, &format!(",if=none,id=disk,format={format},snapshot=on"));
        // A kernel that is started directly comes with bootindex 0.
        list.pair("-device", "virtio-blk-pci,drive=disk,bootindex=1");
    }
}

/// A list of arguments that grows.
#[derive(Debug, Default)]
struct List(Vec<OsString>);

impl List {
    fn text(&mut self, text: impl Into<OsString>) -> &mut Self {
        self.0.push(text.into());
        self
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.text(option).text(value)
    }

    /// A path as a part of a list with commas, where a comma of its own is written twice.
    fn option(&mut self, before: &str, path: &Path, after: &str) -> &mut Self {
        let mut bytes = before.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            bytes.push(*byte);
            if *byte == b',' {
                bytes.push(b',');
            }
        }
        bytes.extend_from_slice(after.as_bytes());
        self.text(OsString::from_vec(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Hardware = Hardware { cpus: 1, memory: (128 << 20) + 4095, accelerator: Accelerator::Tcg };

    /// An option and its value on one line each.
    fn lines(machine: &Machine, hardware: &Hardware, places: &Places<'_>) -> String {
        let list = arguments(machine, hardware, places, Birth::Boots);
        let text: Vec<_> = list.iter().map(|argument| argument.to_str().unwrap()).collect();
        text.join(" ").replace(" -", "\n-")
    }

    fn places() -> Places<'static> {
        Places { run_dir: Path::new("/run/vm"), firmware: None }
    }

    #[test]
    fn a_kernel_without_kvm() {
        let machine = Machine {
            kernel: Some("/machine/vmlinuz".into()),
            initrd: Some("/machine/initrd".into()),
            append: Some("console=ttyS0 quiet".into()),
            ..Machine::default()
        };
        insta::assert_snapshot!(lines(&machine, &SMALL, &places()), @"
        -nodefaults
        -no-user-config
        -display none
        -machine q35,suppress-vmdesc=on
        -accel tcg,tb-size=64
        -cpu qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2
        -smp 1
        -m 128M
        -device qemu-xhci,id=usb0,p2=15,p3=15
        -device qemu-xhci,id=usb1,p2=15,p3=15
        -chardev stdio,id=console,signal=off
        -serial chardev:console
        -qmp unix:/run/vm/qmp.sock,server=on,wait=off
        -qmp unix:/run/vm/engine.sock,server=on,wait=off
        -qmp unix:/run/vm/migration.sock,server=on,wait=off
        -kernel /machine/vmlinuz
        -initrd /machine/initrd
        -append console=ttyS0 quiet
        ");
    }

    #[test]
    fn a_disk_with_kvm_and_own_firmware() {
        let machine = Machine { disk: Some("/machine/root.qcow2".into()), ..Machine::default() };
        let hardware = Hardware { cpus: 4, memory: 4 << 30, accelerator: Accelerator::Kvm };
        let places = Places { firmware: Some(Path::new("/share")), ..places() };
        insta::assert_snapshot!(lines(&machine, &hardware, &places), @"
        -nodefaults
        -no-user-config
        -display none
        -L /share
        -machine q35,suppress-vmdesc=on
        -accel kvm
        -cpu host
        -smp 4
        -m 4096M
        -device qemu-xhci,id=usb0,p2=15,p3=15
        -device qemu-xhci,id=usb1,p2=15,p3=15
        -chardev stdio,id=console,signal=off
        -serial chardev:console
        -qmp unix:/run/vm/qmp.sock,server=on,wait=off
        -qmp unix:/run/vm/engine.sock,server=on,wait=off
        -qmp unix:/run/vm/migration.sock,server=on,wait=off
        -drive file=/machine/root.qcow2,if=none,id=disk,format=qcow2,snapshot=on
        -device virtio-blk-pci,drive=disk,bootindex=1
        ");
    }

    #[test]
    fn where_a_machine_comes_from_is_said_last_and_changes_nothing_else() {
        let machine = Machine { kernel: Some("/machine/vmlinuz".into()), ..Machine::default() };
        let cold = arguments(&machine, &SMALL, &places(), Birth::Boots);
        for (birth, expected) in
            [(Birth::Restores(7), ["-incoming", "fd:7"].as_slice()), (Birth::Arrives, &["-incoming", "defer", "-S"])]
        {
            let other = arguments(&machine, &SMALL, &places(), birth);
            let (same, rest) = other.split_at(cold.len());
            assert_eq!(same, cold);
            assert_eq!(rest, expected);
        }
    }

    #[test]
    fn a_comma_in_a_path_does_not_start_another_property() {
        let machine = Machine { disk: Some("/m/a,readonly=off.img".into()), ..Machine::default() };
        let lines = lines(&machine, &SMALL, &Places { run_dir: Path::new("/r,x"), firmware: None });
        assert!(lines.contains("file=/m/a,,readonly=off.img,if=none,id=disk,format=raw,snapshot=on"), "{lines}");
        assert!(lines.contains("unix:/r,,x/qmp.sock,server=on"), "{lines}");
    }

    #[test]
    fn the_larger_machine_gets_the_larger_translation_buffer() {
        let machine = Machine { kernel: Some("/k".into()), ..Machine::default() };
        let large = Hardware { memory: 512 << 20, ..SMALL };
        assert!(lines(&machine, &SMALL, &places()).contains("tb-size=64"));
        assert!(lines(&machine, &large, &places()).contains("tb-size=128"));
    }

    #[test]
    fn kvm_is_taken_when_it_opens_but_not_for_a_saved_state() {
        use Accelerator::{Kvm, Tcg};
        for (wish, has_state, kvm_opens, expected) in [
            (Wish::Auto, false, true, Kvm),
            (Wish::Auto, false, false, Tcg),
            (Wish::Auto, true, true, Tcg),
            (Wish::Tcg, false, true, Tcg),
            (Wish::Kvm, true, false, Kvm),
        ] {
            assert_eq!(Accelerator::choose(wish, has_state, kvm_opens), expected, "{wish:?} {has_state} {kvm_opens}");
        }
    }
}
