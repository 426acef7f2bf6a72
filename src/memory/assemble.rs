//! From a plan and a session to the prompt: the pieces in the order in which they are sent.

use super::Memory;
use super::budget::{MESSAGE_OVERHEAD, PROMPT_OVERHEAD, Plan};
use super::cut::cut;
use super::pictures::{self, Recent};
use super::project::{ProjectPart, ProjectShown};
use super::recall::{Asked, Recalled};
use super::strategies::Shares;
use super::summary::Shown;
use super::tokens::Vocabulary;
use super::tools::{Calling, matched, pair};
use crate::domain::attachment::render_text;
use crate::domain::image::MessageImage;
use crate::domain::memory::MemoryStrategy;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role, Session, Timestamp};
use crate::error::Result;
use crate::provider::{Prompt, PromptMessage};
use crate::store::{HistoryLimits, HistoryMessage};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// What a piece of the prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PieceKind {
    /// What the model is told before everything else.
    System,
    /// What the session's project says.
    Project,
    /// What stands for messages that are no longer verbatim.
    Summary,
    /// A message of the path, verbatim.
    Recent,
    /// An earlier message that belongs to the new one. It stands in front of that one's text, in the
    /// same message.
    Recalled,
    /// The message that is to be answered.
    New,
}

/// One message of the prompt, or a part of its last one.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// What it is.
    pub kind: PieceKind,
    /// Who speaks.
    pub role: Role,
    /// The stored messages it stands for.
    #[schema(value_type = Vec<String>)]
    pub message_ids: Vec<MessageId>,
    /// Tokens of its text, by the model's vocabulary or else o200k_base, and of its pictures.
    pub tokens: u32,
    /// How well it answers the new message, if it was recalled for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// How many pictures go with it.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "count")]
    #[schema(value_type = u32)]
    pub images: Vec<MessageImage>,
    /// The functions that it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub calls: Vec<ToolCall>,
    /// What came of calls; of the role `tool` these are what is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub results: Vec<ToolResult>,
    /// The text, exactly as sent.
    #[schema(value_type = String)]
    pub text: Arc<str>,
}

/// A prompt and how it came about.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assembled {
    /// The strategy.
    pub strategy: MemoryStrategy,
    /// The model.
    pub model: String,
    /// Its context window, in tokens.
    pub context_window: u32,
    /// What is kept for the reply, in tokens.
    pub reply_reserve: u32,
    /// Tokens of the whole prompt, the marks around its messages included: the sum of what is counted,
    /// times `tokenCorrection`.
    pub prompt_tokens: u32,
    /// The same as counted.
    #[serde(skip)]
    pub counted_tokens: u32,
    /// How many of the model's own tokens stand for one of o200k_base, as learned from what its
    /// provider reports; left out where it is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_correction: Option<f64>,
    /// Tokens from the beginning of the prompt that the next turn's prompt will begin with, too.
    pub cacheable_prefix_tokens: u32,
    /// What of the session's project is in it; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectShown>,
    /// What is sent, in order.
    pub pieces: Vec<Piece>,
}

/// The message that is to be answered.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id, once it is stored.
    pub id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Its text, and what is attached to it.
    pub text: Arc<str>,
    /// The pictures that go with it.
    pub images: Vec<MessageImage>,
    /// What came of the calls it answers.
    pub results: Vec<ToolResult>,
    /// The reply that wrote these calls. The path ends before it.
    pub calling: Option<Calling>,
    /// The time.
    pub at: Timestamp,
}

impl NewMessage {
    /// What a user says, before it is stored.
    pub fn said(text: impl Into<Arc<str>>, at: Timestamp) -> Self {
        let (images, results, calling) = Default::default();
        Self { id: None, role: Role::User, text: text.into(), images, results, calling, at }
    }
}

/// What of the path stands in the prompt verbatim.
struct Verbatim {
    /// Oldest first.
    messages: Vec<Recent>,
    /// Where they begin, in tokens of the path.
    begin: u64,
    /// Whether nothing of the path is missing.
    is_whole: bool,
    /// What the messages that are still to come may take before they begin elsewhere, in tokens, and
    /// how many they may be.
    left: (u32, usize),
}

