//! The message tree, as a property: edits, regenerations, switches and forks in any order keep one
//! path from the root to the head and lose no message, and memory reads that path.

use super::{at, begin, begin_running, create, finish, id, message, post, stored_messages, user};
use echoic::domain::memory::{MemoryOptions, MemoryStrategy};
use echoic::domain::message::MESSAGE_TOKEN_OVERHEAD;
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionSettings;
use echoic::domain::{MessageId, Principal, Role, Session, SessionId};
use echoic::memory::{Memory, MemoryDefaults, PlanInput, PromptInput, SectionKind};
use echoic::prompts::PromptTemplates;
use echoic::store::{BeginTurn, HistoryLimits, MessageParent, Store, TurnInput};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An action of a user. Numbers select one of the messages so far.
#[derive(Debug, Clone)]
enum Action {
    /// Runs a turn below the head, or below another message.
    Ask(Option<usize>),
    /// Posts a message of this size without a model call.
    Post(Option<usize>, usize),
    /// Edits a message: a sibling with a new reply.
    Edit(usize),
    /// Regenerates a reply.
    Regenerate(usize),
    /// Switches to the branch of a message.
    Switch(usize),
    /// Moves the head to its parent.
    Back,
    /// Forks the path up to a message and continues in the fork.
    Fork(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let any = || 0usize..1000;
    let place = || proptest::option::weighted(0.3, any());
    let size = prop_oneof![8 => 0usize..200, 1 => 40_000usize..140_000];
    let action = prop_oneof![
        4 => place().prop_map(Action::Ask),
        3 => (place(), size).prop_map(|(place, size)| Action::Post(place, size)),
        2 => any().prop_map(Action::Edit),
        2 => any().prop_map(Action::Regenerate),
        3 => any().prop_map(Action::Switch),
        1 => any().prop_map(Action::Fork),
        2 => Just(Action::Back),
    ];
    proptest::collection::vec(action, 1..30)
}

/// The expected state of a session.
struct ExpectedTree {
    session: SessionId,
    ids: Vec<MessageId>,
    parents: Vec<Option<usize>>,
    replies: Vec<bool>,
    head: Option<usize>,
}

impl ExpectedTree {
    fn of(session: SessionId) -> Self {
        let (ids, parents, replies) = (Vec::new(), Vec::new(), Vec::new());
        Self { session, ids, parents, replies, head: None }
    }

    fn add(&mut self, id: MessageId, parent: Option<usize>, is_reply: bool) {
        self.ids.push(id);
        self.parents.push(parent);
        self.replies.push(is_reply);
        self.head = Some(self.ids.len() - 1);
    }

    /// The messages from the root to `last`.
    fn path(&self, last: Option<usize>) -> Vec<usize> {
        let mut path: Vec<_> = std::iter::successors(last, |at| self.parents[*at]).collect();
        path.reverse();
        path
    }

    fn newest_below(&self, top: usize) -> usize {
        let is_below = |at: &usize| self.path(Some(*at)).contains(&top);
        (top..self.ids.len()).filter(is_below).max().unwrap()
    }

    fn pick_message(&self, number: usize) -> Option<usize> {
        number.checked_rem(self.ids.len())
    }

    fn below(&self, parent: Option<usize>) -> MessageParent {
        parent
            .map_or(MessageParent::Root, |parent| MessageParent::Message(self.ids[parent].clone()))
    }
}

/// The store, its user, and memory on top of it.
struct TreeFixture<'a> {
    store: &'a Arc<dyn Store>,
    ada: Principal,
    memory: Memory,
    /// Total number of recalled messages.
    recalled: AtomicUsize,
}

