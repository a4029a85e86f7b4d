//! A pool: the devices a driver wants published under one name.
//!
//! The API server refuses a whole slice for one bad device. So a pool takes only
//! devices that the API takes, and says which ones it left out: a bad device
//! costs that device, never its neighbours.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::Device;

/// Longest string attribute, in bytes (`resource.k8s.io/v1`).
pub const MAX_STRING: usize = 64;

/// Most attributes and capacities of one device together (`resource.k8s.io/v1`).
pub const MAX_ATTRIBUTES: usize = 32;

/// From which nodes the devices of a pool can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeScope {
    /// From every node.
    AllNodes,
    /// From the node of this name only.
    NodeName(String),
}

/// The devices published under one pool name.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    name: String,
    scope: NodeScope,
    devices: Vec<Device>,
}

/// A device that was left out of a pool, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device {device:?} is not published in pool {pool}: {reason}")]
pub struct LeftOut {
    /// The pool.
    pub pool: String,
    /// The device's name.
    pub device: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Pool {
    /// A pool of the devices that the API takes, sorted by name, and the others.
    /// Of devices with the same name the first stays.
    pub fn new(
        name: impl Into<String>,
        scope: NodeScope,
        devices: impl IntoIterator<Item = Device>,
    ) -> (Self, Vec<LeftOut>) {
        let name = name.into();
        let mut taken = BTreeSet::new();
        let mut left_out = Vec::new();
        let mut kept = Vec::new();
        for device in devices {
            let problem = problem(&device).or_else(|| {
                let unique = taken.insert(device.name.clone());
                (!unique).then(|| "another device of the pool has the same name".to_owned())
            });
            match problem {
                None => kept.push(device),
                Some(reason) => left_out.push(LeftOut { pool: name.clone(), device: device.name, reason }),
            }
        }
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        let pool = Self { name, scope, devices: kept };
        (pool, left_out)
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From where its devices can be used.
    pub fn scope(&self) -> &NodeScope {
        &self.scope
    }

    /// Its devices, sorted by name.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }
}

/// Why the API would refuse a device.
fn problem(device: &Device) -> Option<String> {
    if !is_label(&device.name) {
        return Some("its name is not a DNS label (a-z, 0-9 and '-', at most 63 characters)".to_owned());
    }
    let attributes = device.attributes.iter().flatten();
    let count = attributes.clone().count() + device.capacity.iter().flatten().count();
    if count > MAX_ATTRIBUTES {
        return Some(format!("it has {count} attributes and capacities, {MAX_ATTRIBUTES} are allowed"));
    }
    let long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > MAX_STRING);
    attributes
        .clone()
        .find(|(_, value)| long(&value.string) || long(&value.version))
        .map(|(name, _)| format!("its attribute {name} has more than {MAX_STRING} bytes"))
}

/// Whether a text is a DNS label (RFC 1123): what device names have to be.
pub(crate) fn is_label(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (1..=63).contains(&text.len())
        && text.chars().all(|c| c == '-' || alphanumeric(Some(c)))
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back())
}

/// A text as the value of a string attribute: control characters become spaces,
/// spaces around it go, and it is cut to [`MAX_STRING`] bytes between characters.
pub fn attribute_text(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut short = String::new();
    for c in clean.trim().chars() {
        if short.len() + c.len_utf8() > MAX_STRING {
            break;
        }
        short.push(c);
    }
    short.truncate(short.trim_end().len());
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::resource::v1::DeviceAttribute;
    use proptest::prelude::*;

    fn device(name: &str) -> Device {
        Device { name: name.into(), ..Device::default() }
    }

    #[test]
    fn a_bad_device_costs_only_itself() {
        let text = |text: &str| DeviceAttribute { string: Some(text.into()), ..DeviceAttribute::default() };
        let mut long = device("long");
        long.attributes = Some([("serial".to_owned(), text(&"x".repeat(65)))].into());
        let mut many = device("many");
        many.attributes = Some((0..33).map(|n| (format!("a{n}"), text("v"))).collect());
        let all = [device("b"), long, many, device("B"), device("a"), device("b")];
        let (pool, left_out) = Pool::new("p", NodeScope::AllNodes, all);
        let names: Vec<_> = pool.devices().iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let words: Vec<_> = left_out.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 4, "{words:?}");
        assert!(words[0].contains("attribute serial has more than 64 bytes"));
        assert!(words[1].contains("33 attributes"));
        assert!(words[2].contains("DNS label"));
        assert!(words[3].contains("same name"));
    }

    #[test]
    fn labels_are_what_rfc_1123_says() {
        for good in ["a", "0", "a-b", "port-0", &"x".repeat(63)] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "A", "ä", "a_b", &"x".repeat(64)] {
            assert!(!is_label(bad), "{bad}");
        }
    }

    #[test]
    fn attribute_text_is_cut_between_characters() {
        assert_eq!(attribute_text(" C\u{0}920\n"), "C 920");
        let text = attribute_text(&"ä".repeat(40));
        assert_eq!(text, "ä".repeat(32));
        assert_eq!(attribute_text(&format!("a{}", "ä".repeat(40))).len(), 63);
    }

    proptest! {
        #[test]
        fn attribute_text_always_fits(text in ".*") {
            let short = attribute_text(&text);
            prop_assert!(short.len() <= MAX_STRING);
            prop_assert!(!short.chars().any(char::is_control));
            prop_assert_eq!(attribute_text(&short), short.clone());
        }
    }
}
