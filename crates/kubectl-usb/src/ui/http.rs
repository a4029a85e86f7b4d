//! The server of the page, at 127.0.0.1 alone.
//!
//! | request | needs | answer |
//! |---|---|---|
//! | `GET /`, and its scripts, style and icon | to come from here | the same for everybody |
//! | `POST /session` | the token | the key; once |
//! | `GET /events` | the key | what is shown, and again with each change, as server-sent events |
//! | `POST /do` | the key | what has come of it |

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::act::{Act, act};
use super::gate::{Gate, Refusal};
use crate::connection::Cluster;

/// Connections at a time: a browser makes six.
const CONNECTIONS: usize = 64;

/// Bytes of a request's body.
const BODY: usize = 4096;

/// For a request's body.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// How often a page that nothing is told hears that it is not forgotten, and we hear of its end.
const BEAT: Duration = Duration::from_secs(15);

/// Pause after a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/ui.css");
const SCRIPT: &str = include_str!("page/ui.js");
const PANEL: &str = include_str!("page/panel.js");
const ICON: &str = include_str!("page/icon.svg");

/// The page runs its own script and nothing else, asks here and nowhere else, makes no markup of text, and is in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// On every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What is behind the port.
pub(crate) struct Door {
    /// Who is let in.
    pub(crate) gate: Mutex<Gate>,
    /// Where things are done.
    pub(crate) cluster: Cluster,
    /// What is shown.
    pub(crate) views: watch::Receiver<Arc<str>>,
}

/// Serves until it is dropped. Never ends by itself.
pub(crate) async fn serve(listener: TcpListener, door: Arc<Door>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((connection, _)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    connected(connection, door).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connected(connection: TcpStream, door: Arc<Door>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(door.answer(request).await) }
    });
    let serving = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), service);
    // A browser that hangs up has its reasons.
    let _ = serving.await;
}

impl Door {
    fn gate(&self) -> std::sync::MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut answer = match self.admitted(request).await {
            Ok(answer) => answer,
            Err(refusal) => told(refusal.status(), refusal.words()),
        };
        for (name, value) in HEADERS {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn admitted<B>(&self, request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        self.gate().admits(&head.method, &head.headers)?;
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/") => Ok(file("text/html; charset=utf-8", PAGE)),
            (&Method::GET, "/ui.css") => Ok(file("text/css; charset=utf-8", STYLE)),
            (&Method::GET, "/ui.js") => Ok(file("text/javascript; charset=utf-8", SCRIPT)),
            (&Method::GET, "/panel.js") => Ok(file("text/javascript; charset=utf-8", PANEL)),
            (&Method::GET, "/icon.svg") => Ok(file("image/svg+xml", ICON)),
            (&Method::POST, "/session") => {
                let token = text(body).await.unwrap_or_default();
                let mut gate = self.gate();
                let key = gate.exchange(&token)?;
                Ok(json(&json!({"key": key})))
            }
            (&Method::GET, "/events") => {
                self.gate().knows(&head.headers)?;
                let mut answer = Response::new(StreamBody::new(events(self.views.clone())).boxed_unsync());
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                Ok(answer)
            }
            (&Method::POST, "/do") => {
                self.gate().knows(&head.headers)?;
                let asked: Option<Act> = text(body).await.and_then(|text| serde_json::from_str(&text).ok());
                let Some(asked) = asked else { return Ok(told(StatusCode::BAD_REQUEST, "this cannot be done here")) };
                let said = act(&self.cluster, &asked).await;
                Ok(json(&serde_json::to_value(said).unwrap_or_default()))
            }
            _ => Ok(told(StatusCode::NOT_FOUND, "there is nothing here")),
        }
    }
}

/// The body, if it is short and comes in time.
async fn text<B>(body: B) -> Option<String>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Box::pin(Limited::new(body, BODY)).collect();
    let bytes = tokio::time::timeout(BODY_DEADLINE, body).await.ok()?.ok()?.to_bytes();
    String::from_utf8(bytes.to_vec()).ok()
}

/// What is shown, now and with each change.
fn events(mut views: watch::Receiver<Arc<str>>) -> impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    views.mark_changed();
    stream::unfold(views, |mut views| async move {
        let text = match tokio::time::timeout(BEAT, views.changed()).await {
            Ok(Ok(())) => format!("data: {}\n\n", *views.borrow_and_update()),
            Ok(Err(_)) => return None,
            Err(_) => ":\n\n".to_owned(),
        };
        Some((Ok(Frame::data(Bytes::from(text))), views))
    })
}

fn full(kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn file(kind: &'static str, text: &'static str) -> Answer {
    full(kind, text)
}

fn json(value: &serde_json::Value) -> Answer {
    full("application/json", value.to_string())
}

fn told(status: StatusCode, words: &'static str) -> Answer {
    let mut answer = full("text/plain; charset=utf-8", words);
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests;
