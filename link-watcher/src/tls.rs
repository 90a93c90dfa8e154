//! TLS as a client: whom the machine trusts, and the name that a certificate must have.

use std::{io, sync::Arc};

use tokio::{sync::OnceCell, task::spawn_blocking};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

/// What TLS needs, made when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct Tls(Arc<OnceCell<TlsConnector>>);

impl Tls {
    #[cfg(test)]
    pub(crate) fn with_roots(roots: RootCertStore) -> Self {
        Self(Arc::new(OnceCell::new_with(Some(connector(roots).expect("this provider knows TLS 1.2 and 1.3")))))
    }

    /// Makes TLS connections to whoever the machine trusts.
    ///
    /// # Errors
    ///
    /// Where it trusts no certificates; the next call tries again.
    pub(crate) async fn connector(&self) -> io::Result<&TlsConnector> {
        self.0
            .get_or_try_init(|| async {
                // Reading a hundred files must not keep others of this thread waiting.
                let roots = spawn_blocking(trusted).await.map_err(io::Error::other).and_then(|roots| roots);
                roots.and_then(connector)
            })
            .await
    }
}

/// The name in the certificate; addresses of IPv6 stand in brackets in a URL.
///
/// # Errors
///
/// Where the host is neither a name nor an address.
pub(crate) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned()).map_err(|_| io::Error::other(format!("{host} is no name for a certificate")))
}

fn connector(roots: RootCertStore) -> io::Result<TlsConnector> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The certificates that the machine trusts.
fn trusted() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(io::Error::other(format!("this machine trusts no certificates{why}: install ca-certificates")));
    }
    Ok(roots)
}
