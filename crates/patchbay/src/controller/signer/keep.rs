//! The authorities: read from the Secret, made and forgotten in time, and told to agents.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use patchbay_api::authorities::{self, NAME, Texts};
use patchbay_api::keys;
use patchbay_core::conditions::Seconds;
use patchbay_core::trust::Validity;
use patchbay_core::trust::authority::{self, VALID};
use patchbay_link::Authority;

use super::{SignerError, request};

/// Keeps the authorities.
pub(super) struct Keeper {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    namespace: String,
    signs: Option<Authority>,
}

/// An authority, and its name in the Secret.
struct Named {
    name: String,
    authority: Authority,
}

impl Keeper {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            maps: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            signs: None,
        }
    }

    /// The one that signs now.
    pub(super) fn signs(&self) -> Option<&Authority> {
        self.signs.as_ref()
    }

    /// Looks at them and does what is due. Returns when to do so again, in seconds of the epoch, if nothing changes before.
    ///
    /// # Errors
    /// The API server refuses; nobody signs then.
    pub(super) async fn keep(&mut self, now: Seconds) -> Result<Seconds, SignerError> {
        self.signs = None;
        let secret = request(self.secrets.get_opt(NAME)).await?;
        let mut all: Vec<Named> = secret.iter().flat_map(authorities::read).filter_map(|texts| parse(&texts)).collect();
        let mut plan = authority::plan(&validities(&all), now);
        let changed = plan.make || !plan.forget.is_empty();
        for place in plan.forget.iter().rev() {
            let Named { name, .. } = all.remove(*place);
            tracing::info!(name, "an authority of agents is forgotten");
        }
        if plan.make {
            let authority = Authority::make(Validity::from_now(now, VALID))?;
            tracing::info!(name = now, alone = all.is_empty(), "a new authority of agents is made");
            all.push(Named { name: now.to_string(), authority });
        }
        if changed {
            let texts: Vec<Texts> = all.iter().map(texts).collect();
            let version = secret.and_then(|secret| secret.metadata.resource_version);
            let patch = Patch::Apply(authorities::patch(&self.namespace, &texts, version.as_deref()));
            request(self.secrets.patch(NAME, &PatchParams::apply(keys::CONTROLLER).force(), &patch)).await?;
            plan = authority::plan(&validities(&all), now);
        }
        let bundle: String = all.iter().map(|named| named.authority.certificate()).collect();
        let map = request(self.maps.get_opt(NAME)).await?;
        if map.as_ref().and_then(authorities::bundle) != Some(bundle.as_str()) {
            let patch = Patch::Apply(authorities::bundle_patch(&self.namespace, &bundle));
            request(self.maps.patch(NAME, &PatchParams::apply(keys::CONTROLLER).force(), &patch)).await?;
            tracing::info!(authorities = all.len(), "agents are told whom to believe");
        }
        self.signs = plan.signs.filter(|place| *place < all.len()).map(|place| all.swap_remove(place).authority);
        Ok(plan.wake_at)
    }
}

/// An authority that cannot be read is none: its place is taken by another one.
fn parse(texts: &Texts) -> Option<Named> {
    let parsed = Authority::parse(&texts.certificate, &texts.key);
    let authority =
        parsed.map_err(|error| tracing::error!(name = texts.name, %error, "an authority of agents is ignored"));
    Some(Named { name: texts.name.clone(), authority: authority.ok()? })
}

fn texts(named: &Named) -> Texts {
    let (certificate, key) = (named.authority.certificate().to_owned(), named.authority.key());
    Texts { name: named.name.clone(), certificate, key }
}

fn validities(all: &[Named]) -> Vec<Validity> {
    all.iter().map(|named| named.authority.validity()).collect()
}
