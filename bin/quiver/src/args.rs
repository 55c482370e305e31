//! The flags of every command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  quiver serve                                        start on 127.0.0.1:9740, data in ./data
  quiver serve --config prometheus.yml                scrape what a prometheus.yml names
  quiver targets add http://localhost:9100/metrics    scrape a node exporter
  quiver import old.csv                               bring samples of the past
  quiver query 'up'                                   ask what is there now
  quiver sql 'SELECT metric_name, count(*) FROM metrics_ts GROUP BY 1'
  quiver query 'rate(node_cpu_seconds_total[5m])' --start 1h --step 1m

Exit codes: 0 all went well, 1 it failed, 2 it was asked wrongly.";

/// Collects metrics, loses none, answers PromQL.
#[derive(Parser, Debug)]
#[command(name = "quiver", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start the server
    Serve(Box<ServeArgs>),
    /// Check a configuration file; say where it is wrong
    CheckConfig(CheckArgs),
    /// Check rule files; say where they are wrong
    CheckRules(CheckRulesArgs),
    /// Run unit tests of rules, in the files that promtool reads
    TestRules(TestRulesArgs),
    /// Ask a running server in PromQL
    Query(QueryArgs),
    /// Ask a running server in SQL
    Sql(SqlArgs),
    /// Write the samples of a running server into a folder of Parquet, by hour, metric and source
    Export(ExportArgs),
    /// Report gaps, repetitions, NaN and ends in the samples of a running server
    Quality(QualityArgs),
    /// List, add, remove or scrape targets of a running server
    Targets(TargetsArgs),
    /// List, verify, export or import the blocks of a data directory
    Blocks(BlocksArgs),
    /// Let a running server copy all its samples into a directory to keep
    Snapshot(SnapshotArgs),
    /// Make a data directory out of a snapshot
    Restore(RestoreArgs),
    /// Bring a file of samples, or a Prometheus, to a running server
    Import(ImportArgs),
    /// Try the promises on this machine: load, kill -9, torn and damaged files, in a temporary folder
    Selftest(SelftestArgs),
    /// Show what came in, what became of it, which scrapes are missing and why
    Integrity(IntegrityArgs),
    /// Make, list and revoke tokens
    Token(TokenArgs),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

