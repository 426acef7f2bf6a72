//! Random message trees over HTTP: after any edits, regenerations, switches and forks, each session
//! shows one path from a root to its head, the model reads that path, and no message is lost.

use crate::support::Server;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

const CASES: usize = 8;
const STEPS: usize = 24;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Say,
    Edit,
    Regenerate,
    Switch,
    Fork,
}

/// An operation. The numbers select a session and one of its messages.
#[derive(Debug, Clone)]
struct Step {
    what: Operation,
    session: u8,
    message: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        3 => Just(Operation::Say),
        3 => Just(Operation::Edit),
        3 => Just(Operation::Regenerate),
        3 => Just(Operation::Switch),
        1 => Just(Operation::Fork),
    ];
    let step = (what, any::<u8>(), any::<u8>()).prop_map(|(what, session, message)| Step {
        what,
        session,
        message,
    });
    vec(step, STEPS)
}

#[derive(Debug, Clone)]
struct ExpectedMessage {
    id: String,
    parent: Option<usize>,
    role: &'static str,
    text: String,
}

/// The expected state of a session.
#[derive(Debug, Default)]
struct ExpectedSession {
    id: String,
    /// In the order of storage.
    all: Vec<ExpectedMessage>,
    head: Option<usize>,
}

impl ExpectedSession {
    /// From the root to `last`.
    fn path(&self, last: Option<usize>) -> Vec<usize> {
        let mut path: Vec<_> =
            std::iter::successors(last, |message| self.all[*message].parent).collect();
        path.reverse();
        path
    }

    fn lines(&self, last: Option<usize>) -> Vec<String> {
        let line = |at: usize| format!("{}: {}", self.all[at].role, self.all[at].text);
        self.path(last).into_iter().map(line).collect()
    }

    fn add(&mut self, parent: Option<usize>, role: &'static str, text: &str) -> usize {
        self.all.push(ExpectedMessage { id: String::new(), parent, role, text: text.to_owned() });
        self.head = Some(self.all.len() - 1);
        self.all.len() - 1
    }

    fn pick_message(&self, role: Option<&str>, number: u8) -> Option<usize> {
        let fits = |at: &usize| role.is_none_or(|role| self.all[*at].role == role);
        let fitting: Vec<_> = (0..self.all.len()).filter(fits).collect();
        fitting.get(usize::from(number) % fitting.len().max(1)).copied()
    }

    /// The newest leaf below a message.
    fn newest_leaf(&self, message: usize) -> usize {
        let is_leaf = |at: &usize| self.all.iter().all(|said| said.parent != Some(*at));
        let below = |at: &usize| self.path(Some(*at)).contains(&message);
        (0..self.all.len()).rev().filter(is_leaf).find(below).unwrap()
    }
}

/// Begins a turn, answers it, and checks the history in its prompt.
async fn run_turn(server: &Server, body: Value, reply: &str, shown: &[String]) {
    let mut frames = server.chat(body).await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], *shown);
    call.reply(reply);
    frames.until("[DONE]").await;
}

