//! The server is killed at random moments while eight clients use it, and started again:
//! everything acknowledged is there, once and in order. The same holds for two servers on one
//! database, where one is killed and the other is asked, and where the database itself is killed.
//!
//! `ECHOIC_CRASH_ROUNDS=200 cargo nextest run crash` runs more rounds.

use crate::support::mongo::{MongoServer, database};
use crate::support::paced::{PacedProvider, answer};
use crate::support::process::ServerProcess;
use crate::support::server::fetch;
use crate::support::sse::text_of;
use crate::support::{FrameReader, within_deadline};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use reqwest::Client;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Sessions that are in use at the same time.
const SESSIONS: usize = 8;
/// Words of a running reply that a kill may lose on one server: 250 ms at one word per 10 ms.
const LOST_TAIL: usize = 25;
/// The same with two servers, where a log batch waits for a majority: 500 ms.
const LOST_TAIL_SHARED: usize = 50;

/// A client, and what it knows of its session.
struct CrashClient {
    client: Client,
    session: String,
    /// Every message that must be there, as `(role, status, content)`.
    ledger: Vec<(String, String, String)>,
    /// Questions asked so far.
    asked: usize,
    /// State of the turn at the kill.
    cut: TurnState,
    /// Words of a reply that a kill may lose.
    max_lost_words: usize,
}

enum TurnState {
    /// Between two turns.
    Idle,
    /// A question was sent and no response arrived.
    Unanswered(String),
    /// The reply was running; `read` is the part that arrived.
    Reading { question: String, read: String },
}

/// The words that the server may still send before it is killed.
struct WordBudget {
    words: AtomicUsize,
    over: CancellationToken,
}

impl WordBudget {
    fn of(words: usize) -> Arc<Self> {
        Arc::new(Self { words: words.into(), over: CancellationToken::new() })
    }

    fn spend(&self) {
        if self.words.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.over.cancel();
        }
    }
}