/// Flags of `serve`. A flag wins over its variable, which wins over the file.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Configuration file; a prometheus.yml will do. Reloaded on SIGHUP and POST /-/reload
    #[arg(long, alias = "config.file", value_name = "FILE", env = "QUIVER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address for HTTP [default: 127.0.0.1:9740]
    #[arg(long, alias = "web.listen-address", value_name = "ADDR", env = "QUIVER_LISTEN")]
    pub listen: Option<String>,
    /// Address for OTLP over gRPC, such as 127.0.0.1:4317; without it gRPC is off (OTLP over HTTP is always on)
    #[arg(long, value_name = "ADDR", env = "QUIVER_OTLP_GRPC_LISTEN")]
    pub otlp_grpc_listen: Option<String>,
    /// Listen for StatsD and DogStatsD: host:port for UDP, unix:/path for a Unix socket; may be repeated
    #[arg(long = "listen.statsd", value_name = "ADDR", env = "QUIVER_LISTEN_STATSD", value_delimiter = ',')]
    pub listen_statsd: Vec<String>,
    /// Listen for Graphite's plaintext on TCP and UDP; may be repeated
    #[arg(long = "listen.graphite", value_name = "ADDR", env = "QUIVER_LISTEN_GRAPHITE", value_delimiter = ',')]
    pub listen_graphite: Vec<String>,
    /// Directory for all data; one server at a time [default: ./data]
    #[arg(long, alias = "storage.tsdb.path", value_name = "DIR", env = "QUIVER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL for targets and collections instead of the embedded database, such as
    /// postgres://user@host:5432/db?sslmode=verify-full; the password may come from PGPASSWORD or the configuration file
    #[arg(long, value_name = "URL", env = "QUIVER_CATALOG_URL", hide_env_values = true)]
    pub catalog: Option<String>,
    /// Redis in which others find target health, latest metrics, statistics and schedule, such as redis://host:6379/0
    #[arg(long, value_name = "URL", env = "QUIVER_CACHE_URL", hide_env_values = true)]
    pub cache: Option<String>,
    /// How long samples are kept, such as 15d [default: 15d]
    #[arg(long, alias = "storage.tsdb.retention.time", value_name = "DURATION", env = "QUIVER_RETENTION")]
    pub retention: Option<String>,
    /// How much all samples may take on disk, such as 50GB; the oldest go first [default: no limit]
    #[arg(long, alias = "storage.tsdb.retention.size", value_name = "SIZE", env = "QUIVER_RETENTION_SIZE")]
    pub retention_size: Option<String>,
    /// TLS, users with passwords and headers, in the words of Prometheus' web configuration. Who may do what, and tokens, stand
    /// under `quiver: auth:` of the configuration; see docs/access.md
    #[arg(long = "web.config.file", alias = "web-config-file", value_name = "FILE", env = "QUIVER_WEB_CONFIG")]
    pub web_config_file: Option<PathBuf>,
    /// URL under which others reach this server, when something stands in front of it; for links in alerts and answers
    #[arg(long = "web.external-url", alias = "external-url", value_name = "URL", env = "QUIVER_EXTERNAL_URL")]
    pub external_url: Option<String>,
    /// Answer everything below this path [default: the path of --web.external-url]
    #[arg(long = "web.route-prefix", alias = "route-prefix", value_name = "PATH", env = "QUIVER_ROUTE_PREFIX")]
    pub route_prefix: Option<String>,
    /// Let everybody in who reaches the port, also from other machines. Without it a server that listens beyond loopback and
    /// has no token, user or certificate configured does not start
    #[arg(long = "web.insecure-open", alias = "insecure-open")]
    pub insecure_open: bool,
    /// Let /api/v1/admin/tsdb delete series and make snapshots
    #[arg(long = "web.enable-admin-api", alias = "enable-admin-api")]
    pub enable_admin_api: bool,
    /// Memory for series, requests and queries together, such as 4GiB; when it is used up new series are refused and those
    /// that are in go on [default: three fifths of the machine or control group]
    #[arg(long, value_name = "SIZE", env = "QUIVER_MEMORY")]
    pub memory: Option<String>,
    /// The program that answers SQL [default: quiver-analytics beside this one, or in PATH]
    #[arg(long, value_name = "PROGRAM", env = "QUIVER_ANALYTICS")]
    pub analytics: Option<PathBuf>,
    /// How long an SQL query may take [default: 30s]
    #[arg(long = "sql.timeout", value_name = "DURATION", env = "QUIVER_SQL_TIMEOUT")]
    pub sql_timeout: Option<String>,
    /// Memory of one SQL query, in a process apart; at most two run at a time [default: 512MiB]
    #[arg(long = "sql.memory", value_name = "SIZE", env = "QUIVER_SQL_MEMORY")]
    pub sql_memory: Option<String>,
    /// Start although the file has keys that are not supported yet; they are ignored with a warning
    #[arg(long = "config.allow-unsupported", alias = "allow-unsupported")]
    pub allow_unsupported: bool,
    /// How much to log: error, warn, info, debug, trace, or a filter such as store=debug
    #[arg(long, alias = "log.level", value_name = "LEVEL", env = "QUIVER_LOG", default_value = "info")]
    pub log_level: String,
    /// How to log
    #[arg(long, alias = "log.format", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The shape of log lines.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    #[value(alias = "logfmt")]
    Text,
    /// For machines.
    Json,
}

/// Flags of `check-config`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The file
    pub file: PathBuf,
    /// Only warn of keys that are not supported yet
    #[arg(long = "config.allow-unsupported", alias = "allow-unsupported")]
    pub allow_unsupported: bool,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// Flags of `check-rules`.
