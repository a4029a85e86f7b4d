//! `Namespace`: only whether it is there, and whether it is being deleted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use patchbay_core::names::Namespace;

use crate::meta::{self, Unreadable};

/// Reads a namespace's metadata; the value says whether it is being deleted.
pub fn read(meta: &ObjectMeta) -> Result<(Namespace, bool), Unreadable> {
    Ok((Namespace::new(meta::name(meta)?), meta.deletion_timestamp.is_some()))
}
