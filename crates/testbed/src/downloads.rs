//! Servers that the machine lacks, downloaded once into the user's cache folder with the machine's own package clients.
//!
//! A download gets a temporary name and is renamed when complete, so an incomplete one is never used. A lock keeps two
//! processes from downloading the same thing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Say;
use crate::{cargo, checksums, machine};

/// The Kafka version that the servers run unless `KAFKA_VERSION` names another. Not 4.2 or 4.3: after a kill of a lone broker, these treat partitions without a
/// leader as deleted and omit their commit markers, so that the transaction hangs for ever.
pub const KAFKA: &str = "4.1.1";
/// The registry version to download.
pub const REGISTRY: &str = "3.0.9";
/// The Debezium version to download for the comparison.
pub const DEBEZIUM: &str = "3.6.1.Final";
/// The Kafka Connect version that runs it: the release line that it is built with.
const CONNECT: &str = "4.3.1";
/// The Avro converter that Debezium's documentation names.
const CONVERTER: &str = "2.6.13.Final";

/// The cargo-deny version that checks the libraries.
const CARGO_DENY: &str = "0.20.2";

/// The folder of all downloads: `product-stream` in `$XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            Path::new(&std::env::var_os("HOME").context("HOME is not set: where may downloads go?")?).join(".cache")
        }
    };
    Ok(base.join("product-stream"))
}

/// The folder `name` of the cache; if it is missing, `make` fills a new empty folder for it.
///
/// # Errors
/// When `make` fails or the cache cannot be written.
pub fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let whole = cache.join(name);
    fs::create_dir_all(&cache).with_context(|| format!("cannot create the cache folder {}", cache.display()))?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock().with_context(|| format!("cannot lock {name} in {}", cache.display()))?;
    if whole.is_dir() {
        return Ok(whole);
    }
    let part = cache.join(format!("{name}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir(&part)?;
    make(&part)?;
    fs::rename(&part, &whole)?;
    Ok(whole)
}

/// The requirements for downloading what the cache lacks.
///
/// # Errors
/// As [`cache`].
pub fn needs() -> Result<&'static [machine::Need]> {
    let cache = cache()?;
    let kafka = cache.join(format!("kafka-{}", kafka_version()));
    let all = kafka.is_dir() && cache.join(format!("registry-{REGISTRY}")).is_dir();
    Ok(if all { &[] } else { &[machine::Need::Maven] })
}

/// The Kafka version that the servers run: `KAFKA_VERSION`, as in `docker-compose.yml`, or [`KAFKA`].
pub fn kafka_version() -> String {
    std::env::var("KAFKA_VERSION").ok().filter(|version| !version.is_empty()).unwrap_or_else(|| KAFKA.to_owned())
}

/// The folder with the jars of a Kafka version. Of versions other than [`KAFKA`] Maven alone checks the sums.
///
/// # Errors
/// When Maven fails.
pub fn kafka(version: &str, say: Say<'_>) -> Result<PathBuf> {
    let name = format!("kafka-{version}");
    cached(&name, |folder| {
        say(&format!("fetching Kafka {version}, 54 MB"));
        let jars = [("org.apache.kafka", "kafka_2.13", version), ("org.apache.kafka", "kafka-tools", version), SLF4J];
        fs::write(folder.join("pom.xml"), pom(&jars))?;
        maven(folder, &["dependency:copy-dependencies", "-DoutputDirectory=libs"])?;
        if version == KAFKA { checksums::check(&name, folder, "libs") } else { Ok(()) }
    })
}

/// The registry's folder, with the jar that starts it.
///
/// # Errors
/// When Maven fails.
pub fn registry(say: Say<'_>) -> Result<PathBuf> {
    let name = format!("registry-{REGISTRY}");
    cached(&name, |folder| {
        say(&format!("fetching Apicurio Registry {REGISTRY}, 109 MB"));
        archive(&name, folder, &format!("io.apicurio:apicurio-registry-app:{REGISTRY}:tar.gz:all"), folder)
    })
}