impl Memory {
    /// Builds the prompt for the path that ends with `last`, and a new message behind it. Reads no
    /// more of the session and of its project than the plan allows, but for what recall does not
    /// know yet.
    pub async fn assemble(
        &self,
        session: &Session,
        plan: Plan,
        last: Option<&MessageId>,
        new: Option<NewMessage>,
    ) -> Result<Assembled> {
        let message = new.as_ref().map_or("", |new| &new.text);
        let project = self.project_part(session, &plan, message).await?;
        let shares = plan.shares(project.as_ref().map_or(0, |part| part.steady(&plan)));
        // Invariant: all parts together are within the room of this turn, the project among them.
        let taken = project.as_ref().map_or(0, ProjectPart::taken);
        let now = shares.within(plan.room.saturating_sub(taken));
        let read = self.read(session, now, last).await?;
        // Recall begins where this ends, so it need not read it again; of a path that is shown as a
        // whole, nothing is recalled.
        let is_short = read.first().is_none_or(|newest| newest.path_tokens <= u64::from(now.all));
        let known = if now.recalled > 0 && !is_short { read.clone() } else { Vec::new() };
        let verbatim = verbatim(read, &plan, shares, now);
        // Both are beside the point of a turn: where they fail, the window is there all the same.
        let recalled = self.recalled(session, &plan, now, last, new.as_ref(), known, &verbatim);
        let recalled = or_none(session, "nothing is recalled", recalled.await);
        let summary = self.summary_before(session, &plan, now, last, &verbatim).await;
        let summary = or_none(session, "the summary is left out", summary);

        let new_tokens = plan.new_tokens + MESSAGE_OVERHEAD;
        let (left, messages_left) = verbatim.left;
        let is_new_part_of_next = recalled.is_empty();
        let goes_on = messages_left >= 2 && new_tokens < left;
        let is_whole_project = project.as_ref().is_none_or(|part| part.shown.is_whole());
        let (project, shown) = match project {
            Some(part) => (part.piece.map(project_piece), Some(part.shown)),
            None => (None, None),
        };
        let system = (!plan.system.is_empty()).then(|| Piece {
            tokens: plan.system_tokens,
            ..Piece::plain(PieceKind::System, Role::System, plan.system.clone())
        });
        let recent = verbatim.messages.into_iter().map(|message| Piece {
            message_ids: vec![message.id],
            tokens: message.tokens,
            images: message.images,
            calls: message.calls,
            results: message.results,
            ..Piece::plain(PieceKind::Recent, message.role, message.content.into())
        });
        let recalled = recalled.into_iter().map(|message| Piece {
            message_ids: vec![message.id],
            tokens: message.tokens,
            score: Some(message.score),
            ..Piece::plain(PieceKind::Recalled, Role::User, message.text.into())
        });
        // Only users show pictures, and only some models look at them.
        let can_show = plan.sight.is_some();
        let (calling, new) = match new {
            Some(message) => {
                let beside = plan.beside_tokens;
                let tokens = plan.new_tokens.saturating_sub(beside);
                let (calling, message) = answered(message);
                let piece = Piece {
                    message_ids: message.id.into_iter().collect(),
                    tokens,
                    images: match message.role {
                        Role::User if can_show => message.images,
                        _ => Vec::new(),
                    },
                    results: message.results,
                    ..Piece::plain(PieceKind::New, message.role, message.text)
                };
                (calling, Some(piece))
            }
            None => (None, None),
        };
        // Functions that are offered are no piece, but take their room.
        let called = calling.as_ref().map_or(0, |calling| calling.tokens + MESSAGE_OVERHEAD);
        let offered_tokens = plan.beside_tokens.saturating_sub(called);
        let pieces: Vec<Piece> = system
            .into_iter()
            .chain(project)
            .chain(summary)
            .chain(recent)
            .chain(recalled)
            .chain(calling)
            .chain(new)
            .collect();
        let counted_tokens = PROMPT_OVERHEAD + framed_tokens(&pieces, |_| true) + offered_tokens;
        let counted_prefix = framed_tokens(&pieces, |piece| match piece.kind {
            PieceKind::System => true,
            PieceKind::Project => is_whole_project,
            PieceKind::Summary | PieceKind::Recent => goes_on && is_whole_project,
            PieceKind::Recalled => false,
            PieceKind::New => goes_on && is_whole_project && is_new_part_of_next,
        });
        Ok(Assembled {
            strategy: plan.strategy,
            model: plan.model,
            context_window: plan.context_window,
            reply_reserve: plan.reply_reserve,
            prompt_tokens: plan.correction.own(counted_tokens),
            counted_tokens,
            token_correction: plan.correction.factor(),
            cacheable_prefix_tokens: plan.correction.own(counted_prefix),
            project: shown,
            pieces,
        })
    }

