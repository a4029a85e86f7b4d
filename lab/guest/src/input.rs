//! Tells the events of a keyboard, mouse or tablet: those that say something, not those that only end a group.

use std::fs::File;
use std::io::{self, Read};
use std::thread;

use crate::tell;

/// Size of `struct input_event` of `linux/input.h` on 64-bit machines: two times of eight bytes, type, code, value.
const EVENT: usize = 24;
/// `EV_SYN` and `EV_MSC`: the end of a group, and the code before it was translated.
const SILENT: [u16; 2] = [0, 4];

/// Listens in a thread of its own until the device is gone.
pub(crate) fn listen(name: &str) {
    let name = name.to_owned();
    thread::spawn(move || {
        if let Err(error) = hear(&name) {
            tell!("input {name} ends: {error}");
        }
    });
}

fn hear(name: &str) -> io::Result<()> {
    let mut events = File::open(format!("/dev/input/{name}"))?;
    // Only from now on the kernel asks the device.
    tell!("input {name} listens");
    loop {
        let mut event = [0; EVENT];
        events.read_exact(&mut event)?;
        if let Some((kind, code, value)) = fields(&event).filter(|(kind, ..)| !SILENT.contains(kind)) {
            tell!("input {name} type={kind} code={code} value={value}");
        }
    }
}

/// Type, code and value of an event.
fn fields(event: &[u8; EVENT]) -> Option<(u16, u16, i32)> {
    let (_, fields) = event.split_at_checked(16)?;
    let (kind, rest) = fields.split_first_chunk()?;
    let (code, rest) = rest.split_first_chunk()?;
    Some((u16::from_le_bytes(*kind), u16::from_le_bytes(*code), i32::from_le_bytes(*rest.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read() {
        let mut event = [7; EVENT];
        event[16..].copy_from_slice(&[3, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(fields(&event), Some((3, 0x101, -2)));
    }
}
