//! `quiver serve`: flags → configuration → `server::run` → exit code.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use server::config::backing::SecretUrl;
use server::config::{CacheSettings, CatalogSettings, Overrides};
use server::run::{self, Options, Outside};
use server::sql::SqlOptions;
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::args::{LogFormat, ServeArgs};

/// What still runs when the server has stopped, such as a file that a hung disk does not give, gets this long.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

/// Less holds no query.
const SQL_MEMORY_BYTES_MIN: u64 = 32 << 20;

/// Runs the server until it is told to stop.
pub fn run(args: ServeArgs) -> Result<ExitCode, Failure> {
    start_log(&args)?;
    let options = options(&args)?;
    sys::raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("quiver")
        .build()
        .map_err(|e| Failure::failed(format!("cannot start threads: {e}")))?;
    let with_config = args.config.is_some();
    let result = runtime.block_on(run::run(options, |address, tls| greet(address, tls, with_config)));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result.map_err(|e| Failure::failed(e.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// Says where to look; the log says the rest.
fn greet(address: SocketAddr, tls: bool, with_config: bool) {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}", reachable(address));
    println!("Quiver {} is ready at {url}", env!("CARGO_PKG_VERSION"));
    println!("  API:          {url}/openapi");
    println!("  Add a target: quiver targets add http://localhost:9100/metrics{}", server_flag(&url));
    println!("  Ask:          quiver query up{}", server_flag(&url));
    if !with_config {
        println!("  Scrape jobs:  quiver serve --config prometheus.yml");
    }
}

/// The address to show: "all addresses" is none to connect to.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

/// Commands find the default address by themselves.
fn server_flag(url: &str) -> String {
    if url == "http://127.0.0.1:9740" { String::new() } else { format!(" --server {url}") }
}

fn options(args: &ServeArgs) -> Result<Options, Failure> {
    let retention_ms = args.retention.as_deref().map(retention_ms).transpose()?;
    let retention_bytes = args.retention_size.as_deref().map(retention_bytes).transpose()?;
    let memory_bytes = args.memory.as_deref().map(memory_bytes).transpose()?;
    Ok(Options {
        config_file: args.config.clone(),
        overrides: Overrides {
            listen: args.listen.clone(),
            otlp_grpc_listen: args.otlp_grpc_listen.clone(),
            data_dir: args.data_dir.clone(),
            retention_ms,
            retention_bytes,
            admin_api: args.enable_admin_api,
            memory_bytes,
            catalog: args.catalog.as_deref().map(catalog).transpose()?,
            cache: args.cache.as_deref().map(cache).transpose()?,
            statsd: args.listen_statsd.clone(),
            graphite: args.listen_graphite.clone(),
        },
        allow_unsupported: args.allow_unsupported,
        web_config_file: args.web_config_file.clone(),
        insecure_open: args.insecure_open,
        outside: Outside::read(args.external_url.as_deref(), args.route_prefix.as_deref()).map_err(Failure::usage)?,
        sql: sql_options(args)?,
        flags: flags(args),
    })
}

fn retention_ms(text: &str) -> Result<i64, Failure> {
    match server::config::parse_duration_ms(text) {
        Ok(ms) if ms > 0 => Ok(ms),
        _ => Err(Failure::usage(format!("--retention wants a duration such as 15d, not {text:?}"))),
    }
}

fn retention_bytes(text: &str) -> Result<u64, Failure> {
    server::config::parse_size_bytes(text).map_err(|_| {
        Failure::usage(format!("--retention-size wants a size such as 50GB, or 0 for no limit, not {text:?}"))
    })
}

fn catalog(url: &str) -> Result<CatalogSettings, Failure> {
    CatalogSettings::of_url(url).map_err(|e| Failure::usage(format!("--catalog: {e}")))
}

fn cache(url: &str) -> Result<CacheSettings, Failure> {
    CacheSettings::of_url(url).map_err(|e| Failure::usage(format!("--cache: {e}")))
}

fn memory_bytes(text: &str) -> Result<u64, Failure> {
    match server::config::parse_size_bytes(text) {
        Ok(bytes) if bytes >= server::config::MEMORY_BYTES_MIN => Ok(bytes),
        _ => Err(Failure::usage(format!("--memory wants a size of at least 256MiB, such as 4GiB, not {text:?}"))),
    }
}

fn sql_options(args: &ServeArgs) -> Result<SqlOptions, Failure> {
    let timeout = match args.sql_timeout.as_deref().map(server::config::parse_duration_ms) {
        None => None,
        Some(Ok(ms)) if ms > 0 => Some(Duration::from_millis(ms.unsigned_abs())),
        Some(_) => return Err(Failure::usage("--sql.timeout wants a duration such as 30s")),
    };
    let memory_bytes = match args.sql_memory.as_deref().map(server::config::parse_size_bytes) {
        None => None,
        Some(Ok(bytes)) if bytes >= SQL_MEMORY_BYTES_MIN => Some(bytes),
        Some(_) => return Err(Failure::usage("--sql.memory wants a size of at least 32MiB, such as 1GiB")),
    };
    Ok(SqlOptions { program: args.analytics.clone(), timeout, memory_bytes })
}

/// The flags as `/api/v1/status/flags` shows them.
fn flags(args: &ServeArgs) -> Vec<(String, String)> {
    let path = |p: &Option<std::path::PathBuf>| p.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let url = |u: &Option<String>| u.clone().map(|u| SecretUrl(u).shown()).unwrap_or_default();
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    [
        ("cache", url(&args.cache)),
        ("catalog", url(&args.catalog)),
        ("analytics", path(&args.analytics)),
        ("config", path(&args.config)),
        ("config.allow-unsupported", args.allow_unsupported.to_string()),
        ("data-dir", path(&args.data_dir)),
        ("listen", text(&args.listen)),
        ("listen.graphite", args.listen_graphite.join(",")),
        ("listen.statsd", args.listen_statsd.join(",")),
        ("log-format", format!("{:?}", args.log_format).to_lowercase()),
        ("log-level", args.log_level.clone()),
        ("otlp-grpc-listen", text(&args.otlp_grpc_listen)),
        ("memory", text(&args.memory)),
        ("retention", text(&args.retention)),
        ("retention-size", text(&args.retention_size)),
        ("web.config.file", path(&args.web_config_file)),
        ("web.external-url", text(&args.external_url)),
        ("web.route-prefix", text(&args.route_prefix)),
        ("web.insecure-open", args.insecure_open.to_string()),
        ("sql.memory", text(&args.sql_memory)),
        ("sql.timeout", text(&args.sql_timeout)),
        ("web.enable-admin-api", args.enable_admin_api.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The log goes to standard error; standard output is for the greeting.
fn start_log(args: &ServeArgs) -> Result<(), Failure> {
    let filter = filter(&args.log_level)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
    started.map_err(|e| Failure::failed(format!("cannot start the log: {e}")))
}

/// Reads `info`, or parts such as `store=debug`; a lone word that is no level would silence everything.
fn filter(text: &str) -> Result<EnvFilter, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "--log-level wants error, warn, info, debug, trace or a filter such as store=debug, not {text:?}"
        ))
    };
    let level =
        |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_ascii_lowercase().as_str());
    if !text.split(',').all(|part| part.contains('=') || level(part.trim())) {
        return Err(wrong());
    }
    EnvFilter::try_new(text.to_ascii_lowercase()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parsed(words: &[&str]) -> ServeArgs {
        let all = ["quiver", "serve"].iter().chain(words);
        match Cli::try_parse_from(all).unwrap_or_else(|e| panic!("{e}")).command {
            Command::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn prometheus_spellings_are_understood() {
        let args = parsed(&[
            "--config.file=p.yml",
            "--web.listen-address=:9090",
            "--storage.tsdb.path=/d",
            "--storage.tsdb.retention.time=30d",
            "--storage.tsdb.retention.size=2GB",
            "--web.enable-admin-api",
            "--log.level=debug",
            "--log.format=json",
        ]);
        let options = options(&args).unwrap();
        assert_eq!(options.config_file, Some("p.yml".into()));
        assert_eq!(options.overrides.listen.as_deref(), Some(":9090"));
        assert_eq!(options.overrides.data_dir, Some("/d".into()));
        assert_eq!(options.overrides.retention_ms, Some(30 * 86_400_000));
        assert_eq!((options.overrides.retention_bytes, options.overrides.admin_api), (Some(2 << 30), true));
        assert!(options.flags.contains(&("log-format".into(), "json".into())));
    }

    #[test]
    fn levels_and_filters_are_read() {
        for good in ["info", "WARN", "store=debug", "info,collect::scrape=trace", "off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "x y z", "loud", "info,loud", "store=loud"] {
            assert_eq!(filter(bad).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn a_wrong_retention_is_a_wrong_question() {
        assert_eq!(options(&parsed(&["--retention", "soon"])).unwrap_err().code, 2);
        assert_eq!(options(&parsed(&["--retention", "0s"])).unwrap_err().code, 2);
        assert_eq!(options(&parsed(&["--retention-size", "much"])).unwrap_err().code, 2);
    }

    #[test]
    fn a_wrong_size_of_memory_is_a_wrong_question() {
        assert_eq!(options(&parsed(&["--memory", "4GiB"])).unwrap().overrides.memory_bytes, Some(4 << 30));
        for bad in ["much", "1MiB", "0"] {
            assert_eq!(options(&parsed(&["--memory", bad])).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn the_greeting_names_an_address_that_can_be_reached() {
        assert_eq!(reachable(SocketAddr::from(([0, 0, 0, 0], 9740))), "localhost:9740");
        assert_eq!(server_flag("http://127.0.0.1:9740"), "");
        assert_eq!(server_flag("http://127.0.0.1:1"), " --server http://127.0.0.1:1");
    }
}
