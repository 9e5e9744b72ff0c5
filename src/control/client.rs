//! HTTP to somebody else: a client for whoever pushes something out.
//!
//! What comes in: a URL. What goes out: a client that speaks HTTP/1.1, over TLS where the URL says so, with the certificate authorities that
//! this machine trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`). What always holds: those authorities can be read again while requests are made
//! (`another_authority_is_believed_after_a_reload`). Deliberately absent: what is asked, and how long an answer may take.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Sends requests. It keeps its connections for a while. Clones are the same one.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: watch::Sender<Http>,
    has_tls: bool,
    variable: &'static str,
}

type Http = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("variable", &self.0.variable)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for `uri`, which `variable` holds. To be called within the runtime.
    ///
    /// # Errors
    ///
    /// When there is nobody to check a certificate by: a sentence.
    pub fn new(uri: &Uri, variable: &'static str) -> Result<Self, String> {
        let has_tls = uri.scheme_str() == Some("https");
        let http = http(has_tls, variable)?;
        Ok(Self(Arc::new(Inner {
            http: watch::Sender::new(http),
            has_tls,
            variable,
        })))
    }

    /// Sends a request.
    pub fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        self.0.http.borrow().request(request)
    }

    /// The variable that holds the URL.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        self.0.variable
    }

    /// Reads the certificate authorities again: what is connected from now on is checked by those. False when none are needed.
    ///
    /// # Errors
    ///
    /// When there are none now: a sentence. Everything stays as it was.
    pub fn renew(&self) -> Result<bool, String> {
        if self.0.has_tls {
            self.0.http.send_replace(http(true, self.0.variable)?);
        }
        Ok(self.0.has_tls)
    }
}

fn http(has_tls: bool, variable: &str) -> Result<Http, String> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(has_tls, variable)?)
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
