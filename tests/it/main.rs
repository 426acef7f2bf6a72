//! Integration tests: through the door the user uses, against the real server, the real store and
//! a provider that moves when it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod architecture;
mod bad_input;
mod branches;
mod busy;
mod chat;
mod chatgpt;
mod cli_sessions;
mod cli_transfer;
mod codegen;
mod config;
mod console;
mod crash;
mod desk;
mod drain;
mod events;
mod export;
mod export_memory;
mod failpoints;
mod health;
mod images;
mod import;
mod instances;
mod memory;
mod memory_budget;
mod messages;
mod migrate;
mod mistakes;
mod mongo;
mod nodes;
mod openapi;
mod origins;
mod project_memory;
mod projects;
mod provider_contract;
mod providers;
mod readme;
mod render;
mod repeat;
mod restart;
mod resume;
mod search;
mod sessions;
mod shapes;
mod store_contract;
mod stress;
mod support;
mod titles;
mod tree;
