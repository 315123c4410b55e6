//! One connection to a broker, without its socket: the handshake, requests in flight, throttling, login.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::wire::answers::{
    self, Address, Authenticated, Coordinator, Identified, Mechanisms, Metadata, Produced, Versions,
};
use crate::wire::bytes::{Malformed, Reader};
use crate::wire::codes::KafkaCode;
use crate::wire::frame::{Incoming, Outgoing, Piece};
use crate::wire::login::{Exchange, Login, Next};
use crate::wire::requests::{self, Api, Coordinates, Level};

/// A request without an answer for so long breaks the connection.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A connection that is not made for so long is not waited for alone.
const LATE_AFTER: Duration = Duration::from_secs(1);
/// A connection that is not ready by then is made again: a name may not be resolved, and TLS not shake hands, for ever.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The requests that every broker must speak.
const NEEDED: [Api; 8] = [
    Api::Produce,
    Api::Metadata,
    Api::FindCoordinator,
    Api::InitProducerId,
    Api::AddPartitionsToTxn,
    Api::AddOffsetsToTxn,
    Api::EndTxn,
    Api::TxnOffsetCommit,
];

/// What a request is about, kept until its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Versions,
    Mechanism,
    Login,
    Metadata,
    Coordinator(Coordinates),
    Initialise,
    /// These slots.
    AddPartitions(Vec<usize>),
    AddOffsets,
    /// These slots' batches.
    Produce(Vec<usize>),
    Offsets,
    End {
        commit: bool,
    },
}

impl Subject {
    pub(crate) fn api(&self) -> Api {
        match self {
            Self::Versions => Api::ApiVersions,
            Self::Mechanism => Api::SaslHandshake,
            Self::Login => Api::SaslAuthenticate,
            Self::Metadata => Api::Metadata,
            Self::Coordinator(_) => Api::FindCoordinator,
            Self::Initialise => Api::InitProducerId,
            Self::AddPartitions(_) => Api::AddPartitionsToTxn,
            Self::AddOffsets => Api::AddOffsetsToTxn,
            Self::Produce(_) => Api::Produce,
            Self::Offsets => Api::TxnOffsetCommit,
            Self::End { .. } => Api::EndTxn,
        }
    }

    /// Whether a late copy of it could take effect in the next transaction of a producer whose epoch stays.
    pub(crate) fn is_of_a_transaction(&self) -> bool {
        matches!(self, Self::AddPartitions(_) | Self::AddOffsets | Self::Produce(_) | Self::Offsets | Self::End { .. })
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Metadata(Metadata),
    Coordinator(Coordinator),
    Identified(Identified),
    Code(KafkaCode),
    /// By topic and partition.
    Partitions(Vec<(Arc<str>, i32, KafkaCode)>),
    /// By topic and partition; and the addresses of leaders that the broker names.
    Produced(Vec<(Arc<str>, i32, Produced)>, Vec<(i32, Address)>),
}

/// What came over a link.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// The answer to this request.
    Answer(Subject, Answer),
    /// It takes requests from now on.
    Ready,
}

/// Why a link is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    /// The connection broke, or an answer is no answer: another try may succeed.
    #[error("{0}")]
    Lost(String),
    /// The broker refuses the login, or we the broker.
    #[error("{0}")]
    Login(String),
    /// The broker refuses a token that has expired, or there is no token.
    #[error("{0}")]
    Token(String),
    /// The broker's certificate is refused.
    #[error("{0}")]
    Certificate(String),
    /// The broker does not speak what is needed.
    #[error("{0}")]
    TooOld(String),
}

impl From<Malformed> for Closed {
    fn from(Malformed(why): Malformed) -> Self {
        Self::Lost(format!("an answer is malformed: {why}"))
    }
}

struct Asked {
    correlation: i32,
    version: i16,
    subject: Subject,
    at: Instant,
}

enum Phase {
    /// The socket connects.
    Dialing,
    /// The handshake runs.
    Greeting,
    /// A login runs, the first one or another; other requests wait.
    LoggingIn(Option<Exchange>),
    Ready,
}

/// What all links of a producer have in common.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) client_id: String,
    /// The program's name and version, as KIP-511 wants them.
    pub(crate) program: (&'static str, &'static str),
    pub(crate) login: Option<Login>,
}

