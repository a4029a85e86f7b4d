//! What comes from a monitor's socket: bytes, cut into lines, read as messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::same;
use patchbay_qmp::{Lines, Message};
use serde_json::json;

/// No word of an event or a refusal is longer, in characters.
const WORD: usize = 256;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says how the stream is cut.
    let Some((size, stream)) = bytes.split_first() else { return };
    let lines = lines(stream, usize::from(*size).max(1));
    assert_eq!(lines, self::lines(stream, usize::MAX), "the lines depend on how the stream is cut");
    for line in lines {
        match Message::parse(&line) {
            Ok(message) => sound(&message),
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        }
    }
});

fn lines(stream: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for part in stream.chunks(size) {
        lines.push(part);
        while let Ok(Some(line)) = lines.next_line() {
            found.push(line);
        }
    }
    found
}

fn sound(message: &Message) {
    let again = match message {
        Message::Greeting => json!({"QMP": {}}),
        // Whatever the command brings: its reader knows what it should be.
        Message::Answer { outcome: Ok(_), .. } => return,
        Message::Answer { id, outcome: Err(refusal) } => {
            let (class, desc) = (&refusal.class, &refusal.description);
            for word in [class, desc] {
                assert!(word.chars().count() <= WORD && !word.contains(char::is_control), "{refusal:?}");
            }
            json!({"id": id, "error": {"class": class, "desc": desc}})
        }
        Message::Event(None) => return,
        Message::Event(Some(event)) => {
            assert!(event.name.len() <= WORD && event.device.as_ref().is_none_or(|d| d.len() <= WORD), "{event:?}");
            json!({"event": event.name, "data": {"device": event.device}})
        }
    };
    same(message, &Message::parse(again.to_string().as_bytes()).expect("a line of ours"));
}
