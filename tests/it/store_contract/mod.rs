//! The store contract: one suite, run against every store. One file per subject; shared helpers are
//! here.

mod admin;
mod branches;
mod cross_store;
mod drafts;
mod embeddings;
mod export;
mod import;
mod invitations;
mod keys;
mod ledger;
mod messages;
mod mongo_drafts;
mod participants;
mod paths;
mod projects;
mod queue;
mod responses;
mod round_trip;
mod sessions;
mod summaries;
mod takeover;
mod tree;
mod turns;

use echoic::domain::content::MessageBody;
use echoic::domain::message::MessageParts;
use echoic::domain::page::{MessageSlice, MessageView, PagePosition, SessionQuery, SortOrder};
use echoic::domain::search::parse_title_terms;
use echoic::domain::session::SessionSettings;
use echoic::domain::{
    Message, MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, TurnId, UserId,
};
use echoic::store::mongo::MongoStore;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    BeginOutcome, BeginTurn, DuplicateIdPolicy, FinishTurn, LeaseHolder, MessageParent,
    MessageQuery, NewMessage, NewSession, OnBusy, PostMessage, ReplyFields, SessionTarget,
    StartedTurn, Store, TurnInput, TurnSpec,
};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

use crate::support::mongo::database;

/// An instance without a heartbeat for this long counts as gone.
const LEASE: Duration = Duration::from_secs(15);

/// An empty store, and the folder that must live as long as it, with `echoic.db` for SQLite.
pub(crate) struct EmptyStore {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) folder: TempDir,
}

pub(crate) async fn sqlite() -> Option<EmptyStore> {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("echoic.db"), Durability::Normal).unwrap();
    Some(EmptyStore { store: Arc::new(store), folder })
}

/// `None` without a MongoDB, unless `REQUIRE_MONGO` is set.
pub(crate) async fn mongo() -> Option<EmptyStore> {
    let store = MongoStore::open(&database()?, LEASE).await.unwrap();
    Some(EmptyStore { store: Arc::new(store), folder: tempfile::tempdir().unwrap() })
}

/// Runs each test of the suite against each store.
macro_rules! contract {
    ($($store:ident),* => $tests:tt) => { $(mod $store { contract!(@run $store $tests); })* };
    (@run $store:ident {$($file:ident: [$($test:ident),* $(,)?])*}) => {
        $(mod $file {
            $(#[tokio::test]
            async fn $test() {
                let Some(fresh) = crate::store_contract::$store().await else { return };
                crate::store_contract::$file::$test(&fresh.store).await;
            })*
        })*
    };
}

