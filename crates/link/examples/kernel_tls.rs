//! Proves the hand-over to the kernel on a machine whose kernel has TLS: two agents in one process, a call on loopback, both
//! ends given to the kernel, bytes through them in both directions, and the end noticed. Exits with 0 when all is equal.
//!
//! The importer writes before the home agent has handed over its end, as a fast kernel would.
//!
//! ```text
//! modprobe tls; kernel_tls
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use patchbay_core::names::NodeName;
use patchbay_core::trust::{LIFETIME, Validity};
use patchbay_link::{
    Authority, Claim, Credentials, Granted, HangUp, Identity, Import, Listener, PrivateKey, call, probe,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes in each direction.
const AMOUNT: usize = 8 << 20;
/// Bytes that are written before the other end is handed over.
const EARLY: usize = 64 << 10;
/// For what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Outcome<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Outcome<()> {
    probe()?;
    let (home, importer) = identities()?;
    let mut listener = Listener::bind(([127, 0, 0, 1], 0).into(), &Credentials::fixed(home)).await?;
    let address = listener.address();

    let claim = Claim { namespace: "n".into(), name: "c".into(), uid: "u".into() };
    let request = Import { claim, pool: "home".into(), device: "d".into() };
    let begin = Instant::now();
    let calling = tokio::spawn(async move { call(address, "home", &importer, request, |_| {}).await });
    let incoming = tokio::time::timeout(PATIENCE, listener.accept()).await?;
    let session = incoming.grant(Granted { devid: 65537, speed: 5, bus_id: "1-1".into() }).await?;
    let (_granted, importer) = tokio::time::timeout(PATIENCE, calling).await???;
    let handshake = begin.elapsed();

    let early = pattern(1);
    let mut writer = File::from(importer.try_clone()?);
    writer.write_all(early.get(..EARLY).ok_or("the pattern is too short")?)?;
    let home = session.into_kernel()?;

    let begin = Instant::now();
    let (home, importer) = (Arc::new(home), Arc::new(importer));
    let tasks = [
        thread::spawn({
            let to = Arc::clone(&importer);
            move || write(&to, 1, EARLY)
        }),
        thread::spawn({
            let to = Arc::clone(&home);
            move || write(&to, 2, 0)
        }),
        thread::spawn({
            let from = Arc::clone(&home);
            move || verify(&from, 1)
        }),
        thread::spawn({
            let from = Arc::clone(&importer);
            move || verify(&from, 2)
        }),
    ];
    for task in tasks {
        task.join().map_err(|_| "a thread panicked")??;
    }
    let transfer = begin.elapsed();

    let (watch, mut ended) = HangUp::start()?;
    watch.add(1, home.try_clone()?)?;
    drop((importer, writer));
    let number = tokio::time::timeout(PATIENCE, ended.recv()).await?;
    if number != Some(1) {
        return Err("the end of the session was not noticed".into());
    }
    println!("handshake to hand-over {handshake:?}; {AMOUNT} bytes each way in {transfer:?}; equal; end noticed");
    if let Ok(counters) = std::fs::read_to_string("/proc/net/tls_stat") {
        print!("{counters}");
    }
    Ok(())
}

/// Bytes that do not repeat with any power of two.
fn pattern(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..AMOUNT).map(|_| next()).collect()
}

fn write(to: &OwnedFd, seed: u32, from: usize) -> Outcome<()> {
    let bytes = pattern(seed);
    File::from(to.try_clone()?).write_all(bytes.get(from..).ok_or("the pattern is too short")?)?;
    Ok(())
}

fn verify(from: &OwnedFd, seed: u32) -> Outcome<()> {
    let mut got = vec![0; AMOUNT];
    File::from(from.try_clone()?).read_exact(&mut got)?;
    if got == pattern(seed) {
        Ok(())
    } else {
        Err(format!("direction {seed}: other bytes came out than went in").into())
    }
}

/// Two nodes under one authority.
fn identities() -> Outcome<(Identity, Identity)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let validity = Validity::from_now(i64::try_from(now)?, LIFETIME);
    let authority = Authority::make(validity)?;
    let identity = |node: &str| -> Outcome<Identity> {
        let (key, node) = (PrivateKey::make()?, NodeName::new(node));
        let certificate = authority.sign(key.request(&node)?.as_bytes(), &node, validity)?;
        Ok(Identity::new(authority.certificate(), &certificate, &key.pem())?)
    };
    Ok((identity("home")?, identity("importer")?))
}
