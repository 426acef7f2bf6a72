//! `echoic sessions`: lists the sessions of all users, for operators and support. It only reads the
//! store, so it works while a server is running and never interferes with turns.

use super::output::{fit_to_terminal, print_line, sanitize_cell};
use crate::app::open_read_only;
use crate::clock;
use crate::config::SessionsCommand;
use crate::domain::page::{PagePosition, SessionQuery, SortOrder};
use crate::domain::search::parse_title_terms;
use crate::domain::session::JsonObject;
use crate::domain::text::truncate_chars;
use crate::domain::{Session, Timestamp};
use comfy_table::{CellAlignment, Table, presets};

const COLUMNS: [&str; 9] =
    ["ID", "TITLE", "USER", "STATUS", "STARTED", "LAST SEEN", "MESSAGES", "USER META", "THEME"];
/// Index of the right-aligned column.
const MESSAGES_COLUMN: usize = 6;
/// Maximum length of a table cell, in characters.
pub(super) const MAX_CELL_CHARS: usize = 48;

pub(super) fn run_sessions(command: SessionsCommand) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let sessions = runtime.map_err(|error| error.to_string())?.block_on(find_sessions(&command))?;
    let text = if command.json {
        serde_json::to_string(&sessions).map_err(|error| error.to_string())?
    } else {
        build_table(&sessions, clock::now()).trim_fmt()
    };
    print_line(&text)
}

async fn find_sessions(command: &SessionsCommand) -> Result<Vec<Session>, String> {
    let query = SessionQuery {
        position: PagePosition::Page(1),
        limit: command.limit,
        sort: SortOrder::default(),
        search: command.search.as_deref().map(parse_title_terms).filter(|terms| !terms.is_empty()),
        project_id: command.project.clone(),
        status: command.status.clone(),
        archived: None,
        is_of_invitations: false,
    };
    let store =
        open_read_only(&command.database_url).await.map_err(|error| error.chain().to_string())?;
    let page = store.list_all_sessions(command.user.as_ref(), query).await;
    store.close().await;
    page.map(|page| page.sessions).map_err(|error| error.chain().to_string())
}

fn build_table(sessions: &[Session], now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS);
    for session in sessions {
        table.add_row(format_row(session, now));
    }
    if let Some(messages) = table.column_mut(MESSAGES_COLUMN) {
        messages.set_cell_alignment(CellAlignment::Right);
    }
    fit_to_terminal(&mut table);
    table
}

fn format_row(session: &Session, now: Timestamp) -> [String; 9] {
    [
        session.id.to_string(),
        sanitize_cell(&session.title, MAX_CELL_CHARS),
        sanitize_cell(session.owner.as_str(), MAX_CELL_CHARS),
        session.status.as_str().to_owned(),
        format_minute(session.start_time),
        session.last_seen.map_or_else(|| "never".to_owned(), |seen| seen.format_ago(now)),
        session.messages_count.to_string(),
        format_object(&session.user_meta),
        format_object(&session.theme),
    ]
}

/// Formats a time in UTC: 2026-01-31 12:00.
pub(super) fn format_minute(time: Timestamp) -> String {
    truncate_chars(&time.to_string(), "2026-01-31T12:00".len()).replace('T', " ")
}

fn format_object(object: &JsonObject) -> String {
    match object.as_json() {
        "{}" => String::new(),
        json => sanitize_cell(json, MAX_CELL_CHARS),
    }
}
