//! Two stores give the same results for any sequence of operations, errors included.

use super::{at, finish, id, lease_holder, message, mongo, sqlite, user};
use echoic::domain::page::{
    MessageSlice, MessageView, PagePosition, SessionCursor, SessionQuery, SortField, SortOrder,
};
use echoic::domain::search::parse_title_terms;
use echoic::domain::session::{JsonObject, SessionSettings, SessionStatus};
use echoic::domain::title::SessionTitle;
use echoic::domain::{MessageId, Principal, ProjectId, Role, SessionId, TurnId};
use echoic::error::Error;
use echoic::store::{
    BeginOutcome, BeginTurn, CancelledTurns, DuplicateIdPolicy, FinishOutcome, HistoryLimits,
    IdempotencyKey, MessageParent, MessageQuery, NewSession, OnBusy, PostMessage, RetryWindow,
    SessionTarget, SessionUpdate, Store, TurnInput, TurnSpec,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::fmt::Debug;
use std::sync::Arc;

const CASES: usize = 12;
const STEPS: usize = 100;

/// An operation. The numbers select it and one of a few users, sessions, messages and so on.
#[derive(Debug, Clone)]
struct Step {
    what: u8,
    user: u8,
    session: u8,
    message: u8,
    choice: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..19_u8, 0..6_u8, 0..6_u8, any::<u8>(), any::<u8>());
    let step = step.prop_map(|(what, user, session, message, choice)| Step {
        what,
        user,
        session,
        message,
        choice,
    });
    vec(step, STEPS)
}

/// One of the two stores, which both get the same operations.
struct StoreUnderTest {
    store: Arc<dyn Store>,
    /// The ids used so far, with their sessions.
    known_ids: Vec<(SessionId, MessageId)>,
    begun: Vec<echoic::store::StartedTurn>,
    cursor: Option<SessionCursor>,
}

fn rendered<T: Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}: {error}", error.kind),
    }
}

impl StoreUnderTest {
    fn of(store: Arc<dyn Store>) -> Self {
        Self { store, known_ids: Vec::new(), begun: Vec::new(), cursor: None }
    }

    /// The id of a message, usually of this session, sometimes of another.
    fn pick_message(&self, session: &SessionId, number: u8) -> MessageId {
        let own = |(of, _): &&(SessionId, MessageId)| of == session || number.is_multiple_of(16);
        let known_ids: Vec<_> = self.known_ids.iter().filter(own).collect();
        let known = known_ids.get(usize::from(number) % known_ids.len().max(1));
        known.map_or(MessageId::new_unchecked("unknown"), |(_, id)| id.clone())
    }

    fn parent(&self, session: &SessionId, step: &Step) -> MessageParent {
        match step.choice % 4 {
            0 | 1 => MessageParent::Head,
            2 => MessageParent::Message(self.pick_message(session, step.message)),
            _ if step.message.is_multiple_of(4) => MessageParent::Root,
            _ => MessageParent::Head,
        }
    }

