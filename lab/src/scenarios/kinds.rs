//! Kinds of devices, each used in a guest of another node the way it is meant to be used, and the proof taken from both ends.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::{Function, Speed, Stick};

use super::limits::give_back;

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";
/// What the guest calls a disk that it may write, and the part that it inverts: see `disk.rs` of the guest.
const SCRATCH: &str = "Scratch Disk";
const INVERTED: std::ops::Range<usize> = 1 << 20..2 << 20;
/// Bytes that go over a serial line in each direction: after so many the guest tells what it has heard.
const SAID: usize = 4096;
/// Frames that the guest plays, and how many of them have to arrive: real sound cards lose some, too, when they are not
/// served in time, and two emulators in one another are busy.
const PLAYED: u16 = 24_000;
const ARRIVED: usize = 6_000;

/// Gadgets: disks at two speeds, serial line, keyboard and tablet at the slow speeds, and one device with three functions.
pub(super) fn gadgets(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "kinds")?;
    let named = |name: &str, title: &str, speed| Stick::new(name).strings(Some("Patchbay"), Some(title)).speed(speed);
    let disks = [named("super", SCRATCH, Speed::Super), named("high", SCRATCH, Speed::High)];
    let modem = named("modem", "Modem", Speed::Full).function(Function::Serial);
    let keyboard = named("slow", "Slow Keyboard", Speed::Low).function(Function::Keyboard);
    let tablet = named("tablet", "Tablet", Speed::High).function(Function::Tablet);
    let dock = named("dock", "Dock", Speed::High).and(Function::Serial).and(Function::Keyboard);
    let all = [disks.as_slice(), &[modem.clone(), keyboard.clone(), tablet.clone(), dock.clone()]].concat();
    let guest = in_a_guest(&case, &all)?;

    for disk in &disks {
        is_written_and_read_back(&case, &guest, disk)?;
    }
    guest.reads(&dock, BOOT)?;
    bytes_go_both_ways(&case, &guest, &[&modem, &dock])?;
    for keyboard in [&keyboard, &dock] {
        hears_the_keyboard(&case, &guest, keyboard, "Patchbay")?;
    }
    follows_the_pen(&case, &guest, &tablet, "Patchbay Tablet")?;
    give_back(&case, &[VM])?;
    case.end()
}

/// QEMU's devices on its controllers, driven by Debian's kernel: what gadgets cannot be, and full-speed ones.
pub(super) fn emulated(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "emulated")?;
    let device = |name: &str, function, speed| Stick::new(name).speed(speed).function(function);
    let reader = device("reader", Function::CardReader, Speed::Full);
    let speaker = device("speaker", Function::Speaker, Speed::Full);
    let tablet = device("tablet", Function::Tablet, Speed::Full);
    let keyboard = device("keyboard", Function::Keyboard, Speed::High);
    let guest = in_a_guest(&case, &[reader, speaker, tablet.clone(), keyboard.clone()])?;

    // An answer (0x81) to each question, and no card in the slot (2).
    for number in [1, 2, 0xa5] {
        let answer = format!(" message=81 slot=0 sequence={number} status=2 error=0");
        says(&guest, &format!("what the card reader answers to question {number}"), &answer)?;
    }
    hears_the_keyboard(&case, &guest, &keyboard, "QEMU")?;
    follows_the_pen(&case, &guest, &tablet, "QEMU QEMU USB Tablet")?;
    says(&guest, "that it has played", &format!("played frames={PLAYED}"))?;
    sound_has_arrived(&case)?;
    give_back(&case, &[VM])?;
    case.end()
}

/// Plugs devices into one node and gives them to a running machine on the other, all at once: they are in its guest, each at
/// its own speed.
fn in_a_guest(case: &Case<'_>, sticks: &[Stick]) -> Result<Guest> {
    let plugged: Vec<_> = sticks.iter().map(|stick| (HOME, stick.clone())).collect();
    let names = case.plug_all(&plugged)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    case.assign_all(&names, &case.namespace)?;
    let guest = case.vm(VM, IMPORTER, &[])?;
    case.set_devices(VM, &names)?;
    for stick in sticks {
        let serial = stick.serial.as_deref().unwrap_or_default();
        let seen = format!(" speed={} serial={serial} ", stick.speed.megabits());
        says(&guest, &format!("that {} is there at its speed", stick.name), &seen)?;
    }
    case.wait_attached(VM, &names)?;
    Ok(guest)
}

/// Waits until the guest says this.
fn says(guest: &Guest, what: &str, words: &str) -> Result<()> {
    guest.wait_line(what, BOOT, |line| (line.text.contains("guest: ") && line.text.contains(words)).then_some(()))
}

/// The guest reads all of a disk, inverts a part, syncs, and reads all of it again. What it then reads is what the disk holds
/// at the other end.
fn is_written_and_read_back(case: &Case<'_>, guest: &Guest, disk: &Stick) -> Result<()> {
    guest.reads(disk, BOOT)?;
    let mut image = disk.image();
    image.get_mut(INVERTED).context("the disk is too small")?.iter_mut().for_each(|byte| *byte = !*byte);
    let written = hex(&Sha256::digest(&image));
    let serial = disk.serial.as_deref().unwrap_or_default();
    let told = format!(" serial={serial} written at={} bytes={}", INVERTED.start, INVERTED.len());
    says(guest, &format!("that it has written {}", disk.name), &format!("{told} sha256={written}"))?;
    let held = case.lab.node(HOME)?.run(&format!("sha256sum /run/sticks/{}.img", disk.name))?;
    ensure!(held.starts_with(&written), "the guest reads {written} from {}, which holds {held}", disk.name);
    Ok(())
}

