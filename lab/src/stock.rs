//! A node as its users have it: Debian's own kernel in QEMU, in software emulation, with emulated USB controllers.
//!
//! What runs in it is the same as in a User-Mode Linux node, about five times slower. Devices are QEMU's: a stick has its
//! serial number, content and speed, but QEMU's vendor, product and strings.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::channel::Channel;
use crate::command::Command;
use crate::process::{Child, Program, tail};
use crate::stick::{Function, Speed, Stick};
use crate::uml::{Disk, Machine};
use crate::{network, wait};

mod monitor;

use monitor::Monitor;

/// Time from the start to the greeting; six seconds on a quiet machine.
const BOOT: Duration = Duration::from_secs(60);
/// How much slower than a User-Mode Linux node everything is: what deadlines are multiplied by.
pub const SLOWNESS: u32 = 5;
/// The sound card's buffer in bytes: a second, so that no frame is lost while the emulation is slow.
const SOUND_BUFFER: u32 = 192_000;
/// What the node calls [`Machine::share`].
const SHARE: &str = "host";

/// A running node.
pub struct Stock {
    child: Child,
    monitor: Monitor,
    state: PathBuf,
    name: String,
}

impl Stock {
    /// Boots a machine, with the kernel's modules on a disk, and waits until it takes commands.
    ///
    /// # Errors
    /// When it does not come up; the error quotes its console.
    pub fn boot(machine: &Machine, modules: &Path, cable: &OwnedFd) -> Result<(Self, Channel)> {
        let (mut channel, port) = Channel::pair()?;
        let (monitor, control) = Monitor::pair()?;
        let cable = cable.try_clone()?;
        fs::create_dir_all(&machine.state).with_context(|| format!("cannot make {}", machine.state.display()))?;
        let disk = disk(&machine.data, &machine.console)?;
        let mut program = Program::new(&machine.name, "qemu-system-x86_64", &machine.console).args(arguments(
            machine,
            modules,
            &disk,
            [&port, &control, &cable],
        ));
        program.env.push(("TMPDIR".into(), machine.state.clone().into()));
        program.inherit.extend([port, control, cable]);
        let child = program.start()?;
        let mut stock = Self { child, monitor, state: machine.state.clone(), name: machine.name.clone() };
        let up = stock.monitor.greet().and_then(|()| channel.greeting(wait::patient(BOOT)));
        if let Err(error) = up {
            stock.child.kill();
            let console = tail(&machine.console);
            return Err(error.context(format!("{} did not boot; its console ends with:\n{console}", machine.name)));
        }
        Ok((stock, channel))
    }

    /// The emulator's process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Fails if the node has died by itself.
    ///
    /// # Errors
    /// With the end of its console.
    pub fn check(&mut self) -> Result<()> {
        self.child.check()
    }

    /// Pulls the power plug.
    pub fn kill(mut self) {
        self.child.kill();
    }

    /// Gets a device ready; the node does not see it yet.
    ///
    /// # Errors
    /// When one of that name is plugged in already.
    pub fn insert(&mut self, stick: &Stick) -> Result<()> {
        let id = id(stick);
        match only(stick)? {
            Function::Storage { .. } => {
                let path = self.image(stick);
                fs::write(&path, stick.image()).with_context(|| format!("cannot write {}", path.display()))?;
                let file = json!({"driver": "file", "filename": path});
                self.monitor.execute("blockdev-add", &json!({"driver": "raw", "node-name": id, "file": file}))
            }
            Function::Serial => {
                self.monitor.execute("chardev-add", &json!({"id": id, "backend": {"type": "null", "data": {}}}))
            }
            Function::Keyboard | Function::Tablet | Function::CardReader | Function::Speaker => Ok(()),
        }
    }

