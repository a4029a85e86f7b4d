//! Requests as browsers, and others, make them.

use futures::FutureExt;
use hyper::HeaderMap;

use super::super::gate::Secret;
use super::*;

fn door() -> (Door, String, String, watch::Sender<Arc<str>>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (token, key) = (Secret::new().unwrap(), Secret::new().unwrap());
    let words = (token.as_str().to_owned(), key.as_str().to_owned());
    let (sender, views) = watch::channel(Arc::from("{\"first\":1}"));
    let gate = Mutex::new(Gate::new(8080, token, key));
    (Door { gate, cluster: Cluster::nowhere(), views }, words.0, words.1, sender)
}

fn request(method: &Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method.clone()).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

const HOST: (&str, &str) = ("host", "127.0.0.1:8080");
const ORIGIN: (&str, &str) = ("origin", "http://127.0.0.1:8080");

async fn read(answer: Answer) -> (StatusCode, HeaderMap, String) {
    let (head, body) = answer.into_parts();
    (head.status, head.headers, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn the_page_is_for_everybody_and_asks_nobody_else() {
    let (door, ..) = door();
    for path in ["/", "/ui.css", "/ui.js", "/panel.js", "/icon.svg"] {
        let (status, headers, text) = read(door.answer(request(&Method::GET, path, &[HOST], "")).await).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'; "), "{path}");
        let foreign = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("://") && !foreign.contains("innerHTML"), "{path}");
    }
}

#[tokio::test]
async fn who_is_not_from_here_gets_nothing_at_all() {
    let (door, token, key, _views) = door();
    let bearer = format!("Bearer {key}");
    let with_key = ("authorization", bearer.as_str());
    for (method, path, headers, body, expected) in [
        (Method::GET, "/", &[("host", "rebound.example:8080")][..], "", StatusCode::MISDIRECTED_REQUEST),
        (Method::GET, "/events", &[("host", "rebound.example:8080"), with_key], "", StatusCode::MISDIRECTED_REQUEST),
        (Method::GET, "/events", &[HOST], "", StatusCode::UNAUTHORIZED),
        (Method::GET, "/events", &[HOST, ("origin", "https://example.com"), with_key], "", StatusCode::FORBIDDEN),
        (Method::POST, "/session", &[HOST, ORIGIN], "guess", StatusCode::UNAUTHORIZED),
        (Method::POST, "/session", &[HOST, ("origin", "https://example.com")], &token, StatusCode::FORBIDDEN),
        (Method::POST, "/do", &[HOST, ORIGIN], "{}", StatusCode::UNAUTHORIZED),
        (Method::POST, "/do", &[HOST, with_key], "{}", StatusCode::FORBIDDEN),
        (Method::POST, "/do", &[HOST, ("origin", "http://127.0.0.1:9090"), with_key], "{}", StatusCode::FORBIDDEN),
        (Method::POST, "/do", &[HOST, ORIGIN, with_key], "{\"do\":\"delete\"}", StatusCode::BAD_REQUEST),
        (Method::POST, "/do", &[HOST, ORIGIN, with_key], &" ".repeat(BODY + 1), StatusCode::BAD_REQUEST),
        (Method::DELETE, "/", &[HOST, ORIGIN, with_key], "", StatusCode::NOT_FOUND),
    ] {
        let (status, _, text) = read(door.answer(request(&method, path, headers, body)).await).await;
        assert_eq!(status, expected, "{method} {path} {headers:?}: {text}");
        assert!(!text.contains(&key), "{method} {path}");
    }
}

#[tokio::test]
async fn the_token_gives_the_key_once_and_the_key_opens_all() {
    let (door, token, key, views) = door();
    let ask = || request(&Method::POST, "/session", &[HOST, ORIGIN], &token);
    let (status, _, text) = read(door.answer(ask()).await).await;
    assert_eq!((status, text), (StatusCode::OK, format!("{{\"key\":\"{key}\"}}")));
    let (status, _, text) = read(door.answer(ask()).await).await;
    assert_eq!((status, text.as_str()), (StatusCode::UNAUTHORIZED, "this address works once, and was used"));

    let bearer = format!("Bearer {key}");
    let answer = door.answer(request(&Method::GET, "/events", &[HOST, ("authorization", &bearer)], "")).await;
    let mut body = answer.into_body();
    let mut next = || {
        let frame = body.frame().now_or_never().expect("it is there at once").unwrap().unwrap();
        frame.into_data().unwrap()
    };
    assert_eq!(next(), "data: {\"first\":1}\n\n");
    views.send_replace(Arc::from("{\"second\":2}"));
    assert_eq!(next(), "data: {\"second\":2}\n\n");
    drop(views);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn what_the_api_server_says_is_told_in_words() {
    let (door, _, key, _views) = door();
    let bearer = format!("Bearer {key}");
    let body = r#"{"do": "unassign", "device": "webcam"}"#;
    let headers = [HOST, ORIGIN, ("authorization", bearer.as_str())];
    let (status, _, text) = read(door.answer(request(&Method::POST, "/do", &headers, body)).await).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("\"done\":false") && text.contains("cannot get USB device webcam: "), "{text}");
}
