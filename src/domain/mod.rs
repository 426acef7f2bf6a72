//! Pure data and rules: sessions, messages, turns, and their invariants.
//!
//! No I/O, no async code, and no dependency on the rest of the crate except `json`.

pub mod attachment;
pub mod content;
pub mod export_format;
pub mod extra_params;
pub mod field_error;
pub mod ids;
pub mod image;
pub mod key;
pub mod memory;
pub mod message;
pub mod model;
pub mod node;
pub mod page;
pub mod principal;
pub mod project;
pub mod quota;
pub mod search;
pub mod session;
mod string_enum;
pub mod text;
pub mod time;
pub mod title;
pub mod tokenizer;
pub mod tool;
pub mod turn;
pub mod usage;

pub use field_error::FieldError;
pub use ids::{MessageId, ProjectId, SessionId, TurnId, UserId};
pub use message::{Message, MessageType, Role, Status};
pub use principal::Principal;
pub use project::{FilePath, Project};
pub use session::Session;
use string_enum::string_enum;
pub use time::Timestamp;
pub use usage::{CallKind, Usage};
