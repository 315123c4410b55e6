//! Distinguishes a fence by another producer from a fence by this process's own sessions. Pure: the model of the protocol
//! explores it.

/// What a process remembers of its sessions; `P` is a progress.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Fencing<P> {
    /// Progress that it committed or tried to commit, the last committed one first.
    ours: Vec<P>,
    fenced: u32,
    /// At the last fence, the Kafka transaction had been open for longer than its timeout.
    outlived: bool,
}

/// Why a fenced producer must exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Another one is at work.
    AnotherProducer,
    /// Its transactions take longer than one may be open.
    TransactionTimeout,
}

impl<P> Default for Fencing<P> {
    fn default() -> Self {
        Self { ours: Vec::new(), fenced: 0, outlived: false }
    }
}

impl<P: PartialEq> Fencing<P> {
    /// The number of consecutive fences without a commit in between.
    pub fn fences(&self) -> u32 {
        self.fenced
    }

    /// After a fence, whether to continue from the `committed` progress. Kafka reports the same error whether another
    /// producer took over or a transaction exceeded its timeout.
    ///
    /// # Errors
    /// Why it must exit instead.
    pub fn may_go_on(&self, committed: Option<&P>) -> Result<(), Exit> {
        let ours = self.ours.is_empty() || committed.is_none_or(|c| self.ours.contains(c));
        match self.fenced {
            0 => Ok(()),
            1 if ours => Ok(()),
            _ if ours && self.outlived => Err(Exit::TransactionTimeout),
            _ => Err(Exit::AnotherProducer),
        }
    }

    /// A session begins with this progress, where Kafka has the `committed` one.
    pub fn begin(&mut self, progress: P, committed: Option<P>) {
        self.ours.clear();
        self.note(Some(progress));
        self.note(committed);
    }

    /// A session has ended, after it `committed` this progress last and tried to commit the other one. Returns whether
    /// it committed anything.
    pub fn end(&mut self, committed: Option<P>, attempted: Option<P>) -> bool {
        let has_advanced = committed.as_ref() != self.ours.first();
        // Otherwise the progress of before stays: the session's first progress may differ from the committed one.
        if has_advanced {
            self.fenced = 0;
            self.ours.clear();
            self.note(committed);
        }
        self.note(attempted);
        has_advanced
    }

    /// The session's transaction has failed: by a fence, after it `outlived` its timeout, or for another reason.
    pub fn fail(&mut self, is_fence: bool, outlived: bool) {
        self.outlived = outlived;
        self.fenced += u32::from(is_fence || outlived);
    }

    fn note(&mut self, progress: Option<P>) {
        self.ours.extend(progress.filter(|progress| !self.ours.contains(progress)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that continued from 5, and was fenced after it had tried to commit 7.
    fn fenced() -> Fencing<u32> {
        let mut fencing = Fencing::default();
        fencing.begin(5, Some(5));
        assert!(!fencing.end(Some(5), Some(7)));
        fencing.fail(true, false);
        fencing
    }

    #[test]
    fn a_fence_by_nobody_else_is_followed_once() {
        let mut fencing = fenced();
        assert_eq!([5, 7].map(|committed| fencing.may_go_on(Some(&committed))), [Ok(()); 2]);
        assert_eq!(fencing.may_go_on(Some(&9)), Err(Exit::AnotherProducer));
        fencing.begin(7, Some(7));
        fencing.end(Some(7), None);
        fencing.fail(true, false);
        assert_eq!(fencing.may_go_on(Some(&7)), Err(Exit::AnotherProducer));
        fencing.fail(false, true);
        assert_eq!(fencing.may_go_on(Some(&7)), Err(Exit::TransactionTimeout));
    }

    #[test]
    fn a_commit_begins_the_count_again() {
        let mut fencing = fenced();
        fencing.begin(7, Some(7));
        assert!(fencing.end(Some(8), Some(9)));
        fencing.fail(true, false);
        assert_eq!([8, 9].map(|committed| fencing.may_go_on(Some(&committed))), [Ok(()); 2]);
        assert_eq!(fencing.may_go_on(Some(&7)), Err(Exit::AnotherProducer), "an older one is another's");
    }
}
