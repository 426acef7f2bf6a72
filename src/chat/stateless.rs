//! Calls without a session: admitted under the same policy as turns, and recorded in the ledger
//! when they end, even if the client has disconnected.

use super::usage_policy::ConcurrencyPermit;
use super::{CallerStatus, ChatService};
use crate::clock;
use crate::domain::quota::{UsagePayer, compute_cost};
use crate::domain::{CallKind, Principal, SessionId, Status, TurnId, Usage};
use crate::error::Result;
use crate::provider::{Prompt, find_usage};
use crate::store::LedgerEntry;
use memchr::memmem;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Bytes kept of the end of a response, to find its usage report.
const TAIL_BYTES: usize = 32 << 10;
/// Estimates for responses without usage: bytes of text or JSON per token. Each stream event counts
/// as one token.
const BYTES_PER_TOKEN: usize = 4;
/// Bytes counted for an image, equal to 1,500 tokens.
const IMAGE_BYTES: usize = 1_500 * BYTES_PER_TOKEN;

const EVENT_PREFIX: &[u8] = b"data: {";
const DONE_SUFFIX: &[u8] = b"\ndata: [DONE]";

/// Size of the text in a request body. Each base64 image counts as [`IMAGE_BYTES`], whatever its
/// size.
pub(super) fn estimate_text_bytes(body: &[u8]) -> usize {
    const BASE64_MARKER: &[u8] = b";base64,";
    let mut size = 0;
    let mut rest = body;
    while let Some(begin) = memmem::find(rest, BASE64_MARKER) {
        let data = &rest[begin + BASE64_MARKER.len()..];
        let end = data.iter().position(|byte| *byte == b'"').unwrap_or(data.len());
        size += begin + IMAGE_BYTES;
        rest = &data[end..];
    }
    size + rest.len()
}

/// A call in progress. Its usage is recorded when it is finished or dropped.
pub struct MeteredCall {
    chat: Arc<ChatService>,
    /// Id of the ledger entry.
    call_id: TurnId,
    payer: UsagePayer,
    model: String,
    /// Text in the request, in bytes.
    prompt_bytes: usize,
    /// Text received so far, in bytes.
    output_bytes: usize,
    stream_events: usize,
    /// Usage reported by the provider.
    usage: Option<Usage>,
    /// The last bytes of a forwarded response.
    tail: Vec<u8>,
    /// Whether the provider accepted the request: until then there is nothing to record.
    is_sent: bool,
    permit: Option<ConcurrencyPermit>,
}

impl ChatService {
    /// Admits a call. Errors: the rejection in `status`, `rate_limited`, `quota_exceeded`.
    pub async fn begin_metered_call(
        self: &Arc<Self>,
        principal: &Principal,
        status: CallerStatus,
    ) -> Result<MeteredCall> {
        status.rejection.map_or(Ok(()), Err)?;
        let permit = self.concurrency.acquire(&principal.user);
        permit.check_limit(self.usage_policy.max_concurrent_turns).map_or(Ok(()), Err)?;
        let payer = UsagePayer { user: principal.user.clone(), key: status.key_id };
        self.check_quotas(&payer, &principal.user, None, clock::now()).await?;
        Ok(MeteredCall {
            chat: self.clone(),
            call_id: TurnId::generate(),
            payer,
            model: String::new(),
            prompt_bytes: 0,
            output_bytes: 0,
            stream_events: 0,
            usage: None,
            tail: Vec::new(),
            is_sent: false,
            permit: Some(permit),
        })
    }
}

impl MeteredCall {
    pub(super) fn require_price(&self, model: &str) -> Result<()> {
        self.chat.require_price(model, &self.payer, &self.payer.user, None)
    }

    /// Call when the provider has accepted a request with `bytes` of text.
    pub(super) fn record_sent(&mut self, model: &str, bytes: usize) {
        self.model = model.to_owned();
        self.prompt_bytes = bytes;
        self.is_sent = true;
    }

