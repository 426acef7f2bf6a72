//! What time it is.

use crate::domain::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock, to the millisecond.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