#[derive(Args, Debug)]
pub struct CheckRulesArgs {
    /// The files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// Flags of `test-rules`.
#[derive(Args, Debug)]
pub struct TestRulesArgs {
    /// Files of tests
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Run only tests whose name holds this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub run: Vec<String>,
}

/// Where the running server is.
#[derive(Args, Debug)]
pub struct ServerArgs {
    /// URL of the running server
    #[arg(long, value_name = "URL", env = "QUIVER_SERVER", default_value = "http://127.0.0.1:9740", global = true)]
    pub server: String,
    /// Certificates to trust for https, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE", env = "QUIVER_CA_FILE", global = true)]
    pub ca_file: Option<PathBuf>,
    /// File with a token to show; QUIVER_TOKEN holds one, too
    #[arg(long, value_name = "FILE", env = "QUIVER_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table", global = true)]
    pub output: Output,
}

/// Flags of `token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// What to do with tokens
    #[command(subcommand)]
    pub command: TokenCommand,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What can be done with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token and print it, this once, with what to put into the configuration; no server is needed
    Create(TokenCreateArgs),
    /// Show the tokens of a running server, without what they are
    #[command(alias = "ls")]
    List,
    /// Make a token of a running server worthless
    #[command(alias = "rm")]
    Revoke {
        /// Its name
        name: String,
    },
}

/// Flags of `token create`.
#[derive(Args, Debug)]
pub struct TokenCreateArgs {
    /// What it may: read, write, admin; may be repeated
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = ["read", "write", "admin"])]
    pub roles: Vec<String>,
    /// How it is called in lists and logs [default: role and source]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// With the role write alone: the source that it writes as; may be repeated
    #[arg(long = "source", value_name = "ID")]
    pub sources: Vec<String>,
    /// How long it is good, such as 90d [default: for ever]
    #[arg(long, value_name = "DURATION")]
    pub expires_in: Option<String>,
    /// Requests in a second
    #[arg(long, value_name = "N")]
    pub requests_per_second: Option<f64>,
    /// Samples in a second
    #[arg(long, value_name = "N")]
    pub samples_per_second: Option<f64>,
    /// Let the running server make it and keep its hash, instead of printing an entry for the configuration
    #[arg(long)]
    pub register: bool,
}

/// The shape of what is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// For people.
    Table,
    /// For machines: the server's own JSON.
    Json,
}

/// Flags of `query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// The query, in PromQL
    pub expr: String,
    /// Ask for this time: Unix seconds, RFC 3339, or a duration before now such as 5m
    #[arg(long, value_name = "TIME", conflicts_with_all = ["start", "end", "step"], allow_hyphen_values = true)]
    pub time: Option<String>,
    /// Start of a range: Unix seconds, RFC 3339, or a duration before now such as 1h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub start: Option<String>,
    /// End of a range [default: now]
    #[arg(long, value_name = "TIME", requires = "start", allow_hyphen_values = true)]
    pub end: Option<String>,
    /// Distance between the points of a range [default: a sixtieth of it]
    #[arg(long, value_name = "DURATION", requires = "start")]
    pub step: Option<String>,
    /// How long the query may take
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Flags of `sql`.
#[derive(Args, Debug)]
pub struct SqlArgs {
    /// One SELECT over metrics_ts, stale_ts, series, targets, rollups and promql('...', start, end, step)
    pub statement: String,
    /// Write the answer as this instead of a table: json, csv, arrow or parquet
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "csv", "arrow", "parquet"])]
    pub format: Option<String>,
    /// Write the answer to a file
    #[arg(long, value_name = "FILE", requires = "format")]
    pub out: Option<PathBuf>,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which samples.
#[derive(Args, Debug)]
pub struct SamplesArgs {
    /// Start: Unix seconds, RFC 3339, or a duration before now such as 1d
    #[arg(long, value_name = "TIME", default_value = "1d", allow_hyphen_values = true)]
    pub start: String,
    /// End, not included
    #[arg(long, value_name = "TIME", default_value = "now", allow_hyphen_values = true)]
    pub end: String,
    /// Only this metric; may be repeated
    #[arg(long, value_name = "NAME")]
    pub metric: Vec<String>,
    /// The program that works on tables [default: quiver-analytics beside this one, or in PATH]
    #[arg(long, value_name = "PROGRAM", env = "QUIVER_ANALYTICS")]
    pub analytics: Option<PathBuf>,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Flags of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// An empty or new folder; hour=.../metric_hash=.../source_hash=.../*.parquet come into it
    pub folder: PathBuf,
    /// Which samples
    #[command(flatten)]
    pub samples: SamplesArgs,
}

/// Flags of `quality`.
#[derive(Args, Debug)]
pub struct QualityArgs {
    /// Series to show, the worst first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub worst: usize,
    /// Which samples
    #[command(flatten)]
    pub samples: SamplesArgs,
}