    /// Plugs it in: from here on the node sees it.
    ///
    /// # Errors
    /// When all USB ports are taken.
    pub fn connect(&mut self, stick: &Stick) -> Result<()> {
        let id = id(stick);
        let mut device = match only(stick)? {
            Function::Storage { .. } => {
                let bus = if stick.speed == Speed::Super { "usb3.0" } else { "usb2.0" };
                json!({"driver": "usb-storage", "bus": bus, "drive": id, "id": id, "removable": true})
            }
            // Full-speed devices, which the controller for USB 2 alone does not take.
            Function::Serial => json!({"driver": "usb-serial", "bus": "usb3.0", "chardev": id, "id": id}),
            Function::CardReader => json!({"driver": "usb-ccid", "bus": "usb3.0", "id": id}),
            Function::Speaker => {
                json!({"driver": "usb-audio", "bus": "usb3.0", "audiodev": "speaker", "buffer": SOUND_BUFFER, "id": id})
            }
            Function::Keyboard => input("usb-kbd", stick.speed, &id),
            Function::Tablet => input("usb-tablet", stick.speed, &id),
        };
        if let (Some(serial), Some(fields)) = (&stick.serial, device.as_object_mut()) {
            fields.insert("serial".into(), json!(serial));
        }
        let plugged = self.monitor.execute("device_add", &device);
        if plugged.is_err() {
            // As it was: a stick that is in no port is back in its drawer.
            self.release(stick)?;
        }
        plugged
    }

    /// Pulls a device out.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn remove(&mut self, stick: &Stick) -> Result<()> {
        let id = id(stick);
        self.monitor.execute("device_del", &json!({"id": id}))?;
        self.monitor.deleted(&id)?;
        self.release(stick)
    }

    /// Takes apart what [`Stock::insert`] has made.
    fn release(&mut self, stick: &Stick) -> Result<()> {
        let id = id(stick);
        match only(stick)? {
            Function::Storage { .. } => {
                self.monitor.execute("blockdev-del", &json!({"node-name": id}))?;
                let path = self.image(stick);
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
            }
            Function::Serial => self.monitor.execute("chardev-remove", &json!({"id": id})),
            Function::Keyboard | Function::Tablet | Function::CardReader | Function::Speaker => Ok(()),
        }
    }

    /// Sends events to the keyboards and tablets that are plugged in, as QEMU's `input-send-event` takes them.
    ///
    /// # Errors
    /// When QEMU refuses one.
    pub fn input(&mut self, events: &Value) -> Result<()> {
        self.monitor.execute("input-send-event", &json!({"events": events}))
    }

    /// What the speaker has played since it was plugged in: frames of two signed 16-bit samples, without what is still on
    /// its way to the file.
    ///
    /// # Errors
    /// When there never was one.
    pub fn played(&self) -> Result<Vec<u8>> {
        let path = recording(&self.state, &self.name);
        let mut file = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(file.starts_with(b"RIFF") && file.len() >= WAV_HEADER, "{} is no recording", path.display());
        Ok(file.split_off(WAV_HEADER))
    }

    fn image(&self, stick: &Stick) -> PathBuf {
        self.state.join(format!("{}-{}.img", self.name, stick.name))
    }
}

/// Bytes in a recording before the frames.
const WAV_HEADER: usize = 44;

fn recording(state: &Path, name: &str) -> PathBuf {
    state.join(format!("{name}-speaker.wav"))
}

/// The one thing a device does: QEMU has no composite ones.
fn only(stick: &Stick) -> Result<Function> {
    if stick.speed == Speed::Low {
        bail!("QEMU has no low-speed devices: take a node of User-Mode Linux");
    }
    stick.only().context("QEMU has no composite devices: take a node of User-Mode Linux")
}

/// A keyboard or tablet: as one of USB 1 it is a full-speed device, as one of USB 2 a high-speed device.
fn input(driver: &str, speed: Speed, id: &str) -> Value {
    let version = if speed == Speed::Full { 1 } else { 2 };
    json!({"driver": driver, "bus": "usb3.0", "usb_version": version, "id": id})
}

fn id(stick: &Stick) -> String {
    format!("stick-{}", stick.name)
}

/// The file of a data disk. A node's changes are in a copy of its own, which has the holes of the image.
fn disk(data: &Disk, log: &Path) -> Result<PathBuf> {
    let (changes, image) = match data {
        Disk::Own(path) => return Ok(path.clone()),
        Disk::Cow { changes, image } => (changes, image),
    };
    if !changes.exists() {
        Command::new("cp", log).args(["--sparse=always"]).args([image, changes]).run()?;
    }
    Ok(changes.clone())
}