    /// Runs an operation and renders its result.
    async fn run_step(&mut self, number: usize, step: &Step) -> String {
        let who: Principal =
            user(["ada", "ada", "ada", "bob", "bob", "eve"][usize::from(step.user)]);
        let session: SessionId =
            id(["s1", "s1", "s1", "s2", "s2", "s3"][usize::from(step.session)]);
        let now = at(number as i64 * 1000);
        let store = self.store.clone();
        let mut new = message(who.user.as_str(), Role::User, &text(step), number as i64 * 1000);
        new.id = MessageId::new_unchecked(format!("m{number}"));
        new.client_message_id = (step.choice.is_multiple_of(3))
            .then(|| MessageId::new_unchecked(format!("c{}", step.message % 6)));
        match step.what {
            0 | 1 => {
                let creation = NewSession {
                    id: Some(session),
                    project_id: (step.choice.is_multiple_of(2))
                        .then(|| ProjectId::new_unchecked("p")),
                    participants: vec![user("bob").user],
                    meta: JsonObject::from_stored(r#"{"n":1.50}"#.to_owned()).unwrap(),
                    ..NewSession::default()
                };
                rendered(store.create_session(&who, creation, now).await)
            }
            2..=4 => {
                let idempotency = self.key(step);
                let parent = self.parent(&session, step);
                let known_ids = (session.clone(), new.id.clone());
                let session_id = session;
                let post = PostMessage {
                    session_id,
                    message: new,
                    parent,
                    idempotency_key: idempotency,
                    now,
                };
                let posted = store.post_message(&who, post).await;
                self.known_ids.extend(posted.is_ok().then_some(known_ids));
                rendered(posted)
            }
            5..=7 => self.begin(number, step, who, session, new).await,
            8 | 9 => self.finish(step).await,
            10 => {
                let change = SessionUpdate {
                    title: (step.choice.is_multiple_of(2)).then(|| {
                        SessionTitle::from_user(Some(text(step).get(..12).unwrap_or("one")))
                            .unwrap()
                    }),
                    status: status(step.message),
                    archived: (step.choice.is_multiple_of(5))
                        .then_some(step.message.is_multiple_of(2)),
                    pinned: (step.choice.is_multiple_of(3))
                        .then_some(step.message.is_multiple_of(2)),
                    project_id: (step.choice.is_multiple_of(7)).then_some(None),
                    participants: (step.choice.is_multiple_of(11)).then(|| vec![user("eve").user]),
                    needs_consent: step.message.is_multiple_of(2),
                    ..SessionUpdate::default()
                };
                let if_match = if step.message.is_multiple_of(3) { vec![2] } else { Vec::new() };
                rendered(store.update_session(&who, &session, change, if_match, now).await)
            }
            11 if step.choice.is_multiple_of(4) => {
                rendered(store.delete_session(&who, &session).await)
            }
            11 if step.choice % 4 == 1 => {
                rendered(store.accept_invitation(&who, &session, now).await)
            }
            11 if step.choice % 4 == 2 => rendered(store.leave_session(&who, &session, now).await),
            11 => rendered(
                store
                    .get_session(&who, &session, echoic::domain::principal::AccessLevel::Owner)
                    .await,
            ),
            12 | 13 => {
                let page = store.list_sessions(&who, self.list(step)).await;
                self.cursor = page.as_ref().ok().and_then(|page| page.next_cursor.clone());
                rendered(page)
            }
            14 | 15 => {
                let slice = match step.choice % 3 {
                    0 => MessageSlice::Newest,
                    1 => MessageSlice::Before(self.pick_message(&session, step.message)),
                    _ => MessageSlice::After(self.pick_message(&session, step.message)),
                };
                let view = if step.choice.is_multiple_of(2) {
                    MessageView::Path
                } else {
                    MessageView::All
                };
                let query = MessageQuery {
                    view,
                    slice,
                    limit: u32::from(step.message % 7) + 1,
                    with_siblings: true,
                };
                rendered(store.list_messages(&who, &session, query).await)
            }
            16 => {
                let bounds = HistoryLimits {
                    max_messages: 20,
                    max_tokens: 90,
                    token_overhead: 2,
                    max_part_bytes: 100,
                };
                rendered(
                    store
                        .recent_history(
                            &session,
                            &self.pick_message(&session, step.message),
                            bounds,
                        )
                        .await,
                )
            }
            17 => {
                let to = self.pick_message(&session, step.message);
                match step.choice % 3 {
                    0 => rendered(store.pop_head(&who, &session, &to, now).await),
                    _ => rendered(store.set_head(&who, &session, &to, now).await),
                }
            }
            _ => match step.choice % 3 {
                0 => {
                    let CancelledTurns { running, dequeued: mut dropped } =
                        store.cancel_queued_turns(&session, None).await.unwrap();
                    dropped.sort();
                    format!("{running:?} {dropped:?}")
                }
                1 => {
                    let seen = self.pick_message(&session, step.message);
                    format!(
                        "{:?}",
                        store
                            .mark_seen(&who, &session, &seen)
                            .await
                            .map(|seen| seen.message_id)
                            .map_err(|error| error.kind)
                    )
                }
                _ => rendered(
                    store
                        .get_message(&who, &session, &self.pick_message(&session, step.message))
                        .await,
                ),
            },
        }
    }

    fn key(&self, step: &Step) -> Option<IdempotencyKey> {
        (step.choice % 5 == 1).then(|| IdempotencyKey {
            route: "tests",
            key: format!("k{}", step.message % 3),
            fingerprint: "f".to_owned(),
            retry_window: RetryWindow::Full,
        })
    }

    async fn begin(
        &mut self,
        number: usize,
        step: &Step,
        who: Principal,
        session: SessionId,
        new: echoic::store::NewMessage,
    ) -> String {
        let ask = if step.choice % 6 == 5 {
            TurnInput::Regenerate {
                reply_id: (step.message.is_multiple_of(2))
                    .then(|| self.pick_message(&session, step.message)),
            }
        } else {
            let on_known = if step.message.is_multiple_of(2) {
                DuplicateIdPolicy::Edit
            } else {
                DuplicateIdPolicy::Reject
            };
            TurnInput::Send {
                message: Box::new(new.clone()),
                parent: self.parent(&session, step),
                on_duplicate_id: on_known,
            }
        };
        let reply_id = MessageId::new_unchecked(format!("r{number}"));
        let known_ids = [(session.clone(), new.id.clone()), (session.clone(), reply_id.clone())];
        let earlier = echoic::store::NewMessage {
            id: MessageId::new_unchecked(format!("e{number}")),
            client_message_id: None,
            ..new.clone()
        };
        let begin = BeginTurn {
            preceding: if step.choice % 4 == 3 { vec![earlier] } else { Vec::new() },
            principal: who,
            target: match step.choice % 5 {
                0 => SessionTarget::Ensure(session),
                _ => SessionTarget::Existing(session),
            },
            project_id: None,
            on_busy: match step.message % 3 {
                0 => OnBusy::Reject,
                1 => OnBusy::Queue,
                _ => OnBusy::Interrupt,
            },
            idempotency_key: self.key(step),
            turn: TurnSpec {
                turn_id: TurnId::new_unchecked(format!("t{number}")),
                reply_id,
                input: ask,
                options: SessionSettings::default(),
            },
            key_id: None,
            quotas: [].into(),
            admission: Box::new(|_, _| Ok(())),
            lease_holder: lease_holder("one"),
            now: at(number as i64 * 1000),
        };
        match self.store.begin_turn(begin).await {
            Ok(BeginOutcome::Running(begun)) => {
                let rendered = format!("{begun:?}");
                self.begun.push(*begun);
                self.known_ids.extend(known_ids);
                rendered
            }
            other => rendered(other),
        }
    }

    async fn finish(&mut self, step: &Step) -> String {
        if self.begun.is_empty() {
            return String::new();
        }
        let begun = self.begun.remove(usize::from(step.message) % self.begun.len());
        let next = (!step.choice.is_multiple_of(4)).then(|| lease_holder("one"));
        match self.store.finish_turn(finish(&begun, &text(step), next)).await.unwrap() {
            None => "the claim is gone".to_owned(),
            Some(FinishOutcome { next, skipped }) => {
                let rendered = format!("{next:?} {skipped:?}");
                self.begun.extend(next.map(|next| *next));
                rendered
            }
        }
    }

    fn list(&self, step: &Step) -> SessionQuery {
        let sort = SortOrder {
            field: match step.choice % 4 {
                0 => SortField::Title,
                1 => SortField::CreatedAt,
                2 => SortField::UpdatedAt,
                _ => SortField::LastMessageAt,
            },
            descending: step.message.is_multiple_of(2),
        };
        let place = match (&self.cursor, step.what) {
            // A cursor is valid only for the sort order that produced it; here, the default one.
            (Some(cursor), 13) if sort == SortOrder::default() => {
                PagePosition::After(cursor.clone())
            }
            _ => PagePosition::Page(u32::from(step.message % 2) + 1),
        };
        SessionQuery {
            position: place,
            limit: 2,
            sort,
            search: (step.choice.is_multiple_of(3))
                .then(|| parse_title_terms(text(step).get(..5).unwrap_or("one"))),
            project_id: (step.choice.is_multiple_of(7)).then(|| ProjectId::new_unchecked("p")),
            status: (step.choice.is_multiple_of(5)).then(SessionStatus::default),
            archived: [None, Some(false), Some(true)][usize::from(step.message % 3)],
            is_of_invitations: step.choice.is_multiple_of(13),
        }
    }
}

fn text(step: &Step) -> String {
    let subject = ["Über Wolken", "rust and rain", "ÉTÉ 2024", ""][usize::from(step.choice % 4)];
    match step.message {
        // Now and then large enough to fill a node.
        250.. => format!("long {subject} {}", "x".repeat(70_000)),
        number => format!("one {subject} {number}"),
    }
}

fn status(number: u8) -> Option<SessionStatus> {
    let word = match number % 8 {
        0 => "closed",
        1 | 2 => "active",
        3 => "agent_assigned",
        _ => return None,
    };
    Some(SessionStatus::new_unchecked(word.to_owned()))
}

#[tokio::test]
async fn both_stores_answer_any_sequence_of_steps_the_same() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..CASES {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let (Some(file), Some(shared)) = (sqlite().await, mongo().await) else { return };
        let mut rendered =
            [StoreUnderTest::of(file.store.clone()), StoreUnderTest::of(shared.store.clone())];
        for StoreUnderTest { store, .. } in &rendered {
            for session in ["s1", "s2"] {
                let new = NewSession {
                    id: Some(id(session)),
                    participants: vec![user("bob").user],
                    invited: vec![user("eve").user],
                    ..NewSession::default()
                };
                store.create_session(&user("ada"), new, at(0)).await.unwrap();
            }
        }
        for (number, step) in steps.iter().enumerate() {
            let [file, shared] = &mut rendered;
            let answers = (file.run_step(number, step).await, shared.run_step(number, step).await);
            assert_eq!(answers.0, answers.1, "step {number} {step:?} of {steps:#?}");
        }
    }
}
