//! Recall: older messages relevant to the new one, from the same path only.

use crate::store_contract::{EmptyStore, sqlite};
use crate::support::Server;
use crate::support::server::{fetch, tuning};
use echoic::app::TimingOptions;
use echoic::chat::{ChatDependencies, ChatService};
use echoic::domain::content::MessageBody;
use echoic::domain::memory::MemoryStrategy;
use echoic::domain::message::MessageParts as PartsOfMessage;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionSettings;
use echoic::domain::{MessageId, MessageType, Principal, Role, SessionId, Timestamp, UserId};
use echoic::memory::{Memory, MemoryDefaults, PlanInput, PromptInput, tokens};
use echoic::prompts::PromptTemplates;
use echoic::provider::demo::DemoProvider;
use echoic::store::{LeaseHolder, MessageParent, NewSession, PostMessage, ReplyFields};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

async fn preview(server: &Server, session: &str, query: &[(&str, &str)]) -> Vec<Value> {
    let path = format!("/api/chat-sessions/{session}/memory");
    let shown = fetch(server.request(Method::GET, &path).query(query)).await.data();
    shown["pieces"].as_array().unwrap().clone()
}

/// The texts of the sections of a kind.
fn texts(pieces: &[Value], kind: &str) -> Vec<String> {
    let of_kind = pieces.iter().filter(|piece| piece["kind"] == kind);
    of_kind.map(|piece| piece["text"].as_str().unwrap().to_owned()).collect()
}

