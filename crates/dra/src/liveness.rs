//! The probe over HTTP, for the kubelet's liveness probes: `GET /healthz` is
//! answered with 200 and `ok`, or with 503 and what is wrong in words.
//!
//! Whoever can connect may ask, as often as they like: a bounded number of
//! connections is served at a time, each with one answer and within a deadline.

use std::convert::Infallible;
use std::time::Duration;

use futures::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::probe::{Probe, Unreachable};

/// The path that is answered.
pub const PATH: &str = "/healthz";

/// For one look at the plugin. Kubelets wait 1 s unless the manifest says
/// otherwise: let it say more than this (`timeoutSeconds`).
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// For a whole connection.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// Connections served at a time.
const CONNECTIONS: usize = 8;

/// Pause after a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Answers for the plugin until it is dropped. Never ends by itself.
pub async fn serve(listener: TcpListener, probe: Probe) {
    let connections = stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((connection, listener)),
                Err(error) => {
                    tracing::warn!(%error, "connection to the liveness port not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    connections.for_each_concurrent(CONNECTIONS, |connection| connected(connection, &probe)).await;
}

async fn connected(connection: TcpStream, probe: &Probe) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let response = if request.uri().path() != PATH {
            response(StatusCode::NOT_FOUND, format!("only {PATH} is answered here"))
        } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
            response(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here".to_owned())
        } else {
            answer(probe.check(PROBE_DEADLINE).await)
        };
        Ok::<_, Infallible>(response)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    match timeout(CONNECTION_DEADLINE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection to the liveness port broken"),
        Err(_) => tracing::debug!("connection to the liveness port cut off"),
    }
}

fn answer(outcome: Result<(), Unreachable>) -> Response<String> {
    match outcome {
        Ok(()) => response(StatusCode::OK, "ok".to_owned()),
        Err(problem) => {
            tracing::error!(%problem, "the liveness probe fails");
            response(StatusCode::SERVICE_UNAVAILABLE, problem.to_string())
        }
    }
}

fn response(status: StatusCode, words: String) -> Response<String> {
    let mut response = Response::new(words);
    *response.status_mut() = status;
    response
}