impl TreeFixture<'_> {
    async fn turn(
        &self,
        model: &mut ExpectedTree,
        ask: impl FnOnce(&mut BeginTurn),
        parent: Option<usize>,
    ) {
        let mut turn = begin(&self.ada, model.session.as_str(), &format!("q{}", model.ids.len()));
        ask(&mut turn);
        let is_again = matches!(turn.turn.input, TurnInput::Regenerate { .. });
        let begun = begin_running(self.store, turn).await;
        let reply = format!("r{}", model.ids.len());
        self.store.finish_turn(finish(&begun, &reply, None)).await.unwrap().unwrap();
        let question = if is_again {
            parent
        } else {
            model.add(begun.user_message.id.clone(), parent, false);
            model.head
        };
        model.add(begun.turn.message_id, question, true);
    }

    async fn say(&self, model: &mut ExpectedTree, parent: Option<usize>) {
        let below = model.below(parent);
        let place = |turn: &mut BeginTurn| {
            if let TurnInput::Send { parent, .. } = &mut turn.turn.input {
                *parent = below;
            }
        };
        self.turn(model, place, parent).await;
    }

    async fn apply_action(&self, model: &mut ExpectedTree, action: &Action) {
        let head = model.head;
        match action {
            Action::Ask(place) => {
                let parent = place.and_then(|place| model.pick_message(place)).or(head);
                self.say(model, parent).await;
            }
            Action::Post(place, size) => {
                let parent = place.and_then(|place| model.pick_message(place)).or(head);
                let text = format!("{}{}", model.ids.len(), "x".repeat(*size));
                let said = message("ada", Role::User, &text, 1);
                let below = model.below(parent);
                let stored = post(self.store, &self.ada, model.session.as_str(), said, below).await;
                model.add(stored.id, parent, false);
            }
            Action::Edit(which) => {
                let Some(which) = model.pick_message(*which) else { return };
                let parent = model.parents[which];
                self.say(model, parent).await;
            }
            Action::Regenerate(which) => {
                let Some(which) = model.pick_message(*which) else { return };
                let question =
                    if model.replies[which] { model.parents[which] } else { Some(which) };
                let reply = Some(model.ids[which].clone());
                self.turn(
                    model,
                    |turn| turn.turn.input = TurnInput::Regenerate { reply_id: reply },
                    question,
                )
                .await;
            }
            Action::Switch(which) => {
                let Some(which) = model.pick_message(*which) else { return };
                let named = &model.ids[which];
                self.store.set_head(&self.ada, &model.session, named, at(9)).await.unwrap();
                model.head = Some(model.newest_below(which));
            }
            Action::Back => {
                let Some(head) = head else { return };
                let (name, parent) = (&model.ids[head], model.parents[head]);
                let back = self.store.pop_head(&self.ada, &model.session, name, at(9)).await;
                assert_eq!(back.unwrap().is_some(), parent.is_some());
                model.head = parent.or(Some(head));
            }
            Action::Fork(which) => {
                let Some(which) = model.pick_message(*which) else { return };
                let named = &model.ids[which];
                let fork =
                    self.store.fork_session(&self.ada, &model.session, named, at(9)).await.unwrap();
                self.check(model).await;
                let mut copy = ExpectedTree::of(fork.id);
                for at in model.path(Some(which)) {
                    copy.add(model.ids[at].clone(), copy.head, model.replies[at]);
                }
                *model = copy;
            }
        }
    }

    async fn check(&self, model: &ExpectedTree) {
        let session = model.session.as_str();
        let stored = stored_messages(self.store, &self.ada, session, MessageView::All).await;
        assert_eq!(stored.iter().map(|m| m.id.clone()).collect::<Vec<_>>(), model.ids);
        let parents: Vec<_> = stored.iter().map(|m| m.parent_id.clone()).collect();
        let expected = model.parents.iter().map(|at| at.map(|at| model.ids[at].clone()));
        assert_eq!(parents, expected.collect::<Vec<_>>());
        let read =
            self.store.get_session(&self.ada, &id(session), AccessLevel::Owner).await.unwrap();
        assert_eq!(read.head_id, model.head.map(|head| model.ids[head].clone()));
        assert_eq!((read.messages_count as usize, &read.active_turn), (model.ids.len(), &None));

        let path = model.path(model.head);
        let on_path: Vec<_> = path.iter().map(|at| model.ids[*at].clone()).collect();
        let shown = stored_messages(self.store, &self.ada, session, MessageView::Path).await;
        assert_eq!(shown.iter().map(|m| m.id.clone()).collect::<Vec<_>>(), on_path);
        let memory =
            MemoryOptions { strategy: Some(MemoryStrategy::Buffer), ..MemoryOptions::default() };
        let plan = self
            .memory
            .plan_prompt(&SessionSettings { memory, ..SessionSettings::default() }, None)
            .unwrap();
        let head = read.head_id.as_ref();
        let assembled = self.memory.assemble_prompt(&read, plan, head, None).await.unwrap();
        let recent = assembled.pieces.iter().filter(|piece| piece.kind == SectionKind::Recent);
        let remembered: Vec<_> = recent.map(|piece| piece.message_ids[0].clone()).collect();
        assert_eq!(remembered, on_path);
        self.check_recall(&read, &on_path).await;
        self.check_tokens(&read).await;
    }

    /// Recalled messages are on this path, although the cached index may be of the previous one.
    async fn check_recall(&self, read: &Session, on_path: &[MessageId]) {
        let memory = MemoryOptions {
            strategy: Some(MemoryStrategy::Recall),
            max_tokens: Some(120),
            recall_tokens: Some(120),
            ..MemoryOptions::default()
        };
        let settings = SessionSettings { memory, ..SessionSettings::default() };
        let text = "q0 q2 q4 q6 q8 r1 r3 r5 r7 r9 1 2 3 4 5 6 7 8 9";
        let incoming = PlanInput { text, tokens: 40, images: &[], extra_tokens: 0 };
        let mut plan = self.memory.plan_prompt(&settings, Some(incoming)).unwrap();
        plan.recall_timeout = None;
        let new = PromptInput::from_user(text, at(0));
        let head = read.head_id.as_ref();
        let assembled = self.memory.assemble_prompt(read, plan, head, Some(new)).await.unwrap();
        let recalled = assembled.pieces.iter().flat_map(|piece| &piece.message_ids);
        let places: Vec<_> = recalled
            .map(|recalled| on_path.iter().position(|one| one == recalled).unwrap())
            .collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        self.recalled.fetch_add(places.len(), Ordering::Relaxed);
    }

    /// `path_tokens` of each message is the sum over its own path.
    async fn check_tokens(&self, read: &Session) {
        let Some(head) = &read.head_id else { return };
        let bounds = HistoryLimits {
            max_messages: u32::MAX,
            max_tokens: u32::MAX,
            token_overhead: 0,
            max_part_bytes: 0,
        };
        let path = self.store.recent_history(&read.id, head, bounds).await.unwrap();
        let mut sum = 0;
        for message in path.iter().rev() {
            sum += u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
            assert_eq!(message.path_tokens, sum);
        }
    }
}

pub async fn random_branching_keeps_one_path_and_loses_nothing(store: &Arc<dyn Store>) {
    let defaults = MemoryDefaults {
        strategy: MemoryStrategy::Buffer,
        max_tokens: None,
        context_window: Some(1_000_000),
        model: "gpt-4o".to_owned(),
    };
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let memory = Memory::new(store.clone(), prompts, defaults).unwrap();
    let world = TreeFixture { store, ada: user("ada"), memory, recalled: AtomicUsize::new(0) };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for case in 0..24 {
        let session = format!("s{case}");
        create(store, &world.ada, &session).await;
        let mut model = ExpectedTree::of(id(&session));
        for action in actions().new_tree(&mut runner).unwrap().current() {
            world.apply_action(&mut model, &action).await;
            world.check(&model).await;
        }
    }
    let recalled = world.recalled.load(Ordering::Relaxed);
    assert!(recalled > 500, "only {recalled}");
}
