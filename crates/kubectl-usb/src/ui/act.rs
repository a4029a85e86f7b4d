//! What is done when somebody clicks: the commands of the same names, and their words.

use serde::{Deserialize, Serialize};

use crate::Answer;
use crate::command;
use crate::connection::Cluster;
use crate::failure::Failure;

/// What is asked for.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Act {
    /// `assign`.
    Assign {
        /// The device.
        device: String,
        /// Who gets it.
        namespace: String,
        /// `--overwrite`: the page has said whose it is.
        overwrite: bool,
    },
    /// `unassign`.
    Unassign {
        /// The device.
        device: String,
    },
    /// `attach`.
    Attach {
        /// The device.
        device: String,
        /// The machine's namespace.
        namespace: String,
        /// The machine.
        vm: String,
    },
    /// `detach`.
    Detach {
        /// The device.
        device: String,
        /// The machine's namespace.
        namespace: String,
        /// The machine.
        vm: String,
    },
}

/// What has come of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Said {
    /// It is done.
    pub(super) done: bool,
    /// What was done, or why it was not.
    pub(super) text: String,
    /// What else to know, or what to do.
    pub(super) note: String,
}

impl Said {
    /// What a command says.
    pub(super) fn new(ended: Result<Answer, Failure>) -> Self {
        match ended {
            Ok(answer) => {
                Self { done: true, text: answer.text.trim_end().to_owned(), note: answer.note.trim_end().to_owned() }
            }
            Err(failure) => Self { done: false, text: failure.to_string(), note: failure.advice().unwrap_or_default() },
        }
    }

    fn wrong(name: &str) -> Self {
        Self {
            done: false,
            text: format!("{name:?} is not a name"),
            note: "Names have a-z, 0-9, - and . only.".to_owned(),
        }
    }
}

impl Act {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Assign { device, namespace, .. } => vec![device, namespace],
            Self::Unassign { device } => vec![device],
            Self::Attach { device, namespace, vm } | Self::Detach { device, namespace, vm } => {
                vec![device, namespace, vm]
            }
        }
    }
}

/// Whether it can be a name of an object: it becomes a part of the path of a request.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (1..=253).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.')
}

/// Does it.
pub(super) async fn act(cluster: &Cluster, act: &Act) -> Said {
    match act.names().into_iter().find(|name| !is_name(name)) {
        Some(wrong) => Said::wrong(wrong),
        None => Said::new(command::act(cluster, act).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_asks_for_is_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Act>(text).ok();
        let assign = Act::Assign { device: "webcam".to_owned(), namespace: "blue".to_owned(), overwrite: false };
        let text = r#"{"do": "assign", "device": "webcam", "namespace": "blue", "overwrite": false}"#;
        assert_eq!(read(text), Some(assign));
        for bad in [
            r#"{"do": "assign", "device": "webcam", "namespace": "blue"}"#,
            r#"{"do": "delete", "device": "webcam"}"#,
            r#"{"do": "unassign"}"#,
            "[]",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read(r#"{"do": "unassign", "device": "webcam", "force": true}"#), None);
    }

    #[test]
    fn what_is_no_name_goes_nowhere() {
        for bad in ["", "../nodes/node-1", "a/b", "a?b", "..", "A", "a b", "a%2fb"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_name("logitech-webcam-c920-k3f9a") && is_name("a.b"));
    }

    #[test]
    fn a_failure_is_told_with_what_to_do() {
        let said = Said::new(Err(Failure::Contended("USB device webcam".to_owned())));
        assert!(!said.done && said.note == "Try again.", "{said:?}");
    }
}
