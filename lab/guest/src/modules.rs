//! Loads the kernel modules of the ramdisk. Their order and parameters come with them: lists in `/modules`, with lines of
//! `<name> <parameters>`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;

use rustix::system::finit_module;

use crate::tell;

/// What every guest needs.
pub(crate) const ORDER: &str = "order";
/// What sound needs besides: much, and few guests hear any.
pub(crate) const SOUND: &str = "sound";

/// Loads all of a list. One that does not load is told, and the guest goes on without what it drives.
pub(crate) fn load(list: &str) {
    for line in fs::read_to_string(format!("/modules/{list}")).unwrap_or_default().lines() {
        let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
        if let Err(error) = load_one(name, parameters) {
            tell!("module {name} does not load: {error}");
        }
    }
}

fn load_one(name: &str, parameters: &str) -> io::Result<()> {
    let file = File::open(format!("/modules/{name}.ko"))?;
    Ok(finit_module(&file, &CString::new(parameters)?, 0)?)
}
