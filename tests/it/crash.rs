//! The server is killed at random moments while eight people talk to it, and started again:
//! everything acknowledged is there, once and in order. The same holds for two servers on one
//! database, where one is killed and the other is asked.
//!
//! `ECHOIC_CRASH_ROUNDS=200 cargo nextest run crash` runs more rounds.

use crate::support::mongo::database;
use crate::support::paced::{Paced, answer};
use crate::support::process::Process;
use crate::support::server::read;
use crate::support::sse::text_of;
use crate::support::{Frames, soon};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use reqwest::Client;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Sessions that are in use at the same time.
const SESSIONS: usize = 8;
/// Words of a running reply that a kill may lose on one server: 250 ms at one word per 10 ms.
const LOST_TAIL: usize = 25;
/// The same with two servers, where a log batch waits for a majority: 500 ms.
const LOST_AFAR: usize = 50;

/// One person's knowledge of their session.
struct Person {
    client: Client,
    session: String,
    /// Every message that must be there, as `(role, status, content)`.
    ledger: Vec<(String, String, String)>,
    /// Questions asked so far.
    asked: usize,
    /// State of the person's turn at the kill.
    cut: Cut,
    /// Words of a reply that a kill may lose.
    may_lose: usize,
}

enum Cut {
    /// Between two turns.
    Idle,
    /// A question was sent and no response arrived.
    Unanswered(String),
    /// The reply was running; `read` is the part that arrived.
    Reading { question: String, read: String },
}

/// The words that the server may still send before it is killed.
struct Life {
    words: AtomicUsize,
    over: CancellationToken,
}

impl Life {
    fn of(words: usize) -> Arc<Self> {
        Arc::new(Self { words: words.into(), over: CancellationToken::new() })
    }

    fn spend(&self) {
        if self.words.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.over.cancel();
        }
    }
}

