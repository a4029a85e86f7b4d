//! The answers to requests for certificates: approved and signed, or denied with the reason.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use patchbay_api::{certificate_request, keys};
use patchbay_core::trust::request::{step, validity};
use patchbay_link::Authority;

use super::{SignerError, Step, Timestamp, pkcs10, request};

/// What an approval says.
const APPROVED: &str = "an agent asks for its own node";

/// Answers requests.
pub(super) struct Answers {
    requests: Api<CertificateSigningRequest>,
    account: String,
}

impl Answers {
    /// `account` is the user that agents are.
    pub(super) fn new(client: &Client, account: String) -> Self {
        Self { requests: Api::all(client.clone()), account }
    }

    /// Answers a request; of an approval to its end. Every write is for the version that was judged.
    ///
    /// # Errors
    /// The API server refuses, for another reason than that the request is gone or has changed: the watch tells of that.
    pub(super) async fn answer(
        &self,
        object: &CertificateSigningRequest,
        authority: &Authority,
    ) -> Result<(), SignerError> {
        let mut object = object.clone();
        while let Some(next) = self.step(&object, authority).await? {
            object = next;
        }
        Ok(())
    }

    /// Does one step. None when there is nothing more to do for now.
    async fn step(
        &self,
        object: &CertificateSigningRequest,
        authority: &Authority,
    ) -> Result<Option<CertificateSigningRequest>, SignerError> {
        let (name, now) = (object.name_any(), Timestamp::now());
        let asked = certificate_request::read(object, pkcs10::read(&object.spec.request.0));
        let node = asked.node.as_ref().map(tracing::field::display);
        let with = |kind: &str, message: &str| certificate_request::with_condition(object, kind, message, now);
        let next = step(&asked, &self.account);
        let written = match &next {
            Step::Leave => return Ok(None),
            Step::Approve => self.write("approval", &with("Approved", APPROVED)).await?,
            Step::Deny(why) => self.write("approval", &with("Denied", why)).await?,
            Step::Fail(why) => self.write("status", &with("Failed", why)).await?,
            Step::Sign(node) => {
                let validity = validity(&asked, authority.validity(), now.as_second());
                let certificate = authority.sign(&object.spec.request.0, node, validity)?;
                self.write("status", &certificate_request::with_certificate(object, &certificate)).await?
            }
        };
        match &next {
            // Somebody else was faster, this controller itself for what the watch shows late.
            _ if written.is_none() => {}
            Step::Leave | Step::Approve => {}
            Step::Deny(why) => {
                tracing::warn!(name, node, user = asked.user, why, "a request for a certificate is denied")
            }
            Step::Fail(why) => {
                tracing::warn!(
                    name,
                    node,
                    user = asked.user,
                    why,
                    "a request that somebody has approved is not signed"
                );
            }
            Step::Sign(_) => tracing::info!(name, node, "a certificate is signed"),
        }
        Ok(written)
    }

    async fn write(
        &self,
        part: &str,
        object: &CertificateSigningRequest,
    ) -> Result<Option<CertificateSigningRequest>, SignerError> {
        let params = PostParams { field_manager: Some(keys::CONTROLLER.to_owned()), ..PostParams::default() };
        match request(self.requests.replace_subresource(part, &object.name_any(), &params, object)).await {
            Ok(written) => Ok(Some(written)),
            Err(SignerError::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
