//! PostgreSQL from the system's package. It refuses to run as root, so root starts it as another user.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::{User, chown, geteuid};

use super::copy::copy_folder;
use super::server::{Launch, Server, bound_to_us, port_or_free};
use crate::progress::Say;
use crate::{downloads, machine};

/// The superuser.
pub(super) const USER: (&str, &str) = ("products", "products-password");
/// The database that the consumers create.
pub(super) const DATABASE: &str = "products";

const READY: Duration = Duration::from_secs(60);

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    /// Its process.
    pub server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Its major version.
    pub version: String,
}

impl Postgres {
    /// Name and password of the superuser.
    pub const SUPERUSER: (&str, &str) = USER;

    /// Starts a server with its data in `folder`.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(folder: &Path, port: Option<u16>, say: Say<'_>) -> Result<Self> {
        Self::start_with(folder, port, &[], say)
    }

    /// Starts a server with more settings (`name=value`), such as those of TLS.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(folder: &Path, port: Option<u16>, settings: &[String], say: Say<'_>) -> Result<Self> {
        machine::ensure(&[machine::Need::PostgreSql])?;
        let programs = machine::postgres_programs().context("PostgreSQL is not there")?;
        let user = unprivileged_user()?;
        let port = port_or_free("PostgreSQL", port)?;
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let data = folder.join("data");
        if !data.is_dir() {
            let template = template(&programs, user.as_ref(), say)?;
            say("copying the empty database");
            copy_folder(&template, &data)?;
        }
        say("starting");
        let version = version(&data);
        let mut command = vec![
            programs.join("postgres").display().to_string(),
            "-D".to_owned(),
            data.display().to_string(),
            "-p".to_owned(),
            port.to_string(),
            "-c".to_owned(),
            "listen_addresses=127.0.0.1".to_owned(),
            "-c".to_owned(),
            "unix_socket_directories=".to_owned(),
        ];
        command.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), setting.clone()]));
        let log = folder.join("postgres.log");
        // SIGINT is its "fast" stop; SIGTERM would wait for clients to leave.
        let launch = Launch {
            command,
            env: vec![],
            output: None,
            folder,
            log,
            user: user.map(|user| user.name),
            stop_signal: Signal::SIGINT,
        };
        let mut postgres = Self { server: Server::start("PostgreSQL", launch)?, port, version };
        postgres.wait_ready()?;
        Ok(postgres)
    }

    /// The address of the programs' database.
    pub fn url(&self) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{DATABASE}", USER.0, USER.1, self.port)
    }

    /// Stops in order and starts again on the same port.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.server.stop()?;
        self.start_again()
    }

    /// Starts the stopped or killed server again on the same port.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_ready()
    }

    /// The server writes this word into its lock file once it accepts connections.
    fn wait_ready(&mut self) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let state = self.server.log().with_file_name("data").join("postmaster.pid");
        self.server.wait_ready(READY, || {
            fs::read_to_string(&state).is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
                && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        })
    }
}

/// The user as whom root starts a server that refuses to run as root; `None` when this process is not root.
///
/// # Errors
/// When there is no such user.
pub(super) fn unprivileged_user() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = match User::from_name("postgres")? {
        Some(user) => Some(user),
        None => User::from_name("nobody")?,
    };
    user.map(Some).context("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
}

fn template(programs: &Path, user: Option<&User>, say: Say<'_>) -> Result<PathBuf> {
    let number = programs.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let owner = user.map_or_else(|| "own".to_owned(), |user| user.uid.to_string());
    let name = format!("postgres-data-{}-{owner}", number.unwrap_or_default());
    let folder = downloads::cached(&name, |folder| {
        say("creating an empty database");
        let data = folder.join("data");
        fs::create_dir(&data)?;
        let password = folder.join("password");
        fs::write(&password, USER.1)?;
        if let Some(user) = user {
            chown(&data, Some(user.uid), Some(user.gid))?;
        }
        let mut initdb: Command = bound_to_us(user.map(|user| user.name.as_str()));
        initdb.arg(programs.join("initdb")).arg("-D").arg(&data).arg(format!("--pwfile={}", password.display()));
        initdb.args(["-U", USER.0, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        machine::run(&mut initdb)
    })?;
    Ok(folder.join("data"))
}

fn version(data: &Path) -> String {
    fs::read_to_string(data.join("PG_VERSION")).map(|text| text.trim().to_owned()).unwrap_or_default()
}
