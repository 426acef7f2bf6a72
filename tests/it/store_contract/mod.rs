//! What every store must do, whatever it is made of: one suite, run once per store. One file per
//! subject; what they share stands here.

mod admin;
mod branches;
mod cross_store;
mod embeddings;
mod export;
mod import;
mod keys;
mod ledger;
mod messages;
mod participants;
mod paths;
mod projects;
mod queue;
mod responses;
mod sessions;
mod summaries;
mod takeover;
mod tree;
mod turns;

use echoic::domain::message::{Body, Parts};
use echoic::domain::page::{Place, SessionQuery, Slice, Sort, View};
use echoic::domain::session::Settings;
use echoic::domain::text::words;
use echoic::domain::{
    Message, MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, TurnId, UserId,
};
use echoic::store::mongo::MongoStore;
use echoic::store::sqlite::{SqliteStore, Sync};
use echoic::store::{
    Ask, Began, BeginTurn, Begun, Claimant, FinishTurn, MessageQuery, NewMessage, NewSession,
    OnBusy, OnKnownId, Parent, PostMessage, ReplyFields, SessionTarget, Store, TurnSpec,
};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

use crate::support::mongo::database;

/// Silence after which an instance counts as gone.
const LEASE: Duration = Duration::from_secs(15);

/// A store that is empty, and what must live as long as it.
pub(crate) struct Fresh {
    pub(crate) store: Arc<dyn Store>,
    _folder: TempDir,
}

pub(crate) async fn sqlite() -> Option<Fresh> {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("echoic.db"), Sync::Normal).unwrap();
    Some(Fresh { store: Arc::new(store), _folder: folder })
}

/// `None` where there is no MongoDB, and none is required.
pub(crate) async fn mongo() -> Option<Fresh> {
    let store = MongoStore::open(&database()?, LEASE).await.unwrap();
    Some(Fresh { store: Arc::new(store), _folder: tempfile::tempdir().unwrap() })
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
        of_many_turns_that_want_a_session_exactly_one_gets_it,
        a_finished_turn_frees_its_session_and_a_lost_claim_stores_nothing,
        a_turn_that_is_not_admitted_leaves_no_trace,
        a_repeated_turn_leads_where_it_led_the_first_time,
        a_key_that_says_what_is_said_repeats_the_newest_for_two_minutes,
        turns_of_an_earlier_life_are_orphans_with_their_logs,
        a_log_ends_with_its_reply_and_is_dropped_later,
        what_is_said_before_a_message_is_stored_with_it_or_not_at_all,
    ]
    queue: [
        waiting_turns_run_in_order_and_at_most_eight_wait,
        waiting_turns_can_be_dropped_withdrawn_and_found_after_a_crash,
    ]
    branches: [
        an_edit_stands_beside_the_message_it_replaces,
        another_reply_stands_beside_the_first_wherever_the_head_is,
        there_must_be_something_to_answer_again,
        a_turn_may_branch_off_anywhere_or_begin_a_path_of_its_own,
        a_closed_session_takes_nothing_until_it_is_reopened,
        a_turn_that_waited_is_passed_over_once_its_session_is_closed,
        while_a_person_answers_messages_are_stored_and_no_turn_begins,
    ]
    sessions: [
        a_session_is_hidden_from_strangers_and_its_owners_things_from_guests,
        a_session_id_belongs_to_the_first_who_used_it,
        titles_are_found_by_the_beginnings_of_their_words,
        many_sessions_to_delete_are_the_callers_own_and_no_others,
        an_operator_finds_everybodys_sessions_by_their_owner,
        a_list_read_by_cursor_shows_each_session_once_while_others_arrive,
    ]
    messages: [
        the_tail_of_a_path_ends_where_its_bounds_say,
        parts_come_with_the_tail_as_far_as_there_is_room_for_them,
        a_key_is_forgotten_after_a_day,
        whatever_is_posted_where_every_message_is_on_one_path_in_one_node,
    ]
    export: [
        the_pieces_of_a_session_are_its_messages_in_the_order_they_were_stored,
        a_piece_is_read_by_the_owner_or_an_admin_and_nobody_else,
        what_a_session_held_at_first_is_read_though_more_is_said_meanwhile,
        how_far_users_have_read_goes_in_with_a_new_session_and_comes_out,
        a_file_may_say_that_a_session_keeps_the_title_it_has,
        a_message_that_an_import_cannot_place_is_told_by_its_number,
        all_of_a_users_sessions_are_named_whatever_their_state,
        an_older_file_takes_no_time_back_from_a_session_that_is_there,
        an_export_goes_on_when_sessions_are_deleted_or_grow_meanwhile,
    ]
    tree: [
        the_head_becomes_the_newest_leaf_below_the_message_that_is_named,
        the_head_stays_where_it_is_while_a_reply_runs_and_for_strangers,
        a_fork_holds_the_path_and_goes_its_own_way,
        a_guests_fork_is_the_guests_alone,
        a_fork_of_a_path_over_many_nodes_holds_all_of_it,
    ]
    embeddings: [
        embeddings_belong_to_their_messages_and_go_with_them,
    ]
    responses: [
        a_response_is_kept_once_for_each_reply_and_read_by_those_in_its_session,
        a_response_goes_with_its_session,
    ]
    summaries: [
        a_summary_is_found_on_the_paths_that_have_its_last_message,
    ]
    paths: [
        whatever_is_edited_regenerated_switched_and_forked_there_is_one_path_and_nothing_is_lost,
    ]
    takeover: [
        a_customer_is_handed_to_a_person_and_back,
    ]
    participants: [
        two_people_talk_and_see_what_the_other_has_read,
        a_read_mark_only_goes_forward_and_is_each_users_own,
        nodes_hold_every_message_once_in_pieces_of_any_size,
    ]
    import: [
        an_imported_session_is_as_its_file_says,
        importing_again_adds_what_is_new_and_nothing_else,
        a_session_goes_in_whole_or_not_at_all,
        a_session_that_another_user_has_goes_in_under_another_id,
        nothing_is_imported_into_a_session_that_is_busy_or_closed,
        the_importer_owns_what_a_file_says_of_others_and_may_not_always_let_them_in,
    ]
    admin: [
        owners_are_listed_with_what_they_own,
        only_what_is_still_idle_is_deleted,
        a_ticket_is_taken_by_one,
    ]
    keys: [
        a_key_is_kept_as_it_was_made_until_it_is_revoked,
        when_a_key_was_used_only_goes_forward,
    ]
    ledger: [
        what_quotas_go_by_is_booked_when_its_end_is_told,
        calls_beside_the_turns_are_in_the_sums_and_no_turns,
        a_turn_is_booked_once_with_its_end,
        what_is_spent_begins_nothing_and_leaves_no_trace,
    ]
    projects: [
        a_project_is_its_owners_alone,
        projects_are_listed_newest_change_first,
        every_change_raises_the_version_and_a_stale_one_is_refused,
        a_project_goes_in_whole_or_not_at_all_and_goes_with_its_files,
        of_many_who_write_at_once_none_is_lost_and_of_one_version_only_one_wins,
    ]
});

