//! What the programs themselves answer at `/metrics`, and who holds the producer's folder.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use cdc_producer::checkpoint;
use futures_util::future::join_all;
use model::error::{Code, Error, Result};
use runtime::config::Settings;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::facts::{Answer, Producer, value};
use crate::fault::Fault;

/// The time that a program has to answer; it answers in milliseconds.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Addresses that are asked at most.
const MOST: usize = 256;

/// The producer as this machine shows it.
///
/// # Errors
/// Definite when its lock can't be read.
pub(super) fn producer(settings: &Settings, answers: &[Answer]) -> Result<Producer> {
    let folder = settings.path("producer.time_track");
    Ok(Producer {
        holder: checkpoint::holder(&folder)?,
        has_folder: folder.is_dir(),
        metrics: answers.iter().find(|answer| answer.is_producer()).cloned(),
    })
}

/// Asks every address at once. Returns the answers, and a fault when none of the addresses that a person named answers.
pub(super) async fn ask(settings: &Settings) -> (Vec<Answer>, Option<Fault>) {
    let named = settings.optional("stream.metrics");
    let Some(text) = named.or_else(|| settings.optional("metrics.listen")) else { return (Vec::new(), None) };
    let addresses = match addresses(text) {
        Ok(addresses) => addresses,
        Err(error) => return (Vec::new(), Some(Fault::new("metrics", &error))),
    };
    // Making one takes milliseconds, with the system's certificates 30.
    static HTTP: OnceLock<reqwest::Client> = OnceLock::new();
    let make = || reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap_or_default();
    let http = HTTP.get_or_init(make);
    let mut asked = JoinSet::new();
    for (place, address) in addresses.into_iter().enumerate() {
        let http = http.clone();
        asked.spawn(async move { (place, answers(&http, &address).await) });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    let answers: Vec<Answer> = found.into_iter().flat_map(|(_, answers)| answers).collect();
    let silent = (named.is_some() && answers.is_empty()).then(|| {
        let error = Error::new(Code::ServerUnreachable, format!("no program answers at {text}"));
        Fault::new("metrics", &error.with_remedy("correct stream.metrics, or set metrics.listen for the programs"))
    });
    (answers, silent)
}

/// The answers of all that a name stands for, such as the replicas of a service.
async fn answers(http: &reqwest::Client, address: &str) -> Vec<Answer> {
    let resolved = timeout(PATIENCE, tokio::net::lookup_host(address)).await;
    let mut all: Vec<SocketAddr> =
        resolved.ok().and_then(std::result::Result::ok).into_iter().flatten().take(MOST).collect();
    all.sort_unstable();
    all.dedup();
    if let [_] = all.as_slice() {
        return answer(http, address.to_owned()).await.into_iter().collect();
    }
    let asked = all.into_iter().map(|one| answer(http, one.to_string()));
    join_all(asked).await.into_iter().flatten().collect()
}

async fn answer(http: &reqwest::Client, address: String) -> Option<Answer> {
    let get = async |path: &str| http.get(format!("http://{address}{path}")).send().await.ok()?.text().await.ok();
    let text = get("/metrics").await?;
    let is_ready = value(&text, "pipeline_ready")? > 0.0;
    let has_warning = value(&text, "producer_checkpoint_file_outdated").is_some_and(|outdated| outdated > 0.0);
    let reason = if is_ready && !has_warning { None } else { get("/ready").await.and_then(|text| reason(&text)) };
    let aborts = ["producer_kafka_aborts_total", "consumer_kafka_aborts_total"];
    let aborts = aborts.iter().filter_map(|name| value(&text, name)).sum::<f64>() as u64;
    Some(Answer { address, is_ready, reason, aborts, text: format!("\n{text}") })
}

/// The reason or the warning in an answer of `/ready`.
fn reason(text: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    let said = |key: &str| answer.get(key)?.as_str().map(str::to_owned);
    said("reason").or_else(|| said("warning"))
}

/// The addresses of `HOST:PORT` or `HOST:PORT-PORT`, several with commas.
///
/// # Errors
/// Usage, with the part that is none.
fn addresses(text: &str) -> Result<Vec<String>> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || {
            Error::usage(format!("stream.metrics: {part:?} is no address"))
                .with_remedy("write it like 127.0.0.1:9100-9109 or consumer-host:9100")
        };
        let (host, ports) = part.rsplit_once(':').filter(|(host, _)| !host.is_empty()).ok_or_else(wrong)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        addresses.extend((port(first)?..=port(last)?).map(|port| format!("{host}:{port}")));
        if addresses.len() > MOST {
            return Err(Error::usage(format!("stream.metrics names more than {MOST} addresses"))
                .with_remedy("name those of the programs only"));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_ranges_and_names() {
        let found = addresses("127.0.0.1:9100-9102, consumer:80,[::1]:9").expect("addresses");
        assert_eq!(found, ["127.0.0.1:9100", "127.0.0.1:9101", "127.0.0.1:9102", "consumer:80", "[::1]:9"]);
        for wrong in ["host", ":80", "host:x", "host:1-70000", "host:1-60000"] {
            assert_eq!(addresses(wrong).expect_err(wrong).exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn the_reason_is_taken_from_ready() {
        let text = r#"{"ok":false,"reason":"starting","seconds_since_progress":3,"warning":null}"#;
        assert_eq!(reason(text).as_deref(), Some("starting"));
        assert_eq!(reason(r#"{"ok":true,"reason":null,"warning":"a typo"}"#).as_deref(), Some("a typo"));
        assert_eq!(reason("no JSON"), None);
    }

    #[test]
    fn a_program_is_known_by_its_metrics() {
        let answer = |text: &str| Answer {
            address: String::new(),
            is_ready: true,
            reason: None,
            aborts: 0,
            text: format!("\n{text}"),
        };
        let consumer = answer("consumer_slot{slot=\"consumer_2\",folder=\"k7x2m9qa\"} 1\nconsumer_lag_seconds 0.5\n");
        assert_eq!(consumer.slot().as_deref(), Some("consumer_2-k7x2m9qa"));
        assert_eq!((consumer.value("consumer_lag_seconds"), consumer.is_producer()), (Some(0.5), false));
        assert!(answer("producer_records_committed_total 7\n").is_producer());
        assert_eq!(answer("").slot(), None);
    }
}