/// The folder for running Debezium: Kafka Connect in `libs`, the connector and an Avro converter in `plugins`.
///
/// # Errors
/// When Maven fails.
pub fn debezium(say: Say<'_>) -> Result<PathBuf> {
    let name = format!("debezium-{DEBEZIUM}");
    cached(&name, |folder| {
        say(&format!("fetching Debezium {DEBEZIUM} and Kafka Connect {CONNECT}, 93 MB"));
        let runtime = ["connect-runtime", "connect-json", "kafka-tools"].map(|jar| ("org.apache.kafka", jar, CONNECT));
        fs::write(folder.join("pom.xml"), pom(&[&runtime[..], &[SLF4J]].concat()))?;
        maven(folder, &["dependency:copy-dependencies", "-DoutputDirectory=libs"])?;
        // Libraries that Connect contains must come from Connect.
        let converter = ["-f", "converter.xml", "-DexcludeGroupIds=org.apache.kafka,org.slf4j"];
        fs::write(
            folder.join("converter.xml"),
            pom(&[("io.apicurio", "apicurio-registry-utils-converter", CONVERTER)]),
        )?;
        let copy = ["dependency:copy-dependencies", "-DoutputDirectory=plugins/apicurio-converter"];
        maven(folder, &[&converter[..], &copy[..]].concat())?;
        checksums::check(&name, folder, "libs")?;
        checksums::check(&name, folder, "plugins/apicurio-converter")?;
        let unpacked = folder.join("unpacked");
        let artifact = format!("io.debezium:debezium-connector-mysql:{DEBEZIUM}:tar.gz:plugin");
        archive(&name, folder, &artifact, &unpacked)?;
        // The archive also contains files with only headers, which are named like jars.
        let connector = "debezium-connector-mysql";
        fs::rename(unpacked.join(connector), folder.join("plugins").join(connector))?;
        fs::remove_dir_all(unpacked)?;
        name_plugins(folder)
    })
}

/// The folder with `bin/cargo-deny`, built without optimisation: that takes a minute instead of six, and the tool runs
/// for seconds.
///
/// # Errors
/// When cargo cannot fetch or build it.
pub fn cargo_deny(say: Say<'_>) -> Result<PathBuf> {
    cached(&format!("cargo-deny-{CARGO_DENY}"), |folder| {
        say("building cargo-deny, once");
        let target = folder.join("target");
        let mut install = cargo::cargo(&["install", "--quiet", "--debug", "--locked", "cargo-deny"]);
        install.args(["--version", CARGO_DENY, "--config", "profile.dev.debug=0"]);
        machine::run(install.arg("--root").arg(folder).arg("--target-dir").arg(&target))?;
        Ok(fs::remove_dir_all(target)?)
    })
}

/// Writes the manifests that some plugins lack: without them each start scans all classes, for 9 s.
fn name_plugins(folder: &Path) -> Result<()> {
    let java = machine::java().context("Java 17 or later is not there: install one")?;
    let tool =
        ["-cp", "libs/*", "org.apache.kafka.tools.ConnectPluginPath", "sync-manifests", "--plugin-path", "plugins"];
    machine::run(Command::new(java).current_dir(folder).args(tool))
}

/// Downloads the archive `artifact` of the download `name`, checks it, and unpacks it into the new folder `target`.
fn archive(name: &str, folder: &Path, artifact: &str, target: &Path) -> Result<()> {
    let archives = folder.join("archive");
    let output = format!("-DoutputDirectory={}", archives.display());
    maven(folder, &["dependency:copy", &format!("-Dartifact={artifact}"), &output])?;
    checksums::check(name, folder, "archive")?;
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(&archives)? {
        machine::run(Command::new("tar").arg("-xzf").arg(entry?.path()).arg("-C").arg(target))?;
    }
    Ok(fs::remove_dir_all(&archives)?)
}

fn maven(folder: &Path, arguments: &[&str]) -> Result<()> {
    machine::ensure(&[machine::Need::Java, machine::Need::Maven])?;
    machine::run(Command::new("mvn").current_dir(folder).args(["-B", "-ntp", "-q"]).args(arguments))
}

/// Group, artifact and version.
type Jar<'a> = (&'a str, &'a str, &'a str);

const SLF4J: Jar<'_> = ("org.slf4j", "slf4j-simple", "1.7.36");

fn pom(jars: &[Jar<'_>]) -> String {
    let dependency = |(group, artifact, version): &Jar<'_>| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>servers</artifactId>\
         <version>1</version><packaging>pom</packaging><dependencies>{}</dependencies></project>",
        jars.iter().map(dependency).collect::<String>()
    )
}