fn user(name: &str) -> Principal {
    Principal { user: UserId::trusted(name), is_admin: false }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn id(text: &str) -> SessionId {
    SessionId::trusted(text)
}

fn life(boot: &str) -> Claimant {
    Claimant { instance: "tests".to_owned(), boot: boot.to_owned() }
}

/// Begins a turn in a session that is free.
async fn running(store: &Arc<dyn Store>, begin: BeginTurn) -> Begun {
    match store.begin_turn(begin).await.unwrap() {
        Began::Running(begun) => *begun,
        other => panic!("the session was free: {other:?}"),
    }
}

fn finish(begun: &Begun, reply: &str, take_next: Option<Claimant>) -> FinishTurn {
    let mut reply = message("assistant", Role::Assistant, reply, 2);
    reply.id = begun.turn.message_id.clone();
    let (session_id, turn_id) = (begun.session.id.clone(), begun.turn.turn_id.clone());
    FinishTurn {
        session_id,
        turn_id,
        claimant: life("one"),
        reply,
        cost: None,
        is_counted: false,
        last_batch: None,
        take_next,
    }
}

fn message(sender: &str, role: Role, content: &str, millis: i64) -> NewMessage {
    NewMessage {
        id: MessageId::generate(),
        client_message_id: None,
        role,
        sender_id: UserId::trusted(sender),
        body: Body {
            content: content.to_owned(),
            parts: Parts::default(),
            kind: MessageType::Text,
        },
        tokens: 10,
        created_at: at(millis),
        reply: ReplyFields::default(),
    }
}

fn begin(who: &Principal, session: &str, content: &str) -> BeginTurn {
    BeginTurn {
        earlier: Vec::new(),
        who: who.clone(),
        session: SessionTarget::Existing(id(session)),
        project_id: None,
        on_busy: OnBusy::Reject,
        idempotency: None,
        turn: TurnSpec {
            turn_id: TurnId::generate(),
            reply_id: MessageId::generate(),
            ask: Ask::Say {
                message: Box::new(message(who.user.as_str(), Role::User, content, 1)),
                parent: Parent::Head,
                on_known: OnKnownId::Refuse,
            },
            options: Settings::default(),
        },
        key: None,
        quotas: [].into(),
        admit: Box::new(|_, _| Ok(())),
        claimant: life("one"),
        now: at(1),
    }
}

async fn create(store: &Arc<dyn Store>, owner: &Principal, session: &str) -> Session {
    let new = NewSession { id: Some(id(session)), ..NewSession::default() };
    store.create_session(owner, new, at(0)).await.unwrap().0
}

async fn said(store: &Arc<dyn Store>, who: &Principal, session: &str, view: View) -> Vec<Message> {
    let query = MessageQuery { view, slice: Slice::Newest, limit: 100 };
    store.messages(who, &id(session), query).await.unwrap().messages
}

async fn post(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
    message: NewMessage,
    parent: Parent,
) -> Message {
    let post = PostMessage {
        session_id: id(session),
        now: message.created_at,
        message,
        parent,
        idempotency: None,
    };
    store.post_message(who, post).await.unwrap().0
}

async fn listed(store: &Arc<dyn Store>, who: &Principal, search: Option<&str>) -> Vec<String> {
    let query = SessionQuery {
        place: Place::Page(1),
        limit: 100,
        sort: Sort::default(),
        search: search.map(words),
        project_id: None,
        status: None,
        archived: Some(false),
    };
    let page = store.sessions(who, query).await.unwrap();
    page.sessions.iter().map(|session| session.id.to_string()).collect()
}
