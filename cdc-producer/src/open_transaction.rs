//! The open Kafka transaction of a publisher: what it holds, and when it may end. Pure: the model of the protocol explores
//! it.

/// The open transaction; `P` is a progress.
#[derive(Clone, Debug)]
pub struct OpenTransaction<P> {
    /// Records.
    pub rows: usize,
    /// Dead letters among them.
    pub parked: usize,
    /// Bytes of all records.
    pub bytes: usize,
    end: Option<P>,
}

impl<P> Default for OpenTransaction<P> {
    fn default() -> Self {
        Self { rows: 0, parked: 0, bytes: 0, end: None }
    }
}

impl<P> OpenTransaction<P> {
    /// A batch was sent; `end` is the progress behind it, `None` when it ends within a transaction of the source.
    pub fn add(&mut self, rows: usize, parked: usize, bytes: usize, end: Option<P>) {
        self.rows += rows;
        self.parked += parked;
        self.bytes += bytes;
        self.end = end;
    }

    /// The progress to commit with the records; `None` while it must not be committed, as it ends within a transaction of
    /// the source.
    pub fn end(&self) -> Option<&P> {
        self.end.as_ref()
    }

    /// Whether it must be committed before a batch with this `end` is sent: a transaction of the source that is longer than
    /// a batch gets a separate one, so that the complete ones are committed even if this one never ends.
    pub fn comes_before(&self, end: Option<&P>) -> bool {
        self.end.is_some() && end.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_where_a_transaction_of_the_source_ends() {
        let mut open = OpenTransaction::default();
        open.add(3, 1, 90, Some(3));
        assert_eq!(open.end(), Some(&3));
        assert_eq!([Some(4), None].map(|end| open.comes_before(end.as_ref())), [false, true]);
        open.add(2, 0, 60, None);
        assert_eq!((open.end(), open.comes_before(None)), (None, false));
        open.add(1, 1, 30, Some(6));
        assert_eq!((open.rows, open.parked, open.bytes, open.end()), (6, 2, 180, Some(&6)));
    }
}
