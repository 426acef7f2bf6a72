//! Import and export of conversations: the file formats, independent of how a file is transmitted.

mod chat_ui;
mod chatgpt;
mod chatgpt_content;
mod chatgpt_marks;
mod claude_ai;
mod deepseek;
pub mod export;
mod external_conversation;
mod external_fields;
mod external_values;
pub mod import;
pub mod import_files;
pub mod import_notes;
mod imported_messages;
mod json_repair;
mod lenient_values;
mod libre_chat;
mod markdown;
mod message_record;
mod open_webui;
mod session_json;
pub mod session_reader;
pub mod session_record;
mod source_format;
