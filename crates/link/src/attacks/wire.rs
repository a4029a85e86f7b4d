//! Whoever is on the wire: plays calls again, talks TLS of its own choice, or no TLS at all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::crypto::ring::cipher_suite;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Credulous, parsed, serve, serving, still_works};
use crate::identity::server_name;
use crate::pki::{Authority, Subject};
use crate::scenarios::{PATIENCE, calling, granted, home};
use crate::{LinkError, Timing};

/// A way to `home` on which somebody writes down what callers send.
async fn tapped(home: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&heard);
    let address = serve(move |tcp| {
        let written = Arc::clone(&written);
        async move {
            let (mut from_caller, mut to_caller) = tcp.into_split();
            let (mut from_home, mut to_home) = TcpStream::connect(home).await.unwrap().into_split();
            let there = async {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = from_caller.read(&mut bytes).await {
                    written.lock().unwrap().extend_from_slice(&bytes[..length]);
                    to_home.write_all(&bytes[..length]).await.unwrap();
                }
            };
            tokio::select! {
                () = there => {}
                _ = copy(&mut from_home, &mut to_caller) => {}
            }
        }
    })
    .await;
    (address, heard)
}

/// All that the other end has to say to these bytes.
async fn answer(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // It may hang up before it has heard all.
    let _ = tcp.write_all(bytes).await;
    let _ = tcp.shutdown().await;
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut said)).await.unwrap();
    said
}

#[tokio::test]
async fn a_call_that_is_played_again_is_not_heard() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    let (wire, heard) = tapped(listener.address()).await;
    let call = calling(wire, &importer, Timing::default());
    let incoming = timeout(PATIENCE, listener.accept()).await.unwrap();
    let session = incoming.grant(granted()).await.unwrap();
    let _importers = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    let recorded = heard.lock().unwrap().clone();
    assert!(recorded.len() > 500, "{} bytes are no call", recorded.len());
    drop(session);
    // The home agent greets with another number each time, so neither the certificate's proof nor the request fits.
    let said = answer(listener.address(), &recorded).await;
    assert!(!said.is_empty(), "it was not even greeted: the recording is none");
    still_works(&mut listener, &importer).await;
}

#[tokio::test]
async fn stock_usbip_clients_are_told_nothing() {
    let (_authority, mut listener, importer) = home(Timing::default()).await;
    // OP_REQ_DEVLIST and OP_REQ_IMPORT of the kernel's documentation (usb/usbip_protocol), as `usbip list` and `usbip attach` send
    // them.
    let list = b"\x01\x11\x80\x05\0\0\0\0".to_vec();
    let mut import = b"\x01\x11\x80\x03\0\0\0\x002-1".to_vec();
    import.resize(40, 0);
    for request in [list, import] {
        let said = answer(listener.address(), &request).await;
        // At most an alert of TLS: a header of five bytes, and two.
        assert!(said.is_empty() || (said.first() == Some(&21) && said.len() == 7), "{said:?}");
    }
    still_works(&mut listener, &importer).await;
}

/// Other cryptography than ours, which is TLS 1.3 with ChaCha20-Poly1305.
fn others() -> [(Arc<CryptoProvider>, &'static SupportedProtocolVersion); 2] {
    let aes = vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256];
    [
        (Arc::new(ring::default_provider()), &rustls::version::TLS12),
        (Arc::new(CryptoProvider { cipher_suites: aes, ..ring::default_provider() }), &rustls::version::TLS13),
    ]
}

#[tokio::test]
async fn older_tls_and_other_ciphers_are_refused_by_the_home_agent() {
    let (authority, mut listener, importer) = home(Timing::default()).await;
    for ((provider, version), alert) in others().into_iter().zip(["ProtocolVersion", "HandshakeFailure"]) {
        let (chain, key) = parsed(authority.issue(&Subject::node("importer")));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_client_auth_cert(chain, key)
            .unwrap();
        let tcp = TcpStream::connect(listener.address()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let refused = timeout(PATIENCE, connector.connect(server_name("home").unwrap(), tcp)).await.unwrap();
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(alert), "{error} instead of {alert}");
    }
    still_works(&mut listener, &importer).await;
}

#[tokio::test]
async fn older_tls_and_other_ciphers_are_refused_by_importers() {
    let authority = Authority::new();
    let importer = Arc::new(authority.identity("importer"));
    for (provider, version) in others() {
        let address = serving(&authority, &Subject::node("home"), provider, version).await;
        let refused = timeout(PATIENCE, calling(address, &importer, Timing::default())).await.unwrap().unwrap();
        let error = refused.map(drop).unwrap_err();
        assert!(matches!(error, LinkError::Rejected { .. } | LinkError::HungUp { .. }), "{error:?}");
    }
}
