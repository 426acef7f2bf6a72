//! Requests without a session: admitted on the same terms as turns, and booked like them once they
//! are over, also where the caller has left before.

use super::terms::Slot;
use super::{Chat, Standing};
use crate::clock;
use crate::domain::quota::{Payer, cost};
use crate::domain::{CallKind, Principal, SessionId, Status, TurnId, Usage};
use crate::error::Result;
use crate::provider::{Prompt, usage_in};
use crate::store::LedgerEntry;
use std::sync::Arc;

/// What is kept of an answer's end to find in it what it cost.
const TAIL: usize = 32 << 10;
/// Where providers say nothing, this many bytes of text or JSON count as a token.
const BYTES_PER_TOKEN: usize = 4;

/// A request on its way. Books what it used when it is dropped.
pub struct Direct {
    chat: Arc<Chat>,
    payer: Payer,
    model: String,
    /// What was asked and told so far, in bytes.
    asked: usize,
    told: usize,
    /// What the provider says it took.
    usage: Option<Usage>,
    /// The end of the provider's own answer.
    tail: Vec<u8>,
    /// Whether the provider has accepted it.
    is_sent: bool,
    _place: Slot,
}

impl Chat {
    /// A place for a request without a session. Errors: why nothing new of the caller's may begin;
    /// `rate_limited`, `quota_exceeded`.
    pub async fn admit(self: &Arc<Self>, who: &Principal, standing: Standing) -> Result<Direct> {
        standing.refusal.map_or(Ok(()), Err)?;
        let place = self.slots.take(&who.user);
        place.refusal(self.terms.turns_at_once).map_or(Ok(()), Err)?;
        let payer = Payer { user: who.user.clone(), key: standing.key };
        self.ensure_purses(&payer, &who.user, None, clock::now()).await?;
        Ok(Direct {
            chat: self.clone(),
            payer,
            model: String::new(),
            asked: 0,
            told: 0,
            usage: None,
            tail: Vec::new(),
            is_sent: false,
            _place: place,
        })
    }
}

impl Direct {
    /// The provider has accepted a body of so many bytes.
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
        self.told += bytes.len();
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// Where the provider says nothing, what its bytes may have taken.
    fn usage(&self) -> Usage {
        let tokens = |bytes: usize| (bytes / BYTES_PER_TOKEN) as u64;
        self.usage.or_else(|| usage_in(&self.tail)).unwrap_or_else(|| Usage {
            prompt_tokens: tokens(self.asked),
            completion_tokens: tokens(self.told),
            estimated: true,
            ..Usage::default()
        })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        if !self.is_sent {
            return;
        }
        let usage = self.usage();
        let entry = LedgerEntry {
            turn_id: TurnId::generate(),
            kind: CallKind::Direct,
            // There is none; no session has this name.
            session_id: SessionId::trusted(""),
            owner: self.payer.user.clone(),
            project_id: None,
            payer: self.payer.clone(),
            cost: cost(&self.chat.terms.prices, &self.model, &usage),
            model: Some(std::mem::take(&mut self.model)),
            status: Status::Complete,
            usage,
            at: clock::now(),
        };
        let chat = self.chat.clone();
        // Tracked: the server's end waits for it.
        self.chat.turns.spawn(async move {
            if let Err(error) = chat.store.book(entry).await {
                tracing::error!(error = %error.chain(), "what a request without a session used was not booked");
            }
        });
    }
}
