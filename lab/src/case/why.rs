//! What `kubectl usb why` answers to somebody whose device does not come up.

use std::path::Path;

use anyhow::Result;

use super::{Case, SOON};

impl Case<'_> {
    /// Waits until `kubectl usb why` says of a machine that this device of it is held up, in all of these words; gives what it
    /// prints.
    ///
    /// # Errors
    /// After the deadline.
    pub fn explained(&self, vm: &str, device: &str, words: &[&str]) -> Result<String> {
        let command = format!("kubectl usb why vm/{vm} -n {}", self.namespace);
        self.lab.wait_for(&format!("{command:?} to explain {device} in the words {words:?}"), SOON, || {
            let text = self.lab.typed(&command, Path::new("/")).map_err(|error| format!("{error:#}"))?;
            let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(device)).unwrap_or_default();
            let held_up = !line.starts_with('✓') && !line.is_empty();
            if held_up && words.iter().all(|word| text.contains(word)) { Ok(text) } else { Err(text) }
        })
    }
}
