//! Classification of MongoDB errors, and the errors of this store that several files report.

use crate::error::{Error as StoreError, ErrorKind as StoreErrorKind, Result as StoreResult};
use mongodb::error::{
    Error, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR, WriteFailure,
};
use std::time::Duration;

/// An error that stops the start: a sentence for an operator that says what to change.
pub(super) fn startup_error(sentence: String) -> StoreError {
    StoreError::new(StoreErrorKind::StoreUnavailable, sentence)
}

/// The answer to an operation that took too long. It may still have taken effect.
pub(super) fn timed_out() -> StoreError {
    StoreError::store_unavailable("MongoDB timed out")
}

/// Delay before a request is repeated after a transient error.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(4);

/// Whether a retry can succeed. The failed operation may still have taken effect.
pub(super) fn is_transient(error: &Error) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || error.contains_label(RETRYABLE_WRITE_ERROR)
        || matches!(
            error.kind.as_ref(),
            ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::Write(WriteFailure::WriteConcernError(_))
        )
        || error_code(error).is_some_and(|code| TRANSIENT_CODES.contains(&code))
}

/// Error codes that are transient although the driver does not label them: those of the retryable
/// reads specification (a primary that steps down, shuts down or starts), `WriteConflict` (112),
/// and two for a write concern that the replica set could not satisfy in time (64, 79).
const TRANSIENT_CODES: [i32; 16] =
    [6, 7, 64, 79, 89, 91, 112, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];

/// Whether a document with this `_id` or unique key exists already.
pub(super) fn is_duplicate_key(error: &Error) -> bool {
    error_code(error) == Some(11_000)
}

/// MongoDB's limit for a document, less the fields around the messages of a node.
pub(super) const MAX_DOCUMENT_BYTES: usize = (16 << 20) - (64 << 10);
/// Messages and frames of one commit, which are part of the session's document for a moment.
pub(super) const MAX_COMMIT_BYTES: usize = 15 << 20;

/// Requires that messages fit into one document. No retry helps those that do not.
pub(super) fn check_message_size(bytes: usize, limit: usize) -> StoreResult<()> {
    if bytes > limit {
        return Err(StoreError::too_large("a message with its parts", limit));
    }
    Ok(())
}

/// Whether a document is larger than the server accepts (16 MiB), which no retry changes:
/// `BSONObjectTooLarge`, the code that servers send for an insert, and the driver's own check.
pub(super) fn is_too_large(error: &Error) -> bool {
    matches!(error_code(error), Some(10_334 | 17_419 | 17_420))
        || matches!(
            error.kind.as_ref(),
            ErrorKind::InvalidArgument { message, .. } if message.contains("document must be within")
        )
}

fn error_code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        // An unordered insert reports every failed document; the callers only look for duplicates.
        ErrorKind::InsertMany(error) => match &error.write_errors {
            Some(errors) => errors.first().map(|error| error.code),
            None => error.write_concern_error.as_ref().map(|error| error.code),
        },
        _ => None,
    }
}
