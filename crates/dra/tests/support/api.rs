//! An API server in memory: claims, nodes and slices, with resource versions,
//! conflicts, selectors, and a watch that ends after each batch of events (clients
//! of a real one have to watch again as well).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures::FutureExt;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::codegen::Service;
use tonic::codegen::http::{Method, Request, Response};

type Key = (String, String);

#[derive(Default)]
pub(crate) struct State {
    revision: u64,
    /// By resource and namespace/name.
    objects: BTreeMap<Key, Value>,
    events: Vec<(u64, &'static str, Key, Value)>,
    /// `GET nodes/n`, `PUT resourceslices/s`, ...
    pub(crate) requests: Vec<String>,
    /// The names of all objects in lists and in events of watches.
    pub(crate) told: Vec<String>,
    /// Nobody gets an answer.
    pub(crate) down: bool,
    /// A field of devices that this server does not know.
    pub(crate) unknown_field: Option<&'static str>,
}

impl State {
    pub(crate) fn count(&self, what: &str) -> usize {
        self.requests.iter().filter(|r| r.starts_with(what)).count()
    }

    pub(crate) fn writes(&self) -> usize {
        ["POST", "PUT", "DELETE"].iter().map(|m| self.count(m)).sum()
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(resource.to_owned(), name.to_owned()))
    }

    pub(crate) fn all(&self, resource: &str) -> Vec<Value> {
        let of = |(key, _): &(&Key, &Value)| key.0 == resource;
        self.objects.iter().filter(of).map(|(_, o)| o.clone()).collect()
    }

    /// All states of the slices that a watcher could see, one after the other.
    pub(crate) fn history(&self) -> Vec<Vec<Value>> {
        let mut now = BTreeMap::new();
        let mut history = Vec::new();
        for (_, kind, key, object) in &self.events {
            if key.0 != "resourceslices" {
                continue;
            }
            match *kind {
                "DELETED" => now.remove(key),
                _ => now.insert(key.clone(), object.clone()),
            };
            history.push(now.values().cloned().collect());
        }
        history
    }

    fn tell<'o>(&mut self, objects: impl IntoIterator<Item = &'o Value>) {
        self.told.extend(objects.into_iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()));
    }

    /// What a watch with these selectors tells after a version. What is not selected any more is gone, as far as it knows.
    fn events(&self, resource: &str, query: &str, since: u64) -> Vec<Value> {
        let told = |(at, (version, kind, key, object)): (usize, &(u64, &'static str, Key, Value))| {
            if *version <= since || key.0 != resource {
                return None;
            }
            let before = self.events[..at].iter().rev().find(|event| event.2 == *key);
            let before =
                before.filter(|event| event.1 != "DELETED" && is_selected(query, &event.3)).map(|event| &event.3);
            let now = Some(object).filter(|_| *kind != "DELETED" && is_selected(query, object));
            let (kind, mut object) = match (before, now) {
                (None, None) => return None,
                (None, Some(now)) => ("ADDED", now.clone()),
                (Some(_), Some(now)) => ("MODIFIED", now.clone()),
                (Some(before), None) => ("DELETED", before.clone()),
            };
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            Some(json!({"type": kind, "object": object}))
        };
        self.events.iter().enumerate().filter_map(told).collect()
    }

    fn store(&mut self, key: Key, mut object: Value) -> Value {
        self.revision += 1;
        let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
        }
        if let (Some(field), Some(devices)) = (self.unknown_field, object["spec"]["devices"].as_array_mut()) {
            for device in devices {
                device.as_object_mut().unwrap().remove(field);
            }
        }
        self.events.push((self.revision, kind, key.clone(), object.clone()));
        self.objects.insert(key, object.clone());
        object
    }

    fn remove(&mut self, key: &Key) -> Option<Value> {
        let mut object = self.objects.remove(key)?;
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.events.push((self.revision, "DELETED", key.clone(), object.clone()));
        Some(object)
    }
}

