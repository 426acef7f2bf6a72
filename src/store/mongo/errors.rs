//! What the database refuses, and what of it may pass.

use mongodb::error::{
    Error, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR, WriteFailure,
};

/// Whether a failure may pass by itself: another try can succeed.
pub(super) fn is_transient(failure: &Error) -> bool {
    failure.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || failure.contains_label(RETRYABLE_WRITE_ERROR)
        || matches!(
            failure.kind.as_ref(),
            ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::Write(WriteFailure::WriteConcernError(_))
        )
        || error_code(failure).is_some_and(|code| TRANSIENT_CODES.contains(&code))
}

/// Codes of a primary that goes, comes or is busy, beside those that the driver labels: the list of
/// the retryable reads specification, `WriteConflict`, and a majority that did not answer in time.
const TRANSIENT_CODES: [i32; 16] =
    [6, 7, 64, 79, 89, 91, 112, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];

/// Whether something that was to be added is there already.
pub(super) fn is_duplicate_key(failure: &Error) -> bool {
    error_code(failure) == Some(11_000)
}

fn error_code(failure: &Error) -> Option<i32> {
    match failure.kind.as_ref() {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => match &error.write_errors {
            Some(errors) => errors.first().map(|error| error.code),
            None => error.write_concern_error.as_ref().map(|error| error.code),
        },
        _ => None,
    }
}