/// Every byte that is said at the far end of a serial line is heard in the guest, which answers each with its inverse.
fn bytes_go_both_ways(case: &Case<'_>, guest: &Guest, lines: &[&Stick]) -> Result<()> {
    let mut listening = Vec::new();
    for _ in lines {
        let next = guest.wait_line("that it listens on one more line", SOON, |line| {
            let words: Vec<&str> = line.text.split_once("guest: tty ")?.1.split_whitespace().collect();
            let [name, "listens", ..] = words.as_slice() else { return None };
            (!listening.contains(&(*name).to_owned())).then(|| (*name).to_owned())
        })?;
        listening.push(next);
    }
    let node = case.lab.node(HOME)?;
    for line in lines {
        // Other bytes for each line: what is heard of one is not taken for what was said on another.
        let said = Stick::new(&format!("said on {}", line.name)).size(SAID).image();
        node.put(&said, "/run/said")?;
        let far = node.far_end_of(line, Function::Serial)?;
        let answer = node.run(&format!(
            "( stty -F {far} raw -echo && exec 3<>{far} && {{ cat /run/said >&3 & timeout 20 head -c {SAID} <&3 | sha256sum; }} )"
        ))?;
        let heard = format!("heard bytes={SAID} sha256={}", hex(&Sha256::digest(&said)));
        says(guest, &format!("what it has heard of {}", line.name), &heard)?;
        let inverse: Vec<u8> = said.iter().map(|byte| !byte).collect();
        let expected = hex(&Sha256::digest(inverse));
        ensure!(answer.starts_with(&expected), "{} answers {answer} instead of {expected}", line.name);
    }
    Ok(())
}

/// A key goes down and up again in the guest.
fn hears_the_keyboard(case: &Case<'_>, guest: &Guest, keyboard: &Stick, maker: &str) -> Result<()> {
    let title = keyboard.title.as_deref().filter(|_| maker == "Patchbay").unwrap_or("QEMU USB Keyboard");
    let event = listens(guest, &format!("{maker} {title}"))?;
    case.lab.node(HOME)?.press_a(keyboard)?;
    // EV_KEY, KEY_A.
    for value in [1, 0] {
        says(
            guest,
            &format!("that the key A is {value} on {title}"),
            &format!("input {event} type=1 code=30 value={value}"),
        )?;
    }
    Ok(())
}

/// The pen of a tablet is at the same place in the guest.
fn follows_the_pen(case: &Case<'_>, guest: &Guest, tablet: &Stick, name: &str) -> Result<()> {
    let event = listens(guest, name)?;
    let (x, y) = (12_345, 23_456);
    case.lab.node(HOME)?.point(tablet, x, y)?;
    // EV_ABS; ABS_X and ABS_Y.
    for (code, value) in [(0, x), (1, y)] {
        says(
            guest,
            &format!("where the pen of {name} is"),
            &format!("input {event} type=3 code={code} value={value}"),
        )?;
    }
    Ok(())
}

/// The name in the guest of the input device that calls itself this, once the guest listens to it.
fn listens(guest: &Guest, name: &str) -> Result<String> {
    let event = guest.wait_line(&format!("that there is {name}"), BOOT, |line| {
        let (event, called) = line.text.split_once("guest: input add ")?.1.split_once(" name=\"")?;
        called.starts_with(name).then(|| event.to_owned())
    })?;
    says(guest, &format!("that it listens to {name}"), &format!("input {event} listens"))?;
    Ok(event)
}

/// The frames that the guest has played are in the recording of the speaker, in their order.
fn sound_has_arrived(case: &Case<'_>) -> Result<()> {
    case.lab.wait_for("the sound to arrive at the speaker", SOON, || {
        let played = case.lab.node(HOME).and_then(crate::node::Node::played).map_err(|e| format!("{e:#}"))?;
        let arrived = in_order(&played);
        if arrived >= ARRIVED { Ok(()) } else { Err(format!("{arrived} of {PLAYED} frames in {} bytes", played.len())) }
    })
}

/// How many frames of the guest's sound there are, each after those before it: the left sample counts up from 1, the right
/// one is its negative.
fn in_order(recording: &[u8]) -> usize {
    let (mut last, mut count) = (0, 0);
    for [low, high, right_low, right_high] in recording.as_chunks::<4>().0 {
        let (left, right) = (u16::from_le_bytes([*low, *high]), u16::from_le_bytes([*right_low, *right_high]));
        if right == left.wrapping_neg() && left > last && left <= PLAYED {
            (last, count) = (left, count + 1);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(left: u16) -> [u8; 4] {
        let ([a, b], [c, d]) = (left.to_le_bytes(), left.wrapping_neg().to_le_bytes());
        [a, b, c, d]
    }

    #[test]
    fn frames_count_when_they_are_the_guests_and_come_in_order() {
        let recording = [frame(0), frame(1), frame(2), [5, 0, 5, 0], frame(4), frame(3), frame(5)].concat();
        assert_eq!(in_order(&recording), 4);
        assert_eq!(in_order(&[0; 4096]), 0, "silence");
    }
}
