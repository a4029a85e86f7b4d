//! Asks a smart-card reader for the state of its slot, as a driver in user space does: through usbfs, with one message
//! out and one in (Device Class Specification for Integrated Circuit Card Interface Devices 1.1, `PC_to_RDR_GetSlotStatus`
//! and `RDR_to_PC_SlotStatus`).

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::thread;

use crate::{ioctl, tell};

/// `bInterfaceClass` of such readers.
pub(crate) const CLASS: u8 = 0x0b;
/// Messages are numbered, and an answer has the number of its question.
const QUESTIONS: [u8; 3] = [1, 2, 0xa5];

/// Asks in a thread of its own; `bus` and `device` are the USB device's numbers.
pub(crate) fn ask(name: &str, bus: &str, device: &str) {
    let (name, path) = (name.to_owned(), format!("/dev/bus/usb/{bus:0>3}/{device:0>3}"));
    thread::spawn(move || {
        if let Err(error) = talk(&name, &path) {
            tell!("card {name} does not answer: {error}");
        }
    });
}

fn talk(name: &str, path: &str) -> io::Result<()> {
    let mut device = OpenOptions::new().read(true).write(true).open(path)?;
    let mut descriptors = Vec::new();
    device.read_to_end(&mut descriptors)?;
    let reader = Reader::of(&descriptors).ok_or_else(|| io::Error::other("it has no bulk endpoints"))?;
    ioctl::claim(&device, reader.interface)?;
    for number in QUESTIONS {
        ioctl::bulk(&device, reader.output, &mut [0x65, 0, 0, 0, 0, 0, number, 0, 0, 0])?;
        let mut answer = [0; 64];
        ioctl::bulk(&device, reader.input, &mut answer)?;
        let [message, _, _, _, _, slot, sequence, status, error, ..] = answer;
        tell!("card {name} message={message:02x} slot={slot} sequence={sequence} status={status} error={error}");
    }
    Ok(())
}

/// The interface of a reader and its two bulk endpoints.
#[derive(Debug, PartialEq, Eq)]
struct Reader {
    interface: u8,
    output: u8,
    input: u8,
}

impl Reader {
    /// Looks for them in a device's descriptors as usbfs gives them (USB 2.0, 9.6: each begins with its length and type).
    fn of(descriptors: &[u8]) -> Option<Self> {
        let (mut rest, mut interface, mut output, mut input) = (descriptors, None, None, None);
        while let Some((descriptor, after)) =
            rest.first().and_then(|length| rest.split_at_checked(usize::from(*length)))
        {
            match descriptor {
                [] => break,
                [_, 4, number, _, _, class, ..] => interface = (*class == CLASS).then_some(*number),
                [_, 5, address, kind, ..] if interface.is_some() && kind & 3 == 2 => {
                    let end = if address & 0x80 == 0 { &mut output } else { &mut input };
                    *end = Some(*address);
                }
                _ => {}
            }
            if let (Some(interface), Some(output), Some(input)) = (interface, output, input) {
                return Some(Self { interface, output, input });
            }
            rest = after;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bulk_endpoints_of_the_readers_interface_are_found() {
        let keyboard = [9, 4, 0, 0, 1, 3, 1, 1, 0, 7, 5, 0x82, 3, 8, 0, 10];
        let reader =
            [9, 4, 1, 0, 3, 0x0b, 0, 0, 0, 7, 5, 0x81, 3, 8, 0, 10, 7, 5, 0x83, 2, 64, 0, 0, 7, 5, 4, 2, 64, 0, 0];
        let all = [&[18, 1][..], &[0; 16], &keyboard, &reader].concat();
        assert_eq!(Reader::of(&all), Some(Reader { interface: 1, output: 4, input: 0x83 }));
        assert_eq!(Reader::of(&keyboard), None);
        assert_eq!(Reader::of(&[9, 4, 0]), None, "cut off");
        assert_eq!(Reader::of(&[0, 0, 0]), None, "no length");
    }
}
