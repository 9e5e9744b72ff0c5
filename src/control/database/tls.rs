//! TLS to databases: encrypted, and whoever answers is believed, unless a file says who may sign its certificate.
//!
//! What comes in: that file, or nothing. What goes out: a TLS configuration. What always holds: of tenants' databases any certificate is
//! taken, as the original does (spec: tenant-database 1, `ssl_enforced`); most projects' databases have one that nobody has signed.
//! Whoever holds the connection must still prove to have the key of the certificate that it shows. Deliberately absent: certificates of
//! our own.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Makes TLS connections to databases.
#[must_use]
pub fn connector() -> MakeRustlsConnect {
    MakeRustlsConnect::new(client_config())
}

/// TLS 1.2 and 1.3 with any certificate.
#[must_use]
pub fn client_config() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the versions that it was built with")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth()
}

/// Whether a file can be used by [`verifying_connector`]. It is read for each connection, so another content counts from the next one on.
///
/// # Errors
///
/// As there.
pub fn check_ca_cert(ca_cert: &Path) -> Result<(), String> {
    verifying_connector(ca_cert).map(drop)
}

/// Makes TLS connections to a database whose certificate one of those in this file has signed, for the name that it is reached by.
///
/// # Errors
///
/// A sentence: the file cannot be read, or there is no certificate in it.
pub fn verifying_connector(ca_cert: &Path) -> Result<MakeRustlsConnect, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", ca_cert.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca_cert).map_err(|error| failed(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"there is no certificate in it"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the versions that it was built with")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
