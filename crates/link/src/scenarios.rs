//! Calls between two well-behaved agents, on loopback.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libc::tls12_crypto_info_chacha20_poly1305 as CryptoInfo;
use rustls::crypto::cipher::{AeadKey, InboundOpaqueMessage, Iv, OutboundChunks, OutboundPlainMessage};
use rustls::crypto::ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
use rustls::{ContentType, ProtocolVersion, Tls13CipherSuite};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::call::{dial, greet};
use crate::exchange::{Claim, Granted, Import, Migrate, Pod, Request};
use crate::ktls::{KernelTlsError, crypto_info};
use crate::pki::Authority;
use crate::session::Session;
use crate::{Credentials, Identity, LinkError, Listener, Timing};

/// Long enough for a busy machine, for what does happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn import() -> Import {
    let claim = Claim { namespace: "my-project".into(), name: "usb-stick".into(), uid: "0c1f".into() };
    Import { claim, pool: "home".into(), device: "stick".into() }
}

pub(crate) fn move_of_vm() -> Migrate {
    let pod = |name: &str, uid: &str| Pod { name: name.into(), uid: uid.into() };
    Migrate { namespace: "my-project".into(), source: pod("vm-linux", "5"), target: pod("vm-linux-k3f9a", "6") }
}

pub(crate) fn granted() -> Granted {
    Granted { devid: 2 << 16 | 3, speed: 5, bus_id: "2-1".into() }
}

/// A home agent's listener and an importer's identity of the same authority.
pub(crate) async fn home(timing: Timing) -> (Authority, Listener, Arc<Identity>) {
    let authority = Authority::new();
    let credentials = Credentials::fixed(authority.identity("home"));
    let listener = Listener::bind_timed(loopback(), &credentials, timing).await.unwrap();
    let importer = Arc::new(authority.identity("importer"));
    (authority, listener, importer)
}

pub(crate) fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) type Call = JoinHandle<Result<(Option<Granted>, Session), LinkError>>;

/// Calls `home` at an address.
pub(crate) fn calling(address: SocketAddr, identity: &Arc<Identity>, timing: Timing) -> Call {
    asking(Request::Import(import()), address, identity, timing)
}

/// Calls `home` with any request.
pub(crate) fn asking(request: Request, address: SocketAddr, identity: &Arc<Identity>, timing: Timing) -> Call {
    let identity = Arc::clone(identity);
    tokio::spawn(async move { dial(address, "home", &identity, &request, |_| {}, timing).await })
}

/// The two ends of a granted call, after so many reasons to wait.
async fn session(waits: usize) -> (Session, Session) {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let call = calling(listener.address(), &importer, Timing::default());
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    for n in 0..waits {
        incoming.wait(&format!("reason {n}")).await.unwrap();
    }
    let home = incoming.grant(granted()).await.unwrap();
    let (told, importer) = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    assert_eq!(told, Some(granted()));
    (home, importer)
}

#[tokio::test]
async fn the_home_agent_learns_who_calls_and_what_for() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let _call = calling(listener.address(), &importer, Timing::default());
    let incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    assert_eq!((incoming.peer_node(), incoming.request()), ("importer", &Request::Import(import())));
    assert!(incoming.peer().ip().is_loopback());
}

#[tokio::test]
async fn reasons_to_wait_arrive_in_order_before_the_grant() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let address = listener.address();
    let call = tokio::spawn(async move {
        let mut reasons = Vec::new();
        let on_wait = |reason| reasons.push(reason);
        let request = Request::Import(import());
        let (told, _session) = dial(address, "home", &importer, &request, on_wait, Timing::default()).await.unwrap();
        (told, reasons)
    });
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    incoming.wait("in use by vm-a").await.unwrap();
    incoming.wait("binding\nto usbip-host").await.unwrap();
    let _session = incoming.grant(granted()).await.unwrap();
    let (told, reasons) = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert_eq!(told, Some(granted()));
    assert_eq!(reasons, ["in use by vm-a", "binding to usbip-host"]);
}

#[tokio::test]
async fn a_virtual_machine_is_offered_and_accepted_on_the_same_wire() {
    let (_authority, mut listener, source) = home(Timing::default()).await;
    let request = Request::Migrate(move_of_vm());
    let call = asking(request.clone(), listener.address(), &source, Timing::default());
    let incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    assert_eq!((incoming.peer_node(), incoming.request()), ("importer", &request));
    let target = incoming.accept().await.unwrap();
    let (told, source) = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    assert_eq!(told, None);
    // What the source sends at once is left for the kernel of the target.
    let mut sends = KernelDouble::take(source);
    sends.send(b"QEVM");
    assert_eq!(KernelDouble::take(target).receive(), b"QEVM");
}