impl CrashClient {
    fn new(session: usize, max_lost_words: usize) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        let session = format!("session-{session}");
        Self { client, session, ledger: Vec::new(), asked: 0, cut: TurnState::Idle, max_lost_words }
    }

    fn body(&self, question: &str) -> Value {
        json!({"id": self.session, "message": {"id": question.replace(' ', "-"), "role": "user", "parts": [{"type": "text", "text": question}]}})
    }

    /// Asks and reads until the connection breaks, or stops at the end of a turn once the server's
    /// life is over.
    async fn talk(mut self, base: String, budget: Arc<WordBudget>, lengths: Vec<usize>) -> Self {
        for length in lengths.into_iter().cycle() {
            if budget.over.is_cancelled() {
                break;
            }
            self.asked += 1;
            let question = format!("question {} of {} words {length}", self.asked, self.session);
            let request = self.client.post(format!("{base}/api/chat")).json(&self.body(&question));
            let Ok(response) = within_deadline(request.send()).await else {
                self.cut = TurnState::Unanswered(question);
                return self;
            };
            if response.status() != 200 {
                assert_eq!(response.status(), 503, "only the database may be away");
                self.cut = TurnState::Unanswered(question);
                return self;
            }
            let mut frames = FrameReader::new(response);
            let mut deltas = Vec::new();
            loop {
                match frames.try_next().await {
                    Ok(Some(frame)) if frame.kind() == "finish" => break,
                    Ok(Some(frame)) if frame.kind() == "text-delta" => {
                        deltas.push(frame);
                        budget.spend();
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        self.cut = TurnState::Reading { question, read: text_of(&deltas) };
                        return self;
                    }
                }
            }
            assert_eq!(text_of(&deltas), answer(&question));
            self.expect_message("user", "complete", &question);
            self.expect_message("assistant", "complete", &answer(&question));
        }
        self
    }

    fn expect_message(&mut self, role: &str, status: &str, content: &str) {
        self.ledger.push((role.to_owned(), status.to_owned(), content.to_owned()));
    }

    /// Compares the stored messages with those that were acknowledged.
    async fn check_session(&mut self, base: &str) {
        self.wait_until_idle(base).await;
        let stored = self.read_messages(base).await;
        let (known, new) = stored.split_at(self.ledger.len().min(stored.len()));
        assert_eq!(known, self.ledger, "{} lost or changed what it had", self.session);
        match std::mem::replace(&mut self.cut, TurnState::Idle) {
            TurnState::Idle => assert_eq!(new, []),
            TurnState::Unanswered(question) if new.is_empty() => {
                // Nothing was acknowledged, so the question may be stored or not. Sent again, it
                // must be answered exactly once.
                let request =
                    self.client.post(format!("{base}/api/chat")).json(&self.body(&question));
                let mut frames = FrameReader::new(within_deadline(request.send()).await.unwrap());
                frames.until("[DONE]").await;
                self.wait_until_idle(base).await;
                let stored = self.read_messages(base).await;
                self.accept_cut_turn(&stored[known.len()..], &question, "");
            }
            TurnState::Unanswered(question) => self.accept_cut_turn(new, &question, ""),
            TurnState::Reading { question, read } => {
                self.accept_cut_turn(new, &question, &read);
                // A repeated message replays the stored reply without a call to the provider.
                let request =
                    self.client.post(format!("{base}/api/chat")).json(&self.body(&question));
                let mut frames = FrameReader::new(within_deadline(request.send()).await.unwrap());
                assert_eq!(text_of(&frames.rest().await), self.ledger.last().unwrap().2);
            }
        }
        let session = self.get(base, &format!("/api/chat-sessions/{}", self.session)).await;
        assert_eq!(session["messagesCount"], self.ledger.len());
        assert_eq!(session["activeTurn"], Value::Null, "{} is stuck", self.session);
        assert_eq!(self.read_messages(base).await, self.ledger);
        let last = format!("/api/chat-sessions/{}/messages?limit=1", self.session);
        assert_eq!(self.get(base, &last).await["messages"][0]["id"], session["headId"]);
    }

    /// Polls until no turn is active in the session.
    async fn wait_until_idle(&self, base: &str) {
        let path = format!("{base}/api/chat-sessions/{}", self.session);
        let is_busy = async || {
            let session = fetch(self.client.get(&path)).await;
            session.status == 200 && !session.data()["activeTurn"].is_null()
        };
        within_deadline(async { while is_busy().await {} }).await;
    }

    /// Checks the two messages that a killed turn left, the question and the partial reply, and
    /// adds them to the ledger.
    fn accept_cut_turn(&mut self, new: &[(String, String, String)], question: &str, read: &str) {
        let [asked, reply] = new else {
            panic!("{} holds {new:?} for {question:?}", self.session);
        };
        assert_eq!(asked, &("user".to_owned(), "complete".to_owned(), question.to_owned()));
        let (role, status, kept) = reply;
        assert_eq!(role, "assistant");
        if status == "complete" {
            assert_eq!(kept, &answer(question));
        } else {
            assert_eq!(status, "interrupted");
            assert!(answer(question).starts_with(kept.as_str()), "{kept:?} was never said");
            let lost = word_count(read).saturating_sub(word_count(kept));
            assert!(lost <= self.max_lost_words, "{lost} words were lost of {read:?}");
        }
        self.ledger.extend_from_slice(new);
    }

    /// All messages, oldest first.
    async fn read_messages(&self, base: &str) -> Vec<(String, String, String)> {
        let mut pages = Vec::new();
        let mut before = String::new();
        loop {
            let path = format!("/api/chat-sessions/{}/messages?limit=100{before}", self.session);
            let data = fetch(self.client.get(format!("{base}{path}"))).await;
            if data.status == 404 {
                return Vec::new();
            }
            let data = data.data();
            let messages = data["messages"].as_array().unwrap().clone();
            before = messages.first().map_or_else(String::new, |first| {
                format!("&before={}", first["id"].as_str().unwrap())
            });
            pages.push(messages);
            if data["hasMore"] != json!(true) {
                break;
            }
        }
        let line = |message: &Value| {
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            (text("role"), text("status"), text("content"))
        };
        pages.iter().rev().flatten().map(line).collect()
    }

    async fn get(&self, base: &str, path: &str) -> Value {
        fetch(self.client.get(format!("{base}{path}"))).await.data()
    }
}

fn word_count(text: &str) -> usize {
    text.split_whitespace().count()
}

