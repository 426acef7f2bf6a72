//! What may happen to a session, and in which order: the same in every database.
//!
//! Each function is one atomic step over a [`Work`](super::work::Work). It may be run again from
//! the start when the database asks for that, so it keeps nothing outside the step.

mod append;
mod import;
mod ledger;
mod posts;
mod projects;
mod queue;
mod repeats;
mod requests;
mod sessions;
mod tree;
mod turns;

pub(super) use import::import_session;
pub(crate) use ledger::exceeded;
pub(super) use posts::post_message;
pub(super) use projects::{
    change_project, create_project, delete_file, delete_project, file, files, project, put_file,
};
pub(super) use queue::{begin_waiting, silence, withdraw};
pub(super) use requests::oldest as oldest_request;
pub(super) use sessions::{
    change_session, create_session, delete_idle, delete_session, get, name_session, title_words,
    with_owner,
};
pub(super) use tree::{fork, mark_seen, move_head, nodes, step_back};
pub(super) use turns::{begin_turn, finish_turn};
