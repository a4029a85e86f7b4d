//! Calls with peers that are wrong, slow or hostile.

mod crowd;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_core::trust::NODE_SUFFIX;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::exchange::{Answer, Request};
use crate::identity::{provider, server_name};
use crate::pki::{Authority, Subject};
use crate::scenarios::{PATIENCE, calling, granted, home, import, loopback, move_of_vm};
use crate::{Identity, LinkError, Listener, Timing};

/// A client that believes any server.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &ring::default_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn parsed((certificate, key): (String, String)) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (
        vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
        PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
    )
}

/// An importer that shows this certificate, or none, and cares about nothing.
fn rogue(certificate: Option<(String, String)>) -> Arc<Identity> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let client = match certificate.map(parsed) {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let other = Authority::new().identity("rogue");
    Arc::new(Identity { client: Arc::new(client), ..other })
}

/// After all that, a good call gets through, and it is the first that the agent hears of.
async fn still_works(listener: &mut Listener, importer: &Arc<Identity>) {
    let _call = calling(listener.address(), importer, Timing::default());
    let incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    assert_eq!((incoming.peer_node(), incoming.request()), ("importer", &Request::Import(import())));
}

#[tokio::test]
async fn importers_without_a_good_certificate_never_reach_the_agent_and_learn_why() {
    let (authority, mut listener, importer) = home(Timing::default()).await;
    let of = |subject: Subject| Some(authority.issue(&subject));
    for (certificate, alert) in [
        (None, "CertificateRequired"),
        (Some(Authority::new().issue(&Subject::node("importer"))), "UnknownCA"),
        (of(Subject { expired: true, ..Subject::node("importer") }), "CertificateExpired"),
    ] {
        let call = calling(listener.address(), &rogue(certificate), Timing::default());
        let rejected = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(rejected, LinkError::Rejected { .. }), "{rejected:?}");
        assert!(rejected.to_string().contains(alert), "{rejected} instead of {alert}");
    }
    still_works(&mut listener, &importer).await;
}

#[tokio::test]
async fn certificates_of_the_right_authority_that_name_no_node_are_not_enough() {
    let (authority, mut listener, importer) = home(Timing::default()).await;
    for names in [vec!["importer".into()], vec![format!("*{NODE_SUFFIX}")]] {
        let certificate = authority.issue(&Subject { names, ..Subject::node("importer") });
        let call = calling(listener.address(), &rogue(Some(certificate)), Timing::default());
        let rejected = timeout(PATIENCE, call).await.unwrap().unwrap();
        assert!(matches!(rejected, Err(LinkError::HungUp { .. })), "{rejected:?}");
    }
    still_works(&mut listener, &importer).await;
}

/// Serves TLS with this certificate to whoever comes, and reads.
async fn impostor(authority: &Authority, subject: &Subject) -> SocketAddr {
    serving(authority, subject, provider(), &rustls::version::TLS13).await
}

/// The same with other cryptography.
async fn serving(
    authority: &Authority,
    subject: &Subject,
    provider: Arc<CryptoProvider>,
    version: &'static SupportedProtocolVersion,
) -> SocketAddr {
    let (chain, key) = parsed(authority.issue(subject));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    serve(move |tcp| {
        let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
        async move {
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
            }
        }
    })
    .await
}

/// Serves TCP connections.
async fn serve<F: Future<Output = ()> + Send>(mut with: impl FnMut(TcpStream) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            with(tcp).await;
        }
    });
    address
}

