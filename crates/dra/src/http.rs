//! The least of HTTP: one answer to one `GET`, for probes and scrapes.
//!
//! Whoever can connect may ask, as often as they like: a bounded number of
//! connections is served at a time, each with one answer and within a deadline.

use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
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

/// Longest answer that is read, in bytes.
const MOST_WORDS: usize = 4096;

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

/// Asks for a path on this machine once: whether the answer is 200, and its text.
///
/// # Errors
/// Nobody answers, or not like a server of HTTP.
pub(crate) async fn get(port: u16, path: &str) -> Result<(bool, String), Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, "localhost").body(String::new())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await?;
        let well = response.status() == StatusCode::OK;
        let body = Limited::new(response.into_body(), MOST_WORDS).collect().await?;
        Ok((well, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    let answer = answer.await;
    connection.abort();
    answer
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asks_hears_what_is_answered() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(get(1, "/").await.is_err(), "nobody is there");
        tokio::spawn(serve(listener, "/healthz", || async { Answer::Unwell("the socket is gone".to_owned()) }));
        assert_eq!(get(port, "/healthz").await.unwrap(), (false, "the socket is gone".to_owned()));
        assert_eq!(get(port, "/other").await.unwrap(), (false, "only /healthz is answered here".to_owned()));
    }
}
