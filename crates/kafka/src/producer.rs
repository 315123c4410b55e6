//! A transactional producer that sends each broker all partitions in one request, and commits in milliseconds.
//!
//! Invariant: the core decides and knows no socket; the driver moves bytes and knows no transaction.

mod core;
mod dial;
mod driver;
mod failure;
mod group_member;
mod link;
mod pause;
pub(crate) mod policy;
mod settings;
mod slots;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant, SystemTime};

use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

use self::core::{Core, Stage};
use self::driver::Driver;
pub use self::failure::Failure;
pub use self::group_member::group_member;
use crate::client::CONNECTING;
use crate::partitioner::partition_of;
use crate::wire::record_batch;
pub use crate::wire::requests::{GroupMember, GroupOffset, Level};

/// Bytes of records without an acknowledgement, from which on a send waits.
const BUFFER: usize = 8 << 20;

/// One record to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition; `None` selects [`partition_of`] among `kafka.partitions`, whatever number the brokers report.
    pub partition: Option<i32>,
    /// Key.
    pub key: &'a [u8],
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value of its one header.
    pub header: Option<(&'a str, &'a [u8])>,
}

/// A producer whose records are all part of transactions. Its calls block, and only they move bytes.
pub struct TransactionalProducer {
    inner: RefCell<(Core, Driver)>,
    timeout: Duration,
    /// `kafka.partitions`.
    partitions: i32,
    begun: Cell<Instant>,
    /// The time of records, in milliseconds since 1970.
    now_ms: Cell<i64>,
    place: String,
}

/// A producer before its initialisation: it has fenced no other producer.
pub struct UninitializedProducer(TransactionalProducer);

impl UninitializedProducer {
    /// Creates the producer.
    ///
    /// # Errors
    /// Usage when a setting is wrong.
    pub fn new(kafka: &KafkaSettings, transactional_id: &str) -> Result<Self> {
        let (options, dialer) = settings::of(kafka, transactional_id)?;
        let driver = Driver::new(dialer).map_err(|e| Error::transient(format!("the system has no socket: {e}")))?;
        Ok(Self(TransactionalProducer {
            inner: RefCell::new((Core::new(options), driver)),
            timeout: kafka.transaction_timeout,
            partitions: kafka.partitions,
            begun: Cell::new(Instant::now()),
            now_ms: Cell::new(0),
            place: format!("transactions of {transactional_id} at {}", kafka.bootstrap_servers),
        }))
    }

    /// Connects it to the broker that coordinates its transactions, and learns who leads the topic's partitions, if the
    /// brokers answer soon; an error is ignored, as the initialisation reports it. Blocks.
    pub fn connect(&self, topic: &str) {
        let Self(producer) = self;
        producer.inner.borrow_mut().0.connect(topic);
        drop(producer.wait(Instant::now() + CONNECTING, Core::is_connected));
    }

    /// Initialises its transactions, which fences every earlier producer with this id and completes or aborts their
    /// transactions in flight. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka does not answer; definite when it refuses.
    pub fn initialise(self) -> Result<TransactionalProducer> {
        let Self(producer) = self;
        producer.inner.borrow_mut().0.initialise();
        let outcome = producer.wait(Instant::now() + producer.timeout, |core| core.stage() == Stage::Ready);
        let what = format!("cannot initialise {}", producer.place);
        match outcome {
            Ok(true) => Ok(producer),
            Ok(false) => {
                let reason = producer.trouble();
                Err(Error::new(Code::ServerUnreachable, format!("{what}: {reason}")).with_remedy(
                    "check kafka.bootstrap_servers, kafka.security_protocol and the kafka.sasl_* settings \
                     (--check-config shows them), and that the broker runs",
                ))
            }
            Err(failure) => Err(failure.into_error(&what)),
        }
    }
}

impl TransactionalProducer {
    /// Creates the producer and initialises its transactions. Blocks.
    ///
    /// # Errors
    /// As [`UninitializedProducer::new`] and [`UninitializedProducer::initialise`].
    pub fn new(kafka: &KafkaSettings, transactional_id: &str) -> Result<Self> {
        UninitializedProducer::new(kafka, transactional_id)?.initialise()
    }

    /// The kind of the cluster's transactions.
    pub fn level(&self) -> Level {
        self.inner.borrow().0.level()
    }

    fn trouble(&self) -> String {
        self.inner.borrow().0.trouble().unwrap_or("Kafka does not answer").to_owned()
    }

    /// Moves bytes until `is_done` or the deadline; returns whether it is done.
    fn wait(&self, deadline: Instant, is_done: impl Fn(&Core) -> bool) -> Result<bool, Failure> {
        let (core, driver) = &mut *self.inner.borrow_mut();
        loop {
            if let Some(failure) = core.failure() {
                return Err(failure.clone());
            }
            if is_done(core) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            driver.turn(core, deadline).map_err(|e| Failure::Broken(format!("the system fails: {e}")))?;
        }
    }

