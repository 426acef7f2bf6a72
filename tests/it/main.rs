//! Integration tests: through the door the user uses, against the real server, the real store and
//! a provider that moves when it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod architecture;
mod bad_input;
mod chat;
mod config;
mod health;
mod import;
mod memory;
mod messages;
mod openapi;
mod provider_contract;
mod readme;
mod restart;
mod sessions;
mod store_contract;
mod support;
