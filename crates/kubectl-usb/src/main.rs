//! `kubectl usb`: USB devices of the cluster, from the command line.
//!
//! | module | is |
//! |---|---|
//! | [`args`] | what can be asked for |
//! | [`complete`] | what of that kubectl offers when Tab is pressed |
//! | [`connection`], [`look`] | the API server: every request with a deadline, and only for what is asked |
//! | [`inspect`], [`inside`] | the same for the doctor, who goes on where something cannot be asked; and what nodes tell of themselves |
//! | [`list`], [`tree`], [`nodes`], [`why`], [`explain`], [`advice`], [`doctor`], [`cure`] | what is shown, made from objects that were read: no I/O |
//! | [`sysdump`], [`scrub`] | what belongs into a dump, and what does not, likewise |
//! | [`archive`] | the file with the dump |
//! | [`edit`] | what is written, made likewise |
//! | [`follow`] | what has changed, made likewise |
//! | [`ui`] | the page of `ui`: what it draws, made likewise, and who is let in |
//! | [`progress`] | how far an attachment is, made likewise |
//! | [`command`] | reads, calls one of those, writes and prints |
//!
//! What a device waits for, and what may be done about it, is decided in `patchbay_core::controller::why`, and
//! what is wrong with an installation in `patchbay_core::doctor`.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod advice;
mod age;
mod archive;
mod args;
mod command;
mod complete;
mod connection;
mod cure;
mod doctor;
mod edit;
mod explain;
mod failure;
mod follow;
mod inside;
mod inspect;
mod list;
mod look;
mod names;
mod nodes;
mod progress;
mod scrub;
mod style;
mod sysdump;
mod table;
mod tree;
mod ui;
mod why;

#[cfg(test)]
mod samples;

use failure::Failure;

/// What a command has to say.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// For the standard output.
    pub(crate) text: String,
    /// For people, below that: it goes to the standard error.
    pub(crate) note: String,
    /// The exit code: not 0 where nothing has failed, and yet not all is well.
    pub(crate) code: u8,
}

/// `why`: something holds the device up.
const HELD_UP: u8 = 3;

/// `doctor`: it could not be asked.
const UNASKED: u8 = 2;

fn main() -> ExitCode {
    // Only fails when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Some(words) = to_complete(std::env::args()) {
        let names = |kind, connection| {
            runtime.as_ref().map(|runtime| runtime.block_on(names::of(kind, &connection))).unwrap_or_default()
        };
        let text = complete::answer(args::Args::command(), &words, names);
        return say(&Answer { text, ..Answer::default() })
            .map_or_else(|failure| fail(&failure, None), |()| ExitCode::SUCCESS);
    }
    let args = args::Args::parse();
    let failed = matches!(args.command, args::Command::Doctor).then_some(UNASKED);
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Output(error), failed),
    };
    match runtime.block_on(command::run(args)).and_then(|answer| say(&answer).map(|()| answer.code)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => fail(&failure, failed),
    }
}

/// The words to complete, when that is what the program was called for.
fn to_complete(mut words: impl Iterator<Item = String>) -> Option<Vec<String>> {
    let program = words.next()?;
    let name = std::path::Path::new(&program).file_name()?;
    (name == complete::NAME).then(|| words.collect())
}

/// Whoever reads may have heard enough.
fn say(answer: &Answer) -> Result<(), Failure> {
    let written = anstream::stdout()
        .write_all(answer.text.as_bytes())
        .and_then(|()| anstream::stdout().flush())
        .and_then(|()| anstream::stderr().write_all(answer.note.as_bytes()));
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

fn fail(failure: &Failure, code: Option<u8>) -> ExitCode {
    let advice = failure.advice().map(|advice| format!("{advice}\n")).unwrap_or_default();
    let (bad, end) = (style::BAD, style::BAD.render_reset());
    // There is nobody left to tell.
    let _ = write!(anstream::stderr(), "{bad}error:{end} {failure}\n{advice}");
    ExitCode::from(code.unwrap_or_else(|| failure.code()))
}
