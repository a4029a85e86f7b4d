//! Asking for a certificate: one `CertificateSigningRequest`, watched until it is answered.

use std::time::Duration;

use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use patchbay_api::{certificate_request, keys};
use patchbay_core::names::NodeName;
use patchbay_core::trust::request;
use patchbay_link::PrivateKey;
use tokio::time::timeout;

use super::files::Files;
use crate::agent::steps::blocking;

/// One answer of the API server.
const API: Duration = Duration::from_secs(5);

/// A request that is under way.
pub(super) struct Request {
    requests: Api<CertificateSigningRequest>,
    name: String,
    key: PrivateKey,
    files: Files,
    seen: CertificateSigningRequest,
}

impl Request {
    /// Makes the request of a node for a key that is not the `present` one, or finds the one that a former agent has made.
    ///
    /// # Errors
    /// In words for people.
    pub(super) async fn begin(
        node: &NodeName,
        client: &Client,
        files: Files,
        present: Option<String>,
    ) -> Result<Self, String> {
        let folder = files.clone();
        let key = blocking(move || folder.next_key(present.as_deref())).await?;
        let text = key.request(node).map_err(|error| format!("node {node} has no name for a certificate: {error}"))?;
        let name = request::name(node, key.public());
        let requests = Api::<CertificateSigningRequest>::all(client.clone());
        let params = PostParams { field_manager: Some(keys::AGENT.to_owned()), ..PostParams::default() };
        let object = certificate_request::build(&name, &text);
        let seen = match answer(requests.create(&params, &object)).await {
            Err(Refused { code: Some(409), .. }) => answer(requests.get(&name)).await,
            made => made,
        };
        let seen = seen.map_err(|refused| format!("a certificate cannot be asked for: {}", refused.why))?;
        tracing::info!(name, "a certificate is asked for: the controller has to sign the request");
        Ok(Self { requests, name, key, files, seen })
    }

    /// Waits for the answer, however long that takes. Gives key and certificate, PEM.
    ///
    /// # Errors
    /// In words for people: it was denied, is gone, or nothing is heard of it any more.
    pub(super) async fn signed(mut self) -> Result<String, String> {
        loop {
            match certificate_request::outcome(&self.seen) {
                Some(Ok(certificate)) => return Ok(format!("{}{certificate}", self.key.pem())),
                Some(Err(why)) => {
                    // What was decided about this key stays decided.
                    let files = self.files.clone();
                    blocking(move || files.discard().map_err(|error| error.to_string())).await?;
                    return Err(format!("the controller does not sign the request {}: {why}", self.name));
                }
                None => self.seen = self.next().await?,
            }
        }
    }

    /// The request when it has changed, or when the API server has nothing more to say of what it was.
    async fn next(&self) -> Result<CertificateSigningRequest, String> {
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let version = self.seen.metadata.resource_version.as_deref().unwrap_or("0");
        let lost = |error: kube::Error| format!("nothing is heard of the request {}: {error}", self.name);
        let events = timeout(API, self.requests.watch(&params, version)).await;
        let events = events.map_err(|_| "the API server does not answer".to_owned())?.map_err(lost)?;
        pin_mut!(events);
        while let Some(event) = events.try_next().await.map_err(lost)? {
            match event {
                WatchEvent::Added(request) | WatchEvent::Modified(request) => return Ok(request),
                WatchEvent::Deleted(_) => return Err(format!("somebody has deleted the request {}", self.name)),
                WatchEvent::Bookmark(_) => {}
                // The version is too old for the API server.
                WatchEvent::Error(_) => break,
            }
        }
        answer(self.requests.get(&self.name)).await.map_err(|refused| refused.why)
    }
}

/// What the API server says instead of an answer.
struct Refused {
    code: Option<u16>,
    why: String,
}

async fn answer<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
    match timeout(API, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Refused { code: Some(status.code), why: status.message.clone() }),
        Ok(Err(error)) => Err(Refused { code: None, why: error.to_string() }),
        Err(_) => Err(Refused { code: None, why: "the API server does not answer".to_owned() }),
    }
}
