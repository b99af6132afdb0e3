//! TLS to the members, as etcdctl's variables ask for it.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// What etcdctl's variables say.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// ETCDCTL_CACERT: who may have signed the members' certificates; without it the system's.
    pub(super) ca: Option<String>,
    /// ETCDCTL_CERT: our certificate.
    pub(super) certificate: Option<String>,
    /// ETCDCTL_KEY: its key.
    pub(super) key: Option<String>,
}

impl Files {
    /// How to connect; `None`: without TLS.
    pub(super) fn client(&self) -> Result<Option<Arc<ClientConfig>>, String> {
        let client = match (&self.ca, &self.certificate, &self.key) {
            (None, None, None) => return Ok(None),
            (ca, None, None) => config(ca.as_deref())?.with_no_client_auth(),
            (ca, Some(certificate), Some(key)) => config(ca.as_deref())?
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|cause| format!("{certificate} and {key}: {cause}"))?,
            (_, Some(_), None) => return Err("ETCDCTL_CERT needs ETCDCTL_KEY".into()),
            (_, None, Some(_)) => return Err("ETCDCTL_KEY needs ETCDCTL_CERT".into()),
        };
        Ok(Some(Arc::new(client)))
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn config(ca: Option<&str>) -> Result<Builder, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|cause| format!("{file}: {cause}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|cause| cause.to_string())?.with_root_certificates(roots))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |cause: rustls::pki_types::pem::Error| format!("{file}: {cause}");
    let found = CertificateDer::pem_file_iter(Path::new(file)).map_err(unreadable)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if found.is_empty() { Err(format!("{file}: no certificate in it")) } else { Ok(found) }
}

fn private_key(file: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(Path::new(file)).map_err(|cause| format!("{file}: {cause}"))
}

/// The name that a member's certificate must have.
pub(super) fn server_name(member: &str) -> Result<ServerName<'static>, String> {
    let host = member.rsplit_once(':').map_or(member, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|cause| format!("{host}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_comes_with_its_key() {
        let lone = Files { certificate: Some("cert".into()), ..Files::default() };
        assert!(lone.client().unwrap_err().contains("ETCDCTL_KEY"));
        assert!(Files::default().client().unwrap().is_none());
        let missing = Files { ca: Some("/does/not/exist".into()), ..Files::default() };
        assert!(missing.client().unwrap_err().contains("/does/not/exist"));
    }

    #[test]
    fn a_member_is_known_by_its_host() {
        for (member, name) in
            [("h.example:2379", "h.example"), ("[::1]:1", "::1"), ("127.0.0.1:2379", "127.0.0.1")]
        {
            assert_eq!(server_name(member).unwrap().to_str(), name);
        }
    }
}
