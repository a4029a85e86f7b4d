//! The cluster's certificates: one authority, short-cut in memory, PEM on disk.
//!
//! P-256 everywhere: a key takes a millisecond, and Kubernetes signs service account tokens with it just as well as with RSA.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A certificate and its key, both PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// The authority and the folder it keeps its files in.
pub struct Pki {
    dir: PathBuf,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Makes the authority (`ca.crt`, `ca.key`) and the key pair for service account tokens (`sa.key`, `sa.pub`).
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let key = KeyPair::generate()?;
        let mut params = named("lab-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let ca = params.self_signed(&key)?.pem();
        write(&dir.join("ca.crt"), &ca)?;
        write(&dir.join("ca.key"), &key.serialize_pem())?;
        let tokens = KeyPair::generate()?;
        write(&dir.join("sa.key"), &tokens.serialize_pem())?;
        write(&dir.join("sa.pub"), &tokens.public_key_pem())?;
        Ok(Self { dir: dir.to_owned(), ca, issuer: Issuer::new(params, key) })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Path of one of the files in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A client certificate: `user` is who Kubernetes takes the bearer for, `group` an optional group.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = named(user, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A server certificate for these names and addresses.
    ///
    /// # Errors
    /// When a name is no DNS name.
    pub fn server(&self, name: &str, dns: &[&str], addresses: &[IpAddr]) -> Result<Identity> {
        let mut params = named(name, None);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for dns in dns {
            let name = (*dns).try_into().with_context(|| format!("{dns} is no DNS name"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        self.sign(&params)
    }

    /// Writes `<name>.crt` and `<name>.key` into the folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn store(&self, name: &str, identity: &Identity) -> Result<()> {
        write(&self.dir.join(format!("{name}.crt")), &identity.certificate)?;
        write(&self.dir.join(format!("{name}.key")), &identity.key)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

fn named(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params
}

/// Writes a file only its owner can read: some of these are keys.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    fs::write(path, text).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(context)
}