/// Flags of `import`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ImportArgs {
    /// What else can be imported
    #[command(subcommand)]
    pub command: Option<ImportCommand>,
    /// A file: .csv, .parquet, .ndjson, .jsonl, .prom, .om, or one of them with .gz behind
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// What the file is: csv, parquet, ndjson or openmetrics [default: as its name says]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// What the columns of CSV and Parquet are, such as time:time:unix_ms,temp:metric:temperature,room:label:room
    #[arg(long, value_name = "PLAN")]
    pub columns: Option<String>,
    /// Steps that bring a table into order first, such as "trim;drop_empty:temp;scale:temp:0.1"; see docs/ways_in.md
    #[arg(long, value_name = "STEPS")]
    pub clean: Option<String>,
    /// Source of the samples; becomes the label job of those that have none
    #[arg(long, value_name = "ID", default_value = "import")]
    pub source_id: String,
    /// Where the server is
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Flags of `selftest`.
#[derive(Args, Debug)]
pub struct SelftestArgs {
    /// Seconds of load; the faults take some more
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Where to make the temporary folder, such as on the disk that shall hold the data; needs about a gigabyte
    /// [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// Flags of `integrity`.
#[derive(Args, Debug)]
pub struct IntegrityArgs {
    /// What to do instead of showing the ledger
    #[command(subcommand)]
    pub command: Option<IntegrityCommand>,
    /// Start: Unix seconds, RFC 3339, or a duration before now such as 1h [default: a day before the end]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<String>,
    /// End [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<String>,
    /// Only this target
    #[arg(long, value_name = "ID")]
    pub target_id: Option<String>,
    /// Only this source
    #[arg(long, value_name = "ID")]
    pub source_id: Option<String>,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What else can be imported.
#[derive(Subcommand, Debug)]
pub enum ImportCommand {
    /// Send the blocks of a Prometheus by remote write
    Prometheus {
        /// Its data directory, a snapshot of it, or one block
        dir: PathBuf,
    },
}

/// What can be done about integrity.
#[derive(Subcommand, Debug)]
pub enum IntegrityCommand {
    /// Read all blocks again now and compare them with their checksums
    Scrub,
}

/// Flags of `targets`.
#[derive(Args, Debug)]
pub struct TargetsArgs {
    /// What to do with targets
    #[command(subcommand)]
    pub command: TargetsCommand,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What can be done with targets.
#[derive(Subcommand, Debug)]
pub enum TargetsCommand {
    /// Show all targets and how they are
    #[command(alias = "ls")]
    List {
        /// Only targets in this state: healthy, degraded, unhealthy, unknown, disabled
        #[arg(long, value_name = "HEALTH")]
        health: Option<String>,
    },
    /// Register a target and scrape it at once
    Add(AddArgs),
    /// Remove a target; what was collected stays
    #[command(alias = "remove")]
    Rm {
        /// The target's id
        target_id: String,
    },
    /// Scrape a target now
    Scrape {
        /// The target's id
        target_id: String,
    },
}

/// Flags of `targets add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// Where the metrics are: http://host:port/metrics, or host:port
    pub url: String,
    /// Source of the metrics; becomes the label job
    #[arg(long, value_name = "ID", default_value = "manual")]
    pub source_id: String,
    /// Id of the target [default: derived from source and URL]
    #[arg(long, value_name = "ID")]
    pub target_id: Option<String>,
    /// How often to scrape
    #[arg(long, value_name = "DURATION")]
    pub interval: Option<String>,
    /// How long a scrape may take
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// A label for all series of the target; may be repeated
    #[arg(long = "label", short, value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Try it and show what would come; register nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `blocks`.
#[derive(Args, Debug)]
pub struct BlocksArgs {
    /// What to do with blocks
    #[command(subcommand)]
    pub command: BlocksCommand,
    /// The data directory, or a snapshot
    #[arg(long, value_name = "DIR", env = "QUIVER_DATA_DIR", default_value = "./data", global = true)]
    pub data_dir: PathBuf,
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table", global = true)]
    pub output: Output,
}

/// What can be done with blocks.
#[derive(Subcommand, Debug)]
pub enum BlocksCommand {
    /// Show all blocks; beside a running server too
    #[command(alias = "ls")]
    List,
    /// Read every byte and every sample and compare them with the checksums; beside a running server too
    Verify {
        /// Numbers of blocks [default: all]
        ids: Vec<u64>,
    },
    /// Copy blocks into a new directory that DuckDB, Polars and a server can read
    Export {
        /// The new directory
        to: PathBuf,
        /// Numbers of blocks [default: all]
        #[arg(long = "block", value_name = "ID")]
        ids: Vec<u64>,
    },
    /// Bring the blocks of another directory in; the server must not run. What is there already is left out
    Import {
        /// An exported directory, a snapshot or a data directory
        from: PathBuf,
    },
}

/// Flags of `snapshot`.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// Leave out what is not in blocks yet: the last hour
    #[arg(long)]
    pub skip_head: bool,
    /// Where to ask
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Flags of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The snapshot's directory
    pub snapshot: PathBuf,
    /// The new data directory
    #[arg(long, value_name = "DIR", env = "QUIVER_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parsed(words: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(words.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn commands_read_their_flags() {
        let Ok(Command::Query(query)) = parsed("quiver query up --start -1h --step 15s -o json") else { panic!() };
        assert_eq!((query.expr.as_str(), query.start.as_deref()), ("up", Some("-1h")));
        assert_eq!((query.server.output, query.server.server.as_str()), (Output::Json, "http://127.0.0.1:9740"));

