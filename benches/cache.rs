//! Share of a conversation's prompt tokens that a provider can read from its cache, by OpenAI's
//! rule: the longest common beginning with the previous request, at least 1,024 tokens, in steps of
//! 128 (<https://platform.openai.com/docs/guides/prompt-caching>).
//!
//! Setup: 200 requests of one conversation after a system prompt of about 500 tokens, 65 tokens per
//! turn. Targets: at a budget of 4,000 tokens 90 % without recall, 77 % with 500 tokens of it, 63 %
//! with 1,000; at 8,000 tokens 95, 88 and 82 %.
//!
//! Run it with `cargo bench --bench cache`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use echoic::domain::content::MessageBody;
use echoic::domain::memory::{MemoryOptions, MemoryStrategy};
use echoic::domain::message::MessageParts;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionSettings;
use echoic::domain::{
    MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, UserId,
};
use echoic::memory::{Memory, MemoryDefaults, PlanInput, PromptInput};
use echoic::prompts::PromptTemplates;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    self, MessageParent, MessageStore, NewSession, PostMessage, ReplyFields, SessionStore,
};
use std::sync::Arc;
use tiktoken_rs::o200k_base_singleton;
use tokio::runtime::Runtime;

const REQUESTS: usize = 200;
/// Minimum length of a cached beginning, and the step in which it grows, in tokens.
const MIN_CACHED_TOKENS: usize = 1024;
const CACHE_STEP: usize = 128;
const WORDS: [&str; 24] = [
    "river", "ticket", "garden", "lamp", "music", "letter", "winter", "bread", "window", "station",
    "paper", "colour", "market", "island", "doctor", "summer", "bridge", "coffee", "mountain",
    "kitchen", "story", "engine", "forest", "pencil",
];

fn main() {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        for (budget, recalled) in
            [(4_000, 0), (4_000, 500), (4_000, 1_000), (8_000, 0), (8_000, 500), (8_000, 1_000)]
        {
            let (cached, all) = run_conversation(budget, recalled).await;
            println!(
                "budget {budget}, recall {recalled}: {:.1} % of {} prompt tokens cached",
                100.0 * cached as f64 / all as f64,
                all
            );
        }
    });
}

/// Cached tokens and all tokens of a conversation's prompts.
async fn run_conversation(budget: u32, recalled: u32) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("echoic.db"), Durability::Normal).unwrap();
    let store = Arc::new(store);
    let defaults = MemoryDefaults {
        strategy: MemoryStrategy::Recall,
        max_tokens: None,
        context_window: None,
        model: "gpt-4o".to_owned(),
    };
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let memory = Memory::new(store.clone(), prompts, defaults).unwrap();
    let owner = Principal { user: UserId::new_unchecked("bench"), is_admin: false };
    let id = SessionId::new_unchecked("talk");
    let new = NewSession { id: Some(id.clone()), ..NewSession::default() };
    store.create_session(&owner, new, turn_time(0)).await.unwrap();
    let options = MemoryOptions {
        max_tokens: Some(budget),
        recall_tokens: Some(recalled),
        ..MemoryOptions::default()
    };
    let settings = SessionSettings {
        memory: options,
        system_prompt: Some(make_sentence(7, 480)),
        ..SessionSettings::default()
    };
    let (mut cached, mut all, mut before) = (0, 0, Vec::new());
    for turn in 0..REQUESTS {
        let session = store.get_session(&owner, &id, AccessLevel::Owner).await.unwrap();
        let question = make_sentence(turn * 2, 20);
        let prompt = tokenize_prompt(&memory, &settings, &session, &question, turn).await;
        let same = prompt.iter().zip(&before).take_while(|(one, other)| one == other).count();
        cached += if same >= MIN_CACHED_TOKENS { same - same % CACHE_STEP } else { 0 };
        all += prompt.len();
        before = prompt;
        post_message(&store, &owner, &id, Role::User, turn * 2, question).await;
        post_message(
            &store,
            &owner,
            &id,
            Role::Assistant,
            turn * 2 + 1,
            make_sentence(turn * 2 + 1, 37),
        )
        .await;
    }
    (cached, all)
}

/// The prompt in tokens, as a provider would read it.
async fn tokenize_prompt(
    memory: &Memory,
    settings: &SessionSettings,
    session: &Session,
    question: &str,
    turn: usize,
) -> Vec<u32> {
    let tokens = echoic::memory::tokens::count_tokens(question);
    let input = PlanInput { text: question, tokens, images: &[], extra_tokens: 0 };
    let mut budget = memory.plan_prompt(settings, Some(input)).unwrap();
    // Waits for the index, so that the result does not depend on the speed of the machine.
    budget.recall_timeout = None;
    let new = PromptInput::from_user(question, turn_time(turn));
    let assembled =
        memory.assemble_prompt(session, budget, session.head_id.as_ref(), Some(new)).await;
    let messages = assembled.unwrap().to_prompt(settings).messages;
    let texts = messages
        .iter()
        .map(|message| format!("<|{}|>{}<|end|>", message.role.as_str(), message.content));
    o200k_base_singleton().encode_ordinary(&texts.collect::<String>())
}

async fn post_message(
    store: &SqliteStore,
    owner: &Principal,
    session: &SessionId,
    role: Role,
    number: usize,
    content: String,
) {
    let message = store::NewMessage {
        id: MessageId::new_unchecked(format!("m{number}")),
        client_message_id: None,
        role,
        sender_id: match role {
            Role::Assistant => UserId::assistant(),
            _ => owner.user.clone(),
        },
        tokens: echoic::memory::tokens::count_tokens(&content),
        body: MessageBody { content, parts: MessageParts::default(), kind: MessageType::Text },
        created_at: turn_time(number / 2),
        reply: ReplyFields::default(),
    };
    let post = PostMessage {
        session_id: session.clone(),
        message,
        parent: MessageParent::Head,
        idempotency_key: None,
        now: turn_time(number / 2),
    };
    store.post_message(owner, post).await.unwrap();
}

/// A sentence of this many words; the same number always gives the same sentence.
fn make_sentence(number: usize, words: usize) -> String {
    let word = |at: usize| WORDS[(number * 31 + at * 17 + (number * at) % 13) % WORDS.len()];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

/// One turn per minute.
fn turn_time(turn: usize) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + turn as i64 * 60_000)
}