/// One connection.
pub(crate) struct Link {
    pub(crate) address: Address,
    /// Its broker, when that is known.
    pub(crate) node: Option<i32>,
    /// When it was begun; `None` when it was ready once.
    begun: Option<Instant>,
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    pub(crate) versions: Versions,
    phase: Phase,
    asked: VecDeque<Asked>,
    correlation: i32,
    quiet_until: Option<Instant>,
    login_again: Option<Instant>,
}

impl Link {
    pub(crate) fn new(address: Address, node: Option<i32>, now: Instant) -> Self {
        Self {
            address,
            node,
            begun: Some(now),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            versions: Versions::default(),
            phase: Phase::Dialing,
            asked: VecDeque::new(),
            correlation: 0,
            quiet_until: None,
            login_again: None,
        }
    }

    /// The socket is connected: greets the broker.
    pub(crate) fn connected(&mut self, greeting: &Greeting, now: Instant) {
        self.phase = Phase::Greeting;
        let (program, version) = greeting.program;
        self.put(greeting, Subject::Versions, now, |out| requests::api_versions(program, version, out));
    }

    /// Whether a request may be sent now.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Ready) && self.quiet_until.is_none_or(|until| until <= now)
    }

    /// Whether it is not ready for so long that another broker may be quicker.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.begun.is_some_and(|begun| begun + LATE_AFTER <= now)
    }

    /// Whether its handshake is complete.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// The number of Produce requests without an answer.
    pub(crate) fn produces(&self) -> usize {
        self.asked.iter().filter(|asked| matches!(asked.subject, Subject::Produce(_))).count()
    }

    /// The requests without an answer; they are gone with the link.
    pub(crate) fn unanswered(&mut self) -> impl Iterator<Item = Subject> + use<> {
        std::mem::take(&mut self.asked).into_iter().map(|asked| asked.subject)
    }

    /// When something is due that no answer brings: the end of a throttle, of a login, of the wait for an answer.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let answer = self.asked.front().map(|asked| asked.at + ANSWER_WITHIN);
        let ready = self.begun.map(|begun| begun + READY_WITHIN);
        let late = self.begun.map(|begun| begun + LATE_AFTER).filter(|late| *late > now);
        let login = self.login_again.filter(|_| matches!(self.phase, Phase::Ready) && self.asked.is_empty());
        [answer, ready, late, login, self.quiet_until].into_iter().flatten().min()
    }

    /// What time brings: a login that must be renewed.
    ///
    /// # Errors
    /// When an answer, or the end of the handshake, is overdue.
    pub(crate) fn pass(&mut self, greeting: &Greeting, now: Instant) -> Result<(), Closed> {
        if let Some(asked) = self.asked.front()
            && now >= asked.at + ANSWER_WITHIN
        {
            let (name, seconds) = (asked.subject.api().name(), ANSWER_WITHIN.as_secs());
            return Err(Closed::Lost(format!("{name} has no answer for {seconds} s")));
        }
        if self.begun.is_some_and(|begun| begun + READY_WITHIN <= now) {
            return Err(Closed::Lost(format!("no connection within {} s", READY_WITHIN.as_secs())));
        }
        self.quiet_until = self.quiet_until.filter(|until| *until > now);
        if self.login_again.is_some_and(|at| at <= now) && self.asked.is_empty() && matches!(self.phase, Phase::Ready) {
            self.log_in(greeting, now);
        }
        Ok(())
    }

    /// Whether a login is due before any other request.
    pub(crate) fn wants_login(&self, now: Instant) -> bool {
        self.login_again.is_some_and(|at| at <= now)
    }

    /// Sends a request, with a body in one piece.
    pub(crate) fn ask(
        &mut self,
        greeting: &Greeting,
        level: Level,
        subject: Subject,
        now: Instant,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Closed> {
        self.ask_in_pieces(greeting, level, subject, now, |frame| {
            body(frame);
            Vec::new()
        })
    }

    /// Sends a request; `body` appends to the frame's beginning and returns what follows it.
    pub(crate) fn ask_in_pieces(
        &mut self,
        greeting: &Greeting,
        level: Level,
        subject: Subject,
        now: Instant,
        body: impl FnOnce(&mut Vec<u8>) -> Vec<Piece>,
    ) -> Result<(), Closed> {
        let api = subject.api();
        let (oldest, newest) = (level.oldest(api), level.version(api));
        let version = self.versions.of(api, oldest, newest).ok_or_else(|| self.too_old(&self.versions, api, oldest))?;
        let mut frame = Vec::with_capacity(256);
        requests::begin(api, version, self.correlation, &greeting.client_id, &mut frame);
        let pieces = body(&mut frame);
        requests::end(&mut frame, pieces.iter().map(|piece| piece.bytes().len()).sum());
        self.outgoing.add(std::iter::once(Piece::Own(frame)).chain(pieces));
        self.note(version, subject, now);
        Ok(())
    }

    /// Sends a request of the handshake, whose version every broker speaks that is new enough.
    fn put(&mut self, greeting: &Greeting, subject: Subject, now: Instant, body: impl FnOnce(&mut Vec<u8>)) {
        let version = Level::V1.version(subject.api());
        let mut frame = Vec::new();
        requests::begin(subject.api(), version, self.correlation, &greeting.client_id, &mut frame);
        body(&mut frame);
        requests::end(&mut frame, 0);
        self.outgoing.add([Piece::Own(frame)]);
        self.note(version, subject, now);
    }

    fn note(&mut self, version: i16, subject: Subject, now: Instant) {
        self.asked.push_back(Asked { correlation: self.correlation, version, subject, at: now });
        self.correlation = self.correlation.wrapping_add(1);
    }

    fn log_in(&mut self, greeting: &Greeting, now: Instant) {
        let Some(login) = &greeting.login else { return };
        self.login_again = None;
        self.phase = Phase::LoggingIn(None);
        let mechanism = login.mechanism();
        self.put(greeting, Subject::Mechanism, now, |out| requests::sasl_handshake(mechanism, out));
    }

    /// The next answer among the bytes that have arrived. Answers of the handshake are processed here.
    ///
    /// # Errors
    /// When the connection can't be used any more.
    pub(crate) fn arrived(&mut self, greeting: &Greeting, now: Instant) -> Result<Option<Arrived>, Closed> {
        loop {
            let Some(frame) = self.incoming.frame()? else { return Ok(None) };
            let asked = self.asked.pop_front().ok_or(Malformed("nothing was asked"))?;
            let mut reader = Reader(frame);
            if reader.i32()? != asked.correlation {
                return Err(Malformed("it belongs to another request").into());
            }
            match asked.subject {
                Subject::Versions => {
                    let versions = Versions::read(&mut reader)?;
                    self.versions_known(greeting, versions, now)?;
                }
                Subject::Mechanism => {
                    let mechanisms = Mechanisms::read(&mut reader)?;
                    self.mechanism_known(greeting, &mechanisms, now)?;
                }
                Subject::Login => {
                    reader.no_tags()?;
                    let answer = Authenticated::read(&mut reader)?;
                    self.authenticated(greeting, answer, now)?;
                }
                subject => {
                    reader.no_tags()?;
                    let (throttle_ms, answer) = read(&subject, asked.version, &mut reader)?;
                    if throttle_ms > 0 {
                        self.throttled_until(now + Duration::from_millis(throttle_ms.into()));
                    }
                    return Ok(Some(Arrived::Answer(subject, answer)));
                }
            }
            if matches!(self.phase, Phase::Ready) {
                self.begun = None;
                return Ok(Some(Arrived::Ready));
            }
        }
    }

    /// The broker reads nothing until then, so what was asked already is answered later, too.
    fn throttled_until(&mut self, until: Instant) {
        self.quiet_until = self.quiet_until.max(Some(until));
        self.asked.iter_mut().for_each(|asked| asked.at = asked.at.max(until));
    }

    fn too_old(&self, versions: &Versions, api: Api, needed: i16) -> Closed {
        let spoken = match versions.apis.iter().find(|(key, ..)| *key == api as i16) {
            Some((_, from, to)) => format!("in the versions {from} to {to}"),
            None => "in no version".to_owned(),
        };
        let (address, name) = (&self.address, api.name());
        Closed::TooOld(format!("the broker at {address} speaks {name} {spoken}, and version {needed} is needed"))
    }

    fn versions_known(&mut self, greeting: &Greeting, versions: Versions, now: Instant) -> Result<(), Closed> {
        if versions.code == KafkaCode::UNSUPPORTED_VERSION {
            return Err(self.too_old(&versions, Api::ApiVersions, Level::V1.version(Api::ApiVersions)));
        }
        if versions.code.is_error() {
            return Err(Closed::Lost(format!("ApiVersions at {}: {}", self.address, versions.code)));
        }
        let lacks = |api: &&Api| versions.of(**api, Level::V1.oldest(**api), Level::V1.version(**api)).is_none();
        if let Some(&api) = NEEDED.iter().find(lacks) {
            return Err(self.too_old(&versions, api, Level::V1.oldest(api)));
        }
        self.versions = versions;
        match greeting.login {
            Some(_) => self.log_in(greeting, now),
            None => self.phase = Phase::Ready,
        }
        Ok(())
    }

    fn mechanism_known(&mut self, greeting: &Greeting, known: &Mechanisms, now: Instant) -> Result<(), Closed> {
        let Some(login) = &greeting.login else { return Err(Malformed("no login was asked for").into()) };
        if known.code.is_error() {
            let (mechanism, names) = (login.mechanism(), known.names.join(", "));
            return Err(Closed::Login(format!(
                "{} has no mechanism {mechanism}: {}; it has {names}",
                self.address, known.code
            )));
        }
        let nonce = nonce().map_err(|e| Closed::Login(format!("OpenSSL has no random numbers: {e}")))?;
        let (exchange, first) = Exchange::begin(login, &nonce).map_err(|e| Closed::Token(format!("no token: {e}")))?;
        self.phase = Phase::LoggingIn(Some(exchange));
        self.put(greeting, Subject::Login, now, |out| requests::sasl_authenticate(&first, out));
        Ok(())
    }

    fn authenticated(&mut self, greeting: &Greeting, answer: Authenticated, now: Instant) -> Result<(), Closed> {
        let address = &self.address;
        if answer.code.is_error() {
            let why = answer.message.unwrap_or_else(|| answer.code.to_string());
            if matches!(&self.phase, Phase::LoggingIn(Some(exchange)) if exchange.has_ended()) {
                return Err(Closed::Token(format!("{address} refuses the token, which has expired: {why}")));
            }
            return Err(Closed::Login(format!("{address} refuses the login: {why}")));
        }
        let Phase::LoggingIn(Some(exchange)) = &mut self.phase else {
            return Err(Malformed("no login was asked for").into());
        };
        let next = exchange.take(&answer.bytes).map_err(|e| Closed::Login(format!("the login at {address}: {e}")))?;
        match next {
            Next::Send(bytes) => {
                self.put(greeting, Subject::Login, now, |out| requests::sasl_authenticate(&bytes, out));
            }
            Next::Done => {
                // Some time before its end, so that no request meets it.
                let lifetime = u64::try_from(answer.lifetime_ms).unwrap_or(0);
                self.login_again = (lifetime > 0).then(|| now + Duration::from_millis(lifetime / 20 * 17));
                self.phase = Phase::Ready;
                tracing::debug!(%address, lifetime_ms = answer.lifetime_ms, "logged in");
            }
        }
        Ok(())
    }
}

