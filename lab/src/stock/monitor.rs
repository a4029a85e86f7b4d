//! QEMU's control channel (QMP): one JSON value per line, commands and answers in turn, events between them.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Time for an answer. QEMU answers between two pieces of emulation.
const ANSWER: Duration = Duration::from_secs(30);

/// Our end of the channel.
pub(super) struct Monitor {
    socket: BufReader<UnixStream>,
    /// Events nobody has asked for yet.
    events: Vec<Value>,
}

impl Monitor {
    /// A channel and QEMU's end of it.
    pub(super) fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair().context("no socket for QEMU's monitor")?;
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&ours, Some(ANSWER))?;
        }
        Ok((Self { socket: BufReader::new(ours), events: Vec::new() }, theirs.into()))
    }

    /// Waits for QEMU's greeting and makes it take commands.
    pub(super) fn greet(&mut self) -> Result<()> {
        self.line().context("no greeting of QEMU")?;
        self.execute("qmp_capabilities", &json!({}))
    }

    /// Executes a command; its error is what QEMU says.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let mut request = json!({"execute": command, "arguments": arguments}).to_string();
        request.push('\n');
        self.socket.get_mut().write_all(request.as_bytes()).with_context(|| format!("cannot send {command}"))?;
        loop {
            let answer = self.line().with_context(|| format!("no answer to {command}"))?;
            if let Some(said) = answer.pointer("/error/desc").and_then(Value::as_str) {
                bail!("{command}: {said}");
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
            self.events.push(answer);
        }
    }

    /// Waits until a device is gone.
    pub(super) fn deleted(&mut self, id: &str) -> Result<()> {
        let wanted = |event: &Value| {
            event.get("event").and_then(Value::as_str) == Some("DEVICE_DELETED")
                && event.pointer("/data/device").and_then(Value::as_str) == Some(id)
        };
        while !self.events.iter().any(wanted) {
            let event = self.line().with_context(|| format!("{id} does not go away"))?;
            self.events.push(event);
        }
        self.events.clear();
        Ok(())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.socket.read_line(&mut line)? == 0 {
            bail!("QEMU is gone");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that has said all this already.
    fn said(lines: &str) -> (Monitor, UnixStream) {
        let (monitor, theirs) = Monitor::pair().unwrap();
        let mut theirs = UnixStream::from(theirs);
        theirs.write_all(lines.as_bytes()).unwrap();
        (monitor, theirs)
    }

    #[test]
    fn an_event_before_the_answer_is_kept_for_who_waits_for_it() {
        let (mut monitor, _qemu) =
            said("{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"stick-a\"}}\n{\"return\":{}}\n");
        monitor.execute("device_del", &json!({"id": "stick-a"})).unwrap();
        monitor.deleted("stick-a").unwrap();
    }

    #[test]
    fn an_error_is_what_qemu_says() {
        let (mut monitor, _qemu) = said("{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such device\"}}\n");
        let error = monitor.execute("device_del", &json!({"id": "x"})).unwrap_err().to_string();
        assert_eq!(error, "device_del: no such device");
    }
}
