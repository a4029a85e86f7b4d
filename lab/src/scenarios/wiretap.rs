//! What somebody who reads along on the network would learn of a stick.

use crate::stick::Stick;

/// How much of a disk has to be seen in one piece.
const PIECE: usize = 32;

/// The secrets of a stick that are in these bytes, by name.
pub(super) fn read_along(tape: &[u8], stick: &Stick) -> Vec<&'static str> {
    let serial = stick.serial.clone().unwrap_or_default();
    // As a string descriptor has it.
    let wide: Vec<u8> = serial.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let image = stick.image();
    let piece = |at: usize| image.get(at..at.saturating_add(PIECE)).unwrap_or_default().to_vec();
    let secrets = [
        (SERIAL, serial.into_bytes()),
        (DESCRIPTOR, wide),
        (BEGIN, piece(0)),
        ("the middle of its disk", piece(image.len() / 2)),
        ("the end of its disk", piece(image.len().saturating_sub(PIECE))),
    ];
    secrets.into_iter().filter(|(_, secret)| holds(tape, secret)).map(|(name, _)| name).collect()
}

/// The serial number as text.
pub(super) const SERIAL: &str = "its serial number";
/// The serial number as the device says it.
pub(super) const DESCRIPTOR: &str = "its serial number in a descriptor";
/// What its node reads of every disk.
pub(super) const BEGIN: &str = "the begin of its disk";

fn holds(tape: &[u8], secret: &[u8]) -> bool {
    let Some(first) = secret.first() else { return false };
    tape.windows(secret.len()).any(|window| window.first() == Some(first) && window == secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_secret_is_found_where_it_is_and_nowhere_else() {
        let (stick, other) = (Stick::new("red"), Stick::new("blue"));
        let mut tape = b"frames".to_vec();
        assert_eq!(read_along(&tape, &stick), [""; 0]);
        tape.extend(stick.serial.clone().unwrap().bytes());
        assert_eq!(read_along(&tape, &stick), [SERIAL]);
        tape.extend(stick.serial.clone().unwrap().bytes().flat_map(|byte| [byte, 0]));
        tape.extend(&stick.image()[..PIECE]);
        assert_eq!(read_along(&tape, &stick), [SERIAL, DESCRIPTOR, BEGIN]);
        tape.extend(stick.image());
        assert_eq!(read_along(&tape, &stick).len(), 5);
        assert_eq!(read_along(&tape, &other), [""; 0]);
    }
}
