//! `ResourceClaimTemplate` of a device: what an ordinary pod refers to.
//!
//! It has the name of the `USBDevice`, lives beside it, and goes with it. A claim made from it asks for the device, and for
//! what ties the pod to a node where the device can be used: the device's token on its own node, else a port of the right
//! half on any other.

use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceRequest, DeviceSubRequest, ResourceClaimSpec, ResourceClaimTemplate, ResourceClaimTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use patchbay_core::controller::world::{Template, TemplateContent};
use patchbay_core::names::{DeviceName, Namespace, NodeName, Uid};
use patchbay_core::speed::Hub;

use crate::claim::{self, DEVICE_REQUEST, cel_string};
use crate::keys;
use crate::meta::{self, Unreadable};
use crate::port::{self, PORT_REQUEST};
use crate::slice::{self, LOCAL};
use crate::usb_device::USBDevice;

/// The template of a device, owned by its `USBDevice`.
pub fn build(
    namespace: &Namespace,
    device: &DeviceName,
    content: &TemplateContent,
    owner: &Uid,
) -> ResourceClaimTemplate {
    let owner = meta::owner(keys::API_VERSION, &USBDevice::kind(&()), device.as_str(), owner);
    let labels = Some(meta::map([(keys::TEMPLATE, device.as_str())]));
    let annotations = [
        (keys::NODE, content.node.as_str()),
        (keys::PUBLISHED, content.dra_name.as_str()),
        (keys::HUB, content.hub.as_str()),
    ];
    ResourceClaimTemplate {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_string()),
            name: Some(device.to_string()),
            labels: labels.clone(),
            annotations: Some(meta::map(annotations)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: ResourceClaimTemplateSpec {
            metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
            spec: ask(content),
        },
    }
}

/// What a claim made from the template asks for.
fn ask(content: &TemplateContent) -> ResourceClaimSpec {
    let this = claim::this_device(&content.dra_name, &content.node);
    let device = claim::exactly(DEVICE_REQUEST, keys::DEVICE_CLASS, this);
    let token = [
        ("hub", cel_string(LOCAL)),
        ("device", cel_string(content.dra_name.as_str())),
        ("node", cel_string(&slice::node_attribute(&content.node))),
    ];
    let token: Vec<_> = token.iter().map(|(key, literal)| (*key, literal.as_str())).collect();
    let alternatives = vec![
        alternative(LOCAL, claim::with_attributes(&token)),
        alternative(content.hub.as_str(), port::any_port(content.hub)),
    ];
    let port = DeviceRequest {
        name: PORT_REQUEST.to_owned(),
        first_available: Some(alternatives),
        ..DeviceRequest::default()
    };
    ResourceClaimSpec { devices: Some(DeviceClaim { requests: Some(vec![device, port]), ..DeviceClaim::default() }) }
}

fn alternative(name: &str, expression: String) -> DeviceSubRequest {
    DeviceSubRequest {
        name: name.to_owned(),
        device_class_name: keys::PORT_CLASS.to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(1),
        selectors: Some(claim::selectors(expression)),
        ..DeviceSubRequest::default()
    }
}

/// Reads a template.
///
/// # Errors
/// It is not one that [`build`] has made, or somebody has changed it.
pub fn read(template: &ResourceClaimTemplate) -> Result<((Namespace, DeviceName), Template), Unreadable> {
    let meta = &template.metadata;
    let device = DeviceName::new(meta::label(meta, keys::TEMPLATE)?);
    if meta::name(meta)? != device.as_str() {
        return Err(Unreadable::bad(keys::TEMPLATE, "is not the label of a template of this name"));
    }
    let hub = meta::annotation(meta, keys::HUB)?;
    let hub = Hub::ALL.into_iter().find(|h| h.as_str() == hub);
    let content = TemplateContent {
        node: NodeName::new(meta::annotation(meta, keys::NODE)?),
        dra_name: DeviceName::new(meta::annotation(meta, keys::PUBLISHED)?),
        hub: hub.ok_or_else(|| Unreadable::bad(keys::HUB, "is neither usb2 nor usb3"))?,
    };
    let read = Template { uid: meta::uid(meta)?, deleting: meta.deletion_timestamp.is_some(), content };
    Ok(((Namespace::new(meta::namespace(meta)?), device), read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn content() -> TemplateContent {
        TemplateContent { node: "node-1".into(), dra_name: "logitech-webcam-c920-x7y8z".into(), hub: Hub::Usb2 }
    }

    fn template() -> ResourceClaimTemplate {
        build(&"my-project".into(), &"logitech-webcam-c920-k3f9a".into(), &content(), &"owner-uid".into())
    }

    #[test]
    fn a_template_asks_for_the_device_and_for_its_token_or_a_port() {
        insta::assert_json_snapshot!("template", template());
    }

    #[test]
    fn a_template_is_read_back_as_it_was_built() {
        let (key, read) = read(&samples::created(&template(), "u1")).unwrap();
        assert_eq!(key, ("my-project".into(), "logitech-webcam-c920-k3f9a".into()));
        assert_eq!(read, Template { uid: "u1".into(), deleting: false, content: content() });
    }

    #[test]
    fn a_template_of_another_name_is_somebody_elses() {
        let mut other = samples::created(&template(), "u1");
        other.metadata.name = Some("mine".to_owned());
        assert!(read(&other).is_err());
    }
}
