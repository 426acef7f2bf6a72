//! Echoic: a self-hosted backend for LLM chat with conversation memory.
//!
//! docs/ARCHITECTURE.md has the map, a turn step by step, and where to put what.

pub mod app;
pub mod auth;
pub mod chat;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cpu_pool;
pub mod domain;
pub mod error;
pub mod fair_pool;
pub mod http;
pub mod json;
pub mod limits;
pub mod markup;
pub mod memory;
pub mod prompts;
pub mod provider;
pub mod store;
pub mod telemetry;
pub mod transfer;
