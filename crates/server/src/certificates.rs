//! Makes certificates.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::identity::fingerprint;
use crate::{Error, Identity, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// What the authority is called in its certificates.
const NAME: &str = "Afterimage replica server";

/// Who makes the certificates of a server and its clients, kept in a folder: `authority.pem`, which all
/// sides need, and `authority.key`, which nobody needs but to make more.
///
/// The certificates do not expire. A client's is taken back by taking it off the server's list; a stolen
/// server's, or the authority's, by beginning anew.
#[derive(Debug)]
pub struct Authority {
    certificate: PathBuf,
    key: KeyPair,
}

/// A certificate that was made, with its key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The files.
    pub identity: Identity,
    /// The SHA-256 of the certificate, as a list of clients names it.
    pub fingerprint: String,
}

impl Authority {
    /// Begins an authority in `folder`, which is created.
    ///
    /// # Errors
    /// [`Error::File`], also if there is one already; [`Error::Certificates`].
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = authority().and_then(|params| params.self_signed(&key));
        let pem = certificate.map_err(refused)?.pem();
        let path = folder.join("authority.pem");
        write(&folder.join("authority.key"), &key.serialize_pem(), 0o600)?;
        write(&path, &pem, 0o644)?;
        Ok(Self {
            certificate: path,
            key,
        })
    }

    /// Opens the authority in `folder`.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Pem`].
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("authority.key");
        let pem = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let key = KeyPair::from_pem(&pem).map_err(|_| Error::Pem {
            path,
            expected: "private key in PEM",
        })?;
        Ok(Self {
            certificate: folder.join("authority.pem"),
            key,
        })
    }

    /// Makes the certificate of a server that is reached by `hosts`, names or addresses: `PATH.pem` and
    /// `PATH.key`.
    ///
    /// # Errors
    /// [`Error::File`], also if there is one already; [`Error::Certificates`].
    pub fn issue_server(&self, hosts: &[String], path: &Path) -> Result<Issued> {
        let params = CertificateParams::new(hosts).map_err(refused)?;
        self.issue(params, "server", ExtendedKeyUsagePurpose::ServerAuth, path)
    }

    /// Makes the certificate of the client `name`: `PATH.pem` and `PATH.key`.
    ///
    /// # Errors
    /// [`Error::File`], also if there is one already; [`Error::Certificates`].
    pub fn issue_client(&self, name: &str, path: &Path) -> Result<Issued> {
        let params = CertificateParams::default();
        self.issue(params, name, ExtendedKeyUsagePurpose::ClientAuth, path)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
        path: &Path,
    ) -> Result<Issued> {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(refused)?;
        let issuer = Issuer::new(authority().map_err(refused)?, &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(refused)?;
        let identity = Identity {
            authority: self.certificate.clone(),
            certificate: with_end(path, ".pem"),
            key: with_end(path, ".key"),
        };
        write(&identity.key, &key.serialize_pem(), 0o600)?;
        write(&identity.certificate, &certificate.pem(), 0o644)?;
        Ok(Issued {
            identity,
            fingerprint: fingerprint(certificate.der()),
        })
    }
}

/// The authority's certificate, but for its key.
fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn refused(error: rcgen::Error) -> Error {
    Error::Certificates(error.to_string())
}

/// Writes a new file.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(Error::file("write", path))
}
