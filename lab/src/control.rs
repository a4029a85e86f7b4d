//! Requests to the lab in the background: plug a stick in, pull it out, run a command on a node.
//!
//! One request per connection to the keeper's socket, one answer, both one line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::cluster::Lab;
use crate::stick::Stick;

/// Time for one request.
const DEADLINE: Duration = Duration::from_secs(120);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// Plug a stick of this name into a node.
    Plug {
        /// The node.
        node: String,
        /// The stick: one of the same name is always the same.
        stick: String,
    },
    /// Pull it out.
    Unplug {
        /// The node.
        node: String,
        /// The stick.
        stick: String,
    },
    /// Run a shell script on a node.
    Sh {
        /// The node.
        node: String,
        /// The script.
        script: String,
    },
    /// Pull a node's power plug.
    PowerOff {
        /// The node.
        node: String,
    },
    /// Cut a node's cable.
    Cut {
        /// The node.
        node: String,
    },
    /// Mend a node's cable.
    Heal {
        /// The node.
        node: String,
    },
    /// Switch a node on again.
    Boot {
        /// The node.
        node: String,
    },
}

/// What comes back: text to print, and an exit code.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// 0 when all went well.
    pub code: i32,
    /// What to print.
    pub text: String,
}

/// Answers requests until the process ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(socket: &Path, lab: &Lab) -> Result<()> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::thread::scope(|scope| {
        for connection in listener.incoming() {
            // One that takes long does not keep the others waiting.
            scope.spawn(move || {
                if let Err(error) =
                    connection.map_err(anyhow::Error::from).and_then(|connection| answer(lab, &connection))
                {
                    eprintln!("a request was not answered: {error:#}");
                }
            });
        }
    });
    Ok(())
}

fn answer(lab: &Lab, mut connection: &UnixStream) -> Result<()> {
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    let answer = match carry_out(lab, &serde_json::from_str(&line)?) {
        Ok(answer) => answer,
        Err(error) => Answer { code: 1, text: format!("{error:#}") },
    };
    Ok(connection.write_all(&serde_json::to_vec(&answer)?)?)
}

/// Asks the lab in the background.
///
/// # Errors
/// When there is none, or it does not answer in time.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let mut connection = UnixStream::connect(socket).context("no lab is up: start one with `lab up`")?;
    connection.set_read_timeout(Some(DEADLINE))?;
    connection.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    serde_json::from_reader(&connection).map_err(|error| anyhow!("the lab did not answer: {error}"))
}

fn carry_out(lab: &Lab, request: &Request) -> Result<Answer> {
    let mut answer = Answer { code: 0, text: String::new() };
    match request {
        Request::Plug { node, stick } => {
            let stick = Stick::new(stick);
            lab.node(node)?.plug(&stick)?;
            answer.text = format!(
                "{} (serial {}) is in {node}; its SHA-256 is {}",
                stick.name,
                stick.serial.as_deref().unwrap_or("none"),
                stick.sha256()
            );
        }
        Request::Unplug { node, stick } => {
            lab.node(node)?.unplug(&Stick::new(stick))?;
        }
        Request::Sh { node, script } => {
            let output = lab.node(node)?.sh(script, DEADLINE)?;
            answer = Answer { code: output.code, text: output.text() };
        }
        Request::PowerOff { node } => lab.power_off(node)?,
        Request::Cut { node } => lab.node(node)?.cut(),
        Request::Heal { node } => lab.node(node)?.heal(),
        Request::Boot { node } => lab.boot(node)?,
    }
    Ok(answer)
}
