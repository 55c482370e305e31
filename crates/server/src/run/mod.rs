//! From options to a running server, and back.
//!
//! Start: configuration → listener (it answers 503 with the progress) → store, replayed → event log, completed from the
//! store's log → catalog → collector → discovery → routes → ready. Stop: no new connections → requests and scrapes under
//! way → last reports → event log → catalog → store.
//! Invariants: 1. `/-/ready` is 200 only while everything above stands; 2. a reload takes the whole file or nothing;
//! 3. stopping takes at most [`parts::SCRAPES_GRACE`] and what the disk needs.
//! Fails how: whatever keeps the server from starting is one [`RunError`] with a sentence that says what to do.

mod arriving;
mod backing;
mod doors;
mod gate;
pub(crate) mod inflight;
mod jobs;
mod landing;
mod opening;
mod outside;
mod parts;
mod reload;
mod retention;
mod routes;
pub(crate) mod shape;
mod signals;
mod supervised;
#[cfg(test)]
mod tests;
mod unpublished;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::access::guard::guard_grpc;
use crate::config::{self, Config, LoadError, Overrides, Settings};
use crate::net::{self, NetStats};
use crate::sql::SqlOptions;
use gate::Gate;
pub use jobs::{JobFigures, Jobs};
pub use outside::Outside;
use parts::Parts;
pub use reload::Reloader;
pub use routes::build_info;
use signals::{Signal, Signals};
use supervised::{PROGRESS_EVERY, Supervisor};
pub use unpublished::{Noting, Unpublished};

