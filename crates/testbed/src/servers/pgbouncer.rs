//! pgbouncer from the system's package, in front of a PostgreSQL server. It refuses to run as root, so root starts it
//! as another user.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::postgres::{USER, unprivileged_user};
use super::server::{Launch, Server, port_or_free};
use crate::machine;

const READY: Duration = Duration::from_secs(30);
/// Connections to the server for each database and user; clients share them.
const POOL: u32 = 3;

/// A running pgbouncer.
#[derive(Debug)]
pub struct PgBouncer {
    /// Its process.
    pub server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl PgBouncer {
    /// Starts pgbouncer with its files in `folder`, in front of the PostgreSQL server on `postgres_port`. `mode` is
    /// `session`, `transaction` or `statement`.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(folder: &Path, postgres_port: u16, mode: &str) -> Result<Self> {
        machine::ensure(&[machine::Need::PgBouncer])?;
        let program = machine::find_program("pgbouncer").context("pgbouncer is not there")?;
        let port = port_or_free("pgbouncer", None)?;
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let (config, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
        fs::write(&users, format!("\"{}\" \"{}\"\n", USER.0, USER.1))?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={postgres_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\n\
             default_pool_size = {POOL}\n",
            users.display()
        );
        fs::write(&config, text)?;
        let launch = Launch {
            command: vec![program.display().to_string(), config.display().to_string()],
            env: vec![],
            output: None,
            log: folder.join("pgbouncer.log"),
            folder,
            user: unprivileged_user()?.map(|user| user.name),
            stop_signal: Signal::SIGINT,
        };
        let mut server = Server::start("pgbouncer", launch)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        server.wait_ready(READY, || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())?;
        Ok(Self { server, port })
    }

    /// The address of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{database}", USER.0, USER.1, self.port)
    }
}
