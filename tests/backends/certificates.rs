//! Certificates for servers on loopback, signed by an authority that nobody else knows.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Files in a folder of their own.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the certificates");
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let certificate = names.signed_by(&key, &Issuer::new(ca, ca_key)).expect("a certificate");
        let made = Self { folder };
        for (file, text) in [
            (made.ca(), ca_certificate.pem()),
            (made.certificate(), certificate.pem()),
            (made.key(), key.serialize_pem()),
        ] {
            std::fs::write(file, text).expect("the folder is writable");
        }
        made
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
