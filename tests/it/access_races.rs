//! Random changes of participants, keys and sessions while turns are queued, streamed and reported:
//! no user receives or writes a thing that happened more than a second after their access went.
//!
//! Everything is judged by the time at which it happened on the server's side: the words of a reply
//! say when the provider sent them, and messages when they were stored. How late a client of a busy
//! machine reads them does not matter. On MongoDB the members use another instance than the owner.
//!
//! `ECHOIC_ACCESS_CHANGES=10000 cargo nextest run access_races` makes more changes, and
//! `ECHOIC_ACCESS_SEED` other ones.

use crate::support::key_client::KeyClient;
use crate::support::server::{ApiResponse, fetch, tuning};
use crate::support::upstream::{sse_chunk, sse_response};
use crate::support::{FrameReader, Server};
use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use echoic::app::open_shared;
use echoic::clock;
use echoic::domain::Timestamp;
use echoic::domain::key::{AuthScope, KeyId};
use echoic::store::Store;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const USUAL_CHANGES: usize = 500;
/// The same on MongoDB, where a change takes longer.
const USUAL_CHANGES_SHARED: usize = 200;
const SESSIONS: usize = 20;
const SESSIONS_SHARED: usize = 8;
const MEMBERS: usize = 10;
/// Between two changes of one session. Each member stays in or out for some seconds.
const CHANGE_INTERVAL: Duration = Duration::from_millis(200);
/// Between two words of a reply.
const WORD_INTERVAL: Duration = Duration::from_millis(200);
const WORDS: usize = 12;
/// Access may be used for this long after it went.
const GRACE_MILLIS: i64 = 1_000;
/// The time of one run; a slower machine makes fewer changes, and the test fails.
const RUN_TIMEOUT: Duration = Duration::from_secs(1700);

fn now() -> i64 {
    clock::now().as_millis()
}

/// The same numbers in each run (SplitMix64).
struct RandomNumbers(u64);

impl RandomNumbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % bound
    }
}

/// Something of a session that reached a member or was stored for them.
struct Observation {
    session: String,
    member: usize,
    key: usize,
    happened_at: i64,
    read_at: i64,
    what: &'static str,
}

/// When each member had access, as far as the acknowledged changes tell.
#[derive(Default)]
struct AccessHistory {
    /// By session and member: from the request that granted access to the response that ended it.
    granted: HashMap<(String, usize), Vec<(i64, i64)>>,
    /// When keys were revoked, by number.
    revoked: HashMap<usize, i64>,
    observations: Vec<Observation>,
}

impl AccessHistory {
    fn grant(&mut self, session: &str, member: usize) {
        self.granted.entry((session.to_owned(), member)).or_default().push((now(), i64::MAX));
    }

    fn end(&mut self, session: &str, member: usize) {
        let spans = self.granted.get_mut(&(session.to_owned(), member));
        if let Some(last) = spans.and_then(|spans| spans.last_mut()) {
            last.1 = last.1.min(now());
        }
    }

    /// Whether it happened while access was there, or before it was granted again.
    fn is_allowed(&self, seen: &Observation) -> bool {
        let Observation { happened_at, read_at, .. } = *seen;
        let revoked = self.revoked.get(&seen.key).copied().unwrap_or(i64::MAX);
        let mut spans =
            self.granted.get(&(seen.session.clone(), seen.member)).into_iter().flatten();
        happened_at <= revoked.saturating_add(GRACE_MILLIS)
            && spans.any(|(from, to)| {
                *from <= read_at && happened_at <= to.saturating_add(GRACE_MILLIS)
            })
    }
}

struct MemberKey {
    number: usize,
    text: String,
    id: KeyId,
}

struct World {
    server: Server,
    /// Another instance for the members, if the store is shared.
    second: Option<Server>,
    store: Arc<dyn Store>,
    owner: String,
    keys: Vec<Mutex<Arc<MemberKey>>>,
    history: Mutex<AccessHistory>,
    changes: AtomicUsize,
    wanted: usize,
    is_over: AtomicBool,
    ended_early: AtomicUsize,
    /// The longest way of a word to the owner, who never loses access, in milliseconds.
    slowest_word: AtomicI64,
}