/// Requests under way get this long when the server stops.
const REQUESTS_GRACE: Duration = Duration::from_secs(2);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file; without one the defaults are used and there are no scrape jobs.
    pub config_file: Option<PathBuf>,
    /// Settings that win over the file's.
    pub overrides: Overrides,
    /// Known keys that are not served yet are warnings.
    pub allow_unsupported: bool,
    /// Prometheus' web configuration: TLS, users, headers.
    pub web_config_file: Option<PathBuf>,
    /// Everybody may come in, also from other machines.
    pub insecure_open: bool,
    /// How others reach it.
    pub outside: Outside,
    /// Where SQL is answered, and how much of it.
    pub sql: SqlOptions,
    /// All flags as they are in force, for `/api/v1/status/flags`.
    pub flags: Vec<(String, String)>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] LoadError),
    /// The address.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// As it was given.
        address: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Who may come in.
    #[error("{0}")]
    Access(String),
    /// The audit log.
    #[error("cannot open the audit log: {0}")]
    Audit(io::Error),
    /// The store.
    #[error("{0}")]
    Store(#[from] store::OpenError),
    /// A line protocol.
    #[error("{0}")]
    Lines(#[from] crate::lines::ListenError),
    /// The pushed groups.
    #[error("cannot open the pushed groups in {dir}: {error}")]
    Push {
        /// Their folder.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The uploads.
    #[error("cannot open the uploads in {dir}: {error}")]
    Uploads {
        /// Their folder.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The event log.
    #[error("{0}")]
    Events(#[from] events::EventError),
    /// The catalog.
    #[error("{0}")]
    Catalog(#[from] catalog::CatalogError),
    /// Where the catalog is.
    #[error("--catalog: {0}")]
    CatalogPlace(String),
    /// The system refused something that every process gets.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A panic on the way; its text is in the log.
    #[error("the start was broken off by a bug; the log says more")]
    Bug,
}

/// Runs a server until SIGTERM or SIGINT; SIGHUP reloads the configuration. systemd is told how it goes.
///
/// **Takes** `ready`: called once, with the address and whether TLS is spoken there, when the server answers everything.
/// **Errors** say in one sentence why it did not start.
pub async fn run(options: Options, ready: impl FnOnce(SocketAddr, bool)) -> Result<(), RunError> {
    let mut signals = Signals::listen().map_err(|error| RunError::System { what: "listen for signals", error })?;
    let supervisor = Supervisor::of_environment();
    let mut server = Server::bind(options).await?;
    {
        let gate = server.gate.clone();
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        let mut opening = std::pin::pin!(server.open());
        loop {
            tokio::select! {
                opened = opening.as_mut() => break opened?,
                _ = progress.tick() => supervisor.starting(&gate.shut().unwrap_or_default()),
                // A reload now reads what is being read anyway.
                signal = signals.next() => if signal == Signal::Stop { return Ok(()) },
            }
        }
    }
    if let Some(address) = server.grpc_address() {
        tracing::info!("OTLP over gRPC is taken on {address}");
    }
    ready(server.address(), server.speaks_tls());
    supervisor.ready(&server.address().to_string());
    let store = server.parts.as_ref().map(|parts| parts.store.clone());
    let watching = supervisor.watch(move || store.as_ref().is_some_and(|store| store.is_alive()));
    loop {
        match signals.next().await {
            Signal::Stop => break,
            Signal::Reload if reload_or_stop(&server, &mut signals).await => break,
            Signal::Reload => {}
        }
    }
    tracing::info!("stopping");
    supervisor.stopping();
    // Signs of life end; the time to stop is another limit.
    drop(watching);
    server.stop().await;
    Ok(())
}

/// Reloads; tells whether it was told to stop meanwhile, which must not wait for a file that does not come.
async fn reload_or_stop(server: &Server, signals: &mut Signals) -> bool {
    let mut reloading = std::pin::pin!(server.reload());
    loop {
        tokio::select! {
            // The reloader logs how it went.
            _ = reloading.as_mut() => return false,
            signal = signals.next() => if signal == Signal::Stop { return true },
        }
    }
}

/// A server in this process.
pub struct Server {
    options: Options,
    settings: Settings,
    /// Taken by [`Server::open`].
    config: Option<Config>,
    address: SocketAddr,
    gate: Arc<Gate>,
    net: Arc<NetStats>,
    stop: watch::Sender<bool>,
    http: JoinHandle<()>,
    /// Taken by [`Server::open`]: who connects earlier waits.
    grpc_listener: Option<TcpListener>,
    grpc_address: Option<SocketAddr>,
    grpc: Option<JoinHandle<()>>,
    access: Arc<Access>,
    parts: Option<Parts>,
}

impl Server {
    /// Reads the configuration and listens; everything but `/-/healthy` answers 503 until [`Server::open`] is through.
    pub async fn bind(options: Options) -> Result<Server, RunError> {
        let config = load(&options).await?;
        let settings = Settings::of(&config.settings, &options.overrides);
        let (listener, address) = listen(&settings.listen, "--listen").await?;
        let (grpc_listener, grpc_address) = match &settings.otlp_grpc_listen {
            Some(address) => listen(address, "--otlp-grpc-listen").await.map(|(l, a)| (Some(l), Some(a)))?,
            None => (None, None),
        };
        let access = open_access(&options, &config, &settings, &[Some(address), grpc_address]).await?;
        let (gate, net) = (Arc::new(Gate::new()), Arc::new(NetStats::default()));
        let (stop, stopped) = watch::channel(false);
        let connections_max = settings.limits.connections_max;
        if let Some(tls) = &access.tls {
            tokio::spawn(tls.clone().follow(stopped.clone()));
        }
        let tls = access.tls.clone();
        let http = tokio::spawn(net::serve(
            listener,
            gate.router(&options.outside),
            connections_max,
            net.clone(),
            tls,
            stopped,
        ));
        Ok(Server {
            options,
            settings,
            config: Some(config),
            address,
            gate,
            net,
            stop,
            http,
            grpc_listener,
            grpc_address,
            grpc: None,
            access,
            parts: None,
        })
    }

    /// Opens the data directory and starts all parts. Call it once.
    pub async fn open(&mut self) -> Result<(), RunError> {
        let config = self.config.take().unwrap_or_default();
        let opening = parts::Opening {
            options: self.options.clone(),
            settings: self.settings.clone(),
            address: self.address,
            gate: self.gate.clone(),
            net: self.net.clone(),
            access: self.access.clone(),
            stop: self.stop.subscribe(),
        };
        let parts = opening.open(config).await?;
        if let Some(listener) = self.grpc_listener.take() {
            let router = crate::otlp::grpc::router(parts.otlp.clone());
            let router = router.layer(from_fn_with_state(self.access.clone(), guard_grpc));
            let connections_max = self.settings.limits.connections_max;
            let (net, tls) = (self.net.clone(), self.access.tls.clone());
            let serving = net::serve(listener, router, connections_max, net, tls, self.stop.subscribe());
            self.grpc = Some(tokio::spawn(serving));
        }
        self.parts = Some(parts);
        Ok(())
    }

    /// Gives the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells whether TLS is spoken.
    pub fn speaks_tls(&self) -> bool {
        self.access.tls.is_some()
    }

    /// Gives the address for OTLP over gRPC, if it is served.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc_address
    }

    /// Reads the configuration again; see [`Reloader::reload`].
    pub async fn reload(&self) -> Result<(), LoadError> {
        match &self.parts {
            Some(parts) => parts.reloader.reload().await,
            None => Ok(()),
        }
    }

    /// Stops in order and gives the data directory free.
    pub async fn stop(mut self) {
        self.gate.close();
        self.stop.send_replace(true);
        let parts = self.parts.take();
        let mut grpc = self.grpc.take();
        let http = async {
            let both = async {
                let grpc = async {
                    if let Some(grpc) = &mut grpc {
                        // One that broke off has ended, too.
                        let _ = grpc.await;
                    }
                };
                tokio::join!(&mut self.http, grpc)
            };
            if tokio::time::timeout(REQUESTS_GRACE, both).await.is_err() {
                tracing::warn!("requests were still under way at shutdown");
            }
        };
        match parts {
            None => http.await,
            Some(parts) => {
                tokio::join!(http, parts.stop_collecting());
                parts.close().await;
            }
        }
    }
}

/// Reads the configuration where disks may block.
async fn load(options: &Options) -> Result<Config, RunError> {
    let (file, web, allow_unsupported) =
        (options.config_file.clone(), options.web_config_file.clone(), options.allow_unsupported);
    let loaded = tokio::task::spawn_blocking(move || {
        let mut config = match &file {
            Some(path) => config::load_file(path, allow_unsupported)?,
            None => Config::default(),
        };
        if let Some(path) = &web {
            let settings = config::web::load(path)?;
            config.settings.access.join(settings).map_err(|e| RunError::Access(format!("{}: {e}", path.display())))?;
        }
        Ok::<_, RunError>(config)
    });
    let config = loaded.await.map_err(|_| RunError::Bug)??;
    for warning in &config.warnings {
        tracing::warn!("{warning}; it is ignored");
    }
    Ok(config)
}

/// Reads who may come in, before anybody is answered.
async fn open_access(
    options: &Options,
    config: &Config,
    settings: &Settings,
    addresses: &[Option<SocketAddr>],
) -> Result<Arc<Access>, RunError> {
    let beyond = addresses.iter().flatten().find(|address| !address.ip().is_loopback());
    let exposed = beyond.filter(|_| !options.insecure_open).map(|address| address.to_string());
    let (access, dir) = (config.settings.access.clone(), settings.data_dir.clone());
    let now = Arc::new(|| sys::Clock::now_ms(&sys::RealClock::default()));
    let opened = tokio::task::spawn_blocking(move || Access::open(access, &dir, exposed, now)).await;
    let access = Arc::new(opened.map_err(|_| RunError::Bug)?.map_err(RunError::Access)?);
    if let Some(address) = beyond.filter(|_| access.rules().are_open()) {
        tracing::warn!(
            "{address} is reachable from other machines, and everybody may read, write and remove: --web.insecure-open"
        );
    }
    Ok(access)
}

/// Listens on an address; `flag` is where another one can be chosen.
async fn listen(address: &str, flag: &str) -> Result<(TcpListener, SocketAddr), RunError> {
    let refused = |reason: String| RunError::Listen { address: address.to_owned(), reason };
    // Go writes ":9090" for all addresses.
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    if !full.contains(':') {
        return Err(refused("it needs a port, such as 127.0.0.1:9740".to_owned()));
    }
    let listener = TcpListener::bind(&full).await.map_err(|error| {
        refused(match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("the address is in use; is another server running? Choose another one with {flag}")
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 are not for everybody".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            _ => error.to_string(),
        })
    })?;
    let address = listener.local_addr().map_err(|error| RunError::System { what: "read the own address", error })?;
    Ok((listener, address))
}
