//! Prompt caching, as a property: a prompt begins with the bytes of the previous one until its
//! window is full. Then about half of the window is dropped at once.

use crate::store_contract::{EmptyStore, sqlite};
use echoic::domain::content::MessageBody;
use echoic::domain::memory::{MemoryOptions, MemoryStrategy};
use echoic::domain::message::MessageParts;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionSettings;
use echoic::domain::{
    MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, UserId,
};
use echoic::memory::{
    AssembledPrompt, Memory, MemoryDefaults, PlanInput, PromptInput, SectionKind, tokens,
};
use echoic::prompts::PromptTemplates;
use echoic::store::{self, MessageParent, NewSession, PostMessage, ReplyFields, Store};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::sync::Arc;

/// Question and reply lengths in words, and the memory options.
#[derive(Debug, Clone)]
struct PrefixCase {
    turns: Vec<(usize, usize)>,
    strategy: MemoryStrategy,
    most: u32,
    recalled: Option<u32>,
}

fn prefix_case() -> impl Strategy<Value = PrefixCase> {
    let size = || prop_oneof![8 => 1usize..60, 1 => 60usize..300];
    let ways = [
        MemoryStrategy::Auto,
        MemoryStrategy::Token,
        MemoryStrategy::Buffer,
        MemoryStrategy::Summary,
        MemoryStrategy::Recall,
    ];
    let asked =
        (proptest::sample::select(ways.to_vec()), 600u32..2500, proptest::option::of(0u32..500));
    (proptest::collection::vec((size(), size()), 20..40), asked).prop_map(
        |(turns, (strategy, most, recalled))| PrefixCase { turns, strategy, most, recalled },
    )
}

fn text(number: usize, words: usize) -> String {
    let word = |at: usize| {
        ["hens", "lisbon", "sister", "boat", "red", "keeps"][(number * 7 + at * at) % 6]
    };
    (0..words).map(word).collect::<Vec<_>>().join(" ") + &format!(" {number}.")
}

struct MemoryFixture {
    store: Arc<dyn Store>,
    memory: Memory,
    ada: Principal,
}

impl MemoryFixture {
    async fn session(&self, id: &SessionId) -> Session {
        self.store.get_session(&self.ada, id, AccessLevel::Owner).await.unwrap()
    }

    async fn say(&self, session: &SessionId, role: Role, content: &str, at: Timestamp) {
        let message = store::NewMessage {
            id: MessageId::generate(),
            client_message_id: None,
            role,
            sender_id: if role == Role::User { self.ada.user.clone() } else { UserId::assistant() },
            tokens: tokens::count_tokens(content),
            body: MessageBody {
                content: content.to_owned(),
                parts: MessageParts::default(),
                kind: MessageType::Text,
            },
            created_at: at,
            reply: ReplyFields::default(),
        };
        let session_id = session.clone();
        let post = PostMessage {
            session_id,
            message,
            parent: MessageParent::Head,
            idempotency_key: None,
            now: at,
        };
        self.store.post_message(&self.ada, post).await.unwrap();
    }

    async fn assemble(
        &self,
        id: &SessionId,
        case: &PrefixCase,
        asked: &str,
        at: Timestamp,
    ) -> AssembledPrompt {
        let session = self.session(id).await;
        let memory = MemoryOptions {
            strategy: Some(case.strategy),
            max_tokens: Some(case.most),
            recall_tokens: case.recalled,
            last_messages: None,
        };
        let settings = SessionSettings { memory, ..SessionSettings::default() };
        let incoming = PlanInput {
            text: asked,
            tokens: tokens::count_tokens(asked),
            images: &[],
            extra_tokens: 0,
        };
        let mut plan = self.memory.plan_prompt(&settings, Some(incoming)).unwrap();
        plan.recall_timeout = None;
        let new = PromptInput::from_user(asked, at);
        self.memory
            .assemble_prompt(&session, plan, session.head_id.as_ref(), Some(new))
            .await
            .unwrap()
    }
}

/// The messages of the prompt before the new one, as sent.
fn history_of(assembled: &AssembledPrompt) -> Vec<(Role, String)> {
    let mut sent = assembled.to_prompt(&SessionSettings::default()).messages;
    sent.pop();
    sent.into_iter().map(|message| (message.role, message.content.to_string())).collect()
}

fn window(assembled: &AssembledPrompt) -> u32 {
    let recent = assembled.pieces.iter().filter(|piece| piece.kind == SectionKind::Recent);
    recent.map(|piece| piece.tokens + 4).sum()
}

#[tokio::test]
async fn prompt_extends_the_previous_one_until_window_is_full() {
    let EmptyStore { store, .. } = &sqlite().await.unwrap();
    let defaults = MemoryDefaults {
        strategy: MemoryStrategy::Auto,
        max_tokens: None,
        context_window: None,
        model: "gpt-4o".to_owned(),
    };
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let memory = Memory::new(store.clone(), prompts, defaults).unwrap();
    let ada = Principal { user: UserId::new_unchecked("ada"), is_admin: false };
    let world = MemoryFixture { store: store.clone(), memory, ada };
    let (mut cuts, mut recalled) = (0, 0);
    let mut runner = TestRunner::deterministic();
    for number in 0..16 {
        let case =
            proptest::strategy::ValueTree::current(&prefix_case().new_tree(&mut runner).unwrap());
        let id = SessionId::new_unchecked(format!("s{number}"));
        let new = NewSession { id: Some(id.clone()), ..NewSession::default() };
        store.create_session(&world.ada, new, Timestamp::from_millis(0)).await.unwrap();
        let mut last: Option<AssembledPrompt> = None;
        for (turn, (question, reply)) in case.turns.iter().enumerate() {
            let at = Timestamp::from_millis(turn as i64 * 1_000_000);
            let (asked, said) = (text(turn, *question), text(turn + 1, *reply));
            let assembled = world.assemble(&id, &case, &asked, at).await;
            recalled += assembled.pieces.iter().filter(|piece| piece.score.is_some()).count();
            if let Some(last) = &last {
                let (before, now) = (history_of(last), history_of(&assembled));
                if !now.starts_with(&before) {
                    cuts += 1;
                    let (kept, most) = (window(&assembled), case.most);
                    // A message of up to 310 tokens may cross a cut, and the newest one is kept
                    // whole, so up to two of them come on top of the half.
                    assert!(
                        kept <= most / 2 + 64 + 2 * 310,
                        "about half goes at once: {kept} {case:?}"
                    );
                } else if let Some(question) = now.get(before.len()) {
                    let asked = last.pieces.last().unwrap();
                    assert_eq!(question, &(Role::User, asked.text.to_string()));
                }
            }
            world.say(&id, Role::User, &asked, at).await;
            world.say(&id, Role::Assistant, &said, at).await;
            last = Some(assembled);
        }
    }
    assert!(cuts > 20 && recalled > 100, "{cuts} cuts, {recalled} recalled");
}
