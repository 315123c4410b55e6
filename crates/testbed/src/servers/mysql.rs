//! MySQL: the machine's own server if it is 8.0 or later, otherwise one unpacked into the cache.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::copy::copy_folder;
use super::server::{Launch, Server, bound_to_us, port_or_free};
use crate::progress::Say;
use crate::{downloads, machine};

/// All rights.
pub const ADMIN: (&str, &str) = ("admin", "admin-password");
/// With the rights of product-updater: its own database.
pub const UPDATER: (&str, &str) = ("updater", "updater-password");
/// With the rights of cdc-producer: reads the database and the binlog.
pub const CDC: (&str, &str) = ("cdc", "cdc-password");
/// With the rights of verify: reads the database, and asks for the binlog's end.
pub const VERIFY: (&str, &str) = ("verify", "verify-password");
/// The database of the programs.
pub const DATABASE: &str = "buy_online_db";

const READY: Duration = Duration::from_secs(90);

/// A running MySQL server.
#[derive(Debug)]
pub struct MySql {
    /// Its process.
    pub server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The version that the server reports.
    pub version: String,
    client: Vec<String>,
}

/// The options of a MySQL server.
#[derive(Debug, Clone, Default)]
pub struct MySqlOptions {
    /// The folder of its data and log.
    pub folder: PathBuf,
    /// The port, a free one by default.
    pub port: Option<u16>,
    /// More flags for mysqld, which take precedence over ours.
    pub flags: Vec<String>,
}

impl MySql {
    /// Starts a server; its data is created when missing, with the users [`ADMIN`], [`UPDATER`], [`CDC`] and
    /// [`VERIFY`].
    ///
    /// # Errors
    /// When no server can be found or fetched, or it does not start.
    pub fn start(options: &MySqlOptions, say: Say<'_>) -> Result<Self> {
        let program = Program::find(say)?;
        let port = port_or_free("MySQL", options.port)?;
        fs::create_dir_all(&options.folder)?;
        let folder = options.folder.canonicalize()?;
        let data = folder.join("data");
        if !data.is_dir() {
            let template = program.template(say)?;
            say("copying the empty database");
            copy_folder(&template, &data)?;
        }
        say("starting");
        let mut command = program.command(&data);
        command.extend(settings(port).into_iter().chain(options.flags.iter().cloned()));
        let log = folder.join("mysql.log");
        let launch =
            Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM };
        let client = program.client();
        let mut mysql = Self { server: Server::start("MySQL", launch)?, port, version: program.version, client };
        mysql.wait_ready()?;
        Ok(mysql)
    }

    /// The `mysql` client, logged in with all rights.
    pub fn client(&self) -> Command {
        let mut command = Command::new(&self.client[0]);
        command.args(&self.client[1..]).args(["--no-defaults", "--host=127.0.0.1"]);
        command.args([
            format!("--port={}", self.port),
            format!("--user={}", ADMIN.0),
            format!("--password={}", ADMIN.1),
        ]);
        command
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

    fn wait_ready(&mut self) -> Result<()> {
        let (port, pid) = (self.port, self.server.pid().map(|pid| pid.to_string()));
        // mysqld writes the file once the port is bound: before that, another server may be the one that greets.
        let bound = self.server.folder().join("data/mysql.pid");
        let is_ours = || fs::read_to_string(&bound).ok().is_some_and(|found| Some(found.trim()) == pid.as_deref());
        self.server.wait_ready(READY, || is_ours() && greets(port))
    }
}

/// The statement that makes a server a replica of the one on this port.
pub fn follow(source: u16) -> String {
    let (user, password) = ADMIN;
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {source}, SOURCE_USER = '{user}', \
         SOURCE_PASSWORD = '{password}', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1"
    )
}

/// Finds the server to start; downloads it when there is none.
///
/// # Errors
/// When there is none and none can be downloaded.
pub(super) fn find(say: Say<'_>) -> Result<PathBuf> {
    let program = Program::find(say)?;
    Ok(program.call.last().map(PathBuf::from).unwrap_or_default())
}

/// Whether the port sends a MySQL greeting, which a server that accepts logins sends first: protocol version 10.
fn greets(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && greeting[4] == 10
}

fn settings(port: u16) -> Vec<String> {
    let fixed = [
        "--bind-address=127.0.0.1",
        "--socket=mysql.sock",
        "--pid-file=mysql.pid",
        "--server-id=1",
        "--log-bin=binlog",
        "--binlog-format=ROW",
        "--binlog-row-image=FULL",
        "--binlog-row-metadata=FULL",
        "--gtid-mode=ON",
        "--enforce-gtid-consistency=ON",
        "--sync-binlog=1",
        "--innodb-flush-log-at-trx-commit=1",
        "--innodb-buffer-pool-size=256M",
        "--character-set-server=utf8mb4",
        "--skip-name-resolve",
        "--max-allowed-packet=1G",
    ];
    let mut settings: Vec<String> = fixed.iter().map(|&setting| setting.to_owned()).collect();
    settings.push(format!("--port={port}"));
    settings
}

/// A mysqld and how to call it.
struct Program {
    call: Vec<String>,
    shares: Vec<String>,
    version: String,
}

