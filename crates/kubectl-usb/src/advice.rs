//! What to do, as sentences and commands: the words of the catalogue.

pub(crate) use patchbay_core::messages::advice::{AGENTS, Line, lines, run, say};