fn round_count(usual: usize) -> usize {
    std::env::var("ECHOIC_CRASH_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn killed_server_keeps_everything_acknowledged() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), PacedProvider::start().await);
    run_kill_rounds::<1>(&folder, &upstream, &[], round_count(20)).await;
}

#[tokio::test]
async fn surviving_instance_has_everything_a_killed_one_had() {
    let Some(url) = database() else { return };
    let (folder, upstream) = (tempfile::tempdir().unwrap(), PacedProvider::start().await);
    let shared = [("DATABASE_URL", url), ("ECHOIC_INSTANCE_LEASE", "1s".to_owned())];
    run_kill_rounds::<2>(&folder, &upstream, &shared, round_count(10)).await;
}

#[tokio::test]
async fn killed_database_keeps_everything_acknowledged() {
    let Some(mut database) = MongoServer::start(&[]).await else { return };
    let (folder, upstream) = (tempfile::tempdir().unwrap(), PacedProvider::start().await);
    let variables = server_variables(&upstream, &[("DATABASE_URL", database.url("crash"))]);
    let mut random = random_numbers();
    let mut clients: Vec<_> =
        (0..SESSIONS).map(|session| CrashClient::new(session, LOST_TAIL_SHARED)).collect();
    let server = ServerProcess::start(folder.path(), &variables).await;
    for _ in 0..round_count(6) {
        let budget = WordBudget::of(random(1..800));
        let talks = clients.drain(..).map(|client| {
            let lengths = (0..8).map(|_| random(1..80)).collect();
            tokio::spawn(client.talk(server.base.clone(), budget.clone(), lengths))
        });
        let talks: Vec<_> = talks.collect();
        within_deadline(budget.over.cancelled()).await;
        database.kill().await;
        database.start_again(&[]).await;
        for talk in talks {
            clients.push(within_deadline(talk).await.unwrap());
        }
        wait_until_ready(&server.base).await;
        for client in &mut clients {
            client.check_session(&server.base).await;
        }
    }
    assert_one_reply_each(&clients);
}

/// Kills one of `SERVERS` servers each round and checks every session on a server that survived.
async fn run_kill_rounds<const SERVERS: usize>(
    folder: &TempDir,
    upstream: &PacedProvider,
    settings: &[(&'static str, String)],
    rounds: usize,
) {
    let variables = server_variables(upstream, settings);
    let mut random = random_numbers();
    let max_lost_words = if SERVERS == 1 { LOST_TAIL } else { LOST_TAIL_SHARED };
    let mut clients: Vec<_> =
        (0..SESSIONS).map(|session| CrashClient::new(session, max_lost_words)).collect();
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(ServerProcess::start(folder.path(), &variables).await);
    }
    for _ in 0..rounds {
        let budget = WordBudget::of(random(1..800));
        let talks = clients.drain(..).enumerate().map(|(index, client)| {
            let lengths = (0..8).map(|_| random(1..80)).collect();
            let base = servers[index % SERVERS].base.clone();
            tokio::spawn(client.talk(base, budget.clone(), lengths))
        });
        let talks: Vec<_> = talks.collect();
        within_deadline(budget.over.cancelled()).await;
        let mut victim = servers.remove(random(0..SERVERS));
        victim.kill().await;
        for talk in talks {
            clients.push(within_deadline(talk).await.unwrap());
        }
        // With a single server the checks need it to be up again; with two, the survivor is asked.
        let other = servers.first().map(|server| server.base.clone());
        servers.push(ServerProcess::start(folder.path(), &variables).await);
        let base = other.unwrap_or_else(|| servers[0].base.clone());
        for client in &mut clients {
            client.check_session(&base).await;
        }
    }
    let asked = assert_one_reply_each(&clients);
    assert!(upstream.calls() <= asked + rounds * SESSIONS);
}

fn server_variables(
    upstream: &PacedProvider,
    settings: &[(&'static str, String)],
) -> HashMap<&'static str, String> {
    let mut variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("OPENAI_BASE_URL", upstream.base_url.clone()),
        ("ECHOIC_MODEL", "paced-1".to_owned()),
    ]);
    variables.extend(settings.iter().cloned());
    variables
}

/// Numbers from a range, the same in every run.
fn random_numbers() -> impl FnMut(Range<usize>) -> usize {
    let mut runner = TestRunner::deterministic();
    move |range| range.new_tree(&mut runner).unwrap().current()
}

/// Polls until the server can use its database.
async fn wait_until_ready(base: &str) {
    let client = Client::builder().no_proxy().build().unwrap();
    let path = format!("{base}/health/ready");
    let is_ready = async || fetch(client.get(&path)).await.status == 200;
    within_deadline(async { while !is_ready().await {} }).await;
}

/// Returns the number of questions.
fn assert_one_reply_each(clients: &[CrashClient]) -> usize {
    let asked: usize = clients.iter().map(|client| client.asked).sum();
    let kept: usize = clients.iter().map(|client| client.ledger.len()).sum();
    assert_eq!(kept, 2 * asked, "one question, one reply");
    asked
}