fn ids(pieces: &[Value], kind: &str) -> Vec<String> {
    let of_kind = pieces.iter().filter(|piece| piece["kind"] == kind);
    let ids = of_kind.flat_map(|piece| piece["messageIds"].as_array().unwrap().clone());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn message(id: &str, day: u32, role: &str, content: &str) -> Value {
    json!({"id": id, "role": role, "content": content,
        "createdAt": format!("2025-03-{day:02}T10:00:00Z")})
}

/// Small talk without any facts.
fn small_talk(number: usize) -> Value {
    let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
    let said = format!("Well, number{number} goes on and on about nothing much, as it does. ");
    message(&format!("c{number}"), 2 + (number / 10) as u32, role, said.repeat(3).trim())
}

async fn import(server: &Server, session: &str, messages: Vec<Value>) {
    let count = messages.len();
    let file = json!({"sessions": [{"sessionId": session, "messages": messages}]});
    assert_eq!(server.post("/api/import", file).await.data()["sessions"][0]["messages"], count);
}

/// A session that begins with three messages about hens and continues with small talk.
async fn long_session(server: &Server) -> String {
    let session = server.session().await;
    let mut messages = vec![
        message("f1", 1, "user", "My sister Ada keeps seven hens in Lisbon."),
        message("f2", 1, "assistant", "Seven hens! What are they called?"),
        message("f3", 1, "user", "Only one has a name, she is called Brunhilde."),
    ];
    messages.extend((0..80).map(small_talk));
    import(server, &session, messages).await;
    session
}

const ASKED: &str = "How many hens does my sister keep?";

#[tokio::test]
async fn relevant_old_message_precedes_the_new_one() {
    let server = Server::with(&["--memory-strategy=recall", "--memory-tokens=1000"]).await;
    let session = long_session(&server).await;
    let pieces = preview(&server, &session, &[("message", ASKED)]).await;
    let kinds: Vec<_> = pieces.iter().map(|piece| piece["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("system", "new"));
    assert!(kinds.is_sorted_by_key(|kind| {
        ["system", "recent", "recalled", "new"].iter().position(|one| one == kind)
    }));
    let recalled = texts(&pieces, "recalled").concat();
    assert!(ids(&pieces, "recalled").contains(&"f1".to_owned()), "{recalled}");
    assert!(
        recalled.contains("## 1 March 2025\nuser: My sister Ada keeps seven hens in Lisbon.\n")
    );
    let f1 = pieces.iter().find(|piece| piece["messageIds"] == json!(["f1"])).unwrap();
    assert!(f1["score"].as_f64().unwrap() > 0.0);

    let sent = server.turn(&session, ASKED, "Seven.").await;
    assert_eq!(sent.last().unwrap(), &format!("user: {recalled}{ASKED}"));
    assert_eq!(sent.len(), 2 + texts(&pieces, "recent").len());
    // Recalled text is not part of the history: the next prompt begins with this one's prefix, for
    // the provider's cache.
    let next = server.turn(&session, "Thanks!", "Welcome.").await;
    assert_eq!(next[..sent.len() - 1], sent[..sent.len() - 1]);
    assert_eq!(next[sent.len() - 1], format!("user: {ASKED}"));
    assert_eq!(next[sent.len()], "assistant: Seven.");
}

#[tokio::test]
async fn turn_continues_without_an_index_that_is_late() {
    let impatient = TimingOptions { recall_timeout: Duration::ZERO, ..tuning() };
    let server =
        Server::tuned(&["--memory-strategy=recall", "--memory-tokens=1000"], impatient).await;
    let session = long_session(&server).await;
    let sent = server.turn(&session, ASKED, "I forgot.").await;
    assert_eq!(sent.last().unwrap(), &format!("user: {ASKED}"));
    assert!(sent.len() > 5, "the recent messages are there: {sent:?}");
    // A preview waits for the index.
    let pieces = preview(&server, &session, &[("message", ASKED)]).await;
    assert!(ids(&pieces, "recalled").contains(&"f1".to_owned()));
}

#[tokio::test]
async fn messages_already_in_the_prompt_are_not_recalled() {
    let server = Server::start().await;
    let session = long_session(&server).await;
    let all = preview(&server, &session, &[("message", ASKED)]).await;
    assert_eq!((ids(&all, "recent").len(), ids(&all, "recalled").len()), (83, 0));
    for strategy in ["auto", "recall", "summary", "token"] {
        let query = [("message", ASKED), ("strategy", strategy), ("maxTokens", "900")];
        let pieces = preview(&server, &session, &query).await;
        let (recent, recalled) = (ids(&pieces, "recent"), ids(&pieces, "recalled"));
        assert!(recent.len() > 4 && recent.iter().all(|id| !recalled.contains(id)), "{strategy}");
        let recalls = matches!(strategy, "auto" | "recall");
        assert_eq!(recalled.contains(&"f1".to_owned()), recalls, "{strategy}");
    }
    let without = preview(
        &server,
        &session,
        &[("message", ASKED), ("maxTokens", "900"), ("recallTokens", "0")],
    )
    .await;
    assert_eq!(ids(&without, "recalled").len(), 0);
}

#[tokio::test]
async fn other_branches_and_sessions_are_not_recalled() {
    let server = Server::with(&["--memory-strategy=recall", "--memory-tokens=700"]).await;
    let session = long_session(&server).await;
    let other = server.session().await;
    let mut messages: Vec<_> = (0..80).map(small_talk).collect();
    messages[0]["content"] = json!("My sister's hens are a secret.");
    import(&server, &other, messages).await;

    // A second branch after the first fact. It is queried first, so that its index is the cached
    // one.
    let edit = json!({"sessionId": session, "message": "She keeps hens on the moon, too.", "parentId": "f2"});
    let mut frames = server.chat(edit).await;
    server.upstream.call().await.reply("On the moon!");
    frames.until("[DONE]").await;
    for number in 100..140 {
        let mut said = small_talk(number);
        said["chatSessionId"] = json!(session);
        said.as_object_mut().unwrap().remove("id");
        server.post("/api/chat-messages", said).await.data();
    }
    let query = [
        ("message", "What do you know of hens and Brunhilde and the moon?"),
        ("recallTokens", "300"),
    ];
    let on_the_moon = texts(&preview(&server, &session, &query).await, "recalled").concat();
    assert!(on_the_moon.contains("seven hens") && on_the_moon.contains("on the moon"));
    assert!(!on_the_moon.contains("Brunhilde") && !on_the_moon.contains("secret"));

    let head = json!({"messageId": "c79"});
    server.put(&format!("/api/chat-sessions/{session}/head"), head).await.data();
    let on_earth = texts(&preview(&server, &session, &query).await, "recalled").concat();
    assert!(on_earth.contains("seven hens") && on_earth.contains("Brunhilde"));
    assert!(!on_earth.contains("on the moon") && !on_earth.contains("secret"));
}

#[tokio::test]
async fn only_the_relevant_passage_of_a_long_message_is_recalled() {
    let server = Server::with(&["--memory-strategy=recall", "--memory-tokens=800"]).await;
    let session = server.session().await;
    let filler = |number: usize| {
        format!("Paragraph {number} speaks of the weather at length and says little. ").repeat(9)
    };
    let mut long: Vec<String> = (0..300).map(filler).collect();
    long[200] = "The password of the old lighthouse is kingfisher.".to_owned();
    let long = long.join("\n\n");
    assert!(long.len() > 150_000 && long.len() < 256 << 10);
    let mut messages = vec![message("long", 1, "assistant", &long)];
    messages.extend((0..40).map(small_talk));
    import(&server, &session, messages).await;
    let asked = "What was the password of the lighthouse?";
    let pieces = preview(&server, &session, &[("message", asked), ("recallTokens", "300")]).await;
    let recalled = texts(&pieces, "recalled").concat();
    assert!(recalled.contains("The password of the old lighthouse is kingfisher."), "{recalled}");
    assert_eq!(ids(&pieces, "recalled").iter().filter(|id| *id == "long").count(), 1);
    let tokens: u64 = pieces
        .iter()
        .filter(|piece| piece["kind"] == "recalled")
        .map(|piece| piece["tokens"].as_u64().unwrap())
        .sum();
    assert!(tokens <= 300);
}

#[tokio::test]
async fn wordless_questions_and_all_scripts_are_handled() {
    let server = Server::with(&["--memory-strategy=recall", "--memory-tokens=700"]).await;
    let session = server.session().await;
    let mut messages = vec![
        message("jp", 1, "user", "私の猫は三毛猫で、名前はタマです。"),
        message("ru", 1, "user", "Моя собака любит красные яблоки."),
        message("party", 1, "user", "🎉🎉🎉"),
        message("dots", 1, "user", "… --- …"),
    ];
    messages.extend((0..60).map(small_talk));
    import(&server, &session, messages).await;
    let recalled = async |asked: &str| {
        let query = [("message", asked), ("recallTokens", "120")];
        ids(&preview(&server, &session, &query).await, "recalled")
    };
    assert!(recalled("猫の名前は何ですか").await.contains(&"jp".to_owned()));
    assert!(recalled("Какие яблоки любят собаки?").await.contains(&"ru".to_owned()));
    assert!(recalled("🎉").await.contains(&"party".to_owned()));
    assert_eq!(recalled("?!…").await, Vec::<String>::new());
    assert_eq!(recalled("\u{200b}\u{301}").await, Vec::<String>::new());
}

#[tokio::test]
async fn deleted_session_leaves_the_index_at_once() {
    let EmptyStore { store, .. } = &sqlite().await.unwrap();
    let ada = Principal { user: UserId::new_unchecked("ada"), is_admin: false };
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let model = "gpt-4o".to_owned();
    let defaults = MemoryDefaults {
        strategy: MemoryStrategy::Recall,
        max_tokens: Some(200),
        context_window: None,
        model,
    };
    let memory = Arc::new(Memory::new(store.clone(), prompts.clone(), defaults).unwrap());
    let chat = Arc::new(ChatService::new(ChatDependencies {
        store: store.clone(),
        provider: Arc::new(DemoProvider::default()),
        memory: memory.clone(),
        prompts,
        title_model: None,
        summary_model: None,
        lease_holder: LeaseHolder { instance: "tests".to_owned(), boot: "one".to_owned() },
    }));
    let (at, id) = (Timestamp::from_millis(0), SessionId::new_unchecked("s"));
    let new = NewSession { id: Some(id.clone()), ..NewSession::default() };
    chat.create_session(&ada, new, at).await.unwrap();
    for number in 0..40 {
        let content = format!("My sister keeps seven hens, and {number} geese.");
        let message = echoic::store::NewMessage {
            id: MessageId::generate(),
            client_message_id: None,
            role: Role::User,
            sender_id: ada.user.clone(),
            tokens: tokens::count_tokens(&content),
            body: MessageBody {
                content,
                parts: PartsOfMessage::default(),
                kind: MessageType::Text,
            },
            created_at: at,
            reply: ReplyFields::default(),
        };
        let post = PostMessage {
            session_id: id.clone(),
            message,
            parent: MessageParent::Head,
            idempotency_key: None,
            now: at,
        };
        chat.post_message(&ada, post).await.unwrap();
    }
    let session = store.get_session(&ada, &id, AccessLevel::Owner).await.unwrap();
    let incoming = PlanInput { text: ASKED, tokens: 9, images: &[], extra_tokens: 0 };
    let mut plan = memory.plan_prompt(&SessionSettings::default(), Some(incoming)).unwrap();
    plan.recall_timeout = None;
    let new = PromptInput::from_user(ASKED, at);
    let assembled =
        memory.assemble_prompt(&session, plan, session.head_id.as_ref(), Some(new)).await;
    assert!(assembled.unwrap().pieces.iter().any(|piece| piece.score.is_some()));
    let (sessions, bytes) = memory.cache_stats();
    assert!(sessions == 1 && bytes > 20 * 27, "{bytes}");
    chat.delete_session(&ada, &id).await.unwrap();
    assert_eq!(memory.cache_stats(), (0, 0));
}

#[tokio::test]
async fn repeated_passages_are_recalled_once_with_newest_date() {
    let server = Server::with(&["--memory-strategy=recall", "--memory-tokens=800"]).await;
    let mut messages = Vec::new();
    for round in 0..3 {
        let (question, answer) = (format!("q{round}"), format!("a{round}"));
        messages.push(message(&question, 1 + round, "user", "Which number has my passport?"));
        messages.push(message(&answer, 1 + round, "assistant", "It is AB12345."));
        messages.push(message(
            &format!("r{round}"),
            1 + round,
            "user",
            "My passport is burgundy, I think",
        ));
    }
    messages.extend((0..60).map(small_talk));
    import(&server, "repeats", messages).await;

    let pieces = preview(&server, "repeats", &[("message", "What is my passport number?")]).await;

    let recalled = texts(&pieces, "recalled").concat();
    for once in ["Which number has my passport?", "AB12345", "burgundy"] {
        assert_eq!(recalled.matches(once).count(), 1, "{once}: {recalled}");
    }
    assert!(recalled.contains("3 March 2025") || recalled.contains("2025-03-03"), "{recalled}");
    let ids = ids(&pieces, "recalled");
    assert!(["q2", "a2", "r2"].iter().all(|id| ids.contains(&(*id).to_owned())), "{ids:?}");
}
