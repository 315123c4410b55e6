//! Apicurio Registry with the Confluent API. It keeps its schemas in a file, so that they survive a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::server::{Launch, Server, port_or_free};
use crate::progress::Say;
use crate::{downloads, machine};

const READY: Duration = Duration::from_secs(180);
/// The prefix of the files with the schemas.
const DATA: &str = "schemas";

/// A running schema registry.
#[derive(Debug)]
pub struct Registry {
    /// Its process.
    pub server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
}

impl Registry {
    /// Starts a registry with its data in `folder`.
    ///
    /// # Errors
    /// When it can't be fetched or does not start.
    pub fn start(folder: &Path, port: Option<u16>, say: Say<'_>) -> Result<Self> {
        Self::start_with(folder, port, &[], say)
    }

    /// Starts a registry with more properties of Quarkus (`name=value`), such as those of TLS and of users.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_with(folder: &Path, port: Option<u16>, properties: &[String], say: Say<'_>) -> Result<Self> {
        let home = downloads::registry(say)?;
        let jar = fs::read_dir(&home)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with("-runner.jar"))
            .with_context(|| format!("{} holds no runner: delete the folder and try again", home.display()))?;
        let port = port_or_free("the schema registry", port)?;
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        say("starting");
        let java = machine::java().context("Java 17 or later is not there")?;
        let mut command = vec![
            java.display().to_string(),
            "-Xmx256m".to_owned(),
            "-XX:+UseSerialGC".to_owned(),
            "-XX:TieredStopAtLevel=1".to_owned(),
            "-Dquarkus.http.host=127.0.0.1".to_owned(),
            format!("-Dquarkus.http.port={port}"),
            "-Dapicurio.storage.kind=sql".to_owned(),
            "-Dapicurio.storage.sql.kind=h2".to_owned(),
            format!("-Dapicurio.datasource.url=jdbc:h2:file:{}/{DATA}", folder.display()),
        ];
        command.extend(properties.iter().map(|property| format!("-D{property}")));
        command.extend(["-jar".to_owned(), jar.display().to_string()]);
        let log = folder.join("registry.log");
        let launch = Launch {
            command,
            env: vec![],
            output: None,
            folder: folder.clone(),
            log,
            user: None,
            stop_signal: Signal::SIGTERM,
        };
        let mut registry = Self { server: Server::start("the schema registry", launch)?, port, folder };
        registry.wait_ready()?;
        Ok(registry)
    }

    /// The address of its Confluent API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// Stops in order and starts again on the same port.
    ///
    /// # Errors
    /// When the registry does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.server.stop()?;
        self.start_again()
    }

    /// Starts the stopped or killed registry again on the same port.
    ///
    /// # Errors
    /// When the registry does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_ready()
    }

    /// Deletes the data of the stopped or killed registry, so that it starts without a schema.
    ///
    /// # Errors
    /// When a file cannot be deleted.
    pub fn forget(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DATA) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let subjects = format!("{}/subjects", self.url());
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
        // A registry that answers with a demand for a password is ready too.
        self.server
            .wait_ready(READY, || matches!(agent.get(&subjects).call(), Ok(_) | Err(ureq::Error::StatusCode(401))))
    }
}
