//! Which broker is asked over which connection.

use std::time::Instant;

use super::super::failure::Failure;
use super::super::link::{Closed, Link, Subject};
use super::super::pause::{Length, Pause};
use super::{Core, LinkId};
use crate::client::connection_remedy;
use crate::wire::answers::Address;
use crate::wire::requests::{self, Coordinates};
use model::error::Code;

impl Core {
    /// A link to this broker that takes requests; connects when there is none.
    pub(super) fn link_to(&mut self, node: i32, now: Instant) -> Option<LinkId> {
        if let Some((id, link)) = self.links.iter().find(|(_, link)| link.node == Some(node)) {
            return (link.is_ready(now) && !link.wants_login(now)).then_some(*id);
        }
        let address = self.nodes.get(&node)?.clone();
        self.dial(address, Some(node), now);
        None
    }

    /// A link to any broker that takes requests; connects when there is none.
    pub(super) fn any_link(&mut self, now: Instant) -> Option<LinkId> {
        let ready = self.links.iter().find(|(_, link)| link.is_ready(now) && !link.wants_login(now));
        if let Some((id, _)) = ready {
            return Some(*id);
        }
        if self.links.values().all(|link| link.is_late(now)) {
            // Known brokers first, then those of the configuration: one after the other.
            let known = self.nodes.len();
            let number = self.bootstrap % (known + self.options.bootstrap.len());
            self.bootstrap = self.bootstrap.wrapping_add(1);
            let node = self.nodes.iter().nth(number).map(|(node, address)| (address.clone(), Some(*node)));
            let bootstrap = || (self.options.bootstrap[number - known].clone(), None);
            let (address, node) = node.unwrap_or_else(bootstrap);
            self.dial(address, node, now);
        }
        None
    }

    fn dial(&mut self, address: Address, node: Option<i32>, now: Instant) {
        if self.dial_pauses.get(&address).is_some_and(|pause| !pause.is_over(now)) {
            return;
        }
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(id, Link::new(address.clone(), node, now));
        self.dials.push((id, address));
    }

    pub(super) fn link_is_ready(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        self.dial_pauses.remove(&link.address);
        self.adopt();
        if self.identity.is_some() && self.level_of_cluster(id) != self.level {
            self.stale = Some("the cluster has finalised another transaction.version");
        }
    }

    /// Gives links of the bootstrap addresses the numbers of their brokers.
    pub(super) fn adopt(&mut self) {
        for link in self.links.values_mut().filter(|link| link.node.is_none()) {
            link.node = self.nodes.iter().find(|(_, address)| **address == link.address).map(|(node, _)| *node);
        }
    }

    /// A link is gone, or was never made.
    pub(crate) fn closed(&mut self, id: LinkId, why: &Closed, now: Instant) {
        let Some(mut link) = self.links.remove(&id) else { return };
        self.dial_pauses.entry(link.address.clone()).or_default().again(Length::Connect, now);
        let address = &link.address;
        tracing::debug!(%address, %why, "a connection to Kafka is closed");
        // What the broker did may be another's task now.
        if link.node.is_some() && link.node == self.transactions_at.node {
            self.lose_coordinator(Coordinates::Transactions, now);
        }
        if link.node.is_some() && link.node == self.group_at.node {
            self.lose_coordinator(Coordinates::Group, now);
        }
        let slots = &mut self.slots;
        self.leaders_wanted |= slots.active.iter().any(|slot| slots.all[*slot].leader == link.node);
        match why {
            Closed::Lost(why) => self.trouble = Some(format!("{address}: {why}")),
            Closed::Login(why) => self.refuse(Code::LoginRefused, why.clone()),
            Closed::Token(why) => self.refuse(Code::TokenExpired, why.clone()),
            Closed::Certificate(why) => self.refuse(Code::CertificateRefused, format!("{address}: {why}")),
            Closed::TooOld(why) => self.refuse(Code::BrokerVersion, why.clone()),
        }
        for subject in link.unanswered() {
            self.lost(subject, now);
        }
    }

    fn refuse(&mut self, code: Code, reason: String) {
        self.fail(Failure::Refused { code, reason, remedy: connection_remedy(code).into() });
    }

    /// A request lost its answer: it may have been processed or not, or will be.
    fn lost(&mut self, subject: Subject, now: Instant) {
        if subject.is_of_a_transaction() {
            (self.is_unanswered, self.is_known) = (true, true);
        }
        match subject {
            Subject::Versions | Subject::Mechanism | Subject::Login => {}
            Subject::Metadata => self.leaders.is_asked = false,
            Subject::Coordinator(of) => self.seat(of).search.is_asked = false,
            Subject::Initialise | Subject::AddPartitions(_) | Subject::AddOffsets | Subject::End { .. } => {
                if let Subject::AddPartitions(slots) = &subject {
                    self.not_added(slots);
                }
                if subject == Subject::AddOffsets {
                    self.offsets.iter_mut().for_each(|offsets| offsets.task.is_asked = false);
                } else {
                    self.step.is_asked = false;
                }
                self.lose_coordinator(Coordinates::Transactions, now);
            }
            Subject::Produce(slots) => {
                slots.iter().for_each(|slot| self.slots.all[*slot].not_written());
                self.leaders_wanted = true;
            }
            Subject::Offsets => {
                self.offsets.iter_mut().for_each(|offsets| offsets.task.is_asked = false);
                self.lose_coordinator(Coordinates::Group, now);
            }
        }
    }

    /// Sends a request; closes the link when its broker does not speak it.
    pub(super) fn ask(&mut self, id: LinkId, subject: Subject, now: Instant, body: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let outcome = link.ask(&self.options.greeting, self.level, subject, now, body);
        self.was_asked(outcome)
    }

    pub(super) fn was_asked(&mut self, outcome: Result<(), Closed>) -> bool {
        let Err(why) = outcome else { return true };
        self.refuse(Code::BrokerVersion, why.to_string());
        false
    }

    /// Asks for leaders when a slot has none, or when somebody wants to know.
    pub(super) fn find_leaders(&mut self, now: Instant) {
        let lacks = |slot: &usize| self.slots.all[*slot].leader.is_none();
        let is_wanted = self.leaders_wanted || self.slots.active.iter().any(lacks);
        if !is_wanted || !self.leaders.may_be_asked(now) {
            return;
        }
        let Some(link) = self.any_link(now) else { return };
        let names = self.slots.names().to_vec();
        let body = |out: &mut Vec<u8>| requests::metadata(names.iter().map(String::as_str), out);
        if self.ask(link, Subject::Metadata, now, body) {
            self.leaders.is_asked = true;
            self.leaders_wanted = false;
        }
    }

    /// Resets the pause of the search for leaders after an answer with all of them.
    pub(super) fn leaders_found(&mut self, now: Instant) {
        let lacks = |slot: &usize| self.slots.all[*slot].leader.is_none();
        if self.slots.active.iter().any(lacks) {
            self.leaders.pause.again(Length::Usual, now);
        } else {
            self.leaders.pause = Pause::default();
        }
    }
}
