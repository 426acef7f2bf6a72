//! Memory decides which parts of a session go into the prompt, within a token budget that is never
//! exceeded.
//!
//! [`Memory::plan_prompt`] computes the budget without I/O, [`Memory::assemble_prompt`] reads the
//! end of the path and builds the prompt. Turns and previews share both, so a preview shows exactly
//! the prompt that a turn would send.

mod assemble;
mod budget;
mod context_windows;
mod file_relevance;
mod history;
mod image_tokens;
mod preview;
mod project;
mod prompt_limits;
pub mod rank;
mod recall;
mod sections;
mod strategies;
mod summary;
mod token_ratio;
pub mod tokens;
mod tool_calls;
mod window;
mod window_cut;

pub use assemble::{AssembledPrompt, PromptInput};
pub use budget::PromptBudget;
pub use context_windows::ContextWindows;
pub use image_tokens::ImageTokenCounter;
pub use project::ProjectInclusion;
pub use sections::{PromptSection, SectionKind};
pub use token_ratio::{PromptCount, TokenRatio};
pub use tool_calls::CallingReply;

use crate::cpu_pool::run_cpu;
use crate::domain::SessionId;
use crate::domain::image::MessageImage;
use crate::domain::memory::{MemoryOptions, MemoryStrategy};
use crate::domain::model::{self, TokenVocabulary};
use crate::domain::session::SessionSettings;
use crate::error::Result;
use crate::prompts::PromptTemplates;
use crate::provider::embeddings::Embedder;
use crate::store::{MessageSize, Store};
use image_tokens::TokenRange;
use prompt_limits::PromptLimitTracker;
use recall::RecallEngine;
use std::sync::Arc;
use std::time::Duration;
use token_ratio::TokenRatioTracker;

/// Default time that a turn waits for recall before it continues without recalled messages.
pub const RECALL_TIMEOUT: Duration = Duration::from_millis(50);

/// Memory settings of the server, used where neither the session nor the request has its own.
#[derive(Debug, Clone)]
pub struct MemoryDefaults {
    pub strategy: MemoryStrategy,
    /// Token budget of the strategies that have one. If unset, the smaller of a quarter of the
    /// context window and 16,000.
    pub max_tokens: Option<u32>,
    /// Context window of all models, in tokens. If unset, it depends on the model.
    pub context_window: Option<u32>,
    pub model: String,
}

/// Builds the prompts of turns and previews.
pub struct Memory {
    store: Arc<dyn Store>,
    prompts: Arc<PromptTemplates>,
    defaults: MemoryDefaults,
    /// The rendered system prompt of sessions that do not set one.
    default_system: SystemPrompt,
    /// Bytes that the template adds around a session's own system prompt, at most.
    template_bytes: u32,
    recall: Arc<RecallEngine>,
    recall_timeout: Duration,
    context_windows: ContextWindows,
    token_ratios: TokenRatioTracker,
    prompt_limits: PromptLimitTracker,
}

/// A rendered system prompt and its size in o200k_base tokens.
#[derive(Debug, Clone)]
struct SystemPrompt {
    text: Arc<str>,
    tokens: u32,
}

/// The new message as far as the budget depends on it.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    pub text: &'a str,
    /// Tokens of `text` in o200k_base.
    pub tokens: u32,
    pub images: &'a [MessageImage],
    /// Tokens that the prompt needs because of this message: the reply whose calls it answers and
    /// the functions that are offered.
    pub extra_tokens: u32,
}

impl Memory {
    /// Errors: a system prompt template that fails to render.
    pub fn new(
        store: Arc<dyn Store>,
        prompts: Arc<PromptTemplates>,
        defaults: MemoryDefaults,
    ) -> Result<Self> {
        let text = prompts.render_system(None)?;
        let default_system =
            SystemPrompt { tokens: tokens::count_tokens(&text), text: text.into() };
        // Rendering a single byte measures the template's own text. As long as the template
        // contains the instructions once, their bytes plus these are an upper bound of the rendered
        // size.
        let template_bytes = count_bytes(&prompts.render_system(Some("x"))?);
        let recall = Arc::new(RecallEngine::new(store.clone()));
        Ok(Self {
            store,
            prompts,
            defaults,
            default_system,
            template_bytes,
            recall,
            recall_timeout: RECALL_TIMEOUT,
            context_windows: ContextWindows::default(),
            token_ratios: TokenRatioTracker::default(),
            prompt_limits: PromptLimitTracker::default(),
        })
    }

    /// Sets the context windows of single models; they override the window of all models.
    #[must_use]
    pub fn with_context_windows(self, context_windows: ContextWindows) -> Self {
        Self { context_windows, ..self }
    }

    /// Sets how long a turn waits for recall.
    #[must_use]
    pub fn with_recall_timeout(self, recall_timeout: Duration) -> Self {
        Self { recall_timeout, ..self }
    }

    /// Lets recall compare embeddings in addition to words.
    #[must_use]
    pub fn with_embedder(self, embedder: Arc<dyn Embedder>) -> Self {
        let recall = Arc::new(RecallEngine::new(self.store.clone()).with_embedder(embedder));
        Self { recall, ..self }
    }

    /// Drops the cached index of a deleted session.
    pub fn forget_session(&self, session: &SessionId) {
        self.recall.forget_session(session);
    }

    /// Number of sessions in the recall cache, and their approximate size in bytes.
    pub fn cache_stats(&self) -> (usize, usize) {
        self.recall.cache_stats()
    }

