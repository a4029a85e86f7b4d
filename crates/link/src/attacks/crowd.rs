//! Callers that are many, and say nothing.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use super::still_works;
use crate::Timing;
use crate::scenarios::{PATIENCE, home};

/// How many half-open connections there are at a time.
const CROWD: usize = 1000;
/// How many of them a listener hears at a time.
const PLACES: usize = 64;
/// The begin of a TLS record that promises 512 bytes of a greeting.
const PROMISE: &[u8] = b"\x16\x03\x01\x02\x00\x01";

/// Each of the crowd is a descriptor, here and for a moment in the listener.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn a_thousand_half_open_connections_hold_up_nobody_else() {
    allow_descriptors();
    // Nobody is let go by the clock while this test runs.
    let timing = Timing { handshake: Duration::from_secs(600), request: Duration::from_secs(600), ..Timing::default() };
    let (_authority, mut listener, importer) = home(timing).await;
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut half = TcpStream::connect(listener.address()).await.unwrap();
        if number % 2 == 0 {
            half.write_all(PROMISE).await.unwrap();
        }
        crowd.push(half);
    }
    still_works(&mut listener, &importer).await;
    // The oldest have made room, the last one for the honest call; the others wait on.
    let (gone, left) = crowd.split_at_mut(CROWD - (PLACES - 1));
    for half in gone {
        assert_eq!(timeout(PATIENCE, half.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    }
    for half in left {
        assert!(timeout(Duration::ZERO, half.read(&mut [0])).await.is_err());
    }
}

#[tokio::test]
async fn a_slow_sender_is_cut_off_in_the_middle_of_its_greeting() {
    let timing = Timing { handshake: Duration::from_millis(300), ..Timing::default() };
    let (_authority, mut listener, importer) = home(timing).await;
    let mut slow = TcpStream::connect(listener.address()).await.unwrap();
    slow.write_all(PROMISE).await.unwrap();
    // A byte now and then says that it lives, and does not gain it any time.
    let mut clock = interval(Duration::from_millis(20));
    let sent = timeout(PATIENCE, async {
        let mut sent = 0;
        loop {
            tokio::select! {
                end = slow.read_u8() => return (sent, end),
                _ = clock.tick() => sent += usize::from(slow.write_all(b"x").await.is_ok()),
            }
        }
    });
    let (sent, end) = sent.await.unwrap();
    assert!(end.is_err() && sent < 512, "{sent} bytes, {end:?}");
    still_works(&mut listener, &importer).await;
}
