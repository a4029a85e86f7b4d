//! Plays to a sound device: half a second of frames that count, so that each one tells where it belongs.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::thread;

use crate::{ioctl, tell};

/// `bInterfaceClass` of sound.
pub(crate) const CLASS: u8 = 0x01;
/// Frames per second.
const RATE: i32 = 48_000;
/// Frames that are played: not more than a sample can count.
const FRAMES: u16 = 24_000;
/// Frames after those: a speaker that is switched off drops what it still has.
const SILENCE: u16 = 12_000;

/// Plays in a thread of its own.
pub(crate) fn play(name: &str) {
    let name = name.to_owned();
    thread::spawn(move || match sound(&name) {
        Ok(()) => tell!("sound {name} played frames={FRAMES}"),
        Err(error) => tell!("sound {name} does not play: {error}"),
    });
}

fn sound(name: &str) -> io::Result<()> {
    let mut device = OpenOptions::new().write(true).open(format!("/dev/{name}"))?;
    ioctl::stereo(&device, RATE)?;
    // The left sample counts from 1, the right one counts down from -1: silence is in none.
    let frames = (1..=FRAMES).map(|number| [number, number.wrapping_neg()]);
    let silence = (0..SILENCE).map(|_| [0, 0]);
    let bytes: Vec<u8> = frames.chain(silence).flatten().flat_map(u16::to_le_bytes).collect();
    device.write_all(&bytes)
    // The kernel plays what it has before the file is closed.
}
