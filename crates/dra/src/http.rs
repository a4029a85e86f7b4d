//! The least of HTTP: one answer to one `GET`, for probes and scrapes.
//!
//! Whoever can connect may ask, as often as they like: a bounded number of
//! connections is served at a time, each with one answer and within a deadline.

use std::convert::Infallible;
use std::time::Duration;

use futures::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// For a whole connection.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// Connections served at a time.
const CONNECTIONS: usize = 8;

/// Pause after a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200, with this text of this media type.
    Well(&'static str, String),
    /// 503, and what is wrong in words.
    Unwell(String),
}

/// Answers `GET` of `path` with what `answer` says, for ever; of all else that
/// it is not there.
pub async fn serve<F: Future<Output = Answer>>(listener: TcpListener, path: &'static str, answer: impl Fn() -> F) {
    let connections = stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((connection, listener)),
                Err(error) => {
                    tracing::warn!(%error, path, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    connections.for_each_concurrent(CONNECTIONS, |connection| connected(connection, path, &answer)).await;
}

async fn connected<F: Future<Output = Answer>>(connection: TcpStream, path: &'static str, answer: &impl Fn() -> F) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let plain = |status, words| response(status, "text/plain; charset=utf-8", words);
        let response = if request.uri().path() != path {
            plain(StatusCode::NOT_FOUND, format!("only {path} is answered here"))
        } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here".to_owned())
        } else {
            match answer().await {
                Answer::Well(media, text) => response(StatusCode::OK, media, text),
                Answer::Unwell(words) => plain(StatusCode::SERVICE_UNAVAILABLE, words),
            }
        };
        Ok::<_, Infallible>(response)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    match timeout(CONNECTION_DEADLINE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, path, "connection broken"),
        Err(_) => tracing::debug!(path, "connection cut off"),
    }
}

fn response(status: StatusCode, media: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
