//! The rules of the store: what may happen to a session, and in which order. They are the same
//! in every database.
//!
//! Most functions are one atomic transaction over a
//! [`StoreTransaction`](super::transaction::StoreTransaction). A database may run it again from the
//! start after a conflict, so it must not keep state outside the transaction.
//!
//! Reads that depend on the query language of a database (lists, pages, the history of a prompt)
//! are in its own folder. The decisions that they share are here: `history`, `message_pages`,
//! `session_list`.

mod append;
mod claim;
mod drafts;
mod history;
mod idempotency;
mod idempotency_keys;
mod import;
mod invitations;
mod ledger;
mod members;
mod message_pages;
mod posts;
mod projects;
mod queue;
mod session_list;
mod sessions;
mod tree;
mod turns;

pub(super) use drafts::{SessionDraft, append_to_draft, publish_fork, publish_import};
pub(super) use history::{
    FINISH_REASON_WITH_PARTS, HistoryBudget, HistoryDecision, ROLES_WITH_PARTS, needs_parts,
};
pub(super) use idempotency_keys::oldest_valid_request;
pub(super) use import::{
    changed_meanwhile, choose_new_id, ensure_importable, ensure_unchanged, find_import_session,
    import_session, mentioned_ids,
};
pub(super) use invitations::{accept_invitation, leave_session};
pub(in crate::store) use ledger::is_impossible_total;
pub(crate) use ledger::quota_exceeded;
pub(super) use members::initial_members;
pub(super) use message_pages::{MessagePageBuilder, anchor_off_path};
pub(super) use posts::post_message;
pub(super) use projects::{
    create_project, delete_file, delete_project, get_file, get_project, put_file, select_files,
    update_project,
};
pub(super) use queue::{begin_queued_turn, cancel_queued_turns, remove_queued_turn};
pub(super) use session_list::{SessionVisibility, build_session_page};
pub(super) use sessions::{
    activity_time, create_session, delete_if_inactive, delete_session, fold_title, get_session,
    set_generated_title, update_session,
};
pub(super) use tree::{
    ForkSource, find_fork_source, find_leaf, find_same_session, fork_session, list_nodes,
    mark_seen, move_head, pop_head, set_head,
};
pub(super) use turns::{begin_turn, finish_turn};