    /// The end of the path, newest first, as much of it as may be shown verbatim.
    async fn read(
        &self,
        session: &Session,
        now: Shares,
        last: Option<&MessageId>,
    ) -> Result<Vec<HistoryMessage>> {
        let Some(last) = last else { return Ok(Vec::new()) };
        let bounds = HistoryLimits {
            max_messages: now.messages,
            max_tokens: now.all,
            token_overhead: MESSAGE_OVERHEAD,
            max_part_bytes: pictures::MAX_BYTES,
        };
        if now.recent() == 0 {
            // Nothing is verbatim unless all of it is: the last message knows how much that would be.
            let only = HistoryLimits { max_messages: 1, max_tokens: u32::MAX, ..bounds };
            let read = self.store.recent_history(&session.id, last, only).await?;
            if read.first().is_none_or(|newest| newest.path_tokens > u64::from(now.all)) {
                return Ok(read);
            }
        }
        self.store.recent_history(&session.id, last, bounds).await
    }

    /// The piece that stands for what comes before the verbatim messages, if the strategy wants one
    /// and one was written.
    async fn summary_before(
        &self,
        session: &Session,
        plan: &Plan,
        now: Shares,
        last: Option<&MessageId>,
        verbatim: &Verbatim,
    ) -> Result<Option<Piece>> {
        let up_to = match verbatim.messages.first() {
            Some(oldest) => oldest.parent_id.as_ref(),
            None => last,
        };
        let Some(up_to) = up_to.filter(|_| now.summary > 0 && !verbatim.is_whole) else {
            return Ok(None);
        };
        let shown = self.summarized(session, up_to, now.summary, plan.vocabulary).await?;
        let Some(Shown { text, tokens, of }) = shown else { return Ok(None) };
        let message_ids = match plan.patience {
            // Only who looks at the prompt wants to know all of them.
            None => self.recall.ids(session, up_to, of.tokens_before..of.path_tokens).await?,
            Some(_) => vec![of.first_message, of.last_message],
        };
        let piece = Piece::plain(PieceKind::Summary, Role::System, text.into());
        Ok(Some(Piece { message_ids, tokens, ..piece }))
    }

    /// The earlier messages that belong to the new one, if the strategy wants any and something of
    /// the path is not in the prompt anyway.
    #[allow(clippy::too_many_arguments)]
    async fn recalled(
        &self,
        session: &Session,
        plan: &Plan,
        now: Shares,
        last: Option<&MessageId>,
        new: Option<&NewMessage>,
        read: Vec<HistoryMessage>,
        verbatim: &Verbatim,
    ) -> Result<Vec<Recalled>> {
        let (Some(last), Some(new)) = (last, new) else { return Ok(Vec::new()) };
        if now.recalled == 0 || verbatim.is_whole || new.role != Role::User {
            return Ok(Vec::new());
        }
        let asked = Asked {
            session: session.clone(),
            last: last.clone(),
            text: new.text.clone(),
            at: new.at,
            read,
            before: verbatim.begin,
            room: now.recalled,
            vocabulary: plan.vocabulary,
        };
        let found = self.recall.recall(asked, plan.patience).await?;
        if found.is_none() {
            tracing::debug!(session.id = %session.id, "nothing is recalled: the index is not there yet");
        }
        Ok(found.unwrap_or_default())
    }
}

/// What there is, or nothing and a line in the log.
fn or_none<T: Default>(session: &Session, outcome: &'static str, found: Result<T>) -> T {
    found.unwrap_or_else(|error| {
        tracing::warn!(session.id = %session.id, error = %error.chain(), outcome, "memory is short");
        T::default()
    })
}

