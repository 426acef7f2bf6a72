//! The write concern of every write.

use mongodb::options::{Acknowledgment, WriteConcern};

/// An acknowledged write survives a failover, and the crash of all servers at once. By default a
/// majority has it in its journal as well, but `writeConcernMajorityJournalDefault` can be off:
/// <https://www.mongodb.com/docs/manual/reference/write-concern/>.
pub(super) fn durable_write_concern() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}
