//! The authorities that sign agents: a Secret with all of them, which only the controller reads, and a ConfigMap with their
//! certificates, by which agents know each other.
//!
//! | object | key | value |
//! |---|---|---|
//! | Secret | `<seconds of the epoch>.crt`, `.key` | an authority: certificate and key, PEM |
//! | ConfigMap | `ca.crt` | the certificates of all, PEM, one after the other |

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Map, Value, json};

/// The name of both objects, in the namespace of the installation.
pub const NAME: &str = "patchbay-ca";

/// The key of the certificates in the ConfigMap.
const BUNDLE: &str = "ca.crt";

/// The texts of an authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Texts {
    /// Its name in the Secret.
    pub name: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM: a secret.
    pub key: String,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The authorities of a Secret, as far as they are whole.
pub fn read(secret: &Secret) -> Vec<Texts> {
    let data = secret.data.iter().flatten();
    let text = |bytes: &ByteString| String::from_utf8(bytes.0.clone()).ok();
    data.filter_map(|(key, certificate)| {
        let name = key.strip_suffix(".crt")?.to_owned();
        let key = secret.data.as_ref()?.get(&format!("{name}.key"))?;
        Some(Texts { certificate: text(certificate)?, key: text(key)?, name })
    })
    .collect()
}

/// The apply patch for a Secret with these authorities and no others. With a version it only applies to that one.
pub fn patch(namespace: &str, authorities: &[Texts], version: Option<&str>) -> Value {
    let mut data = Map::new();
    for Texts { name, certificate, key } in authorities {
        for (kind, text) in [("crt", certificate), ("key", key)] {
            data.insert(format!("{name}.{kind}"), json!(ByteString(text.as_bytes().to_vec())));
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": metadata(namespace, version),
        "data": data,
    })
}

/// The certificates in a ConfigMap; None when it has none.
pub fn bundle(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get(BUNDLE).map(String::as_str)
}

/// The apply patch for the ConfigMap with the certificates of these authorities.
pub fn bundle_patch(namespace: &str, bundle: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": metadata(namespace, None),
        "data": {BUNDLE: bundle},
    })
}

fn metadata(namespace: &str, version: Option<&str>) -> Value {
    let mut metadata = json!({"name": NAME, "namespace": namespace});
    if let (Some(version), Some(fields)) = (version, metadata.as_object_mut()) {
        fields.insert("resourceVersion".to_owned(), version.into());
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(name: &str) -> Texts {
        Texts { name: name.to_owned(), certificate: format!("certificate {name}"), key: format!("key {name}") }
    }

    #[test]
    fn authorities_are_read_back_and_halves_are_not() {
        let patch = patch("patchbay", &[texts("1"), texts("2")], Some("7"));
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let mut secret: Secret = serde_json::from_value(patch).unwrap();
        assert_eq!(read(&secret), [texts("1"), texts("2")]);
        secret.data.as_mut().unwrap().remove("1.key");
        secret.data.as_mut().unwrap().insert("3.key".to_owned(), ByteString(vec![1]));
        secret.data.as_mut().unwrap().insert("other".to_owned(), ByteString(vec![1]));
        assert_eq!(read(&secret), [texts("2")]);
        assert_eq!(read(&Secret::default()), []);
    }

    #[test]
    fn the_bundle_is_read_back() {
        let map: ConfigMap = serde_json::from_value(bundle_patch("patchbay", "both")).unwrap();
        assert_eq!(bundle(&map), Some("both"));
        assert_eq!(bundle(&ConfigMap::default()), None);
    }
}