#[tokio::test]
async fn a_greeting_is_answered_and_timed() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let address = listener.address();
    let call = tokio::spawn(async move { greet(address, "home", &importer).await });
    let incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    assert_eq!((incoming.peer_node(), incoming.request()), ("importer", &Request::Greet));
    timeout(PATIENCE, incoming.greet_back()).await.unwrap().unwrap();
    let greeted = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    assert!(greeted.round_trip > Duration::ZERO && greeted.round_trip < PATIENCE);
    // Whether this machine's kernel has TLS is not for a test to say: only that it was asked.
    assert!(matches!(greeted.kernel, Ok(()) | Err(KernelTlsError::NoModule | KernelTlsError::NoCipher)), "{greeted:?}");
}

#[tokio::test]
async fn a_refusal_arrives_with_its_reason() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let call = calling(listener.address(), &importer, Timing::default());
    timeout(PATIENCE, listener.accept())
        .await
        .unwrap()
        .deny("claim my-project/usb-stick is not for this device")
        .await
        .unwrap();
    let refused = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "home refused: claim my-project/usb-stick is not for this device");
}

#[tokio::test]
async fn a_cancelled_call_is_noticed_while_it_waits() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let call = calling(listener.address(), &importer, Timing::default());
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    incoming.wait("in use").await.unwrap();
    call.abort();
    // Far less than the interval at which it would be written to.
    let gone = timeout(Timing::default().keep_alive / 2, incoming.hung_up()).await.unwrap();
    assert!(matches!(gone, LinkError::HungUp { .. }), "{gone:?}");
    let late = incoming.grant(granted()).await;
    assert!(matches!(late, Err(LinkError::HungUp { .. })), "{late:?}");
}

