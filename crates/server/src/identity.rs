//! Who one is, and whom one believes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::ContentDigest;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// HTTP/2, and nothing else.
const PROTOCOL: &[u8] = b"h2";

/// The files that one side of a connection needs, all in PEM. None of their content is shown.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate of the authority that the other side's certificate must be of.
    pub authority: PathBuf,
    /// One's own certificate.
    pub certificate: PathBuf,
    /// Its private key, which nobody else may be able to read.
    pub key: PathBuf,
}

impl Identity {
    fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(refused)?;
        }
        Ok(Arc::new(roots))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let mode = std::fs::metadata(&self.key).map_err(Error::file("read", &self.key))?;
        if mode.permissions().mode() & 0o077 != 0 {
            let path = self.key.clone();
            return Err(Error::KeyExposed { path });
        }
        let key = read(&self.key)?;
        PrivateKeyDer::from_pem_slice(&key).map_err(|_| not_a(&self.key, "private key in PEM"))
    }

    #[cfg(feature = "client")]
    pub(crate) fn client(&self) -> Result<Arc<rustls::ClientConfig>> {
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(refused)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(certificates(&self.certificate)?, self.key()?);
        let mut config = config.map_err(refused)?;
        config.alpn_protocols = vec![PROTOCOL.into()];
        Ok(Arc::new(config))
    }

    #[cfg(feature = "serve")]
    pub(crate) fn server(&self) -> Result<Arc<rustls::ServerConfig>> {
        use rustls::server::WebPkiClientVerifier;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider());
        let verifier = verifier
            .build()
            .map_err(|error| Error::Certificates(error.to_string()))?;
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(refused)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, self.key()?);
        let mut config = config.map_err(refused)?;
        config.alpn_protocols = vec![PROTOCOL.into()];
        Ok(Arc::new(config))
    }
}

/// The name of a certificate in a list of clients: the SHA-256 of its DER.
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    ContentDigest::new(Sha256::digest(certificate).into()).to_string()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn refused(error: rustls::Error) -> Error {
    Error::Certificates(error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::file("read", path))
}

fn not_a(path: &Path, expected: &'static str) -> Error {
    let path = path.to_owned();
    Error::Pem { path, expected }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| not_a(path, "certificate in PEM"))
}
