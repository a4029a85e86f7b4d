//! Who gets a certificate, from which authority, and who does not.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ListParams, PostParams};
use patchbay_api::{authorities, certificate_request};
use patchbay_core::trust::request::USAGES;
use patchbay_core::trust::{NODE_SUFFIX, SIGNER};
use patchbay_lab::api::{self, request};
use patchbay_usb::fixture::Fixture;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;

use crate::agent;
use crate::node::Node;
use crate::program::Running;
use crate::stage::{SOON, Stage, create, delete, eventually, get, list};

/// What an agent of a node asks for.
pub(crate) fn asked(node: &str) -> CertificateParams {
    let name = format!("{node}{NODE_SUFFIX}");
    let mut params = CertificateParams::new(vec![name.clone()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// Makes a request for a certificate as the user of a kubeconfig, for these usages.
pub(crate) fn ask(kubeconfig: &Path, name: &str, params: &CertificateParams, key: &KeyPair, usages: &[&str]) {
    let text = params.serialize_request(key).unwrap().pem().unwrap();
    let mut object = certificate_request::build(name, &text);
    object.spec.usages = Some(usages.iter().map(ToString::to_string).collect());
    create(&Api::all(api::connect(kubeconfig).unwrap()), &object);
}

/// Waits for the answer.
pub(crate) fn answer(stage: &Stage, name: &str) -> Result<String, String> {
    let requests: Api<CertificateSigningRequest> = stage.all();
    eventually(&format!("an answer to {name}"), || {
        certificate_request::outcome(&get(&requests, name)?).ok_or_else(|| "none".to_owned())
    })
}

/// Whether a request has been given a certificate.
fn is_signed(stage: &Stage, name: &str) -> bool {
    let request = get::<CertificateSigningRequest>(&stage.all(), name).unwrap();
    request.status.is_some_and(|status| status.certificate.is_some())
}

/// The certificates of the authorities that agents believe.
pub(crate) fn bundle(stage: &Stage) -> Result<String, String> {
    let map = get::<ConfigMap>(&stage.within("patchbay"), authorities::NAME)?;
    authorities::bundle(&map).map(str::to_owned).ok_or_else(|| "it is empty".to_owned())
}

/// The requests there are.
pub(crate) fn requests(stage: &Stage) -> Vec<CertificateSigningRequest> {
    let all = list::<CertificateSigningRequest>(&stage.all(), &ListParams::default()).unwrap();
    all.into_iter().filter(|request| request.spec.signer_name == SIGNER).collect()
}

/// How many of them were signed.
fn signed(stage: &Stage) -> usize {
    requests(stage).iter().filter(|request| matches!(certificate_request::outcome(request), Some(Ok(_)))).count()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_agent_has_a_certificate_through_restarts_and_another_when_the_authority_is_lost() {
    let stage = Stage::open();
    let mut controller = Running::leader(&stage, "controller-1");
    let _node = Node::silent(&stage, "node-1");
    let fixture = Fixture::new();
    let mut agent = agent::start(&stage, &fixture);
    agent.says("this node has a certificate", SOON);
    let file = stage.folder().join("state/identity.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = std::fs::read_to_string(&file).unwrap();
    let believed = bundle(&stage).unwrap();
    assert_eq!(believed.matches("BEGIN CERTIFICATE").count(), 1);
    assert_eq!(signed(&stage), 1);

    // The next agent has what this one was given, and the next controller the authority.
    agent.process().kill();
    stage.check(&controller);
    controller.stop();
    let mut agent = agent::start(&stage, &fixture);
    agent.says("this node has a certificate", SOON);
    let controller = Running::leader(&stage, "controller-2");
    let key = KeyPair::generate().unwrap();
    ask(&stage.agent_of("node-1"), "again", &asked("node-1"), &key, &USAGES);
    answer(&stage, "again").unwrap();
    assert_eq!((bundle(&stage).unwrap(), signed(&stage)), (believed.clone(), 2));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);

    // Whoever deletes the Secret takes back all that was signed.
    delete(&stage.within::<Secret>("patchbay"), authorities::NAME);
    let other =
        eventually("another authority", || bundle(&stage).and_then(|b| if b == believed { Err(b) } else { Ok(b) }));
    assert_eq!(other.matches("BEGIN CERTIFICATE").count(), 1);
    eventually("another certificate of the agent", || {
        let now = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        if now == first { Err("it is the old one".to_owned()) } else { Ok(()) }
    });
    assert_eq!(std::fs::read_to_string(stage.folder().join("state/ca.crt")).unwrap(), other);
    // The ConfigMap is written again, too.
    delete(&stage.within::<ConfigMap>("patchbay"), authorities::NAME);
    eventually("the same authorities to be told", || {
        bundle(&stage).and_then(|b| if b == other { Ok(()) } else { Err(b) })
    });
    stage.check(&controller);
    agent.stop();
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn whoever_is_not_an_agent_that_asks_for_its_own_node_is_denied_and_told_why() {
    let stage = Stage::open();
    let _controller = Running::leader(&stage, "controller-1");
    let (_one, _two) = (Node::silent(&stage, "node-1"), Node::silent(&stage, "node-2"));
    let (agent, key) = (stage.agent_of("node-1"), KeyPair::generate().unwrap());
    let refused =
        |name: &str, kubeconfig: &Path, params: &CertificateParams, key: &KeyPair, usages: &[&str], why: &str| {
            ask(kubeconfig, name, params, key, usages);
            let answer = answer(&stage, name).expect_err(name);
            assert!(answer.contains(why), "{name}: {answer} instead of {why}");
            assert!(!is_signed(&stage, name), "{name}");
        };
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = asked("node-1");
        change(&mut params);
        params
    };

    refused("other-node", &agent, &asked("node-2"), &key, &USAGES, "comes from node node-1");
    refused("unbound", &stage.account("agent"), &asked("node-1"), &key, &USAGES, "not bound to a pod");
    let more = with(|p| p.subject_alt_names.push(SanType::DnsName("kubernetes.default.svc".try_into().unwrap())));
    refused("name", &agent, &more, &key, &USAGES, "kubernetes.default.svc");
    let more = with(|p| p.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap())));
    refused("address", &agent, &more, &key, &USAGES, "10.0.0.1");
    let more = with(|p| p.distinguished_name.push(DnType::OrganizationName, "system:masters"));
    refused("subject", &agent, &more, &key, &USAGES, "O=system:masters");
    let more = with(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign));
    refused("authority", &agent, &more, &key, &USAGES, "cert sign");
    let usages = ["digital signature", "client auth", "server auth", "cert sign"];
    refused("usages", &agent, &asked("node-1"), &key, &usages, "cert sign");
    let other_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    refused("key", &agent, &asked("node-1"), &other_key, &USAGES, "P-256");

    // Accounts that may make requests for other reasons: an administrator, and one of ours.
    refused("administrator", stage.admin().as_path(), &asked("node-1"), &key, &USAGES, "this is admin");
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "others-may-ask"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "patchbay-agent"},
        "subjects": [{"kind": "ServiceAccount", "name": "controller", "namespace": "patchbay"}],
    }))
    .unwrap();
    create(&stage.all(), &binding);
    let other = stage.account_on("controller", "node-1");
    refused("account", &other, &asked("node-1"), &key, &USAGES, "this is system:serviceaccount:patchbay:controller");

    // And the agent itself gets what is its own.
    ask(&agent, "own", &asked("node-1"), &key, &USAGES);
    assert!(answer(&stage, "own").unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn what_somebody_else_approves_is_not_signed_for_that() {
    let stage = Stage::open();
    let _node = Node::silent(&stage, "node-1");
    let key = KeyPair::generate().unwrap();
    ask(&stage.agent_of("node-1"), "approved", &asked("node-2"), &key, &USAGES);
    let requests: Api<CertificateSigningRequest> = stage.all();
    let object = get(&requests, "approved").unwrap();
    let approved = certificate_request::with_condition(&object, "Approved", "by hand", Timestamp::now());
    let params = PostParams::default();
    let written = requests.replace_subresource("approval", "approved", &params, &approved);
    request("approve it", written).unwrap();
    let _controller = Running::leader(&stage, "controller-1");
    let answer = answer(&stage, "approved").unwrap_err();
    assert!(answer.contains("comes from node node-1") && !is_signed(&stage, "approved"), "{answer}");
    let conditions = get(&requests, "approved").unwrap().status.unwrap().conditions.unwrap();
    let failed = |condition: &CertificateSigningRequestCondition| condition.type_ == "Failed";
    assert!(conditions.iter().any(failed), "{conditions:?}");
}
