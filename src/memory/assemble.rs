//! From a plan and a session to the prompt: the pieces in the order in which they are sent.

use super::Memory;
use super::budget::{MESSAGE_OVERHEAD, PROMPT_OVERHEAD, Plan};
use super::pictures;
use super::project::ProjectShown;
use super::tokens::Vocabulary;
use crate::domain::image::Image;
use crate::domain::memory::Strategy;
use crate::domain::session::Settings;
use crate::domain::{MessageId, Role, Session};
use crate::error::Result;
use crate::provider::{Prompt, PromptMessage};
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
    /// A message of the path, verbatim.
    Recent,
    /// The message that is to be answered.
    New,
}

/// One message of the prompt.
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
    /// How many pictures go with it.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "count")]
    #[schema(value_type = u32)]
    pub images: Vec<Image>,
    /// The text, exactly as sent.
    #[schema(value_type = String)]
    pub text: Arc<str>,
}

/// A prompt and how it came about.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assembled {
    /// The strategy.
    pub strategy: Strategy,
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
    /// Its text.
    pub text: Arc<str>,
    /// The pictures that go with it.
    pub images: Vec<Image>,
}

impl Memory {
    /// Builds the prompt for the path that ends with `last`, and a new message behind it. Reads no
    /// more of the session and of its project than the plan allows.
    pub async fn assemble(
        &self,
        session: &Session,
        mut plan: Plan,
        last: Option<&MessageId>,
        new: Option<NewMessage>,
    ) -> Result<Assembled> {
        let message = new.as_ref().map_or("", |new| &new.text);
        let (project, shown) = match self.project_part(session, &plan, message).await? {
            Some(part) => (part.piece.map(project_piece), Some(part.shown)),
            None => (None, None),
        };
        let is_whole_project = shown.as_ref().is_none_or(ProjectShown::is_whole);
        // Invariant: the project is part of what memory may take.
        let taken = project.as_ref().map_or(0, |piece| piece.tokens + MESSAGE_OVERHEAD);
        plan.bounds.tokens = plan.bounds.tokens.saturating_sub(taken);
        let read = match last {
            Some(last) => self.store.tail(&session.id, last, plan.bounds).await?,
            None => Vec::new(),
        };
        let is_whole_path = last.is_none() || read.last().is_some_and(|oldest| oldest.is_root);
        let (mut recent, is_all) =
            pictures::fit(read, plan.bounds.tokens, plan.image_tokens, |message| {
                match plan.vocabulary {
                    Vocabulary::O200k => message.tokens,
                    vocabulary => vocabulary.count(&message.content),
                }
            });
        // The next prompt begins the same way if nothing was left out, and nothing will be.
        let goes_on = is_whole_path
            && is_all
            && is_whole_project
            && recent.len() + 2 <= plan.bounds.messages as usize;
        recent.reverse();

        let system = (!plan.system.is_empty()).then(|| Piece {
            kind: PieceKind::System,
            role: Role::System,
            message_ids: Vec::new(),
            tokens: plan.system_tokens,
            images: Vec::new(),
            text: plan.system.clone(),
        });
        // A tool's result means nothing to a model that is not shown the call.
        let recent =
            recent.into_iter().filter(|message| message.role != Role::Tool).map(|message| Piece {
                kind: PieceKind::Recent,
                role: message.role,
                message_ids: vec![message.id],
                tokens: message.tokens,
                images: message.images,
                text: message.content.into(),
            });
        // Only users show pictures, and only some models look at them.
        let can_show = plan.image_tokens.is_some();
        let new = new.map(|message| Piece {
            kind: PieceKind::New,
            role: message.role,
            message_ids: message.id.into_iter().collect(),
            tokens: plan.new_tokens,
            images: match message.role {
                Role::User if can_show => message.images,
                _ => Vec::new(),
            },
            text: message.text,
        });
        let pieces: Vec<Piece> =
            system.into_iter().chain(project).chain(recent).chain(new).collect();
        let counted_tokens = PROMPT_OVERHEAD + framed_tokens(&pieces, |_| true);
        let counted_prefix = framed_tokens(&pieces, |piece| match piece.kind {
            PieceKind::System => true,
            PieceKind::Project => is_whole_project,
            PieceKind::Recent | PieceKind::New => goes_on,
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
}

fn project_piece((text, tokens): (Arc<str>, u32)) -> Piece {
    Piece {
        kind: PieceKind::Project,
        role: Role::System,
        message_ids: Vec::new(),
        tokens,
        images: Vec::new(),
        text,
    }
}

fn count<S: Serializer>(images: &[Image], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(images.len() as u64)
}

fn framed_tokens(pieces: &[Piece], counts: impl Fn(&Piece) -> bool) -> u32 {
    pieces.iter().filter(|piece| counts(piece)).map(|piece| piece.tokens + MESSAGE_OVERHEAD).sum()
}

impl Assembled {
    /// What the model is sent.
    pub fn prompt(&self, settings: &Settings) -> Prompt {
        let message = |piece: &Piece| PromptMessage {
            role: piece.role,
            content: piece.text.clone(),
            images: piece.images.clone(),
        };
        Prompt {
            model: self.model.clone(),
            messages: self.pieces.iter().map(message).collect(),
            temperature: settings.temperature,
            top_p: settings.top_p,
            max_output_tokens: settings.max_output_tokens,
            cache_key: None,
        }
    }

    /// Tokens of the project and the earlier messages in it, the marks around them included.
    pub fn memory_tokens(&self) -> u32 {
        let is_memory = |kind| matches!(kind, PieceKind::Project | PieceKind::Recent);
        framed_tokens(&self.pieces, |piece| is_memory(piece.kind))
    }

    /// How many earlier messages are in it.
    pub fn recent_messages(&self) -> usize {
        self.pieces.iter().filter(|piece| piece.kind == PieceKind::Recent).count()
    }
}