impl Program {
    fn find(say: Say<'_>) -> Result<Self> {
        match Self::installed() {
            Some(program) => Ok(program),
            None => Self::in_root(&downloads::mysql(say)?),
        }
    }

    fn installed() -> Option<Self> {
        let mysqld = machine::find_program("mysqld")?;
        let version = machine::output_of(Command::new(&mysqld).args(["--no-defaults", "--version"])).ok()?;
        let usable = !version.contains("MariaDB") && machine::first_number_after(&version, "Ver ")? >= 8;
        usable.then(|| Self { call: vec![mysqld.display().to_string()], shares: vec![], version: short(&version) })
    }

    /// The libraries in the root are newer than the machine's, so the program must run with the root's own loader.
    fn in_root(root: &Path) -> Result<Self> {
        let arch = std::env::consts::ARCH;
        let usr = root.join("usr");
        let libraries = usr.join(format!("lib/{arch}-linux-gnu"));
        let loaders = [usr.join("lib64/ld-linux-x86-64.so.2"), libraries.join(format!("ld-linux-{arch}.so.1"))];
        let loader = loaders.iter().find(|loader| loader.exists());
        let loader = loader.with_context(|| {
            format!("{} holds no loader for {arch}: delete the folder and try again", root.display())
        })?;
        let usr = usr.display();
        let call = vec![
            loader.display().to_string(),
            "--library-path".to_owned(),
            format!("{}:{usr}/lib/mysql/private", libraries.display()),
            format!("{usr}/sbin/mysqld"),
        ];
        let shares = vec![
            format!("--basedir={usr}"),
            format!("--lc-messages-dir={usr}/share/mysql"),
            format!("--character-sets-dir={usr}/share/mysql/charsets"),
            format!("--plugin-dir={usr}/lib/mysql/plugin"),
        ];
        let version = machine::output_of(Command::new(&call[0]).args(&call[1..]).args(["--no-defaults", "--version"]))?;
        Ok(Self { call, shares, version: short(&version) })
    }

    /// The client from the same packages.
    fn client(&self) -> Vec<String> {
        let client = |server: &String| match server.strip_suffix("sbin/mysqld") {
            Some(usr) => format!("{usr}bin/mysql"),
            None => server.replace("mysqld", "mysql"),
        };
        let (server, before) = self.call.split_last().map_or((String::new(), &[][..]), |(s, b)| (client(s), b));
        before.iter().cloned().chain([server]).collect()
    }

    fn command(&self, data: &Path) -> Vec<String> {
        let mut command = self.call.clone();
        command.push("--no-defaults".to_owned());
        command.extend(self.shares.iter().cloned());
        command.push(format!("--datadir={}", data.display()));
        command.extend(["--secure-file-priv=NULL".to_owned(), "--mysqlx=OFF".to_owned()]);
        if nix::unistd::geteuid().is_root() {
            command.push("--user=root".to_owned());
        }
        command
    }

    /// A database folder with the users and without rows, created once. It has no server identity: each copy gets one.
    fn template(&self, say: Say<'_>) -> Result<PathBuf> {
        let sql = users_sql();
        // A different set of users needs a different folder.
        let name = format!("mysql-data-{}-{:08x}", self.version, crc32fast::hash(sql.as_bytes()));
        let folder = downloads::cached(&name, |folder| {
            say("creating an empty database");
            let users = folder.join("users.sql");
            fs::write(&users, &sql)?;
            let data = folder.join("data");
            let command = self.command(&data);
            let mut mysqld = bound_to_us(None);
            mysqld
                .args(&command)
                .args(["--initialize-insecure".to_owned(), format!("--init-file={}", users.display())]);
            machine::run(&mut mysqld)?;
            let identity = data.join("auto.cnf");
            if identity.exists() {
                fs::remove_file(identity)?;
            }
            if !data.join("mysql.ibd").exists() {
                bail!("mysqld --initialize left no database in {}", data.display());
            }
            Ok(())
        })?;
        Ok(folder.join("data"))
    }
}

fn users_sql() -> String {
    // An unescaped _ matches any character.
    let database = DATABASE.replace('_', r"\_");
    let own = format!("CREATE, SELECT, INSERT, UPDATE, DELETE ON `{database}`.*");
    let read = format!("SELECT ON `{database}`.*");
    let users = [
        (ADMIN, vec!["ALL ON *.*", "GRANT OPTION ON *.*"]),
        (UPDATER, vec![own.as_str()]),
        (CDC, vec![read.as_str(), "REPLICATION SLAVE, REPLICATION CLIENT ON *.*"]),
        (VERIFY, vec![read.as_str(), "REPLICATION CLIENT ON *.*"]),
    ];
    let mut sql = String::from("ALTER USER root@localhost IDENTIFIED BY 'root-password';\n");
    for ((user, password), rights) in users {
        sql.push_str(&format!("CREATE USER '{user}'@'%' IDENTIFIED BY '{password}';\n"));
        for right in rights {
            sql.push_str(&format!("GRANT {right} TO '{user}'@'%';\n"));
        }
    }
    sql
}

/// Extracts `9.7.4-2` from `mysqld  Ver 9.7.4-2 for Linux …`.
fn short(version: &str) -> String {
    let mut words = version.split_whitespace().skip_while(|&word| word != "Ver");
    words.nth(1).unwrap_or("unknown").to_owned()
}
