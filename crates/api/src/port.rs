//! `ResourceClaimTemplate` and `ResourceClaim` of a vhci port.
//!
//! One template for each half and namespace; kube-controller-manager makes a claim from it for each attachment pod, and
//! deletes it with the pod.

use k8s_openapi::api::resource::v1::{ResourceClaimTemplate, ResourceClaimTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use patchbay_core::names::Namespace;
use patchbay_core::speed::Hub;

use crate::claim::{self, cel_string};
use crate::keys;
use crate::meta::{self, Unreadable};

/// The name of the request for a port, in claims and in pods.
pub const PORT_REQUEST: &str = "port";

/// The name of the template for a half.
pub fn template_name(hub: Hub) -> String {
    format!("usb-port-{hub}")
}

/// The template for one port of a half.
pub fn template(namespace: &Namespace, hub: Hub) -> ResourceClaimTemplate {
    let labels = Some(meta::map([(keys::PORT, hub.as_str())]));
    ResourceClaimTemplate {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_string()),
            name: Some(template_name(hub)),
            labels: labels.clone(),
            ..ObjectMeta::default()
        },
        spec: ResourceClaimTemplateSpec {
            metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
            spec: claim::request(PORT_REQUEST, keys::PORT_CLASS, any_port(hub)),
        },
    }
}

/// The expression that is true of every port of a half.
pub(crate) fn any_port(hub: Hub) -> String {
    claim::with_attributes(&[("hub", &cel_string(hub.as_str()))])
}

/// Reads a template.
pub fn read_template(template: &ResourceClaimTemplate) -> Result<(Namespace, Hub), Unreadable> {
    let label = meta::label(&template.metadata, keys::PORT)?;
    let hub = Hub::ALL.into_iter().find(|h| h.as_str() == label);
    let hub = hub.filter(|h| template.metadata.name.as_deref() == Some(template_name(*h).as_str()));
    let hub = hub.ok_or_else(|| Unreadable::bad(keys::PORT, "is not the label of a template of this name"))?;
    Ok((Namespace::new(meta::namespace(&template.metadata)?), hub))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_asks_for_one_port_of_its_half() {
        insta::assert_json_snapshot!("port_template", template(&"my-project".into(), Hub::Usb2));
    }

    #[test]
    fn a_template_is_read_back_as_it_was_built() {
        for hub in Hub::ALL {
            assert_eq!(read_template(&template(&"my-project".into(), hub)), Ok(("my-project".into(), hub)));
        }
        let mut renamed = template(&"my-project".into(), Hub::Usb3);
        renamed.metadata.name = Some("mine".to_owned());
        assert!(read_template(&renamed).is_err());
    }
}
