//! The ledger: each turn is recorded once, by the transaction that ends it, and quotas are checked
//! against it.

use super::{begin, begin_running, create, finish, user};
use echoic::domain::key::KeyId;
use echoic::domain::quota::{Quota, QuotaUnit};
use echoic::domain::{CallKind, Timestamp, TurnId, Usage};
use echoic::error::ErrorKind;
use echoic::store::{BeginTurn, FinishTurn, GroupBy, LedgerEntry, Store, UsageQuery};
use std::sync::Arc;

fn with_usage(finish: FinishTurn, prompt: u64, completion: u64) -> FinishTurn {
    let mut finish = finish;
    let usage = Usage { prompt_tokens: prompt, completion_tokens: completion, ..Usage::default() };
    finish.reply.reply.usage = Some(usage);
    FinishTurn { cost: Some(5), ..finish }
}

fn all_usage() -> UsageQuery {
    let to = Timestamp::from_millis(4_000_000_000_000);
    UsageQuery { user: None, from: Timestamp::from_millis(0), to, group_by: GroupBy::All, limit: 9 }
}

/// Turns and prompt tokens in the ledger, and tokens and cost charged to a quota key. Reading the
/// session first applies what its last transaction left pending.
async fn recorded_usage(store: &Arc<dyn Store>, purse: &str) -> (u64, u64, i64, i64) {
    let lines = store.query_usage(all_usage()).await.unwrap();
    let (turns, prompt) = lines.first().map_or((0, 0), |line| (line.turns, line.prompt_tokens));
    let spent = store.usage_total(purse, 0).await.unwrap();
    (turns, prompt, spent.tokens, spent.cost)
}

pub(super) async fn finished_turn_is_recorded_once(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let key = Some(KeyId::new_unchecked("0123456789ab"));
    let begun = begin_running(store, BeginTurn { key_id: key, ..begin(&ada, "s", "hi") }).await;
    let finish = with_usage(finish(&begun, "hello", None), 100, 7);
    for _ in 0..3 {
        assert!(store.finish_turn(finish.clone()).await.unwrap().is_some());
        store
            .get_session(&ada, &begun.session.id, echoic::domain::principal::AccessLevel::Owner)
            .await
            .unwrap();
        for purse in ["user:ada", "key:0123456789ab"] {
            assert_eq!(recorded_usage(store, purse).await, (1, 100, 107, 5));
        }
    }
    let entry = store.list_ledger_entries(None, 10).await.unwrap().pop().unwrap();
    store.record_usage(entry.clone()).await.unwrap();
    assert_eq!(recorded_usage(store, "user:ada").await, (1, 100, 107, 5));
    assert_eq!(store.list_ledger_entries(Some(&entry.turn_id), 10).await.unwrap(), []);
    let begun = begin_running(store, begin(&ada, "s", "more")).await;
    let late = with_usage(super::finish(&begun, "late", None), 90, 10);
    let now_on = TurnId::generate();
    assert_eq!(store.delete_usage(&entry.payer.user, &now_on).await.unwrap(), 1);
    assert_eq!(
        recorded_usage(store, "user:ada").await,
        (0, 0, 107, 5),
        "what is spent stays spent"
    );
    let counted = FinishTurn { counts_toward_quota: true, ..late };
    store.finish_turn(counted).await.unwrap().unwrap();
    assert_eq!(
        store.list_ledger_entries(None, 10).await.unwrap(),
        [],
        "what ran then leaves no line"
    );
    let background = LedgerEntry { turn_id: TurnId::generate(), ..entry };
    store.record_usage(background.clone()).await.unwrap();
    assert_eq!(store.list_ledger_entries(None, 10).await.unwrap(), [background]);
}

