//! Echoic: a self-hosted backend for LLM chat with conversation memory.

pub mod chat;
pub mod clock;
pub mod domain;
pub mod error;
pub mod memory;
pub mod prompts;
pub mod provider;
pub mod store;
