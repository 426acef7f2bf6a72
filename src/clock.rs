//! The wall clock.

use crate::domain::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// The current time, with millisecond precision.
pub fn now() -> Timestamp {
    // A clock set before 1970 reads as 1970 rather than failing every request.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
