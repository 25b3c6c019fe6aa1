//! TLS by rustls.

use crate::config::TlsFile;
use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// An acceptor for the configured certificate.
pub(super) fn acceptor(file: &TlsFile) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(&file.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("tls.certificate {}", file.certificate.display()))?;
    anyhow::ensure!(!chain.is_empty(), "tls.certificate {} holds no certificate", file.certificate.display());
    let key = PrivateKeyDer::from_pem_file(&file.key).with_context(|| format!("tls.key {}", file.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the TLS certificate and key do not belong together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