fn arguments(
    machine: &Machine,
    modules: &Path,
    data: &Path,
    [port, control, cable]: [&OwnedFd; 3],
) -> impl Iterator<Item = String> {
    let (number, fd) = (machine.number, |fd: &OwnedFd| fd.as_raw_fd());
    let lines = [
        "-nodefaults -display none -no-reboot -machine q35 -cpu qemu64 -smp 1".to_owned(),
        "-accel tcg,tb-size=256".to_owned(),
        format!("-name {} -m {}", machine.name, machine.memory),
        "-device virtio-serial-pci -device virtio-rng-pci -device qemu-xhci,id=usb3,p2=8,p3=8 -device usb-ehci,id=usb2"
            .to_owned(),
        format!("-chardev socket,id=agent,fd={} -device virtserialport,chardev=agent,name=agent", fd(port)),
        format!("-chardev socket,id=control,fd={} -mon chardev=control,mode=control", fd(control)),
        format!(
            "-netdev dgram,id=cable,local.type=fd,local.str={} -device virtio-net-pci,netdev=cable,romfile=,mac=52:54:00:00:01:{number:02x}",
            fd(cable)
        ),
        "-serial chardev:console".to_owned(),
    ];
    let words: Vec<String> = lines.iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect();
    let drive = |id: &str, path: &Path, options: &str| {
        let drive = format!("if=none,id={id},format=raw,{options},file={}", escaped(path));
        ["-drive".to_owned(), drive, "-device".to_owned(), format!("virtio-blk-pci,drive={id}")]
    };
    let share = format!("local,mount_tag={SHARE},security_model=none,readonly=on,path={}", escaped(&machine.share));
    // As it is, without a mixer that would change rate and volume.
    let speaker =
        format!("wav,id=speaker,out.mixing-engine=off,path={}", escaped(&recording(&machine.state, &machine.name)));
    let last = [
        ("-kernel", machine.linux.display().to_string()),
        ("-initrd", machine.initramfs.display().to_string()),
        ("-append", command_line(machine)),
        ("-chardev", format!("file,id=console,append=on,path={}", escaped(&machine.console))),
        ("-virtfs", share),
        ("-audiodev", speaker),
    ];
    words
        .into_iter()
        // Nobody writes it, and QEMU's locks do not agree with those of a User-Mode Linux node that has it, too.
        .chain(drive("root", &machine.root, "readonly=on,file.locking=off"))
        // The machine that emulates does not lose its power; only the emulator ends.
        .chain(drive("data", data, "cache=unsafe"))
        .chain(drive("modules", modules, "readonly=on"))
        .chain(last.into_iter().flat_map(|(option, value)| [option.to_owned(), value]))
}

fn command_line(machine: &Machine) -> String {
    let number = machine.number;
    let mut words = vec![
        "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check cryptomgr.notests audit=0"
            .to_owned(),
        format!("random.trust_cpu=on cgroup_no_v1=all lab.name={} lab.host={SHARE}", machine.name),
        format!("lab.ip={}/24 lab.gw={} lab.cidr={}", network::node(number), network::GATEWAY, network::pods(number)),
    ];
    words.extend(clock().map(|khz| format!("tsc_early_khz={khz}")));
    words.join(" ")
}

/// The frequency of this machine's time stamp counter in kHz, if its kernel's log still tells. The node sees the same
/// counter; measuring it while the machine is busy gives a clock that goes wrong.
fn clock() -> Option<u64> {
    let output = std::process::Command::new("dmesg").output().ok()?;
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    kilohertz(log.lines().find_map(|line| line.split_once("tsc: Detected "))?.1)
}

/// `2596.120 MHz processor` in kHz.
fn kilohertz(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_whitespace().next()?.split_once('.')?;
    format!("{whole}{fraction:0<3.3}").parse().ok()
}

/// A path as the value of an option: commas separate options.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_is_read_to_the_kilohertz() {
        assert_eq!(kilohertz("2596.120 MHz processor"), Some(2_596_120));
        assert_eq!(kilohertz("3000.0 MHz processor"), Some(3_000_000));
        assert_eq!(kilohertz("unknown"), None);
    }

    #[test]
    fn a_comma_in_a_path_does_not_end_the_option() {
        assert_eq!(escaped(Path::new("/a,b/c")), "/a,,b/c");
    }
}