impl Person {
    fn new(session: usize, may_lose: usize) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        let session = format!("session-{session}");
        Self { client, session, ledger: Vec::new(), asked: 0, cut: Cut::Idle, may_lose }
    }

    fn body(&self, question: &str) -> Value {
        json!({"id": self.session, "message": {"id": question.replace(' ', "-"), "role": "user", "parts": [{"type": "text", "text": question}]}})
    }

    /// Asks and reads until the connection breaks, or stops at the end of a turn once the server's
    /// life is over.
    async fn talk(mut self, base: String, life: Arc<Life>, lengths: Vec<usize>) -> Self {
        for length in lengths.into_iter().cycle() {
            if life.over.is_cancelled() {
                break;
            }
            self.asked += 1;
            let question = format!("question {} of {} words {length}", self.asked, self.session);
            let request = self.client.post(format!("{base}/api/chat")).json(&self.body(&question));
            let Ok(response) = soon(request.send()).await else {
                self.cut = Cut::Unanswered(question);
                return self;
            };
            assert_eq!(response.status(), 200);
            let mut frames = Frames::new(response);
            let mut heard = Vec::new();
            loop {
                match frames.try_next().await {
                    Ok(Some(frame)) if frame.kind() == "finish" => break,
                    Ok(Some(frame)) if frame.kind() == "text-delta" => {
                        heard.push(frame);
                        life.spend();
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        self.cut = Cut::Reading { question, read: text_of(&heard) };
                        return self;
                    }
                }
            }
            assert_eq!(text_of(&heard), answer(&question));
            self.owe("user", "complete", &question);
            self.owe("assistant", "complete", &answer(&question));
        }
        self
    }

    fn owe(&mut self, role: &str, status: &str, content: &str) {
        self.ledger.push((role.to_owned(), status.to_owned(), content.to_owned()));
    }

    /// Compares the stored messages with those that were acknowledged.
    async fn check(&mut self, base: &str) {
        self.freed(base).await;
        let stored = self.messages(base).await;
        let (known, new) = stored.split_at(self.ledger.len().min(stored.len()));
        assert_eq!(known, self.ledger, "{} lost or changed what it had", self.session);
        match std::mem::replace(&mut self.cut, Cut::Idle) {
            Cut::Idle => assert_eq!(new, []),
            Cut::Unanswered(question) if new.is_empty() => {
                // Nothing was acknowledged, so the question may be stored or not. Sent again, it
                // must be answered exactly once.
                let request =
                    self.client.post(format!("{base}/api/chat")).json(&self.body(&question));
                let mut frames = Frames::new(soon(request.send()).await.unwrap());
                frames.until("[DONE]").await;
                self.freed(base).await;
                let stored = self.messages(base).await;
                self.accept(&stored[known.len()..], &question, "");
            }
            Cut::Unanswered(question) => self.accept(new, &question, ""),
            Cut::Reading { question, read } => {
                self.accept(new, &question, &read);
                // A repeated message replays the stored reply without a call to the provider.
                let request =
                    self.client.post(format!("{base}/api/chat")).json(&self.body(&question));
                let mut frames = Frames::new(soon(request.send()).await.unwrap());
                assert_eq!(text_of(&frames.rest().await), self.ledger.last().unwrap().2);
            }
        }
        let session = self.get(base, &format!("/api/chat-sessions/{}", self.session)).await;
        assert_eq!(session["messagesCount"], self.ledger.len());
        assert_eq!(session["activeTurn"], Value::Null, "{} is stuck", self.session);
        assert_eq!(self.messages(base).await, self.ledger);
        let last = format!("/api/chat-sessions/{}/messages?limit=1", self.session);
        assert_eq!(self.get(base, &last).await["messages"][0]["id"], session["headId"]);
    }

    /// Polls until no turn is active in the session.
    async fn freed(&self, base: &str) {
        let path = format!("{base}/api/chat-sessions/{}", self.session);
        let is_busy = async || {
            let session = read(self.client.get(&path)).await;
            session.status == 200 && !session.data()["activeTurn"].is_null()
        };
        soon(async { while is_busy().await {} }).await;
    }

    /// Checks the two messages that a killed turn left, the question and the partial reply, and
    /// adds them to the ledger.
    fn accept(&mut self, new: &[(String, String, String)], question: &str, read: &str) {
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
            let lost = words(read).saturating_sub(words(kept));
            assert!(lost <= self.may_lose, "{lost} words were lost of {read:?}");
        }
        self.ledger.extend_from_slice(new);
    }

    /// All messages, oldest first.
    async fn messages(&self, base: &str) -> Vec<(String, String, String)> {
        let mut pages = Vec::new();
        let mut before = String::new();
        loop {
            let path = format!("/api/chat-sessions/{}/messages?limit=100{before}", self.session);
            let data = read(self.client.get(format!("{base}{path}"))).await;
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
        let told = |message: &Value| {
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            (text("role"), text("status"), text("content"))
        };
        pages.iter().rev().flatten().map(told).collect()
    }

    async fn get(&self, base: &str, path: &str) -> Value {
        read(self.client.get(format!("{base}{path}"))).await.data()
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn rounds(usual: usize) -> usize {
    std::env::var("ECHOIC_CRASH_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn killed_server_keeps_everything_acknowledged() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Paced::start().await);
    kill_again_and_again::<1>(&folder, &upstream, &[], rounds(20)).await;
}

#[tokio::test]
async fn surviving_instance_has_everything_a_killed_one_had() {
    let Some(url) = database() else { return };
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Paced::start().await);
    let shared = [("DATABASE_URL", url), ("ECHOIC_TURN_LEASE", "1s".to_owned())];
    kill_again_and_again::<2>(&folder, &upstream, &shared, rounds(10)).await;
}

/// Kills one of `SERVERS` servers each round and checks every session on a server that survived.
async fn kill_again_and_again<const SERVERS: usize>(
    folder: &TempDir,
    upstream: &Paced,
    settings: &[(&'static str, String)],
    rounds: usize,
) {
    let mut variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("OPENAI_BASE_URL", upstream.base_url.clone()),
        ("ECHOIC_MODEL", "paced-1".to_owned()),
    ]);
    variables.extend(settings.iter().cloned());
    let mut runner = TestRunner::deterministic();
    let mut random = |range: std::ops::Range<usize>| range.new_tree(&mut runner).unwrap().current();
    let may_lose = if SERVERS == 1 { LOST_TAIL } else { LOST_AFAR };
    let mut people: Vec<_> = (0..SESSIONS).map(|session| Person::new(session, may_lose)).collect();
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Process::start(folder.path(), &variables).await);
    }
    for _ in 0..rounds {
        let life = Life::of(random(1..800));
        let talks = people.drain(..).enumerate().map(|(index, person)| {
            let lengths = (0..8).map(|_| random(1..80)).collect();
            let base = servers[index % SERVERS].base.clone();
            tokio::spawn(person.talk(base, life.clone(), lengths))
        });
        let talks: Vec<_> = talks.collect();
        soon(life.over.cancelled()).await;
        let mut victim = servers.remove(random(0..SERVERS));
        victim.kill().await;
        for talk in talks {
            people.push(soon(talk).await.unwrap());
        }
        // With a single server the checks need it to be up again; with two, the survivor is asked.
        let other = servers.first().map(|server| server.base.clone());
        servers.push(Process::start(folder.path(), &variables).await);
        let base = other.unwrap_or_else(|| servers[0].base.clone());
        for person in &mut people {
            person.check(&base).await;
        }
    }
    let asked: usize = people.iter().map(|person| person.asked).sum();
    let kept: usize = people.iter().map(|person| person.ledger.len()).sum();
    assert_eq!(kept, 2 * asked, "one question, one reply");
    assert!(upstream.calls() <= asked + rounds * SESSIONS);
}