    /// Call when the provider has accepted the prompt.
    pub(super) fn record_sent_prompt(&mut self, prompt: &Prompt) {
        let bytes = prompt.messages.iter().map(|message| message.content.len()).sum();
        self.record_sent(&prompt.model, bytes);
    }

    /// An id for a function call of the reply, by its number.
    pub(super) fn derive_call_id(&self, number: usize) -> String {
        crate::domain::tool::derive_call_id(&self.call_id, number)
    }

    pub(super) fn record_output(&mut self, text: &str) {
        self.output_bytes += text.len();
    }

    pub(super) fn record_usage(&mut self, usage: Usage) {
        self.usage = Some(usage.or_earlier(self.usage));
    }

    /// Adds a chunk of a forwarded response.
    pub(super) fn record_forwarded(&mut self, bytes: &[u8]) {
        match memmem::find_iter(bytes, EVENT_PREFIX).count() {
            // No event so far: a plain body, estimated by its size. In a stream every event is
            // about one token, and the JSON around it is not text.
            0 if self.stream_events == 0 => self.output_bytes += bytes.len(),
            events => self.stream_events += events,
        }
        self.tail.extend_from_slice(bytes);
        // Trimmed only at twice the size, so that each byte is moved at most once.
        if self.tail.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
    }

    /// The reported usage, or an estimate from the sizes.
    fn usage_or_estimate(&self) -> Usage {
        let tokens = |bytes: usize| (bytes / BYTES_PER_TOKEN) as u64;
        let estimate = Usage {
            prompt_tokens: tokens(self.prompt_bytes),
            completion_tokens: tokens(self.output_bytes) + self.stream_events as u64,
            estimated: true,
            ..Usage::default()
        };
        let reported = self.usage.or_else(|| find_usage(&self.tail));
        reported.map_or(estimate, |usage| usage.or_estimate(estimate))
    }
}

impl MeteredCall {
    /// Whether the end of a stream has been received.
    pub(super) fn is_stream_done(&self) -> bool {
        self.tail.trim_ascii_end().ends_with(DONE_SUFFIX)
    }

    /// Records the usage and releases the permit. Call before returning the end of the response, so
    /// that the next request of the client sees both.
    pub(super) async fn finish_call(&mut self) {
        self.permit = None;
        if let Some(write) = self.spawn_ledger_write() {
            // Awaited, but not tied to this future: the write completes even if the client
            // disconnects now.
            let _ = write.await;
        }
    }

    /// Records the usage, at most once. Runs on the task tracker: independent of the client, and
    /// shutdown waits for it.
    fn spawn_ledger_write(&mut self) -> Option<JoinHandle<()>> {
        if !std::mem::take(&mut self.is_sent) {
            return None;
        }
        let usage = self.usage_or_estimate();
        let entry = LedgerEntry {
            turn_id: self.call_id.clone(),
            kind: CallKind::Direct,
            // Stateless calls have no session; no session has an empty id.
            session_id: SessionId::new_unchecked(""),
            owner: self.payer.user.clone(),
            project_id: None,
            payer: self.payer.clone(),
            cost: compute_cost(&self.chat.usage_policy.prices, &self.model, &usage),
            model: Some(std::mem::take(&mut self.model)),
            status: Status::Complete,
            usage,
            ended_at: clock::now(),
        };
        let chat = self.chat.clone();
        Some(self.chat.turn_tasks.spawn(async move {
            if let Err(error) = chat.store.record_usage(entry).await {
                tracing::error!(error = %error.chain(), "recording usage of a stateless call failed");
            }
        }))
    }
}

impl Drop for MeteredCall {
    fn drop(&mut self) {
        drop(self.spawn_ledger_write());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_estimate_ignores_data_length() {
        let body = |data: &str| format!(r#"{{"url":"data:image/png;base64,{data}","text":"hi"}}"#);
        let (small, large) = (body("QUJD"), body(&"QUJD".repeat(10_000)));
        assert_eq!(estimate_text_bytes(small.as_bytes()), estimate_text_bytes(large.as_bytes()));
        assert_eq!(estimate_text_bytes(b"{\"text\":\"hi\"}"), 13);
    }
}