async fn apply_step(
    server: &Server,
    number: usize,
    step: &Step,
    sessions: &mut Vec<ExpectedSession>,
) -> usize {
    let which = usize::from(step.session) % sessions.len();
    let session = &mut sessions[which];
    let id = session.id.clone();
    let (text, reply) = (format!("question {number}"), format!("answer {number}"));
    match step.what {
        Operation::Say | Operation::Edit => {
            let edited = matches!(step.what, Operation::Edit)
                .then(|| session.pick_message(Some("user"), step.message))
                .flatten();
            let mut body = json!({"sessionId": id, "message": text});
            let parent = edited.map_or(session.head, |edited| session.all[edited].parent);
            if edited.is_some() {
                body["parentId"] = parent.map(|parent| session.all[parent].id.clone()).into();
            }
            let question = session.add(parent, "user", &text);
            run_turn(server, body, &reply, &session.lines(Some(question))).await;
            session.add(Some(question), "assistant", &reply);
        }
        Operation::Regenerate => {
            let Some(old) = session.pick_message(Some("assistant"), step.message) else {
                return which;
            };
            let parent = session.all[old].parent;
            let named = &session.all[old].id;
            let body = json!({"id": id, "messages": [], "trigger": "regenerate-message", "messageId": named});
            run_turn(server, body, &reply, &session.lines(parent)).await;
            session.add(parent, "assistant", &reply);
        }
        Operation::Switch => {
            let Some(to) = session.pick_message(None, step.message) else { return which };
            let path = format!("/api/chat-sessions/{id}/head");
            server.put(&path, json!({"messageId": session.all[to].id})).await.data();
            session.head = Some(session.newest_leaf(to));
        }
        Operation::Fork => {
            let Some(last) = session.pick_message(None, step.message) else { return which };
            let path = format!("/api/chat-sessions/{id}/fork");
            let fork = server.post(&path, json!({"messageId": session.all[last].id})).await.data();
            let mut copy = ExpectedSession {
                id: fork["sessionId"].as_str().unwrap().to_owned(),
                ..ExpectedSession::default()
            };
            for at in session.path(Some(last)) {
                let ExpectedMessage { role, text, .. } = session.all[at].clone();
                copy.add(copy.head, role, &text);
            }
            sessions.push(copy);
            return sessions.len() - 1;
        }
    }
    which
}

/// Reads a session over all routes, compares it with the expected state, and records the ids of new
/// messages.
async fn check_session(server: &Server, session: &mut ExpectedSession) {
    let path = format!("/api/chat-sessions/{}", session.id);
    let all = server.get(&format!("{path}/messages?view=all&limit=100")).await.data();
    let all = all["messages"].as_array().unwrap();
    let texts: Vec<_> = all.iter().map(|message| message["content"].as_str().unwrap()).collect();
    let expected: Vec<_> = session.all.iter().map(|said| said.text.as_str()).collect();
    assert_eq!(texts, expected, "no message is gone, none is there twice");
    for (said, message) in session.all.iter_mut().zip(all) {
        let id = message["id"].as_str().unwrap();
        assert!(said.id.is_empty() || said.id == id, "{message} keeps its id");
        said.id = id.to_owned();
    }
    for (at, message) in all.iter().enumerate() {
        let parent = session.all[at].parent;
        let parent_id = parent.map(|parent| session.all[parent].id.as_str());
        assert_eq!(message["parentId"].as_str(), parent_id);
        let siblings = session.all.iter().filter(|said| said.parent == parent);
        let siblings: Vec<_> = siblings.map(|said| said.id.as_str()).collect();
        assert_eq!(message["siblingIds"], json!(siblings));
    }

    let lines = session.lines(session.head);
    assert_eq!(server.transcript(&session.id).await, lines, "the path that is shown");
    let head = session.head.map(|head| session.all[head].id.as_str());
    assert_eq!(server.get(&path).await.data()["headId"].as_str(), head);
    let memory = server.get(&format!("{path}/memory")).await.data();
    let pieces = memory["pieces"].as_array().unwrap().iter();
    let remembered = pieces.filter(|piece| piece["kind"] == "recent").map(|piece| {
        format!("{}: {}", piece["role"].as_str().unwrap(), piece["text"].as_str().unwrap())
    });
    assert_eq!(remembered.collect::<Vec<_>>(), lines, "the path that the model reads");
}

#[tokio::test]
async fn random_branching_shows_one_path_and_loses_nothing() {
    let server = Server::start().await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..CASES {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let mut sessions =
            vec![ExpectedSession { id: server.session().await, ..ExpectedSession::default() }];
        for (number, step) in steps.iter().enumerate() {
            let changed = apply_step(&server, number, step, &mut sessions).await;
            check_session(&server, &mut sessions[changed]).await;
        }
        for session in &mut sessions {
            check_session(&server, session).await;
        }
    }
}
