//! Requests without a session: admitted on the same terms as turns, and booked like them once they
//! are over, also where the caller has left before.

use super::usage_policy::ConcurrencyPermit;
use super::{CallerStatus, ChatService};
use crate::clock;
use crate::domain::quota::{UsagePayer, compute_cost};
use crate::domain::{CallKind, Principal, SessionId, Status, TurnId, Usage};
use crate::error::Result;
use crate::provider::{Prompt, find_usage};
use crate::store::LedgerEntry;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What is kept of an answer's end to find in it what it cost.
const TAIL_BYTES: usize = 32 << 10;
/// Where providers say nothing, this many bytes of text or JSON count as a token, and an event of a
/// stream as one …
const BYTES_PER_TOKEN: usize = 4;
/// … and a picture as so many bytes.
const IMAGE_BYTES: usize = 1_500 * BYTES_PER_TOKEN;

/// What an event of a stream begins with.
const EVENT_PREFIX: &[u8] = b"data: {";
/// What a stream ends with.
const DONE_SUFFIX: &[u8] = b"\ndata: [DONE]";

/// The bytes of text in a request's body, with so many for each picture in it.
pub(super) fn estimate_text_bytes(body: &[u8]) -> usize {
    const BASE64_MARKER: &[u8] = b";base64,";
    let mut size = 0;
    let mut rest = body;
    while let Some(begin) = find_bytes(rest, BASE64_MARKER) {
        let data = &rest[begin + BASE64_MARKER.len()..];
        let end = data.iter().position(|byte| *byte == b'"').unwrap_or(data.len());
        size += begin + IMAGE_BYTES;
        rest = &data[end..];
    }
    size + rest.len()
}

fn find_bytes(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// A request on its way. Books what it used when it is dropped.
pub struct MeteredCall {
    chat: Arc<ChatService>,
    /// Its name in the ledger.
    call_id: TurnId,
    payer: UsagePayer,
    model: String,
    /// What was asked, in bytes of text.
    prompt_bytes: usize,
    /// What was told so far: in bytes of text, and in events of a stream.
    output_bytes: usize,
    stream_events: usize,
    /// What the provider says it took.
    usage: Option<Usage>,
    /// The end of the provider's own answer.
    tail: Vec<u8>,
    /// Whether the provider has accepted it.
    is_sent: bool,
    permit: Option<ConcurrencyPermit>,
}

impl ChatService {
    /// A place for a request without a session. Errors: why nothing new of the caller's may begin;
    /// `rate_limited`, `quota_exceeded`.
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
    /// Errors: `invalid_request`.
    pub(super) fn require_price(&self, model: &str) -> Result<()> {
        self.chat.require_price(model, &self.payer, &self.payer.user, None)
    }

    /// The provider has accepted a body of so many bytes of text.
    pub(super) fn record_sent(&mut self, model: &str, bytes: usize) {
        self.model = model.to_owned();
        self.prompt_bytes = bytes;
        self.is_sent = true;
    }

    /// The provider has accepted this prompt.
    pub(super) fn record_sent_prompt(&mut self, prompt: &Prompt) {
        let bytes = prompt.messages.iter().map(|message| message.content.len()).sum();
        self.record_sent(&prompt.model, bytes);
    }

    /// More of the reply's text.
    pub(super) fn record_output(&mut self, text: &str) {
        self.output_bytes += text.len();
    }

    /// What the provider says it took.
    pub(super) fn record_usage(&mut self, usage: Usage) {
        self.usage = Some(usage);
    }

    /// More of the provider's own answer.
    pub(super) fn record_forwarded(&mut self, bytes: &[u8]) {
        match bytes.windows(EVENT_PREFIX.len()).filter(|window| *window == EVENT_PREFIX).count() {
            0 if self.stream_events == 0 => self.output_bytes += bytes.len(),
            events => self.stream_events += events,
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
    }

    /// Where the provider says nothing, what its bytes may have taken.
    fn usage_or_estimate(&self) -> Usage {
        let tokens = |bytes: usize| (bytes / BYTES_PER_TOKEN) as u64;
        self.usage.or_else(|| find_usage(&self.tail)).unwrap_or_else(|| Usage {
            prompt_tokens: tokens(self.prompt_bytes),
            completion_tokens: tokens(self.output_bytes) + self.stream_events as u64,
            estimated: true,
            ..Usage::default()
        })
    }
}

impl MeteredCall {
    /// Whether the provider has told the end of a stream.
    pub(super) fn is_stream_done(&self) -> bool {
        self.tail.trim_ascii_end().ends_with(DONE_SUFFIX)
    }

    /// Books it and gives its place back, before its end is told: whoever asks next finds both done.
    pub(super) async fn finish_call(&mut self) {
        self.permit = None;
        if let Some(write) = self.spawn_ledger_write() {
            let _ = write.await;
        }
    }

    /// Books it, once. That goes on though the caller leaves; the server's end waits for it.
    fn spawn_ledger_write(&mut self) -> Option<JoinHandle<()>> {
        if !std::mem::take(&mut self.is_sent) {
            return None;
        }
        let usage = self.usage_or_estimate();
        let entry = LedgerEntry {
            turn_id: self.call_id.clone(),
            kind: CallKind::Direct,
            // There is none; no session has this name.
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
                tracing::error!(error = %error.chain(), "what a request without a session used was not booked");
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
