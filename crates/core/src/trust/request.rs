//! What the controller does with a request for a certificate.
//!
//! Default deny. A certificate is signed only when all of this is so: the agents' service account has made the request with a
//! token that is bound to a pod; the request names the very node on which that pod runs, once, and nothing else; its usages are
//! exactly those that agents need; and its key is on the curve P-256. User and node come from the token
//! and are written into the object by the API server; the rest is what the requester has written.
//!
//! What somebody else has approved is judged in the same way before it is signed.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::conditions::Seconds;
use crate::names::NodeName;
use crate::trust::{LIFETIME, Validity, dns_name};

/// The usages of an agent's certificate, as `spec.usages` has them: agents call and are called.
pub const USAGES: [&str; 3] = ["client auth", "digital signature", "server auth"];

/// The longest name that Kubernetes gives an object.
const MAX_NAME: usize = 253;

/// A `CertificateSigningRequest` for [`crate::trust::SIGNER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The user who has made it.
    pub user: String,
    /// The node of the pod that the user's token is bound to.
    pub node: Option<NodeName>,
    /// The token is bound to a pod, and not only to a node.
    pub pod: bool,
    /// The usages it is for.
    pub usages: BTreeSet<String>,
    /// How long the certificate shall be valid, in seconds.
    pub expiration: Option<Seconds>,
    /// How far it is.
    pub state: State,
    /// What the request proper (PKCS#10) asks for, or why it cannot be read.
    pub asked: Result<Asked, String>,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Open,
    /// It is approved and not signed.
    Approved,
    /// It is signed, denied or failed.
    Closed,
}

/// What a request proper (PKCS#10) asks for. Its signature has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The parts of the subject, as `CN=...`.
    pub subject: Vec<String>,
    /// The DNS names.
    pub dns: Vec<String>,
    /// Other names: addresses, URIs.
    pub other_names: Vec<String>,
    /// The key is on the curve P-256.
    pub p256: bool,
    /// The usages, as [`USAGES`] has them.
    pub usages: BTreeSet<String>,
    /// It asks for what only an authority may do, or for what nobody has told us of.
    pub more: bool,
}

/// What is done next with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is decided.
    Leave,
    /// Approve it.
    Approve,
    /// Deny it; for people.
    Deny(String),
    /// Sign it for this node.
    Sign(NodeName),
    /// Say that it will not be signed though somebody has approved it; for people.
    Fail(String),
}

/// Decides about a request. `account` is the user that agents are.
pub fn step(request: &Request, account: &str) -> Step {
    match (request.state, judge(request, account)) {
        (State::Closed, _) => Step::Leave,
        (State::Open, Ok(_)) => Step::Approve,
        (State::Open, Err(why)) => Step::Deny(why),
        (State::Approved, Ok(node)) => Step::Sign(node),
        (State::Approved, Err(why)) => Step::Fail(why),
    }
}

/// When the certificate of a request is valid, if it is signed now by an authority that is valid as told.
pub fn validity(request: &Request, authority: Validity, now: Seconds) -> Validity {
    let lifetime = request.expiration.unwrap_or(LIFETIME).clamp(0, LIFETIME);
    let wanted = Validity::from_now(now, lifetime);
    Validity {
        not_before: wanted.not_before.max(authority.not_before),
        not_after: wanted.not_after.min(authority.not_after),
    }
}

/// The name of the request object for a key (its public half) of a node. Follows from both, so that asking twice for the same
/// key makes no second object.
pub fn name(node: &NodeName, public_key: &[u8]) -> String {
    let digest = Sha256::digest(public_key);
    let suffix: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let mut name = format!("patchbay-agent-{node}");
    name.truncate(MAX_NAME - suffix.len() - 1);
    format!("{}-{suffix}", name.trim_end_matches(['.', '-']))
}

/// The node that a request may have a certificate for.
fn judge(request: &Request, account: &str) -> Result<NodeName, String> {
    if request.user != account {
        return Err(format!("only {account} may have certificates of agents, and this is {}", request.user));
    }
    let node = request.node.as_ref().filter(|_| request.pod);
    let node = node.ok_or("the token of the request is not bound to a pod on a node: only an agent's own token is")?;
    let wanted = USAGES.map(str::to_owned).into();
    if request.usages != wanted {
        return Err(format!("the usages have to be {}, and are {}", list(&wanted), list(&request.usages)));
    }
    let asked = request.asked.as_ref().map_err(|why| format!("the request cannot be read: {why}"))?;
    let name = dns_name(node);
    if asked.dns != [name.as_str()] {
        return Err(format!(
            "the request comes from node {node} and has to be for the DNS name {name} alone, and is for {}",
            list(&asked.dns)
        ));
    }
    if !asked.other_names.is_empty() {
        return Err(format!("no names but the DNS name are signed, and it has {}", list(&asked.other_names)));
    }
    if asked.subject != [format!("CN={name}")] {
        return Err(format!("the subject has to be CN={name}, and is {}", list(&asked.subject)));
    }
    if asked.usages != wanted {
        return Err(format!("the usages in the request have to be {}, and are {}", list(&wanted), list(&asked.usages)));
    }
    if asked.more {
        return Err("it asks for more than a certificate of an agent can do".to_owned());
    }
    if !asked.p256 {
        return Err("the key has to be an ECDSA key on the curve P-256".to_owned());
    }
    Ok(node.clone())
}

