//! `CertificateSigningRequest` of an agent for the certificate of its node.
//!
//! Those that are signed or denied are deleted after an hour, and those that nobody has answered after a day, by the
//! `csrcleaner` of kube-controller-manager (`pkg/controller/certificates/cleaner/cleaner.go`, all signers): nobody here does.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use patchbay_core::names::NodeName;
use patchbay_core::trust::request::{Asked, Request, State, USAGES};
use patchbay_core::trust::{LIFETIME, SIGNER};

/// The fields by which requests to our signer are chosen.
pub fn selector() -> String {
    format!("spec.signerName={SIGNER}")
}

/// What the API server knows of a token: the node of the pod it is bound to.
const NODE: &str = "authentication.kubernetes.io/node-name";

/// What the API server knows of a token: the pod it is bound to.
const POD: &str = "authentication.kubernetes.io/pod-uid";

/// A request; `pem` is the request proper (PKCS #10).
pub fn build(name: &str, pem: &str) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            signer_name: SIGNER.to_owned(),
            request: ByteString(pem.as_bytes().to_vec()),
            usages: Some(USAGES.map(str::to_owned).to_vec()),
            expiration_seconds: i32::try_from(LIFETIME).ok(),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// Reads a request. `asked` is what the request proper asks for, which is not read here.
pub fn read(object: &CertificateSigningRequest, asked: Result<Asked, String>) -> Request {
    let spec = &object.spec;
    // Each has one value; with more of them nobody knows which is meant.
    let extra = |key: &str| match spec.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.as_str()),
        _ => None,
    };
    Request {
        user: spec.username.clone().unwrap_or_default(),
        node: extra(NODE).map(NodeName::new),
        pod: extra(POD).is_some(),
        usages: spec.usages.iter().flatten().cloned().collect(),
        expiration: spec.expiration_seconds.map(i64::from),
        state: state(object),
        asked,
    }
}

fn state(object: &CertificateSigningRequest) -> State {
    match outcome(object) {
        Some(_) => State::Closed,
        None if conditions(object).any(|condition| condition.type_ == "Approved") => State::Approved,
        None => State::Open,
    }
}

/// The certificate (PEM) that was signed, or why none will be; None when it is open.
pub fn outcome(object: &CertificateSigningRequest) -> Option<Result<String, String>> {
    if let Some(no) = conditions(object).find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed")) {
        return Some(Err(no.message.clone().or_else(|| no.reason.clone()).unwrap_or_else(|| no.type_.clone())));
    }
    let signed =
        object.status.as_ref().and_then(|status| status.certificate.as_ref()).filter(|pem| !pem.0.is_empty())?;
    Some(String::from_utf8(signed.0.clone()).map_err(|_| "the certificate that was signed is no text".to_owned()))
}

fn conditions(object: &CertificateSigningRequest) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    object.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

/// The request with a condition: `Approved`, `Denied` or `Failed`.
pub fn with_condition(
    object: &CertificateSigningRequest,
    kind: &str,
    message: &str,
    now: jiff::Timestamp,
) -> CertificateSigningRequest {
    let mut object = object.clone();
    object.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some("PatchbayController".to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: None,
    });
    object
}

/// The request with its certificate (PEM).
pub fn with_certificate(object: &CertificateSigningRequest, pem: &str) -> CertificateSigningRequest {
    let status = CertificateSigningRequestStatus {
        certificate: Some(ByteString(pem.as_bytes().to_vec())),
        ..object.status.clone().unwrap_or_default()
    };
    CertificateSigningRequest { status: Some(status), ..object.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> CertificateSigningRequest {
        let mut object = build("patchbay-agent-node-1-0", "PEM");
        object.spec.username = Some("system:serviceaccount:patchbay:agent".to_owned());
        let extra = [(NODE, "node-1"), (POD, "0c1f")].map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
        object.spec.extra = Some(extra.into());
        object
    }

    fn read(object: &CertificateSigningRequest) -> Request {
        super::read(object, Err("not read".to_owned()))
    }

    #[test]
    fn what_the_api_server_says_of_the_requester_is_read() {
        let request = read(&made());
        assert_eq!((request.node, request.pod), (Some("node-1".into()), true));
        assert_eq!(request.usages, USAGES.map(str::to_owned).into());
        assert_eq!((request.expiration, request.state), (Some(LIFETIME), State::Open));
    }

    #[test]
    fn a_token_that_says_nothing_or_two_things_says_nothing() {
        let mut object = made();
        object.spec.extra.as_mut().unwrap().get_mut(NODE).unwrap().push("node-2".to_owned());
        assert_eq!(read(&object).node, None);
        object.spec.extra.as_mut().unwrap().get_mut(POD).unwrap().clear();
        assert!(!read(&object).pod);
        object.spec.extra = None;
        assert_eq!((read(&object).node, read(&object).pod), (None, false));
    }

    #[test]
    fn a_request_goes_through_its_states() {
        let object = made();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let approved = with_condition(&object, "Approved", "", now);
        assert_eq!(read(&approved).state, State::Approved);
        assert_eq!(outcome(&approved), None);
        let signed = with_certificate(&approved, "certificate");
        assert_eq!(read(&signed).state, State::Closed);
        assert_eq!(outcome(&signed), Some(Ok("certificate".to_owned())));
        for kind in ["Denied", "Failed"] {
            let refused = with_condition(&object, kind, "why", now);
            assert_eq!(read(&refused).state, State::Closed);
            assert_eq!(outcome(&refused), Some(Err("why".to_owned())));
        }
    }
}
