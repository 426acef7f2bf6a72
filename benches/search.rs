//! Latency of a search by a user with 10,000 sessions of 50 messages each, in SQLite: by a title,
//! by a word of a few messages, and by the prefix of a word in a tenth of all messages, each with
//! the snippets that a client gets. Targets for the 95th percentile: 50, 50 and 300 ms.
//!
//! Also prints the speed of indexing, and the size of the file with and without the index.
//!
//! Run it with `cargo bench --bench search`; `ECHOIC_BENCH_SESSIONS` sets the number of sessions.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use echoic::chat::{ChatDependencies, ChatService};
use echoic::domain::content::MessageBody;
use echoic::domain::search::{SearchQuery, parse_terms};
use echoic::domain::session::SessionStatus;
use echoic::domain::title::SessionTitle;
use echoic::domain::{MessageId, MessageType, Principal, Role, SessionId, Timestamp, UserId};
use echoic::memory::{Memory, MemoryDefaults};
use echoic::prompts::PromptTemplates;
use echoic::provider::demo::DemoProvider;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    ImportSession, LeaseHolder, MessageParent, NewMessage, NewSession, ReplyFields, Store,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const MESSAGES_PER_SESSION: usize = 50;
const ROUNDS: usize = 100;

fn main() {
    let sessions = std::env::var("ECHOIC_BENCH_SESSIONS");
    let sessions: usize = sessions.map_or(10_000, |sessions| sessions.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echoic.db");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, Durability::Normal).unwrap());
        let owner = Principal { user: UserId::new_unchecked("bench"), is_admin: false };
        for number in 0..sessions {
            let now = Timestamp::from_millis(1_800_000_000_000);
            store.import_session(&owner, make_session(number), now).await.unwrap();
        }
        println!(
            "{sessions} sessions of {MESSAGES_PER_SESSION} messages: {} MB",
            file_megabytes(&path)
        );
        let chat = build_chat(store.clone());
        let started = Instant::now();
        while chat.index_next_batch().await.unwrap() {}
        let rate = (sessions * MESSAGES_PER_SESSION) as f64 / started.elapsed().as_secs_f64();
        println!("with the index: {} MB, indexed {rate:.0} messages/s", file_megabytes(&path));
        for (name, question) in [
            ("a title", "subject 4321"),
            ("a word of a few messages", "needle77"),
            ("two words", "common needle7"),
            ("the prefix of a word in a tenth of all messages", "tenth"),
        ] {
            measure_query(&chat, &owner, name, question).await;
        }
        store.close().await;
    });
}

async fn measure_query(chat: &ChatService, user: &Principal, name: &str, question: &str) {
    let query = SearchQuery {
        terms: parse_terms(question).unwrap(),
        project_id: None,
        session_id: None,
        role: None,
        from: None,
        to: None,
        after: None,
        limit: 20,
    };
    let mut times = Vec::new();
    let mut count = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let (hits, _) = chat.search_messages(user, &query).await.unwrap();
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        count = hits.len();
    }
    times.sort_by(f64::total_cmp);
    let (median, p95) = (times[ROUNDS / 2], times[ROUNDS * 95 / 100]);
    println!("{name} ({count} hits): median {median:.1} ms, p95 {p95:.1} ms");
}

fn make_session(number: usize) -> ImportSession {
    let id = SessionId::new_unchecked(format!("session-{number:05}"));
    let start = 1_700_000_000_000 + (number as i64) * 60_000;
    let messages = (0..MESSAGES_PER_SESSION).map(|place| {
        let at = number * MESSAGES_PER_SESSION + place;
        let tenth = if at % 10 == 3 { format!("tenth{}", at % 1000) } else { String::new() };
        let content = format!(
            "common words of message {place} {tenth} needle{} and {}",
            at / 10,
            "some more of what people write every day ".repeat(4)
        );
        let message = NewMessage {
            id: MessageId::new_unchecked(format!("m{place}")),
            client_message_id: None,
            role: if place % 2 == 0 { Role::User } else { Role::Assistant },
            sender_id: UserId::new_unchecked("bench"),
            body: MessageBody { content, parts: Default::default(), kind: MessageType::Text },
            tokens: 50,
            created_at: Timestamp::from_millis(start + place as i64 * 1000),
            reply: ReplyFields::default(),
        };
        (message, if place == 0 { MessageParent::Root } else { MessageParent::Head })
    });
    let title = SessionTitle::from_user(Some(&format!("The subject {number}"))).unwrap();
    ImportSession {
        id: id.clone(),
        fallback_id: id,
        fields: NewSession { title, ..NewSession::default() },
        keep_title: true,
        read_marks: Default::default(),
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        placements: Vec::new(),
        created_at: Timestamp::from_millis(start),
        last_seen: None,
        head_id: None,
        messages: messages.collect(),
    }
}

fn build_chat(store: Arc<dyn Store>) -> ChatService {
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let (strategy, model) = (Default::default(), "demo".to_owned());
    let defaults = MemoryDefaults { strategy, max_tokens: None, context_window: None, model };
    ChatService::new(ChatDependencies {
        memory: Arc::new(Memory::new(store.clone(), prompts.clone(), defaults).unwrap()),
        provider: Arc::new(DemoProvider::default()),
        title_model: None,
        summary_model: None,
        lease_holder: LeaseHolder { instance: "bench".to_owned(), boot: "1".to_owned() },
        prompts,
        store,
    })
}

fn file_megabytes(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    (size(path) + size(&path.with_extension("db-wal"))) >> 20
}