contract!(sqlite, mongo => {
    turns: [
        one_of_many_concurrent_turns_gets_the_session,
        finish_frees_session_and_lost_claim_stores_nothing,
        turn_that_is_not_admitted_leaves_no_trace,
        repeated_turn_returns_its_first_result,
        content_key_repeats_the_newest_turn_for_two_minutes,
        turns_of_an_earlier_boot_are_orphans_with_their_logs,
        log_ends_with_its_reply_and_is_dropped_later,
        preceding_messages_are_stored_with_theirs_or_not_at_all,
    ]
    queue: [
        queued_turns_run_in_order_and_the_ninth_is_rejected,
        queued_turns_are_dropped_withdrawn_and_found_after_crash,
    ]
    branches: [
        edit_is_a_sibling_of_the_message_it_replaces,
        regenerated_reply_is_a_sibling_wherever_the_head_is,
        regeneration_requires_a_user_message,
        turn_branches_off_anywhere_or_starts_a_new_root,
        closed_session_accepts_nothing_until_reopened,
        queued_turn_is_skipped_once_its_session_is_closed,
        assigned_session_stores_messages_and_begins_no_turn,
    ]
    sessions: [
        session_hides_from_strangers_and_owner_rights_from_guests,
        session_id_belongs_to_its_first_user,
        titles_are_found_by_word_prefixes,
        bulk_deletion_takes_only_the_callers_own_sessions,
        operator_finds_all_sessions_by_their_owner,
        cursor_list_shows_each_session_once_while_others_arrive,
    ]
    messages: [
        recent_history_ends_at_its_limits,
        recent_history_includes_parts_while_they_fit,
        idempotency_key_expires_after_a_day,
        every_message_is_on_one_path_and_in_one_node,
    ]
    export: [
        session_chunks_hold_the_messages_in_stored_order,
        session_chunk_is_readable_only_by_owner_or_admin,
        earlier_messages_are_read_while_new_ones_arrive,
        read_marks_are_imported_with_a_new_session_and_exported,
        imported_file_may_keep_its_title_unset,
        unplaceable_message_is_reported_by_its_number,
        owned_sessions_are_listed_in_any_state,
        older_file_never_moves_last_seen_back,
        export_continues_while_sessions_are_deleted_or_grow,
    ]
    round_trip: [
        any_stored_text_survives_export_and_import,
    ]
    tree: [
        head_moves_to_the_newest_leaf_below_a_message,
        head_stays_during_a_reply_and_for_strangers,
        fork_copies_the_path_and_diverges,
        guests_fork_belongs_to_the_guest_alone,
        fork_of_a_path_over_many_nodes_is_complete,
    ]
    embeddings: [
        embeddings_belong_to_messages_and_are_deleted_with_them,
    ]
    responses: [
        response_is_stored_once_per_reply_for_its_participants,
        response_is_deleted_with_its_session,
    ]
    summaries: [
        summary_is_found_on_paths_with_its_last_message,
    ]
    paths: [
        random_branching_keeps_one_path_and_loses_nothing,
    ]
    takeover: [
        customer_is_handed_to_an_agent_and_back,
    ]
    participants: [
        two_users_see_what_the_other_has_read,
        read_mark_only_advances_and_is_per_user,
        nodes_hold_every_message_once_for_any_page_size,
    ]
    invitations: [
        invited_user_is_a_stranger_until_they_accept,
        participants_set_again_stay_in_and_new_ones_are_invited,
        everyone_but_the_owner_can_leave,
        archive_and_pins_are_each_participants_own,
        guests_list_is_paged_in_its_own_order,
        members_survive_export_and_import,
        participants_of_older_files_are_invited,
    ]
    import: [
        imported_session_matches_its_file,
        repeated_import_adds_only_new_messages,
        session_is_imported_whole_or_not_at_all,
        session_of_another_user_is_imported_under_a_new_id,
        busy_or_closed_session_rejects_an_import,
        importer_owns_sessions_and_adds_participants_if_trusted,
    ]
    drafts: [
        large_import_is_invisible_until_it_is_whole,
        unknown_parent_head_and_marks_are_reported,
        large_import_adds_what_a_session_lacks,
        post_during_a_large_import_is_not_lost,
        discarded_import_leaves_nothing_and_can_be_repeated,
        deleted_session_is_created_again_at_once,
        large_fork_is_whole_and_survives_its_source,
        small_import_in_chunks_matches_its_file,
    ]
    admin: [
        users_are_listed_with_their_totals,
        only_sessions_still_idle_are_deleted,
        ticket_is_redeemed_only_once,
    ]
    keys: [
        key_is_kept_unchanged_until_revoked,
        last_use_of_a_key_only_advances,
    ]
    ledger: [
        counted_turn_is_charged_once_its_finish_returns,
        background_calls_count_in_totals_but_not_as_turns,
        finished_turn_is_recorded_once,
        spent_quota_begins_nothing_and_leaves_no_trace,
        absurd_counts_never_fill_the_ledger,
    ]
    projects: [
        project_is_visible_only_to_its_owner,
        projects_are_listed_newest_change_first,
        each_change_raises_the_version_and_stale_ones_fail,
        project_is_stored_whole_or_not_and_deleted_with_files,
        concurrent_writers_lose_nothing_and_one_version_wins_once,
    ]
});

