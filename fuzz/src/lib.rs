//! What the fuzz targets share: the promises about texts, and the wrapping of bytes.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use patchbay_core::device::is_invisible;

/// Asserts that a text can be shown to people: one line, of characters that can be seen, and no longer than `max` bytes.
pub fn shown(text: &str, max: usize) {
    assert!(text.len() <= max, "{} bytes, the limit is {max}", text.len());
    let hidden = text.chars().find(|c| c.is_control() || is_invisible(*c));
    assert_eq!(hidden, None, "{text:?}");
}

/// Asserts that a text is a DNS label, as the names of devices have to be.
pub fn dns_label(text: &str) {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    assert!((1..=63).contains(&text.len()) && text.bytes().all(inner), "{text:?}");
    assert!(!text.starts_with('-') && !text.ends_with('-'), "{text:?}");
}

/// Asserts that two things are the same.
pub fn same<T: PartialEq + Debug>(read: &T, again: &T) {
    assert_eq!(read, again, "what was read and written again reads as something else");
}

/// The result of a future that never waits: one that reads from bytes.
///
/// # Panics
/// It waits.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("reading from bytes waits"),
    }
}

/// Bytes as PEM (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for chunk in line.chunks(3) {
            let word = (0..3).fold(0, |word, i| word << 8 | usize::from(chunk.get(i).copied().unwrap_or(0)));
            for place in 0..4 {
                let digit = char::from(DIGITS[word >> (18 - 6 * place) & 63]);
                text.push(if place <= chunk.len() { digit } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
