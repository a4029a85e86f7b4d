//! `DeviceParameters`: what a claim may say of its device, in the opaque configuration for our driver.
//!
//! ```yaml
//! apiVersion: usb.virtualization.deckhouse.io/v1alpha1
//! kind: DeviceParameters
//! blockDevices: true
//! ```
//!
//! The API server hands on whatever somebody has written into a claim or a class, unread. What is not understood is an error,
//! never left out: somebody wanted something. The error becomes an Event of the pod.

use serde::{Deserialize, Deserializer, Serialize};

use crate::device::clean;

const API_VERSION: &str = "usb.virtualization.deckhouse.io/v1alpha1";
const KIND: &str = "DeviceParameters";

/// How much of what somebody has written is repeated to people, in bytes.
const MAX: usize = 200;

/// The parameters for a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceParameters {
    /// The pod also wants the disks that the device has.
    pub block_devices: bool,
}

/// The parameters as they are written.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    block_devices: bool,
}

/// Parameters that are not understood; for whoever has written them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parameters for the device are {0}")]
pub struct ParametersError(String);

impl DeviceParameters {
    /// Reads the parameters of one opaque configuration.
    ///
    /// # Errors
    /// They are of another kind or version, or say what is not understood.
    pub fn read<'d, D: Deserializer<'d>>(parameters: D) -> Result<Self, ParametersError> {
        let read = Written::deserialize(parameters).map_err(|error| {
            ParametersError(format!("not understood ({}): see docs/driver.md", shown(&error.to_string())))
        })?;
        if read.api_version != API_VERSION || read.kind != KIND {
            let (kind, version) = (shown(&read.kind), shown(&read.api_version));
            return Err(ParametersError(format!("a {kind} of {version}: {KIND} of {API_VERSION} is understood")));
        }
        Ok(Self { block_devices: read.block_devices })
    }

    /// The parameters as a claim has them.
    pub fn written(self) -> impl Serialize {
        Written { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), block_devices: self.block_devices }
    }
}

/// Somebody's words, on one line and not too many.
fn shown(text: &str) -> String {
    clean(text, MAX).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::device::is_invisible;

    fn why(parameters: &Value) -> String {
        DeviceParameters::read(parameters).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        for block_devices in [false, true] {
            let parameters = DeviceParameters { block_devices };
            let text = serde_json::to_value(parameters.written()).unwrap();
            assert_eq!(text["blockDevices"], block_devices);
            assert_eq!(DeviceParameters::read(&text), Ok(parameters));
        }
        let least = json!({"apiVersion": API_VERSION, "kind": KIND});
        assert_eq!(DeviceParameters::read(&least), Ok(DeviceParameters::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        assert!(why(&json!({"apiVersion": "v1", "kind": KIND})).contains("a DeviceParameters of v1: "));
        assert!(why(&json!({"apiVersion": API_VERSION, "kind": KIND, "disks": true})).contains("`disks`"));
        assert!(
            why(&json!({"apiVersion": API_VERSION, "kind": KIND, "blockDevices": "yes"})).contains("docs/driver.md")
        );
        assert!(why(&json!(null)).contains("not understood"));
    }

    /// The words of a claim once went into the Event as they were.
    #[test]
    fn an_error_is_one_short_line_of_characters_that_can_be_seen() {
        let odd = "\u{1b}[2J\u{202e}a\n".repeat(500);
        let field = json!({"apiVersion": API_VERSION, "kind": KIND, odd.clone(): 1});
        for parameters in [json!({"apiVersion": odd, "kind": odd}), field, json!({"kind": {odd.clone(): odd}})] {
            let why = why(&parameters);
            assert!(!why.contains(|c: char| c.is_control() || is_invisible(c)) && why.len() < 600, "{why:?}");
        }
    }
}
