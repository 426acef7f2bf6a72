//! Cost of recall: assembling a prompt with a cached index, and building an index from scratch.
//! Also prints the memory that the index takes.
//!
//! Run it with `cargo bench --bench recall`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use echoic::domain::content::MessageBody;
use echoic::domain::memory::{MemoryOptions, MemoryStrategy};
use echoic::domain::message::MessageParts;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::{SessionSettings, SessionStatus};
use echoic::domain::{
    MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, UserId,
};
use echoic::memory::rank::{PassageIndex, Utterance};
use echoic::memory::{AssembledPrompt, Memory, MemoryDefaults, PlanInput, PromptInput, tokens};
use echoic::prompts::PromptTemplates;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    self, ImportSession, MessageParent, NewSession, ReplyFields, SessionStore, TransferStore,
};
use std::hint::black_box;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SESSION_LENGTHS: [usize; 2] = [700, 6_000];
/// Messages of the index that is built from scratch.
const COLD_MESSAGES: usize = 10_000;
const SYLLABLES: [&str; 16] = [
    "ka", "lo", "mi", "ter", "san", "vo", "rel", "qui", "dan", "pes", "ur", "tob", "lin", "gra",
    "sho", "ne",
];
const GRAMMAR: [&str; 8] = ["the", "a", "we", "and", "of", "to", "was", "in"];

/// A pseudo-random number that is the same in every run.
fn mix_bits(number: usize) -> usize {
    let mut x = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as usize
}

/// A pseudo-random word; some words are much more common than others.
fn make_word(number: usize) -> String {
    let chance = mix_bits(number);
    if chance.is_multiple_of(3) {
        return GRAMMAR[mix_bits(chance) % GRAMMAR.len()].to_owned();
    }
    let rank = (chance % 1_000) * (mix_bits(chance) % 1_000) / 100;
    let syllable = |at: u32| SYLLABLES[rank / 16_usize.pow(at) % 16];
    (0..3).map(syllable).collect()
}

/// A message of about 35 tokens.
fn make_text(number: usize) -> String {
    (0..14).map(|at| make_word(number * 14 + at)).collect::<Vec<_>>().join(" ")
}

fn message_time(number: usize) -> Timestamp {
    // Sittings of twenty messages, two days apart.
    let sitting = number / 20;
    Timestamp::from_millis(
        1_700_000_000_000 + (sitting as i64 * 172_800 + number as i64 * 20) * 1000,
    )
}

struct RecallFixture {
    runtime: Runtime,
    memory: Arc<Memory>,
    sessions: Vec<Session>,
    _folder: TempDir,
}

impl RecallFixture {
    fn new() -> Self {
        let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let store =
            SqliteStore::open(&folder.path().join("echoic.db"), Durability::Normal).unwrap();
        let store = Arc::new(store);
        let sessions = SESSION_LENGTHS
            .iter()
            .map(|length| runtime.block_on(import_session(&store, *length)))
            .collect();
        let defaults = MemoryDefaults {
            strategy: MemoryStrategy::Recall,
            max_tokens: None,
            context_window: None,
            model: "gpt-4o".to_owned(),
        };
        let prompts = Arc::new(PromptTemplates::load(None).unwrap());
        let memory = Arc::new(Memory::new(store, prompts, defaults).unwrap());
        Self { runtime, memory, sessions, _folder: folder }
    }

