//! The request for the binlog.

use std::time::Duration;

use model::error::Result;
use mysql::table::{VARIABLES, answered};
use mysql_common::packets::ComRegisterSlave;
use mysql_common::packets::binlog_request::BinlogRequest;
use mysql_common::proto::MySerialize;

use super::events::Events;
use super::login::DumpConnection;
use crate::binlog_error::failed;

impl DumpConnection {
    /// Requests the binlog. The server sends a heartbeat after each `heartbeat` without an event; when three are
    /// missing, it is an error.
    ///
    /// # Errors
    /// Errors of the server and the link. An error about the requested place comes with the first event.
    pub async fn dump(mut self, request: &BinlogRequest<'_>, heartbeat: Duration) -> Result<Events> {
        answered(self.prepare(request.server_id(), heartbeat)).await.map_err(|e| failed("prepare the stream", e))?;
        let mut command = Vec::new();
        request.as_cmd().serialize(&mut command);
        let asked = answered(async { Ok(self.wire.command(&command).await?) });
        asked.await.map_err(|e| failed("ask for the binlog", e))?;
        self.wire.set_patience(heartbeat * 3 + Duration::from_secs(5));
        // With GTIDs the server chooses the start and sends it first; until then no place is known.
        let (file, offset) = if request.use_gtid() {
            (String::new(), 0)
        } else {
            (String::from_utf8_lossy(request.filename_raw()).into_owned(), request.pos())
        };
        Ok(Events::new(self.wire, file, offset))
    }

    async fn prepare(&mut self, server_id: u32, heartbeat: Duration) -> mysql_async::Result<()> {
        let nanoseconds = heartbeat.as_nanos();
        // The variables have one name before 8.0.26 and another since.
        self.value(&format!(
            "SET {VARIABLES}, @master_heartbeat_period = {nanoseconds}, @source_heartbeat_period = {nanoseconds}, \
             @master_binlog_checksum = @@GLOBAL.binlog_checksum, @source_binlog_checksum = @@GLOBAL.binlog_checksum"
        ))
        .await?;
        let mut command = Vec::new();
        ComRegisterSlave::new(server_id).serialize(&mut command);
        self.wire.command(&command).await?;
        self.answer().await?;
        Ok(())
    }
}
