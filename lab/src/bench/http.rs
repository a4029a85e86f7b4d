//! One question to a program of this machine: its probe, or its numbers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// For an answer.
const SOON: Duration = Duration::from_secs(5);

/// The answer to `GET <path>`, headers and all.
///
/// # Errors
/// When there is none in time, or another than 200.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&address, SOON).with_context(|| format!("nobody listens at {address}"))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer from {address}"))?;
    let line = answer.lines().next().unwrap_or_default();
    ensure!(line.contains(" 200 "), "{address}{path} does not say that all is well: {answer}");
    Ok(answer)
}