    /// Moves the bytes that can be moved without waiting.
    ///
    /// # Errors
    /// When the transaction has failed.
    pub fn poll(&self) -> Result<(), Failure> {
        let (core, driver) = &mut *self.inner.borrow_mut();
        let now = Instant::now();
        driver.turn(core, now).map_err(|e| Failure::Broken(format!("the system fails: {e}")))?;
        core.failure().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Bytes of records that the brokers have not acknowledged yet.
    pub fn in_flight(&self) -> usize {
        self.inner.borrow().0.buffered()
    }

    /// Whether another transaction may begin.
    ///
    /// # Errors
    /// [`Failure::Stale`].
    pub fn may_begin(&self) -> Result<(), Failure> {
        match self.inner.borrow().0.stale() {
            Some(why) => Err(Failure::Stale(why)),
            None => Ok(()),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Failure::Stale`], or [`Failure::Broken`] when one is open.
    pub fn begin(&self) -> Result<(), Failure> {
        // Connections that a broker has closed since the last transaction are noticed before a request depends on them.
        self.poll()?;
        self.may_begin()?;
        let (core, _) = &mut *self.inner.borrow_mut();
        if core.stage() != Stage::Ready {
            return Err(Failure::Broken("a transaction is open already".to_owned()));
        }
        core.begin();
        self.begun.set(Instant::now());
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.now_ms.set(i64::try_from(now.as_millis()).unwrap_or(0));
        Ok(())
    }

    /// When everything of the transaction must be sent; its end has the time from then until the timeout.
    fn deadline(&self) -> Instant {
        self.begun.get() + self.timeout * 9 / 10
    }

    /// Adds a record to the transaction; waits while too much is not acknowledged.
    ///
    /// # Errors
    /// See [`Failure`]; the record is then not part of the transaction, which must not be committed.
    pub fn send(&self, record: &Record<'_>) -> Result<(), Failure> {
        let partition = record.partition.unwrap_or_else(|| partition_of(record.key, self.partitions));
        let Record { topic, key, value, header, .. } = *record;
        let record = record_batch::Record { timestamp: self.now_ms.get(), key: Some(key), value, header };
        let uncompressed = |e| Failure::Broken(format!("compression: {e}"));
        if !self.inner.borrow_mut().0.push(topic, partition, &record).map_err(uncompressed)? {
            return Ok(());
        }
        self.poll()?;
        self.inner.borrow_mut().0.seal_enough().map_err(uncompressed)?;
        self.poll()?;
        if self.wait(self.deadline(), |core| core.buffered() <= BUFFER)? { Ok(()) } else { Err(self.too_late()) }
    }

    /// Sends everything, and waits for the acknowledgements.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn flush(&self) -> Result<(), Failure> {
        self.inner.borrow_mut().0.flush().map_err(|e| Failure::Broken(format!("compression: {e}")))?;
        if self.wait(self.deadline(), Core::is_complete)? { Ok(()) } else { Err(self.too_late()) }
    }

    fn too_late(&self) -> Failure {
        Failure::Abortable(format!("not complete within nine tenths of {:?}: {}", self.timeout, self.trouble()))
    }

    /// Adds the consumer group's offsets to the transaction (KIP-447: the member fences a zombie), and sends everything
    /// else beside them.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn send_offsets(&self, member: &GroupMember, mut offsets: Vec<GroupOffset>) -> Result<(), Failure> {
        offsets.sort_unstable();
        self.inner.borrow_mut().0.send_offsets(member.clone(), offsets);
        self.flush()
    }

    /// Commits; when it returns `Ok`, everything that was sent is durable and visible.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn commit(&self) -> Result<(), Failure> {
        let is_over = |core: &Core| core.stage() == Stage::Ready;
        self.inner.borrow_mut().0.commit().map_err(|e| Failure::Broken(format!("compression: {e}")))?;
        if self.wait(self.deadline(), |core| is_over(core) || core.is_ending())? && is_over(&self.inner.borrow().0) {
            return Ok(());
        }
        if !self.inner.borrow().0.is_ending() {
            return Err(self.too_late());
        }
        match self.wait(self.begun.get() + self.timeout, is_over)? {
            true => Ok(()),
            false => Err(Failure::Broken(format!("the outcome of the commit is unknown: {}", self.trouble()))),
        }
    }

    /// Aborts; when it returns `Ok`, the producer can begin another transaction.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn abort(&self) -> Result<(), Failure> {
        self.inner.borrow_mut().0.abort();
        match self.wait(Instant::now() + self.timeout, |core| core.stage() == Stage::Ready)? {
            true => Ok(()),
            false => Err(Failure::Broken(format!("the transaction can't be aborted: {}", self.trouble()))),
        }
    }

    /// Whether a broker answers within `patience`. Blocks.
    ///
    /// # Errors
    /// [`Failure::OtherCount`] when `topic` does not have so many partitions.
    pub fn answers(&self, topic: &str, partitions: i32, patience: Duration) -> Result<bool, Failure> {
        let before = {
            let (core, _) = &mut *self.inner.borrow_mut();
            core.ask_for_leaders(topic);
            core.leaders_answers()
        };
        if !self.wait(Instant::now() + patience, |core| core.leaders_answers() > before)? {
            return Ok(false);
        }
        match self.inner.borrow().0.partition_count(topic) {
            Some(count) if usize::try_from(partitions) != Ok(count) && count > 0 => {
                Err(Failure::OtherCount { topic: topic.to_owned(), count, wanted: partitions })
            }
            _ => Ok(true),
        }
    }
}