#[tokio::test]
async fn a_home_agent_that_dies_is_noticed_by_who_waits() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let call = calling(listener.address(), &importer, Timing::default());
    drop(timeout(PATIENCE, listener.accept()).await.unwrap());
    let gone = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert!(matches!(gone, Err(LinkError::HungUp { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_long_wait_is_kept_alive_without_the_agent_saying_anything_new() {
    let silence = Duration::from_millis(1500);
    let timing = Timing { keep_alive: Duration::from_millis(50), silence, ..Timing::default() };
    let (_authority, mut listener, importer) = home(timing).await;
    let (address, heard) = (listener.address(), Arc::new(AtomicUsize::new(0)));
    let (count, enough) = (Arc::clone(&heard), Arc::new(tokio::sync::Notify::new()));
    let notify = Arc::clone(&enough);
    let call = tokio::spawn(async move {
        let on_wait = |reason: String| {
            assert_eq!(reason, "in use");
            if count.fetch_add(1, Ordering::Relaxed) == 40 {
                notify.notify_one();
            }
        };
        dial(address, "home", &importer, &Request::Import(import()), on_wait, timing).await
    });
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    incoming.wait("in use").await.unwrap();
    // 40 times 50 ms: longer than the silence that would end the call.
    tokio::select! {
        () = enough.notified() => {}
        gone = incoming.hung_up() => panic!("{gone}"),
    }
    incoming.grant(granted()).await.unwrap();
    timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn tcp_options_are_set_on_both_ends() {
    use rustix::net::sockopt;
    let (home, importer) = session(0).await;
    for end in [home, importer] {
        let (tcp, _) = end.into_parts().unwrap();
        assert!(sockopt::tcp_nodelay(&tcp).unwrap() && sockopt::socket_keepalive(&tcp).unwrap());
        let keep = (
            sockopt::tcp_keepidle(&tcp).unwrap(),
            sockopt::tcp_keepintvl(&tcp).unwrap(),
            sockopt::tcp_keepcnt(&tcp).unwrap(),
        );
        assert_eq!(keep, (Duration::from_secs(3), Duration::from_secs(1), 3));
        assert_eq!(sockopt::tcp_user_timeout(&tcp).unwrap(), 8000);
        assert!(!rustix::fs::fcntl_getfl(&tcp).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    }
}

#[tokio::test]
async fn the_kernel_takes_both_ends_or_says_which_module_is_missing() {
    let (home, importer) = session(0).await;
    match (home.into_kernel(), importer.into_kernel()) {
        (Ok(home), Ok(importer)) => {
            let (mut home, mut importer) = (TcpStream::from(home), TcpStream::from(importer));
            home.write_all(b"through two kernels").unwrap();
            let mut got = [0; 19];
            importer.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"through two kernels");
        }
        (Err(KernelTlsError::NoModule), Err(KernelTlsError::NoModule)) => {}
        other => panic!("{other:?}"),
    }
}

/// What the kernel does with the structure it is given, done here.
struct KernelDouble {
    tcp: TcpStream,
    sending: CryptoInfo,
    receiving: CryptoInfo,
}

impl KernelDouble {
    fn take(session: Session) -> Self {
        let (tcp, secrets) = session.into_parts().unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { tcp, sending: crypto_info(secrets.tx).unwrap(), receiving: crypto_info(secrets.rx).unwrap() }
    }

    fn suite() -> &'static Tls13CipherSuite {
        TLS13_CHACHA20_POLY1305_SHA256.tls13().unwrap()
    }

    /// Encrypts one record and advances the record number.
    fn send(&mut self, text: &[u8]) {
        let sequence = u64::from_be_bytes(self.sending.rec_seq);
        let mut cipher = Self::suite().aead_alg.encrypter(AeadKey::from(self.sending.key), Iv::from(self.sending.iv));
        let payload = OutboundChunks::Single(text);
        let message =
            OutboundPlainMessage { typ: ContentType::ApplicationData, version: ProtocolVersion::TLSv1_2, payload };
        let record = cipher.encrypt(message, sequence).unwrap().encode();
        self.sending.rec_seq = (sequence + 1).to_be_bytes();
        self.tcp.write_all(&record).unwrap();
    }

    /// Decrypts the next record and advances the record number.
    fn receive(&mut self) -> Vec<u8> {
        let mut header = [0; 5];
        self.tcp.read_exact(&mut header).unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        self.tcp.read_exact(&mut payload).unwrap();
        let sequence = u64::from_be_bytes(self.receiving.rec_seq);
        let mut cipher =
            Self::suite().aead_alg.decrypter(AeadKey::from(self.receiving.key), Iv::from(self.receiving.iv));
        let message = InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, &mut payload);
        let plain = cipher.decrypt(message, sequence).unwrap();
        self.receiving.rec_seq = (sequence + 1).to_be_bytes();
        assert_eq!(plain.typ, ContentType::ApplicationData);
        plain.payload.to_vec()
    }
}

#[tokio::test]
async fn keys_and_record_numbers_given_to_the_kernel_fit_the_records_that_follow() {
    for waits in [0, 3] {
        for kernel_is_home in [false, true] {
            let (home, importer) = session(waits).await;
            let (taken, left) = if kernel_is_home { (home, importer) } else { (importer, home) };
            let mut kernel = KernelDouble::take(taken);
            // One record for the request, one for the grant, one for each reason to wait.
            let answers = u64::try_from(waits).unwrap() + 1;
            let (sent, received) = if kernel_is_home { (answers, 1) } else { (1, answers) };
            assert_eq!(
                (kernel.sending.rec_seq, kernel.receiving.rec_seq),
                (sent.to_be_bytes(), received.to_be_bytes())
            );
            let mut library = left.into_stream();
            for n in 0..3_u8 {
                kernel.send(&[b'k', n]);
                let mut got = [0; 2];
                timeout(PATIENCE, library.read_exact(&mut got)).await.unwrap().unwrap();
                assert_eq!(got, [b'k', n]);
                library.write_all(&[b'l', n]).await.unwrap();
                library.flush().await.unwrap();
                assert_eq!(kernel.receive(), [b'l', n]);
            }
        }
    }
}

#[tokio::test]
async fn what_an_importer_sends_right_after_the_grant_is_left_for_the_kernel() {
    let (home, importer) = session(1).await;
    // The importer's kernel is faster than the home agent.
    let mut fast = KernelDouble::take(importer);
    fast.send(b"first command");
    fast.send(b"second command");
    let mut slow = KernelDouble::take(home);
    assert_eq!(slow.receive(), b"first command");
    assert_eq!(slow.receive(), b"second command");
}

#[tokio::test]
async fn an_identity_is_changed_under_a_listener_and_sessions_stay() {
    let (old, new) = (Authority::new(), Authority::new());
    let (tell, standing) = tokio::sync::watch::channel(Err("not signed yet".to_owned()));
    let credentials = Credentials::new(standing);
    let mut listener = Listener::bind_timed(loopback(), &credentials, Timing::default()).await.unwrap();
    // Calls that come before the identity wait for it.
    let importer = Arc::new(old.identity("importer"));
    let call = calling(listener.address(), &importer, Timing::default());
    drop(tell.send_replace(Ok(Arc::new(old.identity("home")))));
    let mut waiting = timeout(PATIENCE, listener.accept()).await.unwrap();

    drop(tell.send_replace(Ok(Arc::new(new.identity("home")))));
    // Whoever is being listened to stays with what was shaken hands upon.
    waiting.wait("one moment").await.unwrap();
    let _home = waiting.grant(granted()).await.unwrap();
    let _importer = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    // New callers meet the new one. Which end refuses first is a matter of TLS.
    let stale = timeout(PATIENCE, calling(listener.address(), &importer, Timing::default())).await.unwrap().unwrap();
    assert!(matches!(stale, Err(LinkError::Untrusted { .. })), "{stale:?}");
    let importer = Arc::new(new.identity("importer"));
    let _call = calling(listener.address(), &importer, Timing::default());
    assert_eq!(timeout(PATIENCE, listener.accept()).await.unwrap().peer_node(), "importer");
}
