//! HTTP to somebody else: a client for whoever pushes something out.
//!
//! What comes in: a URL. What goes out: a client that speaks HTTP/1.1, over TLS where the URL says so, with the certificate authorities that
//! this machine trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`). Deliberately absent: what is asked, and how long an answer may take.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::sync::Arc;

/// Sends requests. It keeps its connections for a while.
pub type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client for `uri`, which `variable` holds. To be called within the runtime.
///
/// # Errors
///
/// When there is nobody to check a certificate by: a sentence.
pub fn client(uri: &Uri, variable: &str) -> Result<Client, String> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(uri.scheme_str() == Some("https"), variable)?)
        .https_or_http()
        .enable_http1()
        .build();
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector))
}

fn tls(is_needed: bool, variable: &str) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the versions that it was built with");
    let builder = if is_needed {
        builder.with_native_roots().map_err(|error| {
            format!("there are no certificate authorities to check {variable} by: {error}; install them or set SSL_CERT_FILE")
        })?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

/// An error with what has led to it.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
