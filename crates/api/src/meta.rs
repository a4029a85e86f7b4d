//! What all objects have: names, uids, times, owners.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use patchbay_core::conditions::Seconds;
use patchbay_core::names::Uid;

/// Why an object cannot be read. It is left alone, as if it were not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Something is missing that every object of ours has.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something is there that we would not have written.
    #[error("{field}: {why}")]
    Bad {
        /// The field, label or annotation.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Unreadable {
    /// For a value that does not parse.
    pub(crate) fn bad(field: &'static str, why: impl ToString) -> Self {
        Self::Bad { field, why: why.to_string() }
    }
}

pub(crate) fn name(meta: &ObjectMeta) -> Result<&str, Unreadable> {
    meta.name.as_deref().ok_or(Unreadable::Missing("metadata.name"))
}

pub(crate) fn namespace(meta: &ObjectMeta) -> Result<&str, Unreadable> {
    meta.namespace.as_deref().ok_or(Unreadable::Missing("metadata.namespace"))
}

pub(crate) fn uid(meta: &ObjectMeta) -> Result<Uid, Unreadable> {
    meta.uid.as_deref().map(Uid::new).ok_or(Unreadable::Missing("metadata.uid"))
}

pub(crate) fn label<'m>(meta: &'m ObjectMeta, key: &'static str) -> Result<&'m str, Unreadable> {
    get(meta.labels.as_ref(), key)
}

pub(crate) fn annotation<'m>(meta: &'m ObjectMeta, key: &'static str) -> Result<&'m str, Unreadable> {
    get(meta.annotations.as_ref(), key)
}

fn get<'m>(map: Option<&'m BTreeMap<String, String>>, key: &'static str) -> Result<&'m str, Unreadable> {
    map.and_then(|m| m.get(key)).map(String::as_str).ok_or(Unreadable::Missing(key))
}

/// Labels or annotations.
pub(crate) fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

pub(crate) fn seconds(time: &Time) -> Seconds {
    time.0.as_second()
}

/// Seconds as the API writes them, `2026-01-31T12:00:00Z`. What no calendar holds becomes the epoch.
pub(crate) fn timestamp(seconds: Seconds) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// The reverse of [`timestamp`].
pub(crate) fn parse_timestamp(text: &str) -> Option<Seconds> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// An owner that does not wait for what it owns when it is deleted.
pub(crate) fn owner(api_version: &str, kind: &str, name: &str, uid: &Uid) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }
}

/// The head of an apply patch. With a uid it only applies to that very object.
pub(crate) fn patch_meta(namespace: Option<&str>, name: &str, uid: Option<&Uid>) -> serde_json::Value {
    let mut meta = serde_json::Map::new();
    meta.insert("name".to_owned(), name.into());
    if let Some(namespace) = namespace {
        meta.insert("namespace".to_owned(), namespace.into());
    }
    if let Some(uid) = uid {
        meta.insert("uid".to_owned(), uid.as_str().into());
    }
    meta.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_back_to_the_second() {
        assert_eq!(timestamp(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse_timestamp(&timestamp(1_700_000_000)), Some(1_700_000_000));
        assert_eq!(parse_timestamp("yesterday"), None);
    }
}