pub(super) async fn counted_turn_is_charged_once_its_finish_returns(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    for turns in 1..=5 {
        let begun = begin_running(store, begin(&ada, "s", "hi")).await;
        let counted = FinishTurn {
            counts_toward_quota: true,
            ..with_usage(finish(&begun, "hello", None), 90, 10)
        };
        store.finish_turn(counted).await.unwrap().unwrap();
        assert_eq!(store.usage_total("user:ada", 0).await.unwrap().tokens, turns * 100);
    }
}

pub(super) async fn background_calls_count_in_totals_but_not_as_turns(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "hi")).await;
    let counted = FinishTurn {
        counts_toward_quota: true,
        ..with_usage(finish(&begun, "hello", None), 100, 7)
    };
    store.finish_turn(counted).await.unwrap().unwrap();
    let turn = store.list_ledger_entries(None, 10).await.unwrap().pop().unwrap();
    assert_eq!(turn.kind, CallKind::Reply);
    let mut background = Vec::new();
    for kind in [CallKind::Title, CallKind::Summary] {
        let usage = Usage { estimated: true, ..turn.usage };
        let call = LedgerEntry { turn_id: TurnId::generate(), kind, usage, ..turn.clone() };
        store.record_usage(call.clone()).await.unwrap();
        store.record_usage(call.clone()).await.unwrap();
        background.push(call);
    }
    let line = store.query_usage(all_usage()).await.unwrap().pop().unwrap();
    assert_eq!((line.turns, line.background_calls, line.estimated_turns), (1, 2, 0));
    assert_eq!((line.prompt_tokens, line.completion_tokens, line.cost), (300, 21, Some(15)));
    assert_eq!(store.usage_total("user:ada", 0).await.unwrap().tokens, 321);
    assert_eq!(store.list_ledger_entries(Some(&turn.turn_id), 10).await.unwrap(), background);
}

pub(super) async fn spent_quota_begins_nothing_and_leaves_no_trace(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for (who, session) in [(&ada, "s"), (&bob, "t")] {
        create(store, who, session).await;
    }
    let quotas: Arc<[Quota]> = [Quota::parse(QuotaUnit::Tokens, "100").unwrap()].into();
    let within = |begin: BeginTurn| BeginTurn { quotas: quotas.clone(), ..begin };
    let begun = begin_running(store, within(begin(&ada, "s", "hi"))).await;
    store.finish_turn(with_usage(finish(&begun, "hello", None), 99, 1)).await.unwrap().unwrap();
    let refused = store.begin_turn(within(begin(&ada, "s", "more"))).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::QuotaExceeded);
    let access = echoic::domain::principal::AccessLevel::Owner;
    let session = store.get_session(&ada, &begun.session.id, access).await.unwrap();
    assert_eq!((session.messages_count, session.active_turn), (2, None));
    begin_running(store, within(begin(&bob, "t", "hi"))).await;
    begin_running(store, begin(&ada, "s", "without a quota")).await;
}

pub(super) async fn absurd_counts_never_fill_the_ledger(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "hi")).await;
    let absurd = with_usage(finish(&begun, "hello", None), u64::MAX, 7);
    let absurd = FinishTurn { cost: Some(i64::MAX), counts_toward_quota: true, ..absurd };
    store.finish_turn(absurd).await.unwrap().unwrap();
    let entry = store.list_ledger_entries(None, 10).await.unwrap().pop().unwrap();
    for _ in 0..3 {
        let usage = Usage { completion_tokens: u64::MAX, cached_tokens: 1 << 62, ..entry.usage };
        let id = TurnId::generate();
        let entry = LedgerEntry { turn_id: id, usage, cost: Some(i64::MAX), ..entry.clone() };
        store.record_usage(entry).await.unwrap();
    }
    let line = store.query_usage(all_usage()).await.unwrap().pop().unwrap();
    assert_eq!((line.turns, line.estimated_turns), (4, 4));
    assert_eq!((line.prompt_tokens, line.cached_tokens, line.completion_tokens), (0, 0, 7));
    assert_eq!(store.usage_total("user:ada", 0).await.unwrap().tokens, 7);
}
