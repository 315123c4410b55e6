//! What the machine must have: compiler, libraries, Java, PostgreSQL. Existing programs are used; missing ones are
//! installed if this process is root on a Debian-like system, otherwise the error has the command to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::progress;

/// What a chore needs from the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// C and C++ compilers, make, pkg-config.
    Compiler,
    /// Headers of OpenSSL and zlib.
    Libraries,
    /// Java 17 or later.
    Java,
    /// Maven, to fetch Kafka and the registry.
    Maven,
    /// PostgreSQL's server programs.
    PostgreSql,
    /// pgbouncer, a pooler before PostgreSQL.
    PgBouncer,
    /// Valgrind, which counts instructions.
    Valgrind,
    /// pngquant, which makes pictures small.
    Pictures,
    /// Chromium and its driver, for the tests of the console.
    Browser,
}

impl Need {
    fn there(self) -> bool {
        match self {
            Self::Compiler => {
                ["gcc", "g++", "make", "pkg-config"].iter().all(|program| find_program(program).is_some())
            }
            Self::Libraries => {
                quiet(Command::new("pkg-config").args(["--exists", "openssl", "zlib"])) && header_there("openssl/ssl.h")
            }
            Self::Java => java().is_some(),
            Self::Maven => find_program("mvn").is_some(),
            Self::PostgreSql => postgres_programs().is_some(),
            Self::PgBouncer => find_program("pgbouncer").is_some(),
            Self::Valgrind => find_program("valgrind").is_some(),
            Self::Pictures => find_program("pngquant").is_some(),
            Self::Browser => find_program("chromedriver").is_some(),
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Compiler => &["gcc", "g++", "make", "pkg-config"],
            Self::Libraries => &["libssl-dev", "zlib1g-dev"],
            Self::Java => &["default-jre-headless"],
            Self::Maven => &["maven"],
            Self::PostgreSql => &["postgresql"],
            Self::PgBouncer => &["pgbouncer"],
            Self::Valgrind => &["valgrind"],
            Self::Pictures => &["pngquant"],
            // With a font, without which pages have no text.
            Self::Browser => &["chromium", "chromium-driver", "fonts-inter"],
        }
    }
}

/// Checks that all of `needs` are installed, and installs them if possible.
///
/// # Errors
/// When something is missing and can't be installed: the message is the command to run.
pub fn ensure(needs: &[Need]) -> Result<()> {
    // Several threads fetch servers, but apt can run only once at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<Need> = needs.iter().copied().filter(|need| !need.there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages().iter().copied()).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!(
            "missing on this machine: {}\n  what to do: install them with the system's package manager",
            packages.join(", ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing on this machine: {}\n  what to do: sudo {line}", packages.join(", "));
    }
    let step = progress::step("packages", &line);
    refresh_package_lists()?;
    if missing.contains(&Need::PostgreSql) {
        install(&["postgresql-common"])?;
        keep_postgres_from_starting()?;
    }
    install(&packages)?;
    if let Some(need) = missing.iter().find(|need| !need.there()) {
        bail!("{need:?} is still missing after `{line}`: install it by hand");
    }
    step.done(&packages.join(" "));
    Ok(())
}

/// Downloads apt's package lists when there are none, as in a fresh container.
///
/// # Errors
/// When apt fails.
pub fn refresh_package_lists() -> Result<()> {
    run(Command::new("apt-get").args(["-q", "update"]))
}

fn install(packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qy", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends", "install"])
        .args(packages);
    run(&mut command)
}

/// Keeps Debian's package from creating and starting a cluster.
fn keep_postgres_from_starting() -> Result<()> {
    let path = Path::new("/etc/postgresql-common/createcluster.conf");
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut kept: Vec<&str> = text.lines().filter(|line| !line.contains("create_main_cluster")).collect();
    kept.push("create_main_cluster = false");
    fs::write(path, kept.join("\n") + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Runs a command and shows the end of its output only when it fails.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n  | ");
    bail!("{shown} failed with {}\n  | {last}", output.status)
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails.
pub fn output_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn quiet(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn header_there(header: &str) -> bool {
    let mut folders = vec![PathBuf::from("/usr/include"), PathBuf::from("/usr/local/include")];
    folders.push(format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH).into());
    folders.iter().any(|folder| folder.join(header).exists())
}

/// Finds a program on the path or in the usual folders of server programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// A Java of version 17 or later: that of `JAVA_HOME`, else the one on the path.
pub fn java() -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let candidates = home.into_iter().chain(find_program("java"));
    candidates.into_iter().find(|java| java_version(java).is_some_and(|version| version >= 17))
}

fn java_version(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").stdin(Stdio::null()).output().ok()?;
    first_number_after(&String::from_utf8_lossy(&output.stderr), "version \"")
}

/// The folder with the newest `initdb` and `postgres`.
pub fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    folders.sort();
    let on_path = find_program("initdb").and_then(|initdb| initdb.canonicalize().ok()?.parent().map(Path::to_owned));
    let mut candidates = folders.into_iter().rev().map(|(_, folder)| folder).chain(on_path);
    candidates.find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// The number that follows `mark`, as programs print their versions.
pub fn first_number_after(text: &str, mark: &str) -> Option<u32> {
    let rest = &text[text.find(mark)? + mark.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_programs_print_them() {
        assert_eq!(first_number_after("openjdk version \"17.0.15\" 2025-04-15", "version \""), Some(17));
        assert_eq!(first_number_after("mysqld  Ver 8.4.2 for Linux", "Ver "), Some(8));
        assert_eq!(first_number_after("no version", "Ver "), None);
    }
}
