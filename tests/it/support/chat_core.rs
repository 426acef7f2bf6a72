//! The chat core without HTTP, on a given store and with the demo provider.

use crate::store_contract::EmptyStore;
use echoic::chat::{ChatDependencies, ChatService};
use echoic::domain::title::SessionTitle;
use echoic::domain::{Principal, Session, SessionId, Timestamp, UserId};
use echoic::memory::{Memory, MemoryDefaults};
use echoic::prompts::PromptTemplates;
use echoic::provider::demo::DemoProvider;
use echoic::store::{LeaseHolder, NewSession, SessionUpdate};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The chat core with its event feed running. Without authentication HTTP has one user; here a test
/// can act as several.
pub struct ChatCore {
    pub chat: Arc<ChatService>,
    pub fresh: EmptyStore,
    _feed: tokio_util::sync::DropGuard,
}

impl ChatCore {
    pub fn new(fresh: EmptyStore) -> Self {
        let prompts = Arc::new(PromptTemplates::load(None).unwrap());
        let defaults = MemoryDefaults {
            strategy: Default::default(),
            max_tokens: None,
            context_window: None,
            model: "demo".to_owned(),
        };
        let memory = Memory::new(fresh.store.clone(), prompts.clone(), defaults).unwrap();
        let chat = Arc::new(ChatService::new(ChatDependencies {
            store: fresh.store.clone(),
            provider: Arc::new(DemoProvider::default()),
            memory: Arc::new(memory),
            prompts,
            title_model: None,
            summary_model: None,
            lease_holder: LeaseHolder { instance: "test".to_owned(), boot: "1".to_owned() },
        }));
        let stop = CancellationToken::new();
        tokio::spawn(chat.clone().run_event_feed(stop.clone()));
        Self { chat, fresh, _feed: stop.drop_guard() }
    }

    pub async fn invite(&self, session: &SessionId, users: &[&str]) -> Session {
        let participants = Some(users.iter().copied().map(UserId::new_unchecked).collect());
        let change = SessionUpdate { participants, ..SessionUpdate::default() };
        let now = Timestamp::from_millis(2);
        self.chat.change_session(&principal("alice"), session, change, vec![], now).await.unwrap()
    }

    pub async fn rename(&self, session: &SessionId, title: &str) {
        let title = Some(SessionTitle::from_user(Some(title)).unwrap());
        let change = SessionUpdate { title, ..SessionUpdate::default() };
        let now = Timestamp::from_millis(3);
        self.chat.change_session(&principal("alice"), session, change, vec![], now).await.unwrap();
    }

    pub async fn create(&self, participants: &[&str]) -> SessionId {
        let participants = participants.iter().copied().map(UserId::new_unchecked).collect();
        let new = NewSession { participants, ..NewSession::default() };
        let now = Timestamp::from_millis(1);
        self.chat.create_session(&principal("alice"), new, now).await.unwrap().0.id
    }
}

pub fn principal(user: &str) -> Principal {
    Principal { user: UserId::new_unchecked(user), is_admin: false }
}

/// Runs tests that take an empty store against each store.
macro_rules! on_both_stores {
    ($($test:ident),*) => {$(
        mod $test {
            #[tokio::test]
            async fn on_sqlite() {
                super::$test(crate::store_contract::sqlite().await.unwrap()).await;
            }

            #[tokio::test]
            async fn on_mongo() {
                let Some(fresh) = crate::store_contract::mongo().await else { return };
                super::$test(fresh).await;
            }
        }
    )*};
}

pub(crate) use on_both_stores;
