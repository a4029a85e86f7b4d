//! What a caller says first: the frame of a request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::{at_once, same, shown};
use patchbay_link::Request;

fuzz_target!(|bytes: &[u8]| {
    match at_once(Request::read(&mut &bytes[..])) {
        Ok(request) => {
            let frame = request.frame().expect("what fitted a frame fits again");
            same(&request, &at_once(Request::read(&mut frame.as_slice())).expect("a frame of ours"));
            // All of it is names: they reach logs and refusals.
            shown(&String::from_utf8_lossy(&frame[4..]), 4096);
        }
        Err(error) => shown(&error.to_string(), 4096),
    }
});