/// A provider whose words are the times at which it sends them.
async fn start_clock_provider() -> String {
    async fn complete() -> axum::response::Response {
        let words = stream::iter(0..WORDS).then(|_| async {
            sleep(WORD_INTERVAL).await;
            sse_chunk(
                &json!({"choices": [{"index": 0, "delta": {"content": format!("{} ", now())}}]}),
            )
        });
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        let ending = [sse_chunk(&end), Bytes::from_static(b"data: [DONE]\n\n")];
        sse_response(words.chain(stream::iter(ending)).map(Ok::<_, io::Error>))
    }
    let router = Router::new().route("/v1/chat/completions", post(complete));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    base_url
}

impl World {
    async fn start() -> Arc<Self> {
        let provider = format!("--openai-base-url={}", start_clock_provider().await);
        let mut flags =
            vec!["--auth=keys", "--rate-limit=off", "--max-concurrent-turns=off", &provider];
        let server = Server::tuned(&flags, tuning()).await;
        let database = format!("--database-url={}", server.database_url());
        flags.push(&database);
        let is_shared = database.contains("mongodb");
        let second = if is_shared { Some(Server::tuned(&flags, tuning()).await) } else { None };
        let usual = if is_shared { USUAL_CHANGES_SHARED } else { USUAL_CHANGES };
        let wanted = std::env::var("ECHOIC_ACCESS_CHANGES")
            .map_or(usual, |changes| changes.parse().unwrap());
        let store = open_shared(&server.database_url().parse().unwrap()).await.unwrap();
        let owner = server.key("owner", AuthScope::Chat).await;
        let mut keys = Vec::new();
        for member in 0..MEMBERS {
            keys.push(Mutex::new(Arc::new(new_key(&server, member, member).await)));
        }
        Arc::new(Self {
            server,
            second,
            store,
            owner,
            keys,
            history: Mutex::default(),
            changes: AtomicUsize::new(0),
            wanted,
            is_over: AtomicBool::new(false),
            ended_early: AtomicUsize::new(0),
            slowest_word: AtomicI64::new(0),
        })
    }

