//! The rules of the store: what may happen to a session, and in which order. They are the same
//! in every database.
//!
//! Each function is one atomic transaction over a
//! [`StoreTransaction`](super::transaction::StoreTransaction). A database may run it again from the
//! start after a conflict, so it must not keep state outside the transaction.

mod append;
mod claim;
mod idempotency;
mod idempotency_keys;
mod import;
mod ledger;
mod posts;
mod projects;
mod queue;
mod sessions;
mod tree;
mod turns;

pub(super) use idempotency_keys::oldest_valid_request;
pub(super) use import::import_session;
pub(crate) use ledger::quota_exceeded;
pub(super) use posts::post_message;
pub(super) use projects::{
    create_project, delete_file, delete_project, get_file, get_project, put_file, select_files,
    update_project,
};
pub(super) use queue::{begin_queued_turn, cancel_queued_turns, remove_queued_turn};
pub(super) use sessions::{
    create_session, delete_if_inactive, delete_session, fold_title, get_session,
    participants_with_owner, set_generated_title, update_session,
};
pub(super) use tree::{fork_session, list_nodes, mark_seen, pop_head, set_head};
pub(super) use turns::{begin_turn, finish_turn};
