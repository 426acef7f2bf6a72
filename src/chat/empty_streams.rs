//! Frames of turns without a reply, and ends of streams that were cut off.

use super::frames::{FrameBatch, FrameEncoder, StreamFrame};
use super::transcript::StreamHeader;
use crate::domain::TurnId;
use crate::domain::message::FinishReason;
use bytes::Bytes;

/// The stream for a message that a human agent will answer: session data and the end.
pub(super) fn human_takeover_stream(turn_id: TurnId, header: &StreamHeader<'_>) -> Bytes {
    let mut encoder = FrameEncoder::new(turn_id);
    encoder.write_frame(&header.session_frame());
    encoder.write_frame(&StreamFrame::Finish {
        finish_reason: FinishReason::Stop,
        message_metadata: None,
    });
    encoder.write_done();
    encoder.take_frames().bytes
}

/// The stream of a queued turn that will not run.
pub(super) fn aborted_stream(turn_id: TurnId) -> FrameBatch {
    abort_frames_after(turn_id, 0)
}

/// The end of an aborted stream, after frame `last`.
pub(super) fn abort_frames_after(turn_id: TurnId, last: u64) -> FrameBatch {
    let mut encoder = FrameEncoder::resume_after(turn_id, last);
    encoder.write_frame(&StreamFrame::Abort);
    encoder.write_done();
    encoder.take_frames()
}

/// The end of a stream whose reply could not be stored. It replaces the unpublished frames from
/// `first` on.
pub(super) fn error_frames(turn_id: TurnId, first: u64, error_text: &str) -> FrameBatch {
    let mut encoder = FrameEncoder::resume_after(turn_id, first - 1);
    encoder.write_frame(&StreamFrame::Error { error_text });
    encoder.write_done();
    encoder.take_frames()
}