    fn owner(&self) -> KeyClient<'_> {
        self.server.with_key(&self.owner)
    }

    fn member<'a>(&'a self, key: &'a MemberKey) -> KeyClient<'a> {
        self.second.as_ref().unwrap_or(&self.server).with_key(&key.text)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn observe(&self, seen: Observation) {
        self.history.lock().observations.push(seen);
    }

    async fn create_session(&self, session: &str) {
        let created = self.owner().post("/api/chat-sessions", json!({"sessionId": session})).await;
        assert_eq!(created.status, 201, "{}", created.body);
    }

    /// Makes random changes in one session after the other.
    async fn change_sessions(self: Arc<Self>, number: usize, mut random: RandomNumbers) {
        let mut generation = 0;
        let mut session = format!("s{number}-{generation}");
        let mut members = [false; MEMBERS];
        self.create_session(&session).await;
        let mut busy = tokio::spawn(self.clone().keep_busy(session.clone()));
        loop {
            let change = self.changes.fetch_add(1, Ordering::Relaxed);
            if change >= self.wanted {
                break;
            }
            match random.below(100) {
                0 => self.replace_key(random.below(MEMBERS), MEMBERS + change).await,
                1 => {
                    let path = format!("/api/chat-sessions/{session}");
                    let deleted = fetch(self.owner().request(Method::DELETE, &path)).await;
                    assert_eq!(deleted.status, 200, "{}", deleted.body);
                    for member in 0..MEMBERS {
                        self.history.lock().end(&session, member);
                    }
                    busy.abort();
                    generation += 1;
                    session = format!("s{number}-{generation}");
                    members = [false; MEMBERS];
                    self.create_session(&session).await;
                    busy = tokio::spawn(self.clone().keep_busy(session.clone()));
                }
                _ => {
                    let member = random.below(MEMBERS);
                    members[member] = !members[member];
                    if members[member] {
                        self.set_members(&session, &members).await;
                        self.accept_invitation(&session, member).await;
                        tokio::spawn(self.clone().use_session(session.clone(), member));
                    } else if random.below(2) == 0 {
                        self.set_members(&session, &members).await;
                        self.history.lock().end(&session, member);
                    } else {
                        self.answer_invitation(&session, member, "leave").await;
                        self.history.lock().end(&session, member);
                    }
                }
            }
            sleep(CHANGE_INTERVAL).await;
        }
        busy.abort();
        self.check_stored(&session).await;
    }

    async fn set_members(&self, session: &str, members: &[bool; MEMBERS]) {
        let inside = (0..MEMBERS).filter(|member| members[*member]);
        let users: Vec<_> = inside.map(|member| format!("member{member}")).collect();
        let request = self.owner().request(Method::PATCH, &format!("/api/chat-sessions/{session}"));
        let request = request.json(&json!({"participants": users}));
        let patched = send_until_available(|| request.try_clone().unwrap()).await;
        assert_eq!(patched.status, 200, "{}", patched.body);
    }

    async fn accept_invitation(&self, session: &str, member: usize) {
        self.history.lock().grant(session, member);
        self.answer_invitation(session, member, "accept").await;
    }

    /// Accepts, or leaves.
    async fn answer_invitation(&self, session: &str, member: usize, answer: &str) {
        let path = format!("/api/chat-sessions/{session}/{answer}");
        loop {
            let key = self.keys[member].lock().clone();
            let answered = send_until_available(|| {
                self.member(&key).request(Method::POST, &path).json(&json!({}))
            })
            .await;
            // The key may have been replaced meanwhile.
            if answered.status != 401 {
                // A repeat finds that a request that timed out has left.
                let has_left = answer == "leave" && answered.status == 404;
                return assert!(has_left || answered.status == 200, "{}", answered.body);
            }
        }
    }

    async fn replace_key(&self, member: usize, number: usize) {
        let next = Arc::new(new_key(&self.server, member, number).await);
        let old = std::mem::replace(&mut *self.keys[member].lock(), next);
        assert!(self.store.revoke_key(&old.id).await.unwrap());
        self.history.lock().revoked.insert(old.number, now());
    }

    /// Has a reply running in a session, as its owner.
    async fn keep_busy(self: Arc<Self>, session: String) {
        while !self.is_over() {
            let body = json!({"sessionId": session, "message": "owner", "onBusy": "queue"});
            let request = self.owner().request(Method::POST, "/api/chat").json(&body);
            let Ok(response) = request.send().await else { return };
            if response.status() != 200 {
                return;
            }
            let mut frames = FrameReader::new(response);
            while let Ok(Some(frame)) = frames.try_next().await {
                for word in frame.data["delta"].as_str().unwrap_or_default().split_whitespace() {
                    let delay = now() - word.parse::<i64>().unwrap();
                    self.slowest_word.fetch_max(delay, Ordering::Relaxed);
                }
            }
        }
    }

    /// Sends messages, and reads the replies of others, until the session is out of reach.
    async fn use_session(self: Arc<Self>, session: String, member: usize) {
        for round in 0_u32.. {
            if self.is_over() {
                return;
            }
            let key = self.keys[member].lock().clone();
            let client = self.member(&key);
            let request = if round.is_multiple_of(2) {
                let message = format!("{member} {}", key.number);
                let body = json!({"sessionId": session, "message": message, "onBusy": "queue"});
                client.request(Method::POST, "/api/chat").json(&body)
            } else {
                client.request(Method::GET, &format!("/api/chat/{session}/stream"))
            };
            let Ok(response) = request.send().await else { return };
            match response.status().as_u16() {
                200 => {}
                // No reply is running, the queue is full, the key was replaced just now, or a slow
                // database timed out.
                204 | 401 | 429 | 503 => {
                    sleep(WORD_INTERVAL).await;
                    continue;
                }
                404 => return,
                status => panic!("{status}: {}", response.text().await.unwrap()),
            }
            self.read_stream(FrameReader::new(response), &session, member, key.number).await;
        }
    }

    async fn read_stream(&self, mut frames: FrameReader, session: &str, member: usize, key: usize) {
        while let Ok(Some(frame)) = frames.try_next().await {
            if frame.kind() == "error" {
                self.ended_early.fetch_add(1, Ordering::Relaxed);
            }
            let delta = frame.data["delta"].as_str().unwrap_or_default();
            for word in delta.split_whitespace() {
                self.observe(Observation {
                    session: session.to_owned(),
                    member,
                    key,
                    happened_at: word.parse().unwrap(),
                    read_at: now(),
                    what: "word",
                });
            }
        }
    }

    /// Reads the events of a member, with one key after the other.
    async fn read_events(self: Arc<Self>, member: usize) {
        while !self.is_over() {
            let key = self.keys[member].lock().clone();
            let request = self.member(&key).request(Method::GET, "/api/events");
            let Ok(response) = request.send().await else { return };
            if response.status() != 200 {
                sleep(WORD_INTERVAL).await;
                continue;
            }
            let mut body = response.bytes_stream();
            let mut text = String::new();
            while let Some(Ok(bytes)) = body.next().await {
                text.push_str(std::str::from_utf8(&bytes).unwrap());
                while let Some((event, rest)) = text.split_once("\n\n") {
                    if let Some((_, data)) = event.split_once("\ndata: ") {
                        self.observe_event(
                            &serde_json::from_str(data).unwrap(),
                            member,
                            key.number,
                        );
                    }
                    text = rest.to_owned();
                }
            }
        }
    }

    fn observe_event(&self, event: &Value, member: usize, key: usize) {
        let (time, what) = match event["type"].as_str().unwrap() {
            "message" => (&event["message"]["createdAt"], "message event"),
            "session" if event["action"] == "changed" => {
                (&event["session"]["updatedAt"], "session event")
            }
            _ => return,
        };
        let session = event["sessionId"].as_str().unwrap().to_owned();
        let happened_at = millis(time);
        self.observe(Observation { session, member, key, happened_at, read_at: now(), what });
    }

    /// Observes the messages that members have stored in a session.
    async fn check_stored(&self, session: &str) {
        let path = format!("/api/chat-sessions/{session}/messages?limit=100");
        let page = self.owner().get(&path).await.data();
        for message in page["messages"].as_array().unwrap() {
            let content = message["content"].as_str().unwrap();
            let Some((member, key)) = content.split_once(' ').filter(|_| message["role"] == "user")
            else {
                continue;
            };
            // The time of a message is when its request began. Access is judged when it is stored,
            // and may have been granted in between.
            let happened_at = millis(&message["createdAt"]);
            self.observe(Observation {
                session: session.to_owned(),
                member: member.parse().unwrap(),
                key: key.parse().unwrap(),
                happened_at,
                read_at: happened_at + GRACE_MILLIS,
                what: "stored message",
            });
        }
    }
}

