//! What `kubectl usb` answers to somebody whose device does not come up.

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

    /// Waits until `kubectl usb doctor` says of a node, in a check of this name, all of these words; `mark` is what it thinks of
    /// that.
    ///
    /// # Errors
    /// After the deadline.
    pub fn diagnosed(&self, node: &str, mark: char, check: &str, words: &[&str]) -> Result<()> {
        let what = format!("the doctor to find {mark} {check} of {node} with the words {words:?}");
        self.lab.wait_for(&what, SOON, || {
            let text = self.lab.typed("kubectl usb doctor", Path::new("/")).map_err(|error| format!("{error:#}"))?;
            let of_node = text.split(&format!("node {node}\n")).nth(1).and_then(|rest| rest.split("\nnode ").next());
            let found = of_node.unwrap_or_default().lines().any(|line| {
                let said = line.strip_prefix(mark).and_then(|line| line.trim_start().strip_prefix(check));
                said.is_some_and(|said| words.iter().all(|word| said.contains(word)))
            });
            if found { Ok(()) } else { Err(text) }
        })
    }
}
