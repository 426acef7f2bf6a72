//! Requests without a session: admitted on the same terms as turns, and booked like them once they
//! are over, also where the caller has left before.

use super::terms::Slot;
use super::{Chat, Standing};
use crate::clock;
use crate::domain::quota::{UsagePayer, compute_cost};
use crate::domain::{CallKind, Principal, SessionId, Status, TurnId, Usage};
use crate::error::Result;
use crate::provider::{Prompt, find_usage};
use crate::store::LedgerEntry;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What is kept of an answer's end to find in it what it cost.
const TAIL: usize = 32 << 10;
/// Where providers say nothing, this many bytes of text or JSON count as a token, and an event of a
/// stream as one …
const BYTES_PER_TOKEN: usize = 4;
/// … and a picture as so many bytes.
const PICTURE: usize = 1_500 * BYTES_PER_TOKEN;

/// What an event of a stream begins with.
const EVENT: &[u8] = b"data: {";
/// What a stream ends with.
const DONE: &[u8] = b"\ndata: [DONE]";

/// The bytes of text in a request's body, with so many for each picture in it.
pub(super) fn text_size(body: &[u8]) -> usize {
    const PICTURE_DATA: &[u8] = b";base64,";
    let (mut size, mut rest) = (0, body);
    while let Some(begin) = find(rest, PICTURE_DATA) {
        let data = &rest[begin + PICTURE_DATA.len()..];
        let end = data.iter().position(|byte| *byte == b'"').unwrap_or(data.len());
        size += begin + PICTURE;
        rest = &data[end..];
    }
    size + rest.len()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A request on its way. Books what it used when it is dropped.
pub struct Direct {
    chat: Arc<Chat>,
    /// Its name in the ledger.
    call: TurnId,
    payer: UsagePayer,
    model: String,
    /// What was asked, in bytes of text.
    asked: usize,
    /// What was told so far: in bytes of text, and in events of a stream.
    told: usize,
    events: usize,
    /// What the provider says it took.
    usage: Option<Usage>,
    /// The end of the provider's own answer.
    tail: Vec<u8>,
    /// Whether the provider has accepted it.
    is_sent: bool,
    place: Option<Slot>,
}

impl Chat {
    /// A place for a request without a session. Errors: why nothing new of the caller's may begin;
    /// `rate_limited`, `quota_exceeded`.
    pub async fn admit(self: &Arc<Self>, who: &Principal, standing: Standing) -> Result<Direct> {
        standing.refusal.map_or(Ok(()), Err)?;
        let place = self.slots.take(&who.user);
        place.refusal(self.terms.turns_at_once).map_or(Ok(()), Err)?;
        let payer = UsagePayer { user: who.user.clone(), key: standing.key };
        self.ensure_purses(&payer, &who.user, None, clock::now()).await?;
        Ok(Direct {
            chat: self.clone(),
            call: TurnId::generate(),
            payer,
            model: String::new(),
            asked: 0,
            told: 0,
            events: 0,
            usage: None,
            tail: Vec::new(),
            is_sent: false,
            place: Some(place),
        })
    }
}

impl Direct {
    /// Errors: `invalid_request`.
    pub(super) fn ensure_priced(&self, model: &str) -> Result<()> {
        self.chat.ensure_priced(model, &self.payer, &self.payer.user, None)
    }

    /// The provider has accepted a body of so many bytes of text.
    pub(super) fn sent(&mut self, model: &str, bytes: usize) {
        (self.model, self.asked, self.is_sent) = (model.to_owned(), bytes, true);
    }

    /// The provider has accepted this prompt.
    pub(super) fn sent_prompt(&mut self, prompt: &Prompt) {
        let bytes = prompt.messages.iter().map(|message| message.content.len()).sum();
        self.sent(&prompt.model, bytes);
    }

    /// More of the reply's text.
    pub(super) fn told(&mut self, text: &str) {
        self.told += text.len();
    }

    /// What the provider says it took.
    pub(super) fn used(&mut self, usage: Usage) {
        self.usage = Some(usage);
    }

    /// More of the provider's own answer.
    pub(super) fn passed(&mut self, bytes: &[u8]) {
        match bytes.windows(EVENT.len()).filter(|window| *window == EVENT).count() {
            0 if self.events == 0 => self.told += bytes.len(),
            events => self.events += events,
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// Where the provider says nothing, what its bytes may have taken.
    fn usage(&self) -> Usage {
        let tokens = |bytes: usize| (bytes / BYTES_PER_TOKEN) as u64;
        self.usage.or_else(|| find_usage(&self.tail)).unwrap_or_else(|| Usage {
            prompt_tokens: tokens(self.asked),
            completion_tokens: tokens(self.told) + self.events as u64,
            estimated: true,
            ..Usage::default()
        })
    }
}

impl Direct {
    /// Whether the provider has told the end of a stream.
    pub(super) fn is_done(&self) -> bool {
        self.tail.trim_ascii_end().ends_with(DONE)
    }

    /// Books it and gives its place back, before its end is told: whoever asks next finds both done.
    pub(super) async fn booked(&mut self) {
        self.place = None;
        if let Some(booking) = self.book() {
            let _ = booking.await;
        }
    }

    /// Books it, once. That goes on though the caller leaves; the server's end waits for it.
    fn book(&mut self) -> Option<JoinHandle<()>> {
        if !std::mem::take(&mut self.is_sent) {
            return None;
        }
        let usage = self.usage();
        let entry = LedgerEntry {
            turn_id: self.call.clone(),
            kind: CallKind::Direct,
            // There is none; no session has this name.
            session_id: SessionId::trusted(""),
            owner: self.payer.user.clone(),
            project_id: None,
            payer: self.payer.clone(),
            cost: compute_cost(&self.chat.terms.prices, &self.model, &usage),
            model: Some(std::mem::take(&mut self.model)),
            status: Status::Complete,
            usage,
            ended_at: clock::now(),
        };
        let chat = self.chat.clone();
        Some(self.chat.turns.spawn(async move {
            if let Err(error) = chat.store.record_usage(entry).await {
                tracing::error!(error = %error.chain(), "what a request without a session used was not booked");
            }
        }))
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        drop(self.book());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_counts_as_one_however_large_its_data_is() {
        let body = |data: &str| format!(r#"{{"url":"data:image/png;base64,{data}","text":"hi"}}"#);
        let (small, large) = (body("QUJD"), body(&"QUJD".repeat(10_000)));
        assert_eq!(text_size(small.as_bytes()), text_size(large.as_bytes()));
        assert_eq!(text_size(b"{\"text\":\"hi\"}"), 13);
    }
}