fn list<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let words: Vec<_> = words.into_iter().map(String::as_str).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "system:serviceaccount:patchbay:agent";

    fn good() -> Request {
        let name = "node-1.node.usb.virtualization.deckhouse.io".to_owned();
        let usages: BTreeSet<_> = USAGES.map(str::to_owned).into();
        Request {
            user: ACCOUNT.to_owned(),
            node: Some("node-1".into()),
            pod: true,
            usages: usages.clone(),
            expiration: Some(LIFETIME),
            state: State::Open,
            asked: Ok(Asked {
                subject: vec![format!("CN={name}")],
                dns: vec![name],
                other_names: vec![],
                p256: true,
                usages,
                more: false,
            }),
        }
    }

    #[test]
    fn the_account_of_the_installation_is_the_one_that_counts() {
        assert_eq!(crate::trust::account("patchbay"), ACCOUNT);
    }

    #[test]
    fn an_agents_own_request_is_approved_then_signed_then_left() {
        let request = |state| Request { state, ..good() };
        assert_eq!(step(&request(State::Open), ACCOUNT), Step::Approve);
        assert_eq!(step(&request(State::Approved), ACCOUNT), Step::Sign("node-1".into()));
        assert_eq!(step(&request(State::Closed), ACCOUNT), Step::Leave);
    }

    /// A change to a good request, and words of the reason for which it is denied.
    type Case = (fn(&mut Request), &'static str);

    /// A change to what a good request asks for.
    fn ask(request: &mut Request, change: impl FnOnce(&mut Asked)) {
        change(request.asked.as_mut().unwrap());
    }

    const CASES: &[Case] = &[
        (|r| r.user = "system:serviceaccount:patchbay:controller".into(), "this is system:serviceaccount:patchbay:c"),
        (|r| r.user = "system:serviceaccount:other:agent".into(), "this is system:serviceaccount:other:agent"),
        (|r| r.user = "admin".into(), "this is admin"),
        (|r| r.node = None, "not bound to a pod"),
        (|r| r.pod = false, "not bound to a pod"),
        (|r| r.node = Some("node-2".into()), "comes from node node-2 and has to be for"),
        (|r| r.node = Some("node".into()), "comes from node node and has to be for"),
        (|r| r.usages.extend(["cert sign".into()]), "and are cert sign, client auth"),
        (|r| r.usages.retain(|u| u != "server auth"), "and are client auth, digital signature"),
        (|r| r.usages.clear(), "and are none"),
        (|r| r.asked = Err("no PEM".into()), "cannot be read: no PEM"),
        (|r| ask(r, |a| a.dns.clear()), "is for none"),
        (|r| ask(r, |a| a.dns.push("kubernetes.default.svc".into())), "is for node-1.node.usb.virt"),
        (|r| ask(r, |a| a.dns.extend(a.dns.clone())), "alone, and is for"),
        (|r| ask(r, |a| a.dns = vec!["*.node.usb.virtualization.deckhouse.io".into()]), "is for *.node"),
        (|r| ask(r, |a| a.dns = vec!["NODE-1.node.usb.virtualization.deckhouse.io".into()]), "is for NODE-1"),
        (|r| ask(r, |a| a.other_names.push("10.0.0.1".into())), "it has 10.0.0.1"),
        (|r| ask(r, |a| a.subject.clear()), "and is none"),
        (|r| ask(r, |a| a.subject.push("O=system:masters".into())), "O=system:masters"),
        (|r| ask(r, |a| a.subject = vec!["CN=admin".into()]), "and is CN=admin"),
        (|r| ask(r, |a| a.usages.extend(["cert sign".into()])), "the usages in the request"),
        (|r| ask(r, |a| a.usages.clear()), "the usages in the request"),
        (|r| ask(r, |a| a.more = true), "more than a certificate of an agent"),
        (|r| ask(r, |a| a.p256 = false), "P-256"),
    ];

    #[test]
    fn everything_else_is_denied_in_words_and_not_signed_when_somebody_else_approves_it() {
        for (change, words) in CASES {
            let mut request = good();
            change(&mut request);
            let Step::Deny(why) = step(&request, ACCOUNT) else { panic!("{words}: {request:?}") };
            assert!(why.contains(words), "{why} instead of {words}");
            request.state = State::Approved;
            assert_eq!(step(&request, ACCOUNT), Step::Fail(why));
            request.state = State::Closed;
            assert_eq!(step(&request, ACCOUNT), Step::Leave);
        }
    }

    #[test]
    fn a_certificate_is_short_begins_early_and_never_outlives_its_authority() {
        let authority = Validity { not_before: 0, not_after: 1_000_000 };
        let of = |expiration, now| {
            let valid = validity(&Request { expiration, ..good() }, authority, now);
            (valid.not_before, valid.not_after)
        };
        assert_eq!(of(Some(LIFETIME), 10_000), (9_700, 96_400));
        assert_eq!(of(None, 10_000), (9_700, 96_400));
        assert_eq!(of(Some(LIFETIME * 365), 10_000), (9_700, 96_400));
        assert_eq!(of(Some(3_600), 10_000), (9_700, 13_600));
        assert_eq!(of(Some(-1), 10_000), (9_700, 10_000));
        assert_eq!(of(None, 100), (0, 86_500));
        assert_eq!(of(None, 990_000), (989_700, 1_000_000));
    }

    #[test]
    fn the_name_of_a_request_follows_from_node_and_key_and_is_one_that_kubernetes_takes() {
        let node = NodeName::new("node-1");
        assert_eq!(name(&node, b"key"), name(&node, b"key"));
        assert_ne!(name(&node, b"key"), name(&node, b"other"));
        assert_eq!(name(&node, b""), "patchbay-agent-node-1-e3b0c44298fc1c14");
        let long = NodeName::new(format!("a{}", ".b".repeat(126)));
        let name = name(&long, b"key");
        assert!(name.len() <= MAX_NAME && !name.contains(".-"), "{name}");
    }
}