    /// Model of turns that do not name one.
    pub fn default_model(&self) -> &str {
        &self.defaults.model
    }

    /// Tokens that prompt and reply of a model may have together. Falls back to 128,000 for unknown
    /// models.
    pub fn context_window(&self, model: &str) -> u32 {
        self.configured_context_window(model)
            .unwrap_or_else(|| context_windows::known_or_default(model))
    }

    /// The context window if it was configured or the model is known.
    pub fn known_context_window(&self, model: &str) -> Option<u32> {
        self.configured_context_window(model).or_else(|| model::context_window(model))
    }

    fn configured_context_window(&self, model: &str) -> Option<u32> {
        self.context_windows.configured(model).or(self.defaults.context_window)
    }

    /// Whether a message definitely fits, judging by its size only. `false` means that only
    /// [`Memory::plan_prompt`], which counts tokens, can decide.
    pub fn definitely_fits(&self, settings: &SessionSettings, new: MessageSize) -> bool {
        let model = settings.model.as_deref().unwrap_or(&self.defaults.model);
        let in_o200k = TokenVocabulary::for_model(model) == TokenVocabulary::O200k;
        // A text never has more tokens than bytes, in any vocabulary, so bytes are a safe upper
        // bound when no token count is available.
        let system = match settings.system_prompt.as_deref() {
            Some(own) => count_bytes(own).saturating_add(self.template_bytes),
            None if in_o200k => self.default_system.tokens,
            None => count_bytes(&self.default_system.text),
        };
        let text_tokens = if in_o200k { new.tokens } else { new.bytes };
        let ratio = self.token_ratios.ratio_of(model);
        let image_counter = ImageTokenCounter::for_model(model, ratio);
        let image_tokens = image_counter.map_or(0, |counter| counter.max_tokens(new.images));
        let new_tokens = text_tokens.saturating_add(image_tokens);
        budget::available_memory_tokens(
            self.context_window(model),
            settings.max_output_tokens,
            ratio,
            system,
            new_tokens,
        )
        .is_some()
    }

    /// Computes the budget of a turn with these settings and this new message. Counts tokens on the
    /// calling thread. Errors: `context_too_long` if no room is left for a reply.
    pub fn plan_prompt(
        &self,
        settings: &SessionSettings,
        new: Option<PlanInput<'_>>,
    ) -> Result<PromptBudget> {
        let model = settings.model.clone().unwrap_or_else(|| self.defaults.model.clone());
        let vocabulary = TokenVocabulary::for_model(&model);
        let system = match settings.system_prompt.as_deref() {
            None => self.default_system.text.clone(),
            own => self.prompts.render_system(own)?.into(),
        };
        // The default prompt is shared by pointer, so its stored count applies.
        let is_default = Arc::ptr_eq(&system, &self.default_system.text);
        let system_tokens = match vocabulary {
            TokenVocabulary::O200k if is_default => self.default_system.tokens,
            vocabulary => vocabulary.count_tokens(&system),
        };
        let ratio = self.token_ratios.ratio_of(&model);
        let image_counter = ImageTokenCounter::for_model(&model, ratio);
        let new_message = new.map(|new| {
            let text_tokens = match vocabulary {
                TokenVocabulary::O200k => new.tokens,
                TokenVocabulary::Cl100k => vocabulary.count_tokens(new.text),
            };
            let images =
                image_counter.map_or(TokenRange::default(), |it| it.count_images(new.images));
            let total = |image_tokens: u32| {
                text_tokens.saturating_add(image_tokens).saturating_add(new.extra_tokens)
            };
            TokenRange { min: total(images.min), max: total(images.max) }
        });
        let context_window = self.context_window(&model);
        let fallback =
            MemoryOptions { strategy: Some(self.defaults.strategy), ..MemoryOptions::default() };
        let options = settings.memory.with_defaults(fallback);
        let default_tokens = self
            .defaults
            .max_tokens
            .unwrap_or_else(|| budget::default_memory_tokens(context_window));
        let costs = budget::PromptCosts {
            model,
            vocabulary,
            context_window,
            token_ratio: ratio,
            system,
            system_tokens,
            new_message: new_message.unwrap_or_default(),
            image_counter,
        };
        let budget = costs.into_budget(options, settings.max_output_tokens, default_tokens)?;
        Ok(PromptBudget {
            recall_timeout: Some(self.recall_timeout),
            extra_tokens: new.map_or(0, |new| new.extra_tokens),
            ..budget
        })
    }
}

impl Memory {
    /// [`Memory::plan_prompt`] for async callers: counts long texts on a thread for computing.
    pub async fn plan_turn(
        self: &Arc<Self>,
        settings: &SessionSettings,
        new: PlanInput<'_>,
    ) -> Result<PromptBudget> {
        let own = settings.system_prompt.as_deref().unwrap_or_default();
        if own.len() + new.text.len() <= tokens::MAX_INLINE_BYTES {
            return self.plan_prompt(settings, Some(new));
        }
        let memory = self.clone();
        let settings = settings.clone();
        let text = new.text.to_owned();
        let images = new.images.to_vec();
        let PlanInput { tokens, extra_tokens, .. } = new;
        let plan = move || {
            let new = PlanInput { text: &text, tokens, images: &images, extra_tokens };
            memory.plan_prompt(&settings, Some(new))
        };
        run_cpu(plan).await?
    }
}

fn count_bytes(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}