/// Of the messages that were read, newest first, those that stand in the prompt.
fn verbatim(read: Vec<HistoryMessage>, plan: &Plan, steady: Shares, now: Shares) -> Verbatim {
    let has_root = read.last().is_some_and(|oldest| oldest.parent_id.is_none());
    let end = read.first().map_or(u64::MAX, |newest| newest.path_tokens + 1);
    let counted: Vec<(HistoryMessage, u32)> = read
        .into_iter()
        .map(|message| {
            let tokens = match plan.vocabulary {
                Vocabulary::O200k => message.tokens,
                vocabulary => {
                    let calls = tool::format_calls(&tool::parse_calls(&message.parts));
                    let told = render_text(&message.content, &message.parts);
                    vocabulary.count(&told).saturating_add(vocabulary.count(&calls))
                }
            };
            (message, tokens)
        })
        .collect();
    let framed = |(_, tokens): &(HistoryMessage, u32)| tokens.saturating_add(MESSAGE_OVERHEAD);
    let all = counted.iter().map(framed).fold(0, u32::saturating_add);
    // A path that fits as a whole is not cut for the sake of parts that would be about nothing.
    let is_whole = has_root && all <= now.all;
    let room = if is_whole { now.all } else { now.recent() };
    let (mut recent, is_all) = pictures::fit(counted, room, plan.sight);
    if !is_whole && now.messages == u32::MAX {
        cut(&mut recent, steady.recent(), room);
    }
    let shown = recent.iter().map(|message| message.tokens + MESSAGE_OVERHEAD).sum();
    let messages_left = (now.messages as usize).saturating_sub(recent.len());
    let begin = recent.last().map_or(end, |oldest| oldest.tokens_before);
    pair(&mut recent);
    recent.reverse();
    Verbatim {
        messages: recent,
        begin: if is_whole { 0 } else { begin },
        is_whole,
        left: (if is_all || !is_whole { room.saturating_sub(shown) } else { 0 }, messages_left),
    }
}

/// A new message, and in front of it the reply whose calls it answers, both with what belongs
/// together alone.
fn answered(mut message: NewMessage) -> (Option<Piece>, NewMessage) {
    let results = std::mem::take(&mut message.results);
    let Some(calling) = message.calling.take() else { return (None, message) };
    let (calls, results) = matched(calling.calls, results);
    message.results = results;
    let piece = Piece {
        message_ids: vec![calling.id],
        tokens: calling.tokens,
        calls,
        ..Piece::plain(PieceKind::New, Role::Assistant, calling.text.into())
    };
    (Some(piece), message)
}

impl Piece {
    fn plain(kind: PieceKind, role: Role, text: Arc<str>) -> Self {
        let (message_ids, images, calls, results) = Default::default();
        Self { kind, role, message_ids, tokens: 0, score: None, images, calls, results, text }
    }
}

fn project_piece((text, tokens): (Arc<str>, u32)) -> Piece {
    Piece { tokens, ..Piece::plain(PieceKind::Project, Role::System, text) }
}

fn count<S: Serializer>(images: &[MessageImage], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(images.len() as u64)
}

/// The tokens of pieces with the marks around them. What is recalled is part of the new message.
fn framed_tokens(pieces: &[Piece], counts: impl Fn(&Piece) -> bool) -> u32 {
    let framed = |piece: &Piece| match piece.kind {
        PieceKind::Recalled => piece.tokens,
        _ => piece.tokens + MESSAGE_OVERHEAD,
    };
    pieces.iter().filter(|piece| counts(piece)).map(framed).sum()
}

impl Assembled {
    /// What the model is sent.
    pub fn prompt(&self, settings: &SessionSettings) -> Prompt {
        let mut recalled = String::new();
        let mut messages = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            if piece.kind == PieceKind::Recalled {
                recalled.push_str(&piece.text);
                continue;
            }
            let content = match recalled.is_empty() {
                true => piece.text.clone(),
                false => (std::mem::take(&mut recalled) + &piece.text).into(),
            };
            messages.push(PromptMessage {
                role: piece.role,
                content,
                images: piece.images.clone(),
                calls: piece.calls.clone(),
                results: piece.results.clone(),
            });
        }
        Prompt {
            model: self.model.clone(),
            messages,
            temperature: settings.temperature,
            top_p: settings.top_p,
            max_output_tokens: settings.max_output_tokens,
            further: settings.extra_params.clone(),
            cache_key: None,
        }
    }

    /// Tokens of the project and the earlier messages in it, the marks around them included.
    pub fn memory_tokens(&self) -> u32 {
        let is_memory = |kind| !matches!(kind, PieceKind::System | PieceKind::New);
        framed_tokens(&self.pieces, |piece| is_memory(piece.kind))
    }

    /// How many earlier messages are in it.
    pub fn earlier_messages(&self) -> usize {
        let is_earlier = |kind| matches!(kind, PieceKind::Recent | PieceKind::Recalled);
        self.pieces.iter().filter(|piece| is_earlier(piece.kind)).count()
    }
}
