//! The command channel of a node: a script goes in as one base64 line, `RC <code> <length>` and the output come back.
//!
//! Invariant: one command at a time, in order. A command that outlives its deadline is killed in the node and still
//! answered; when even that answer does not come, the channel is broken and every later command says so at once.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::kubeconfig::base64;

/// The terminal of the node stalls on longer lines.
const LINE: usize = 4000;
/// How long after a command's deadline its answer may still come.
const SLACK: Duration = Duration::from_secs(3);

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its output and errors.
    pub bytes: Vec<u8>,
}

impl Output {
    /// The output as text, without the last line break.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).trim_end_matches('\n').to_owned()
    }
}

/// Our end of the channel.
pub struct Channel {
    socket: UnixStream,
    read: Vec<u8>,
    broken: bool,
}

impl Channel {
    /// A channel and the node's end of it.
    ///
    /// # Errors
    /// When there are no sockets left.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair().context("no socket for a command channel")?;
        Ok((Self { socket: ours, read: Vec::new(), broken: false }, theirs.into()))
    }

    /// Waits for the node's greeting.
    ///
    /// # Errors
    /// When the node ends or stays silent.
    pub fn greeting(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while !self.line(end).context("no greeting")?.starts_with("HELLO") {}
        Ok(())
    }

    /// Runs a shell script in the node.
    ///
    /// # Errors
    /// When the node does not answer; a script that fails is no error but an [`Output`] with its code.
    pub fn run(&mut self, script: &str, deadline: Duration) -> Result<Output> {
        ensure!(!self.broken, "an earlier command was not answered");
        let result = self.exchange(&bounded(script, deadline), Instant::now() + deadline + SLACK);
        self.broken = result.is_err();
        let output = result.with_context(|| format!("the node did not answer `{}`", first_line(script)))?;
        // `timeout` kills with SIGKILL: the shell reports 128 + 9.
        if output.code == 137 {
            bail!(
                "`{}` took more than {:.0} s in the node and was killed; it had said:\n{}",
                first_line(script),
                deadline.as_secs_f32(),
                output.text()
            );
        }
        Ok(output)
    }

    /// Whether a command of this length fits; longer ones travel as files.
    pub fn fits(script: &str) -> bool {
        bounded(script, Duration::from_secs(1000)).len().div_ceil(3) * 4 < LINE
    }

    fn exchange(&mut self, script: &str, end: Instant) -> Result<Output> {
        self.socket.set_write_timeout(Some(SLACK))?;
        self.socket.write_all(format!("{}\n", base64(script.as_bytes())).as_bytes())?;
        let answer = self.line(end)?;
        let mut words = answer.split_whitespace();
        let (code, length) = match (words.next(), words.next(), words.next()) {
            (Some("RC"), Some(code), Some(length)) => (code.parse()?, length.parse::<usize>()?),
            _ => bail!("it said {answer:?}"),
        };
        while self.read.len() < length {
            self.fill(end)?;
        }
        let rest = self.read.split_off(length);
        Ok(Output { code, bytes: std::mem::replace(&mut self.read, rest) })
    }

    fn line(&mut self, end: Instant) -> Result<String> {
        loop {
            if let Some(at) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(at + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill(end)?;
        }
    }

    fn fill(&mut self, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "silent for too long");
        self.socket.set_read_timeout(Some(left))?;
        let mut chunk = [0; 16384];
        match self.socket.read(&mut chunk) {
            Ok(0) => bail!("the node is gone"),
            Ok(length) => self.read.extend(chunk.iter().take(length)),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("the node is gone"),
        }
        Ok(())
    }
}

/// The script under a deadline of the node's own.
fn bounded(script: &str, deadline: Duration) -> String {
    let seconds = deadline.as_secs().max(1);
    format!(
        "cat >/tmp/.lab <<'END_OF_LAB_SCRIPT'\n{script}\nEND_OF_LAB_SCRIPT\nexec timeout -s KILL {seconds} sh /tmp/.lab"
    )
}

fn first_line(script: &str) -> &str {
    script.trim().lines().next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that gives each line the next of these answers.
    fn node(answers: &'static [&'static [u8]]) -> Channel {
        let (channel, theirs) = Channel::pair().unwrap();
        let theirs = UnixStream::from(theirs);
        std::thread::spawn(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(theirs.try_clone().unwrap()));
            for answer in answers {
                let Some(Ok(_)) = lines.next() else { return };
                (&theirs).write_all(answer).unwrap();
            }
            // Hangs up after the last answer.
        });
        channel
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn output_may_hold_any_bytes_and_the_next_answer_starts_behind_it() {
        let mut channel = node(&[b"RC 0 8\nRC 1 2\n\xff", b"RC 7 0\n"]);
        let output = channel.run("first", SOON).unwrap();
        assert_eq!((output.code, output.bytes.as_slice()), (0, b"RC 1 2\n\xff".as_slice()));
        assert_eq!(channel.run("second", SOON).unwrap().code, 7);
    }

    #[test]
    fn a_dead_node_breaks_the_channel_for_good() {
        let mut channel = node(&[b"RC 0 100\nshort"]);
        assert!(format!("{:#}", channel.run("first", SOON).unwrap_err()).contains("the node is gone"));
        assert!(channel.run("second", SOON).unwrap_err().to_string().contains("an earlier command was not answered"));
    }

    #[test]
    fn a_command_killed_at_its_deadline_is_an_error_and_the_channel_lives_on() {
        let mut channel = node(&[b"RC 137 4\nhalf", b"RC 0 2\nok"]);
        let error = channel.run("sleep 1000", SOON).unwrap_err().to_string();
        assert!(error.contains("`sleep 1000` took more than 5 s") && error.contains("half"), "{error}");
        assert_eq!(channel.run("echo ok", SOON).unwrap().text(), "ok");
    }
}