#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: Arc::new(watch::channel(()).0) }
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts an object there, as some other client would.
    pub(crate) fn put(&self, resource: &str, object: Value) {
        let meta = &object["metadata"];
        let name = match meta["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", meta["name"].as_str().unwrap()),
            None => meta["name"].as_str().unwrap().to_owned(),
        };
        self.state().store((resource.to_owned(), name), object);
        self.changed.send_replace(());
    }

    pub(crate) fn delete(&self, resource: &str, name: &str) {
        let key = (resource.to_owned(), name.to_owned());
        self.state().remove(&key).expect("no such object");
        self.changed.send_replace(());
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.state().down = down;
        self.changed.send_replace(());
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, io::Error> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let parts: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
        // api/v1/... or apis/group/version/...
        let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
        let (resource, name) = match rest {
            ["namespaces", namespace, resource, name] => (*resource, format!("{namespace}/{name}")),
            [resource, name] => (*resource, (*name).to_owned()),
            [resource] => (*resource, String::new()),
            other => panic!("unexpected path {other:?}"),
        };
        let watching = query.contains("watch=true");
        let verb = if watching { "WATCH" } else { head.method.as_str() };
        self.state().requests.push(format!("{verb} {resource}/{name}"));
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if self.state().down {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        if watching {
            return self.watch(resource, &query).await;
        }
        let answer = self.change(&head.method, resource, name, &query, body);
        self.changed.send_replace(());
        let (code, value) = answer;
        Ok(Response::builder().status(code).body(Body::from(value.to_string().into_bytes())).unwrap())
    }

    fn change(&self, method: &Method, resource: &str, name: String, query: &str, mut body: Value) -> (u16, Value) {
        let mut state = self.state();
        let key = (resource.to_owned(), name);
        let there = state.objects.get(&key).cloned();
        match (method, there) {
            (&Method::GET, _) if key.1.is_empty() => {
                let mut items = state.all(resource);
                items.retain(|object| is_selected(query, object));
                state.tell(&items);
                let version = state.revision.to_string();
                (200, json!({"metadata": {"resourceVersion": version}, "items": items}))
            }
            (&Method::GET, Some(object)) => (200, object),
            (&Method::POST, _) => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let key = (key.0, name);
                match state.objects.contains_key(&key) {
                    true => failure(409, "AlreadyExists"),
                    false => (201, state.store(key, body)),
                }
            }
            (&Method::PUT, Some(object)) => {
                let (old, new) = (&object["metadata"], &mut body["metadata"]);
                if old["resourceVersion"] != new["resourceVersion"] || old["uid"] != new["uid"] {
                    return failure(409, "Conflict");
                }
                (200, state.store(key, body))
            }
            (&Method::DELETE, Some(object)) => {
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                    return failure(409, "Conflict");
                }
                (200, state.remove(&key).unwrap())
            }
            (_, None) => failure(404, "NotFound"),
            (method, _) => panic!("unexpected {method}"),
        }
    }

    /// Answers with the events after the given version, as soon as there are any.
    async fn watch(self, resource: &str, query: &str) -> Result<Response<Body>, io::Error> {
        let since = query
            .split('&')
            .find_map(|part| part.strip_prefix("resourceVersion="))
            .map_or(0, |version| version.parse::<u64>().unwrap());
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let lines: String = {
                let mut state = self.state();
                if state.down {
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset));
                }
                let events = state.events(resource, query, since);
                state.tell(events.iter().map(|event| &event["object"]));
                events.iter().map(|event| format!("{event}\n")).collect()
            };
            if !lines.is_empty() {
                return Ok(Response::new(Body::from(lines.into_bytes())));
            }
            changed.changed().await.map_err(io::Error::other)?;
        }
    }
}

/// Whether the selectors in a query take an object: `key=value` and `!key` for labels, `path=value` for fields.
fn is_selected(query: &str, object: &Value) -> bool {
    let selector = |kind: &str| {
        let text = query.split('&').find_map(|part| part.strip_prefix(kind)?.strip_prefix('='))?;
        Some(text.replace("%2F", "/").replace("%3D", "=").replace("%21", "!"))
    };
    let label = |selector: String| match selector.strip_prefix('!') {
        Some(key) => object["metadata"]["labels"][key].is_null(),
        None => selector.split_once('=').is_some_and(|(key, value)| object["metadata"]["labels"][key] == value),
    };
    let field = |selector: String| {
        let (path, value) = selector.split_once('=').unwrap();
        object.pointer(&format!("/{}", path.replace('.', "/"))).is_some_and(|found| found == value)
    };
    selector("labelSelector").is_none_or(label) && selector("fieldSelector").is_none_or(field)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, status)
}

impl Service<Request<Body>> for FakeApi {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = futures::future::BoxFuture<'static, Result<Response<Body>, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().answer(request).boxed()
    }
}
