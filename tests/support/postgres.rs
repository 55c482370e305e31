//! Debian's PostgreSQL on a free port and in a temporary folder, for the tests that include this file.
//!
//! It runs as the user `postgres` when we are root, who it refuses; it is stopped when it goes out of scope.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::child::{PATIENCE, Running, free_port};

/// The password of the user `quiver`.
pub const PASSWORD: &str = "pg-secret-of-the-tests";

/// A PostgreSQL.
pub struct Postgres {
    dir: tempfile::TempDir,
    bin: PathBuf,
    running: Running,
    tls: bool,
    pub port: u16,
}

#[allow(dead_code, reason = "not every test that includes this file does everything")]
impl Postgres {
    /// Makes a cluster with the user `quiver` and starts it.
    pub fn start() -> Postgres {
        Postgres::start_with(&[])
    }

    /// Starts it with TLS; the key must be readable for the owner of the process alone, so it gets a copy.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Postgres {
        Postgres::start_with(&[("server.crt", certificate), ("server.key", key)])
    }

    fn start_with(files: &[(&str, &Path)]) -> Postgres {
        let dir = tempfile::Builder::new().prefix("quiver-postgres").tempdir().expect("a temporary folder");
        let mut postgres = Postgres { dir, bin: bin(), running: Running::default(), tls: false, port: free_port() };
        let password = postgres.dir.path().join("password");
        std::fs::write(&password, PASSWORD).expect("the password is written");
        for (name, from) in files {
            let to = postgres.dir.path().join(name);
            std::fs::copy(from, &to).expect("the file is copied");
            run(Command::new("chmod").arg("600").arg(&to));
        }
        postgres.tls = !files.is_empty();
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres"]).arg(postgres.dir.path()));
        }
        let mut initdb = postgres.command("initdb");
        initdb.args(["--no-sync", "--no-instructions", "--auth=scram-sha-256", "--username=quiver", "--encoding=UTF8"]);
        initdb.arg(format!("--pwfile={}", password.display())).arg("-D").arg(postgres.dir.path().join("data"));
        run(&mut initdb);
        postgres.resume();
        postgres
    }

    /// Starts it again on the same port, with what it had.
    pub fn resume(&mut self) {
        let begin = Instant::now();
        self.running.start(&mut self.server());
        while !self.is_ready() {
            assert!(begin.elapsed() < PATIENCE, "not ready: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
            // It refuses to start as long as helpers of one that was killed have not ended.
            if self.running.has_ended() {
                std::thread::sleep(Duration::from_millis(200));
                self.running.start(&mut self.server());
            }
        }
    }

    fn server(&self) -> Command {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("the log opens");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.dir.path().join("data"));
        // What a test kills is the process, not the machine: nothing has to reach the disk.
        for setting in ["fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=60"] {
            command.args(["-c", setting]);
        }
        if self.tls {
            for (setting, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
                command.arg("-c").arg(format!("{setting}={}", self.dir.path().join(file).display()));
            }
            command.args(["-c", "ssl=on"]);
        }
        command.args(["-p", &self.port.to_string()]).stdout(Stdio::null()).stderr(log);
        command
    }

    fn is_ready(&self) -> bool {
        let mut command = self.command("pg_isready");
        command.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.status().is_ok_and(|status| status.success())
    }

    /// kill -9 of the server; its helpers notice and end.
    pub fn kill(&mut self) {
        self.running.kill();
        // The next start finds the shared memory of helpers that have not ended yet, and refuses.
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Ends all connections and stops.
    pub fn stop(&mut self) {
        self.running.end_by("-INT");
    }

    /// Gives a URL with the password.
    pub fn url(&self, database: &str) -> String {
        self.url_by(self.port, database)
    }

    /// Gives a URL that leads over another port, such as a proxy's.
    pub fn url_by(&self, port: u16, database: &str) -> String {
        format!("postgres://quiver:{PASSWORD}@127.0.0.1:{port}/{database}")
    }

    /// Makes an empty database.
    #[track_caller]
    pub fn create(&self, database: &str) {
        self.ask("postgres", &format!("CREATE DATABASE {database}"));
    }

    /// Runs SQL as the owner; gives the rows, columns separated by `|`.
    #[track_caller]
    pub fn ask(&self, database: &str, sql: &str) -> String {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "quiver"]);
        command.args(["-p", &self.port.to_string(), "-d", database, "-c", sql]).env("PGPASSWORD", PASSWORD);
        let output = run(&mut command);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    pub fn log_text(&self) -> String {
        let mut text = String::new();
        let _ = std::fs::File::open(self.log()).and_then(|mut f| f.read_to_string(&mut text));
        text
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A program of PostgreSQL's, as somebody who is not root.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: at once, but without leaving shared memory behind.
        self.running.end_by("-QUIT");
    }
}

/// The newest PostgreSQL that is installed.
fn bin() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/initdb").exists().then(|| (version, path.join("bin")))
        })
        .collect();
    versions.sort();
    versions.pop().expect("no PostgreSQL in /usr/lib/postgresql: run scripts/setup test").1
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|m| m.uid() == 0)
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
