//! What one line from the monitor means. Total: any bytes give a message or [`Malformed`].

use serde_json::Value;

/// Longest event name or device id that is passed on; real ones have some tens of characters.
const MAX_WORD: usize = 256;

/// Something QEMU tells without being asked.
///
/// Only what is needed to know what to look at again: events wake, they carry no truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's name, for example `DEVICE_DELETED`.
    pub name: String,
    /// The id of the device it is about, if it is about one with an id.
    pub device: Option<String>,
}

/// QEMU's no to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// QEMU's class of errors, on one line.
    pub class: String,
    /// QEMU's words, on one line.
    pub description: String,
}

/// One line from the monitor.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first line of every connection.
    Greeting,
    /// The answer to the command with this id.
    Answer {
        /// The command's id.
        id: u64,
        /// What it brought.
        outcome: Result<Value, Refusal>,
    },
    /// An event. `None` when its name or device is absurdly long, so nobody waits for it.
    Event(Option<Event>),
}

/// The line is none of the above.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Message {
    /// Reads one line, without its end.
    ///
    /// # Errors
    /// It is no line of the protocol.
    pub fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let value: Value = serde_json::from_slice(line).map_err(|error| Malformed(format!("invalid JSON: {error}")))?;
        let Value::Object(mut fields) = value else {
            return Err(Malformed("a line that is not a JSON object".into()));
        };
        if fields.contains_key("QMP") {
            return Ok(Self::Greeting);
        }
        if let Some(name) = fields.get("event").and_then(Value::as_str) {
            let device = fields.get("data").and_then(|data| data.get("device")).and_then(Value::as_str);
            let short = name.len() <= MAX_WORD && device.is_none_or(|device| device.len() <= MAX_WORD);
            let event = Event { name: name.to_owned(), device: device.map(str::to_owned) };
            return Ok(Self::Event(short.then_some(event)));
        }
        let id = fields.get("id").and_then(Value::as_u64);
        let outcome = match (fields.remove("return"), fields.get("error")) {
            (Some(value), None) => Ok(value),
            (None, Some(error)) => Err(Refusal { class: word(error, "class"), description: word(error, "desc") }),
            _ => {
                return Err(Malformed("a line that is neither an answer nor an event".into()));
            }
        };
        match id {
            Some(id) => Ok(Self::Answer { id, outcome }),
            None => Err(Malformed("an answer without the id of a command".into())),
        }
    }
}

/// A string field of an error, shortened and on one line, because people will read it in a condition.
fn word(error: &Value, field: &str) -> String {
    let text = error.get(field).and_then(Value::as_str).unwrap_or("?");
    text.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Message, Malformed> {
        Message::parse(value.to_string().as_bytes())
    }

    #[test]
    fn greeting_answers_and_events_are_told_apart() {
        assert_eq!(parse(&json!({"QMP": {"version": {}, "capabilities": []}})), Ok(Message::Greeting));
        assert_eq!(parse(&json!({"return": {}, "id": 7})), Ok(Message::Answer { id: 7, outcome: Ok(json!({})) }));
        let event = Event { name: "DEVICE_DELETED".into(), device: Some("usb-x".into()) };
        assert_eq!(
            parse(&json!({"event": "DEVICE_DELETED", "data": {"device": "usb-x", "path": "/x"}, "timestamp": {}})),
            Ok(Message::Event(Some(event)))
        );
    }

    #[test]
    fn a_refusal_is_cut_to_one_readable_line() {
        let answer =
            parse(&json!({"error": {"class": "GenericError", "desc": format!("a\nb{}", "x".repeat(9000))}, "id": 1}));
        let Ok(Message::Answer { outcome: Err(refusal), .. }) = answer else { panic!("{answer:?}") };
        assert!(refusal.description.starts_with("abxx"));
        assert_eq!(refusal.description.len(), MAX_WORD);
    }

    #[test]
    fn an_event_with_an_absurd_name_is_swallowed_without_ending_the_connection() {
        assert_eq!(parse(&json!({"event": "E".repeat(100_000)})), Ok(Message::Event(None)));
    }

    #[test]
    fn lines_outside_the_protocol_are_errors() {
        for line in [
            "",
            "[]",
            "3",
            "{}",
            "{\"return\":{}}",
            "{\"return\":1,\"error\":{},\"id\":1}",
            "{\"id\":1}",
            "{\"event\":3}",
        ] {
            assert!(Message::parse(line.as_bytes()).is_err(), "{line}");
        }
        let deep = "[".repeat(100_000);
        assert!(Message::parse(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Message::parse(&bytes));
        }
    }
}