/// A private root with MySQL's server and its libraries, from Debian's unstable suite: stable has none. Nothing of it
/// is installed in the system.
///
/// # Errors
/// When this is no Debian or apt fails.
pub fn mysql(say: Say<'_>) -> Result<PathBuf> {
    cached("mysql-root", |folder| {
        if machine::find_program("apt-get").is_none() || machine::find_program("dpkg").is_none() {
            bail!("there is no MySQL server and no apt-get to fetch one\n  what to do: install MySQL 8.0 or later");
        }
        say("fetching MySQL, 63 MB");
        let apt = folder.join("apt");
        for empty in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(empty))?;
        }
        fs::write(apt.join("status"), "")?;
        fs::write(apt.join("apt.conf"), apt_configuration(&apt))?;
        fs::write(apt.join("sources.list"), format!("deb {}{} sid main\n", debian_keys(), debian_mirror()?))?;
        let client = || {
            let mut command = Command::new("apt-get");
            command.env("APT_CONFIG", apt.join("apt.conf")).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        machine::run(client().args(["-q", "update"]))?;
        machine::run(client().args(["-qy", "--download-only", "install", "mysql-server-core", "mysql-client-core"]))?;
        say("unpacking MySQL");
        unpack(&apt.join("cache/archives"), folder)?;
        Ok(fs::remove_dir_all(&apt)?)
    })
}

/// Unpacks the Debian packages of a folder into `target`.
fn unpack(packages: &Path, target: &Path) -> Result<()> {
    for entry in fs::read_dir(packages)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            machine::run(Command::new("dpkg").arg("-x").arg(&package).arg(target))?;
        }
    }
    Ok(())
}

/// The folder with `prometheus` and `promtool`: the machine's own, else Debian's package, which is unpacked and not
/// installed, so that nothing starts it.
///
/// # Errors
/// When this is no Debian or apt fails.
pub fn prometheus(say: Say<'_>) -> Result<PathBuf> {
    let installed = machine::find_program("promtool").and_then(|tool| Some(tool.parent()?.to_owned()));
    if let Some(folder) = installed.filter(|folder| folder.join("prometheus").is_file()) {
        return Ok(folder);
    }
    let root = cached("prometheus", |folder| {
        if machine::find_program("apt-get").is_none() || machine::find_program("dpkg").is_none() {
            bail!("there is no Prometheus and no apt-get to fetch one\n  what to do: install Prometheus 2.42 or later");
        }
        say("fetching Prometheus, 19 MB");
        let download =
            || machine::run(Command::new("apt-get").current_dir(folder).args(["-q", "download", "prometheus"]));
        if let Err(error) = download() {
            if !nix::unistd::geteuid().is_root() {
                return Err(error.context("apt knows no Prometheus: run `apt-get update` as root"));
            }
            machine::refresh_package_lists()?;
            download()?;
        }
        unpack(folder, folder)
    })?;
    Ok(root.join("usr/bin"))
}

/// The mirror that this machine's apt uses for Debian itself.
fn debian_mirror() -> Result<String> {
    let ask = || {
        let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"];
        let answer = machine::output_of(Command::new("apt-get").args(targets))?;
        Ok::<_, anyhow::Error>(answer.lines().next().map(str::to_owned))
    };
    if let Some(mirror) = ask()? {
        return Ok(mirror);
    }
    if nix::unistd::geteuid().is_root() {
        machine::refresh_package_lists()?;
    }
    ask()?.context(
        "there is no MySQL server, and apt knows no Debian mirror to fetch one from\n  \
         what to do: run `apt-get update` as root on Debian, elsewhere install MySQL 8.0 or later",
    )
}

fn debian_keys() -> &'static str {
    if Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
        "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    } else {
        ""
    }
}

fn apt_configuration(apt: &Path) -> String {
    let apt = apt.display();
    format!(
        r#"Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{apt}/lists";
Dir::State::status "{apt}/status";
Dir::State::extended_states "{apt}/extended_states";
Dir::Cache "{apt}/cache";
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::KAFKA;

    /// The containers run the same broker version as the tests.
    #[test]
    fn compose_and_documents_name_the_kafka_of_the_tests() {
        let compose = include_str!("../../../docker-compose.yml");
        let image = compose.lines().find(|line| line.trim_start().starts_with("image: apache/kafka:"));
        assert_eq!(image.map(str::trim), Some(format!("image: apache/kafka:${{KAFKA_VERSION:-{KAFKA}}}").as_str()));
        assert!(include_str!("../../../docs/errors.md").contains(&format!("{KAFKA}, which containers and tests use")));
        assert!(
            include_str!("../../../docs/architecture/consumer.md")
                .contains(&format!("Tests, demo and containers use {KAFKA}."))
        );
    }
}