/// Repeats a change that a slow database did not complete in time.
async fn send_until_available(request: impl Fn() -> RequestBuilder) -> ApiResponse {
    loop {
        let response = fetch(request()).await;
        if response.status != 503 {
            return response;
        }
    }
}

fn millis(time: &Value) -> i64 {
    serde_json::from_value::<Timestamp>(time.clone()).unwrap().as_millis()
}

async fn new_key(server: &Server, member: usize, number: usize) -> MemberKey {
    let (text, stored) =
        server.create_stored_key(&format!("member{member}"), AuthScope::Chat).await;
    MemberKey { number, text, id: stored.key.id }
}

#[expect(clippy::print_stderr, reason = "the figures of a run")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_a_second_after_access_went() {
    let seed = std::env::var("ECHOIC_ACCESS_SEED").map_or(1, |seed| seed.parse::<u64>().unwrap());
    let started = Instant::now();
    let world = World::start().await;
    let wanted = world.wanted;
    let listeners: Vec<_> =
        (0..MEMBERS).map(|member| tokio::spawn(world.clone().read_events(member))).collect();
    let sessions = if world.second.is_some() { SESSIONS_SHARED } else { SESSIONS };
    let changing = (0..sessions).map(|number| {
        tokio::spawn(
            world.clone().change_sessions(number, RandomNumbers((seed << 32) + number as u64)),
        )
    });
    let changed = timeout(RUN_TIMEOUT, join_all(changing)).await.expect("the changes are made");
    changed.into_iter().for_each(|task| task.unwrap());
    world.is_over.store(true, Ordering::Relaxed);
    listeners.iter().for_each(|listener| listener.abort());

    let history = world.history.lock();
    let count = |what| history.observations.iter().filter(|seen| seen.what == what).count();
    let kinds = ["word", "message event", "session event", "stored message"];
    let counts = kinds.map(count);
    let ended = world.ended_early.load(Ordering::Relaxed);
    eprintln!(
        "seed {seed}: {wanted} changes in {:?}: {counts:?} of {kinds:?}, {ended} streams ended by lost access; the owner read words within {} ms",
        started.elapsed(),
        world.slowest_word.load(Ordering::Relaxed)
    );
    assert!(counts.iter().all(|count| *count > 0) && ended > 0, "{counts:?} {ended}");
    let late: Vec<_> = history
        .observations
        .iter()
        .filter(|seen| !history.is_allowed(seen))
        .map(|Observation { session, member, key, happened_at, read_at, what }| {
            let spans = &history.granted[&(session.clone(), *member)];
            let revoked = history.revoked.get(key);
            format!("{what} of {session} at {happened_at}, read at {read_at}, for member{member} with key {key}, in at {spans:?}, key revoked at {revoked:?}")
        })
        .collect();
    assert!(late.is_empty(), "{} too late: {:#?}", late.len(), &late[..late.len().min(10)]);
}