    /// Assembles a prompt with 4,000 tokens of memory, a quarter of them for recent messages.
    async fn assemble_prompt(&self, session: &Session, number: usize) -> AssembledPrompt {
        let question = format!(
            "Which {} {} {}?",
            make_word(number),
            make_word(number + 1),
            make_word(number + 2)
        );
        let options = MemoryOptions {
            max_tokens: Some(4_000),
            recall_tokens: Some(3_000),
            ..MemoryOptions::default()
        };
        let settings = SessionSettings { memory: options, ..SessionSettings::default() };
        let input = PlanInput {
            text: &question,
            tokens: tokens::count_tokens(&question),
            images: &[],
            extra_tokens: 0,
        };
        let mut budget = self.memory.plan_prompt(&settings, Some(input)).unwrap();
        // Waits for the index, so that every sample includes recall.
        budget.recall_timeout = None;
        let new = PromptInput::from_user(question.as_str(), message_time(9_999));
        self.memory
            .assemble_prompt(session, budget, session.head_id.as_ref(), Some(new))
            .await
            .unwrap()
    }
}

async fn import_session(store: &SqliteStore, length: usize) -> Session {
    let owner = Principal { user: UserId::new_unchecked("bench"), is_admin: false };
    let messages = (0..length).map(|number| {
        let content = make_text(number);
        let message = store::NewMessage {
            id: MessageId::new_unchecked(format!("m{number}")),
            client_message_id: None,
            role: if number % 2 == 0 { Role::User } else { Role::Assistant },
            sender_id: owner.user.clone(),
            tokens: tokens::count_tokens(&content),
            body: MessageBody { content, parts: MessageParts::default(), kind: MessageType::Text },
            created_at: message_time(number),
            reply: ReplyFields::default(),
        };
        (message, MessageParent::Head)
    });
    let id = SessionId::new_unchecked(format!("length-{length}"));
    let import = ImportSession {
        id: id.clone(),
        fallback_id: id.clone(),
        fields: NewSession::default(),
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        placements: Vec::new(),
        created_at: message_time(0),
        last_seen: None,
        head_id: None,
        keep_title: false,
        read_marks: Default::default(),
        messages: messages.collect(),
    };
    store.import_session(&owner, import, message_time(length)).await.unwrap();
    store.get_session(&owner, &id, AccessLevel::Owner).await.unwrap()
}

fn bench_warm_index(criterion: &mut Criterion) {
    let fixture = RecallFixture::new();
    let mut bytes_before = 0;
    for (session, length) in fixture.sessions.iter().zip(SESSION_LENGTHS) {
        let assembled = fixture.runtime.block_on(fixture.assemble_prompt(session, 0));
        let recalled = assembled.pieces.iter().filter(|section| section.score.is_some()).count();
        let (_, bytes) = fixture.memory.cache_stats();
        println!(
            "{length} messages: {} kB of index and text per 1,000, {recalled} messages recalled",
            (bytes - bytes_before) / length
        );
        bytes_before = bytes;
        let mut number = 0;
        criterion.bench_function(&format!("assemble, {length} messages"), |bencher| {
            bencher.iter(|| {
                number += 3;
                black_box(fixture.runtime.block_on(fixture.assemble_prompt(session, number)))
            });
        });
    }
}

fn bench_cold_index(criterion: &mut Criterion) {
    let texts: Vec<_> = (0..COLD_MESSAGES).map(make_text).collect();
    let tokens: u32 = texts.iter().map(|text| tokens::count_tokens(text)).sum();
    println!("{COLD_MESSAGES} messages of {} tokens", tokens as usize / COLD_MESSAGES);
    let build = |texts: &[String]| {
        let mut index = PassageIndex::default();
        for (number, text) in texts.iter().enumerate() {
            let day = message_time(number).format_day();
            let at_millis = message_time(number).as_millis();
            index.push(Utterance { day: &day, speaker: "", text, at_millis });
        }
        index
    };
    println!("the index alone: {} bytes per message", build(&texts).memory_bytes() / COLD_MESSAGES);
    let mut group = criterion.benchmark_group("index");
    group.sample_size(20);
    group.bench_function("10,000 messages from scratch", |bencher| {
        bencher.iter_batched(|| (), |()| black_box(build(&texts)), BatchSize::PerIteration);
    });
}

criterion_group!(benches, bench_warm_index, bench_cold_index);
criterion_main!(benches);
