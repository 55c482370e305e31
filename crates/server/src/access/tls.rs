//! TLS of our own listeners: certificates from files, taken anew when they change.
//!
//! Invariants: 1. a new pair is taken whole, once it is seen to fit, or the old one stays; 2. connections that stand keep what they
//! were made with; 3. what a client's certificate says is believed only after rustls verified it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::settings::{ClientAuth, TlsSettings};
use super::subject::{self, Subject};
use crate::telemetry::Exposition;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The TLS of a server.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    settings: Mutex<TlsSettings>,
    seen: Mutex<Vec<Option<SystemTime>>>,
    handshakes_failed: AtomicU64,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
}

impl Tls {
    /// Reads the files.
    ///
    /// **Errors** name the file and what is wrong with it.
    pub fn load(settings: TlsSettings) -> Result<Tls, String> {
        let seen = times(&settings);
        Ok(Tls {
            config: ArcSwap::from_pointee(read(&settings)?),
            settings: Mutex::new(settings),
            seen: Mutex::new(seen),
            handshakes_failed: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
        })
    }

    /// Shakes hands; gives who the client is, if it showed a certificate.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<Subject>)> {
        let accepted = TlsAcceptor::from(self.config.load_full()).accept(stream).await;
        let stream = accepted.inspect_err(|_| self.count_failed())?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
        // One whose subject says nothing was signed by our CA all the same.
        let nameless = || Subject { text: String::new(), common_name: None };
        let subject = shown.map(|certificate| subject::read(certificate).unwrap_or_else(nameless));
        Ok((stream, subject))
    }

    /// Counts a handshake that came to nothing.
    pub fn count_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the files again, by other settings perhaps; may block.
    ///
    /// **Errors** leave everything as it was.
    pub fn reload(&self, settings: TlsSettings) -> Result<(), String> {
        *self.seen.lock() = times(&settings);
        match read(&settings) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                *self.settings.lock() = settings;
                self.reloads.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!("TLS: {error}; the certificate before stays in force");
                Err(error)
            }
        }
    }

    /// Takes new files when they have changed; ends when the server stops.
    pub async fn follow(self: Arc<Tls>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            let tls = self.clone();
            // Whoever looked in vain looks again.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    fn look(&self) {
        let settings = self.settings.lock().clone();
        if *self.seen.lock() != times(&settings) && self.reload(settings).is_ok() {
            tracing::info!("TLS: the certificate files have changed and are in force");
        }
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        page.counter(
            "quiver_tls_handshakes_failed_total",
            "TLS handshakes that failed.",
            count(&self.handshakes_failed),
        );
        page.counter("quiver_tls_reloads_total", "Certificates taken anew.", count(&self.reloads));
        let help = "Certificates that could not be taken; the one before stayed in force.";
        page.counter("quiver_tls_reloads_failed_total", help, count(&self.reloads_failed));
    }
}

/// When the files were written last.
fn times(settings: &TlsSettings) -> Vec<Option<SystemTime>> {
    settings.files().map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok()).collect()
}

fn read(settings: &TlsSettings) -> Result<ServerConfig, String> {
    let at = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] =
        if settings.only_tls13 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?;
    let verifier = match (&settings.client_ca_file, settings.client_auth) {
        (Some(file), ClientAuth::Optional | ClientAuth::Required) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|e| at(file, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match settings.client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            Some(verifier.build().map_err(|e| at(file, &e))?)
        }
        _ => None,
    };
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let chain = certificates(&settings.cert_file)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&settings.key_file)?).map_err(|e| at(&settings.key_file, &e))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|e| at(&settings.cert_file, &e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("{}: no certificates in it", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(bytes)
}
