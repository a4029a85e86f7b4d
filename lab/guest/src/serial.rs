//! Answers on a serial line: each byte comes back with all its bits inverted, so that what was sent cannot be taken for
//! an answer, nor an echo of the line.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;

use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use sha2::{Digest, Sha256};

use crate::{hex, tell};

/// After so many bytes, and again after so many, what was heard is told.
const REPORT: usize = 4096;

/// Answers in a thread of its own until the line is gone.
pub(crate) fn answer(name: &str) {
    let name = name.to_owned();
    thread::spawn(move || {
        // The end is that of the device, which is told elsewhere.
        if let Err(error) = talk(&name) {
            tell!("tty {name} ends: {error}");
        }
    });
}

fn talk(name: &str) -> io::Result<()> {
    let flags = i32::try_from(OFlags::NOCTTY.bits()).map_err(io::Error::other)?;
    let mut line = OpenOptions::new().read(true).write(true).custom_flags(flags).open(format!("/dev/{name}"))?;
    let mut settings = tcgetattr(&line)?;
    settings.make_raw();
    tcsetattr(&line, OptionalActions::Now, &settings)?;
    tell!("tty {name} listens");
    let (mut buffer, mut heard, mut total) = ([0; 512], Sha256::new(), 0);
    loop {
        let count = line.read(&mut buffer)?;
        let bytes = buffer.get_mut(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        heard.update(&*bytes);
        total += count;
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        line.write_all(bytes)?;
        if total % REPORT == 0 {
            tell!("tty {name} heard bytes={total} sha256={}", hex(&heard.clone().finalize()));
        }
    }
}