/// Reads the answer about `subject` in this version; returns the throttle, too.
pub(crate) fn read(subject: &Subject, version: i16, reader: &mut Reader<'_>) -> Result<(u32, Answer), Malformed> {
    Ok(match subject {
        Subject::Metadata => {
            let metadata = Metadata::read(reader)?;
            (metadata.throttle_ms, Answer::Metadata(metadata))
        }
        Subject::Coordinator(_) => {
            let coordinator = Coordinator::read(reader)?;
            (coordinator.throttle_ms, Answer::Coordinator(coordinator))
        }
        Subject::Initialise | Subject::End { .. } => {
            let has_producer = *subject == Subject::Initialise || version >= 5;
            let identified = Identified::read(reader, has_producer)?;
            (identified.throttle_ms, Answer::Identified(identified))
        }
        Subject::AddPartitions(_) | Subject::Offsets => {
            let mut partitions = Vec::new();
            let throttle = answers::by_partition(reader, |topic, partition, code| {
                partitions.push((Arc::clone(topic), partition, code));
            })?;
            (throttle, Answer::Partitions(partitions))
        }
        Subject::Produce(_) => {
            let mut partitions = Vec::new();
            let (throttle, nodes) = answers::produced(reader, |topic, partition, produced| {
                partitions.push((Arc::clone(topic), partition, produced));
            })?;
            (throttle, Answer::Produced(partitions, nodes))
        }
        Subject::AddOffsets => {
            let (throttle, code) = answers::added_offsets(reader)?;
            (throttle, Answer::Code(code))
        }
        Subject::Versions | Subject::Mechanism | Subject::Login => {
            return Err(Malformed("it belongs to the handshake"));
        }
    })
}

/// Random printable ASCII for one login.
fn nonce() -> Result<String, openssl::error::ErrorStack> {
    let mut bytes = [0; 24];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes))
}
