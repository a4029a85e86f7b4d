//! The self-probe, and the liveness probe that a kubelet sends.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use crate::node::Node;
use crate::support::DEADLINE;
use patchbay_dra::{Fault, liveness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const PROBE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_plugin_that_serves_is_reached_and_its_driver_hears_nothing_of_it() {
    let node = Node::start().await;
    let probe = node.plugin.probe();
    probe.check(PROBE).await.unwrap();
    probe.clone().check(PROBE).await.unwrap();
    assert!(node.driver.calls().is_empty());
    assert_eq!(node.journal.records().iter().count(), 0);
}

#[tokio::test]
async fn a_socket_file_that_somebody_removed_or_replaced_is_noticed() {
    for registration in [false, true] {
        let node = Node::start().await;
        let (server, path) = match registration {
            false => ("DRA", node.ground.socket()),
            true => ("registration", node.ground.registration_socket()),
        };
        fs::remove_file(&path).unwrap();
        let error = node.plugin.probe().check(PROBE).await.unwrap_err();
        assert_eq!((error.server, &error.path), (server, &path));
        assert!(matches!(error.fault, Fault::Removed), "{error}");
        assert!(error.to_string().contains("somebody has removed it; a restart"), "{error}");

        let _listens = UnixListener::bind(&path).unwrap();
        let error = node.plugin.probe().check(PROBE).await.unwrap_err();
        assert!(matches!(error.fault, Fault::Replaced), "{error}");

        // The restart that the words speak of.
        let node = Node::start_on(node.crash(), Duration::from_secs(20)).await;
        node.plugin.probe().check(PROBE).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_has_ended_is_noticed() {
    let node = Node::start().await;
    let probe = node.plugin.probe();
    let _ground = node.crash();
    let end = Instant::now() + DEADLINE;
    // What the runtime still has to end takes a moment.
    let error = loop {
        match probe.check(PROBE).await {
            Err(error) => break error,
            Ok(()) => assert!(Instant::now() < end, "still answers"),
        }
    };
    assert!(matches!(error.fault, Fault::Broken(_)), "{error}");
    assert!(error.to_string().contains("has ended"), "{error}");
}

#[tokio::test]
async fn a_process_that_hangs_is_noticed_within_the_deadline() {
    // The plugin runs in a runtime of its own, whose only thread is then blocked.
    let (send_probe, probe) = mpsc::channel();
    let (unblock, blocked) = mpsc::channel::<()>();
    let hanging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::start().await;
            send_probe.send(node.plugin.probe()).unwrap();
            let _ = blocked.recv();
        });
    });
    let probe = probe.recv().unwrap();
    let since = Instant::now();
    let error = probe.check(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error.fault, Fault::Silent(_)), "{error}");
    assert!(error.to_string().contains("no answer within 200 ms"), "{error}");
    assert!(since.elapsed() < DEADLINE);
    unblock.send(()).unwrap();
    hanging.join().unwrap();
}

/// What an HTTP client gets: the status line's code and the body.
async fn get(address: SocketAddr, request: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn a_liveness_probe_gets_ok_or_what_is_wrong() {
    let node = Node::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(liveness::serve(listener, node.plugin.probe()));
    // Some who say nothing are in nobody's way.
    let _silent: Vec<_> =
        [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()].into();

    // As a kubelet asks.
    let request =
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:3242\r\nUser-Agent: kube-probe/1.34\r\nConnection: close\r\n\r\n";
    assert_eq!(get(address, request).await, (200, "ok".to_owned()));
    let other = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(get(address, other).await.0, 404);
    let write = "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(get(address, write).await.0, 405);

    fs::remove_file(node.ground.socket()).unwrap();
    let (code, words) = get(address, request).await;
    assert_eq!(code, 503);
    assert!(words.contains("dra.sock: somebody has removed it"), "{words}");
}
