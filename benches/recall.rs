//! What recall costs: a prompt put together with the session's index in memory, and the index made
//! from nothing. Prints what the index takes in memory, too.
//!
//! `cargo bench --bench recall`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use echoic::domain::memory::{MemoryOptions, MemoryStrategy};
use echoic::domain::message::{MessageBody, MessageParts};
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::{SessionSettings, SessionStatus};
use echoic::domain::{
    MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, UserId,
};
use echoic::memory::rank::{Index, Said};
use echoic::memory::{Assembled, Defaults, Incoming, Memory, NewMessage, tokens};
use echoic::prompts::PromptTemplates;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    self, ImportSession, MessageParent, NewSession, ReplyFields, SessionStore, TransferStore,
};
use std::hint::black_box;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const LENGTHS: [usize; 2] = [700, 6_000];
/// The messages of the index that is made from nothing.
const COLD: usize = 10_000;
const SYLLABLES: [&str; 16] = [
    "ka", "lo", "mi", "ter", "san", "vo", "rel", "qui", "dan", "pes", "ur", "tob", "lin", "gra",
    "sho", "ne",
];
const GRAMMAR: [&str; 8] = ["the", "a", "we", "and", "of", "to", "was", "in"];

/// A number that looks like chance and is always the same.
fn mixed(number: usize) -> usize {
    let mut x = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as usize
}

/// A word, the common ones more often than the rare ones.
fn word(number: usize) -> String {
    let chance = mixed(number);
    if chance.is_multiple_of(3) {
        return GRAMMAR[mixed(chance) % GRAMMAR.len()].to_owned();
    }
    let rank = (chance % 1_000) * (mixed(chance) % 1_000) / 100;
    let syllable = |at: u32| SYLLABLES[rank / 16_usize.pow(at) % 16];
    (0..3).map(syllable).collect()
}

/// A message of about 35 tokens.
fn text(number: usize) -> String {
    (0..14).map(|at| word(number * 14 + at)).collect::<Vec<_>>().join(" ")
}

fn at(number: usize) -> Timestamp {
    // Sittings of twenty messages, two days apart.
    let sitting = number / 20;
    Timestamp::from_millis(
        1_700_000_000_000 + (sitting as i64 * 172_800 + number as i64 * 20) * 1000,
    )
}

struct World {
    runtime: Runtime,
    memory: Arc<Memory>,
    sessions: Vec<Session>,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let store =
            SqliteStore::open(&folder.path().join("echoic.db"), Durability::Normal).unwrap();
        let store = Arc::new(store);
        let sessions =
            LENGTHS.iter().map(|length| runtime.block_on(keep(&store, *length))).collect();
        let defaults = Defaults {
            strategy: MemoryStrategy::Recall,
            tokens: None,
            context_window: None,
            model: "gpt-4o".to_owned(),
        };
        let prompts = Arc::new(PromptTemplates::load(None).unwrap());
        let memory = Arc::new(Memory::new(store, prompts, defaults).unwrap());
        Self { runtime, memory, sessions, _folder: folder }
    }

    /// A prompt of 4,000 tokens of memory, a quarter of them for recent messages.
    async fn assemble(&self, session: &Session, number: usize) -> Assembled {
        let asked = format!("Which {} {} {}?", word(number), word(number + 1), word(number + 2));
        let options = MemoryOptions {
            max_tokens: Some(4_000),
            recall_tokens: Some(3_000),
            ..MemoryOptions::default()
        };
        let settings = SessionSettings { memory: options, ..SessionSettings::default() };
        let incoming =
            Incoming { text: &asked, tokens: tokens::count(&asked), images: &[], beside: 0 };
        let mut plan = self.memory.plan(&settings, Some(incoming)).unwrap();
        plan.patience = None;
        let new = NewMessage::said(asked.as_str(), at(9_999));
        self.memory.assemble(session, plan, session.head_id.as_ref(), Some(new)).await.unwrap()
    }
}

async fn keep(store: &SqliteStore, length: usize) -> Session {
    let owner = Principal { user: UserId::trusted("bench"), is_admin: false };
    let messages = (0..length).map(|number| {
        let content = text(number);
        let message = store::NewMessage {
            id: MessageId::trusted(format!("m{number}")),
            client_message_id: None,
            role: if number % 2 == 0 { Role::User } else { Role::Assistant },
            sender_id: owner.user.clone(),
            tokens: tokens::count(&content),
            body: MessageBody { content, parts: MessageParts::default(), kind: MessageType::Text },
            created_at: at(number),
            reply: ReplyFields::default(),
        };
        (message, MessageParent::Head)
    });
    let id = SessionId::trusted(format!("length-{length}"));
    let import = ImportSession {
        id: id.clone(),
        fallback_id: id.clone(),
        fields: NewSession::default(),
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        created_at: at(0),
        last_seen: None,
        head_id: None,
        keep_title: false,
        read_marks: Default::default(),
        messages: messages.collect(),
    };
    store.import_session(&owner, import, at(length)).await.unwrap();
    store.get_session(&owner, &id, AccessLevel::Owner).await.unwrap()
}

fn warm(criterion: &mut Criterion) {
    let world = World::new();
    let mut held = 0;
    for (session, length) in world.sessions.iter().zip(LENGTHS) {
        let found = world.runtime.block_on(world.assemble(session, 0));
        let recalled = found.pieces.iter().filter(|piece| piece.score.is_some()).count();
        let (_, bytes) = world.memory.held();
        println!(
            "{length} messages: {} kB of index and text per 1,000, {recalled} messages recalled",
            (bytes - held) / length
        );
        held = bytes;
        let mut number = 0;
        criterion.bench_function(&format!("assemble, {length} messages"), |bencher| {
            bencher.iter(|| {
                number += 3;
                black_box(world.runtime.block_on(world.assemble(session, number)))
            });
        });
    }
}

fn cold(criterion: &mut Criterion) {
    let texts: Vec<_> = (0..COLD).map(text).collect();
    let tokens: u32 = texts.iter().map(|text| tokens::count(text)).sum();
    println!("{COLD} messages of {} tokens", tokens as usize / COLD);
    let build = |texts: &[String]| {
        let mut index = Index::default();
        for (number, text) in texts.iter().enumerate() {
            let day = at(number).format_day();
            let at = at(number).as_millis();
            index.push(Said { day: &day, speaker: "", text, at });
        }
        index
    };
    println!("the index alone: {} bytes per message", build(&texts).bytes() / COLD);
    let mut group = criterion.benchmark_group("index");
    group.sample_size(20);
    group.bench_function("10,000 messages from nothing", |bencher| {
        bencher.iter_batched(|| (), |()| black_box(build(&texts)), BatchSize::PerIteration);
    });
}

criterion_group!(benches, warm, cold);
criterion_main!(benches);
