//! Whole sessions into MongoDB.

use super::MongoStore;
use super::step::{Manner, step};
use crate::domain::{Principal, Timestamp};
use crate::error::Result;
use crate::store::{ImportSession, Imported, TransferStore, rules};
use async_trait::async_trait;

#[async_trait]
impl TransferStore for MongoStore {
    async fn import_session(
        &self,
        who: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<Imported> {
        let import = &import;
        step!(self, Manner::LONG_STEP, |step| rules::import_session(step, who, import, now).await)
    }
}