fn user(name: &str) -> Principal {
    Principal { user: UserId::new_unchecked(name), is_admin: false }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn id(text: &str) -> SessionId {
    SessionId::new_unchecked(text)
}

fn lease_holder(boot: &str) -> LeaseHolder {
    LeaseHolder { instance: "tests".to_owned(), boot: boot.to_owned() }
}

/// Begins a turn in an idle session.
async fn begin_running(store: &Arc<dyn Store>, begin: BeginTurn) -> StartedTurn {
    match store.begin_turn(begin).await.unwrap() {
        BeginOutcome::Running(begun) => *begun,
        other => panic!("the session was free: {other:?}"),
    }
}

fn finish(begun: &StartedTurn, reply: &str, take_next: Option<LeaseHolder>) -> FinishTurn {
    let mut reply = message("assistant", Role::Assistant, reply, 2);
    reply.id = begun.turn.message_id.clone();
    let (session_id, turn_id) = (begun.session.id.clone(), begun.turn.turn_id.clone());
    FinishTurn {
        session_id,
        turn_id,
        lease_holder: lease_holder("one"),
        reply,
        cost: None,
        counts_toward_quota: false,
        last_batch: None,
        next_lease_holder: take_next,
    }
}

fn message(sender: &str, role: Role, content: &str, millis: i64) -> NewMessage {
    NewMessage {
        id: MessageId::generate(),
        client_message_id: None,
        role,
        sender_id: UserId::new_unchecked(sender),
        body: MessageBody {
            content: content.to_owned(),
            parts: MessageParts::default(),
            kind: MessageType::Text,
        },
        tokens: 10,
        created_at: at(millis),
        reply: ReplyFields::default(),
    }
}

fn begin(who: &Principal, session: &str, content: &str) -> BeginTurn {
    BeginTurn {
        preceding: Vec::new(),
        principal: who.clone(),
        target: SessionTarget::Existing(id(session)),
        project_id: None,
        on_busy: OnBusy::Reject,
        idempotency_key: None,
        turn: TurnSpec {
            turn_id: TurnId::generate(),
            reply_id: MessageId::generate(),
            input: TurnInput::Send {
                message: Box::new(message(who.user.as_str(), Role::User, content, 1)),
                parent: MessageParent::Head,
                on_duplicate_id: DuplicateIdPolicy::Reject,
            },
            options: SessionSettings::default(),
        },
        key_id: None,
        quotas: [].into(),
        admission: Box::new(|_, _| Ok(())),
        lease_holder: lease_holder("one"),
        now: at(1),
    }
}

async fn create(store: &Arc<dyn Store>, owner: &Principal, session: &str) -> Session {
    let new = NewSession { id: Some(id(session)), ..NewSession::default() };
    store.create_session(owner, new, at(0)).await.unwrap().0
}

async fn stored_messages(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
    view: MessageView,
) -> Vec<Message> {
    let query = MessageQuery { view, slice: MessageSlice::Newest, limit: 100, with_siblings: true };
    store.list_messages(who, &id(session), query).await.unwrap().messages
}

async fn post(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
    message: NewMessage,
    parent: MessageParent,
) -> Message {
    let post = PostMessage {
        session_id: id(session),
        now: message.created_at,
        message,
        parent,
        idempotency_key: None,
    };
    store.post_message(who, post).await.unwrap().0
}

async fn listed_ids(store: &Arc<dyn Store>, who: &Principal, search: Option<&str>) -> Vec<String> {
    let query = SessionQuery {
        position: PagePosition::Page(1),
        limit: 100,
        sort: SortOrder::default(),
        search: search.map(parse_title_terms),
        project_id: None,
        status: None,
        archived: Some(false),
        is_of_invitations: false,
    };
    let page = store.list_sessions(who, query).await.unwrap();
    page.sessions.iter().map(|session| session.id.to_string()).collect()
}