        let Ok(Command::Targets(targets)) = parsed("quiver targets add h:1 -l a=b --label c=d --server http://x:1")
        else {
            panic!()
        };
        let TargetsCommand::Add(add) = targets.command else { panic!() };
        assert_eq!((add.labels.len(), targets.server.server.as_str()), (2, "http://x:1"));

        let Ok(Command::CheckConfig(check)) = parsed("quiver check-config p.yml --allow-unsupported") else { panic!() };
        assert!(check.allow_unsupported && check.output == Output::Table);
        assert!(matches!(
            parsed("quiver import a.csv --columns 1:value"),
            Ok(Command::Import(ImportArgs { file: Some(_), command: None, .. }))
        ));
        assert!(matches!(
            parsed("quiver import prometheus /d"),
            Ok(Command::Import(ImportArgs { command: Some(_), .. }))
        ));
        assert!(matches!(parsed("quiver completions bash"), Ok(Command::Completions { .. })));
        assert!(matches!(parsed("quiver targets ls"), Ok(Command::Targets(_))));
        let Ok(Command::Blocks(blocks)) = parsed("quiver blocks verify 3 7 --data-dir /d -o json") else { panic!() };
        assert!(matches!(blocks.command, BlocksCommand::Verify { ids } if ids == [3, 7]));
        assert_eq!((blocks.data_dir, blocks.output), (PathBuf::from("/d"), Output::Json));
        assert!(matches!(parsed("quiver restore /s --data-dir /d"), Ok(Command::Restore(_))));
        assert!(matches!(parsed("quiver snapshot --skip-head"), Ok(Command::Snapshot(s)) if s.skip_head));
    }

    #[test]
    fn wrong_questions_are_refused() {
        for (words, kind) in [
            ("quiver", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("quiver serv", ErrorKind::InvalidSubcommand),
            ("quiver query", ErrorKind::MissingRequiredArgument),
            ("quiver import", ErrorKind::MissingRequiredArgument),
            ("quiver query up --time 5m --start 1h", ErrorKind::ArgumentConflict),
            ("quiver query up --end 1h", ErrorKind::MissingRequiredArgument),
            ("quiver query up --output xml", ErrorKind::InvalidValue),
            ("quiver serve --log-format xml", ErrorKind::InvalidValue),
            ("quiver serve extra", ErrorKind::UnknownArgument),
            ("quiver --version", ErrorKind::DisplayVersion),
        ] {
            assert_eq!(parsed(words).err().map(|e| e.kind()), Some(kind), "{words}");
        }
    }

    #[test]
    fn help_is_enough_to_start() {
        let help = Cli::command().render_long_help().to_string();
        for part in [
            "serve",
            "check-config",
            "query",
            "targets",
            "blocks",
            "snapshot",
            "restore",
            "Exit codes",
            "quiver targets add",
        ] {
            assert!(help.contains(part), "{part}");
        }
    }
}