#[tokio::test]
async fn servers_that_are_not_the_expected_node_are_not_told_the_request() {
    let authority = Authority::new();
    let importer = Arc::new(authority.identity("importer"));
    let all = Subject { names: vec![format!("*{NODE_SUFFIX}")], ..Subject::node("home") };
    for (issuer, subject) in [
        (&authority, Subject::node("other")),
        (&authority, all),
        (&authority, Subject { expired: true, ..Subject::node("home") }),
        (&authority, Subject { client_only: true, ..Subject::node("home") }),
        (&Authority::new(), Subject::node("home")),
    ] {
        let address = impostor(issuer, &subject).await;
        let refused = timeout(PATIENCE, calling(address, &importer, Timing::default())).await.unwrap().unwrap();
        assert!(matches!(refused, Err(LinkError::Untrusted { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_name_that_no_node_can_have_is_refused_before_calling() {
    let importer = Authority::new().identity("importer");
    for node in ["", "a b", "a..b", &"a.".repeat(120)] {
        let refused = crate::call(loopback(), node, &importer, import(), |_| {}).await;
        assert!(matches!(refused, Err(LinkError::BadNode { .. })), "{node}: {refused:?}");
    }
}

#[tokio::test]
async fn a_home_that_is_not_there_is_told_with_its_address() {
    let address = TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap();
    let importer = Authority::new().identity("importer");
    let failed = crate::call(address, "home", &importer, import(), |_| {}).await.unwrap_err();
    assert!(
        matches!(failed, LinkError::Broken { .. }) && failed.to_string().contains(&address.to_string()),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_shake_hands_is_given_up() {
    let address = serve(|mut tcp| async move {
        let mut hello = [0; 4096];
        while tcp.read(&mut hello).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let importer = Arc::new(Authority::new().identity("importer"));
    let timing = Timing { handshake: Duration::from_millis(100), ..Timing::default() };
    let slow = timeout(PATIENCE, calling(address, &importer, timing)).await.unwrap().unwrap();
    assert!(matches!(slow, Err(LinkError::Slow { .. })), "{slow:?}");
}

#[tokio::test]
async fn a_server_that_goes_silent_is_given_up() {
    let timing = Timing { silence: Duration::from_millis(200), ..Timing::default() };
    let (_authority, mut listener, importer) = home(timing).await;
    let call = calling(listener.address(), &importer, timing);
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    incoming.wait("once, and never again").await.unwrap();
    let slow = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert!(matches!(slow, Err(LinkError::Slow { .. })), "{slow:?}");
}

/// A verified importer whose bytes the test chooses.
async fn talker(authority: &Authority, listener: &Listener) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(listener.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(&authority.identity("talker").client));
    timeout(PATIENCE, connector.connect(server_name("home").unwrap(), tcp)).await.unwrap().unwrap()
}

async fn say(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn requests_against_the_rules_are_denied_in_words() {
    let (authority, mut listener, importer) = home(Timing::default()).await;
    let framed = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let cases = [
        (u32::MAX.to_be_bytes().to_vec(), "limit is 4096"),
        (4097_u32.to_be_bytes().to_vec(), "limit is 4096"),
        (vec![0; 4], "limit is 4096"),
        (framed("not json"), "cannot be understood"),
        (framed("{\"version\": 1, \"request\": \"import\", \"pool\": 7}"), "cannot be understood"),
        (framed("{\"version\": 1, \"request\": \"migrate\", \"namespace\": \"n\"}"), "cannot be understood"),
        (framed("{\"version\": 9}"), "speaks version 9"),
    ];
    for (bytes, why) in cases {
        let mut stream = talker(&authority, &listener).await;
        say(&mut stream, &bytes).await;
        let Answer::Denied { reason } = timeout(PATIENCE, Answer::read(&mut stream)).await.unwrap().unwrap() else {
            panic!("{why}")
        };
        assert!(reason.contains(why), "{reason}");
    }
    still_works(&mut listener, &importer).await;
}

#[tokio::test]
async fn an_answer_to_another_request_is_not_taken() {
    let (_authority, mut listener, caller) = home(Timing::default()).await;
    let address = listener.address();
    let other = Arc::clone(&caller);
    let import = tokio::spawn(async move { crate::call(address, "home", &other, import(), |_| {}).await.map(drop) });
    let _session = timeout(PATIENCE, listener.accept()).await.unwrap().accept().await.unwrap();
    let mixed_up = timeout(PATIENCE, import).await.unwrap().unwrap();
    assert!(matches!(mixed_up, Err(LinkError::Protocol { .. })), "{mixed_up:?}");
    let migrate =
        tokio::spawn(async move { crate::migrate(address, "home", &caller, move_of_vm(), |_| {}).await.map(drop) });
    let _session = timeout(PATIENCE, listener.accept()).await.unwrap().grant(granted()).await.unwrap();
    let mixed_up = timeout(PATIENCE, migrate).await.unwrap().unwrap();
    assert!(matches!(mixed_up, Err(LinkError::Protocol { .. })), "{mixed_up:?}");
}

#[tokio::test]
async fn an_importer_that_says_more_than_its_request_is_dropped() {
    let (authority, mut listener, importer) = home(Timing::default()).await;
    let request = Request::Import(import()).frame().unwrap();
    // In the same record: never accepted.
    let mut stream = talker(&authority, &listener).await;
    say(&mut stream, &[request.as_slice(), b"x"].concat()).await;
    assert!(timeout(PATIENCE, Answer::read(&mut stream)).await.unwrap().is_err());
    still_works(&mut listener, &importer).await;
    // In a record of its own: seen as soon as somebody looks, and never granted.
    let mut stream = talker(&authority, &listener).await;
    say(&mut stream, &request).await;
    say(&mut stream, b"x").await;
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    let spoke = timeout(PATIENCE, incoming.hung_up()).await.unwrap();
    assert!(matches!(spoke, LinkError::Protocol { .. }), "{spoke:?}");
    assert!(matches!(incoming.grant(granted()).await, Err(LinkError::Protocol { .. })));
}

#[tokio::test]
async fn slow_and_silent_importers_are_cut_off() {
    let brief = Duration::from_millis(200);
    let (authority, mut listener, importer) = home(Timing { request: brief, ..Timing::default() }).await;
    for bytes in [b"".as_slice(), b"\0\0", b"\0\0\0\x08{"] {
        let mut stream = talker(&authority, &listener).await;
        say(&mut stream, bytes).await;
        assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
    }
    still_works(&mut listener, &importer).await;
}

#[tokio::test]
async fn an_importer_that_does_not_read_is_cut_off() {
    let brief = Duration::from_millis(200);
    let (authority, mut listener, _importer) = home(Timing { request: brief, ..Timing::default() }).await;
    let mut stream = talker(&authority, &listener).await;
    say(&mut stream, &Request::Import(import()).frame().unwrap()).await;
    let mut incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    let reason = "x".repeat(900);
    let error = timeout(PATIENCE, async {
        loop {
            if let Err(error) = incoming.wait(&reason).await {
                return error;
            }
        }
    });
    let error = error.await.unwrap();
    assert!(matches!(error, LinkError::Slow { .. }), "{error:?}");
}
