//! What a home agent says: frames of answers, one after the other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::{at_once, same, shown};
use patchbay_link::Answer;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    loop {
        let answer = match at_once(Answer::read(&mut rest)) {
            Ok(answer) => answer,
            Err(error) => return shown(&error.to_string(), 8192),
        };
        match &answer {
            Answer::Wait { reason } | Answer::Denied { reason } => shown(reason, 4096),
            Answer::Granted(granted) => {
                // `vhci_hcd` is given these.
                assert!(granted.devid >> 16 != 0 && (1..=6).contains(&granted.speed), "{granted:?}");
                shown(&granted.bus_id, 31);
            }
            Answer::Accepted => {}
        }
        let frame = answer.frame().expect("what was read fits a frame");
        same(&answer, &at_once(Answer::read(&mut frame.as_slice())).expect("a frame of ours"));
    }
});
