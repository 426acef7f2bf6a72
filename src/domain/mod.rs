//! Pure data and rules: what a session, a message and a turn are, and what holds for them.
//!
//! No I/O, no async, nothing of the rest of the crate. Every other module speaks these words.

pub mod attachment;
pub mod further;
pub mod ids;
pub mod image;
pub mod invalid;
pub mod key;
pub mod memory;
pub mod message;
pub mod node;
pub mod page;
pub mod principal;
pub mod project;
pub mod quota;
pub mod search;
pub mod session;
pub mod text;
pub mod time;
pub mod title;
pub mod tool;
pub mod turn;
pub mod usage;
mod words;

pub use ids::{MessageId, ProjectId, SessionId, TurnId, UserId};
pub use invalid::Invalid;
pub use message::{Message, MessageType, Role, Status};
pub use principal::Principal;
pub use project::{FilePath, Project};
pub use session::Session;
pub use time::Timestamp;
pub use usage::{CallKind, Usage};
use words::as_word;
