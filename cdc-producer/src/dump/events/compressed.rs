//! The events of a compressed transaction, unpacked while it is received.

use bytes::Buf;

use super::super::event::{Event, HEADER, ends_transaction};
use super::super::fault::Fault;
use super::super::payload::{Fields, Payload};
use super::{Events, Large, WHOLE, ends_early};

impl Events {
    /// Reads the fields of the compressed transaction whose packet is open.
    pub(super) async fn open_payload(&mut self) -> Result<(), Fault> {
        let Some(outer) = &mut self.outer else { return Ok(()) };
        let mut wanted = 1;
        loop {
            // A full chunk of a packet is longer than all fields together.
            let there = self.wire.contiguous(wanted).await?;
            let available = self.wire.available();
            let beginning = &available[..available.len().min(Fields::LONGEST).min(outer.left as usize)];
            match Fields::parse(beginning).map_err(Fault::Damage)? {
                Some(fields) if fields.packed == u64::from(outer.left) - fields.length as u64 => {
                    outer.crc.update(&beginning[..fields.length]);
                    outer.left -= fields.length as u32;
                    self.payload = Some(Payload::new(&fields).map_err(Fault::Damage)?);
                    self.wire.consume(fields.length);
                    return Ok(());
                }
                Some(fields) => {
                    return Err(Fault::Damage(format!(
                        "{} compressed bytes, and {} follow",
                        fields.packed, outer.left
                    )));
                }
                None if there && beginning.len() < Fields::LONGEST.min(outer.left as usize) => {
                    wanted = beginning.len() + 1;
                }
                None => return Err(Fault::Damage("fields without an end".to_owned())),
            }
        }
    }

    /// The next event of the compressed transaction; `None` when it has ended.
    pub(super) async fn inner_event(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            let Some(payload) = &mut self.payload else { return Ok(None) };
            let header = payload.next_header().map_err(Fault::Damage)?;
            if header.is_none() && payload.untaken() == 0 {
                return Err(Fault::Damage("no event".to_owned()));
            }
            if let Some(header) = header {
                let size = header.event_size();
                if size as usize > WHOLE {
                    drop(payload.take(HEADER));
                    self.large = Some(Large::new(header, size - HEADER as u32));
                    return Ok(None);
                }
                if payload.ready().len() >= size as usize {
                    if payload.untaken() == u64::from(size) {
                        self.close_payload().await?;
                    }
                    let Some(payload) = &mut self.payload else { return Ok(None) };
                    let mut bytes = payload.take(size as usize);
                    if payload.untaken() == 0 {
                        self.payload = None;
                    } else if ends_transaction(header.event_type_raw()) {
                        return Err(Fault::Damage("events behind the end of the transaction".to_owned()));
                    }
                    bytes.advance(HEADER);
                    return Ok(Some(Event::new(header, bytes, 0)));
                }
            }
            if !self.unpack().await? {
                return Err(Fault::Damage("its compressed bytes end too early".to_owned()));
            }
        }
    }

    /// Unpacks a piece of the compressed transaction; false at its end.
    pub(super) async fn unpack(&mut self) -> Result<bool, Fault> {
        let (Some(outer), Some(payload)) = (&mut self.outer, &mut self.payload) else { return Ok(false) };
        if outer.left == 0 {
            return Ok(payload.may_hold_more() && payload.unpack(&[]).map_err(Fault::Damage).map(|_| true)?);
        }
        if !self.wire.fill().await? {
            return Err(ends_early());
        }
        let available = self.wire.available();
        let input = &available[..available.len().min(outer.left as usize)];
        let used = payload.unpack(input).map_err(Fault::Damage)?;
        outer.crc.update(&input[..used]);
        outer.left -= used as u32;
        self.wire.consume(used);
        Ok(true)
    }

    /// Reads the bytes after the last event of the compressed transaction and compares its checksum.
    pub(super) async fn close_payload(&mut self) -> Result<(), Fault> {
        while self.unpack().await? {}
        if let Some(payload) = &self.payload {
            payload.check_end().map_err(Fault::Damage)?;
        }
        self.finish().await
    }
}
