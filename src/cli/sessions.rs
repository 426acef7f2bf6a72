//! `echoic sessions`: everybody's sessions, for whoever keeps the server or answers its users. It
//! only looks, so it works beside a running server and never touches its turns.

use super::text::{cell, fit, print};
use crate::app::open_read_only;
use crate::clock;
use crate::config::SessionsCommand;
use crate::domain::page::{PagePosition, SessionQuery, SortOrder};
use crate::domain::session::JsonObject;
use crate::domain::text::{fold_words, truncate_chars};
use crate::domain::{Session, Timestamp};
use comfy_table::{CellAlignment, Table, presets};

const COLUMNS: [&str; 9] =
    ["ID", "TITLE", "USER", "STATUS", "STARTED", "LAST SEEN", "MESSAGES", "USER META", "THEME"];
/// The column of numbers.
const MESSAGES: usize = 6;
/// How much of a text a cell shows, in characters.
pub(super) const CELL: usize = 48;

/// Prints the sessions that the command asks for.
pub(super) fn run(command: SessionsCommand) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let sessions = runtime.map_err(|error| error.to_string())?.block_on(find(&command))?;
    let text = if command.json {
        serde_json::to_string(&sessions).map_err(|error| error.to_string())?
    } else {
        table(&sessions, clock::now()).trim_fmt()
    };
    print(&text)
}

async fn find(command: &SessionsCommand) -> Result<Vec<Session>, String> {
    let query = SessionQuery {
        position: PagePosition::Page(1),
        limit: command.limit,
        sort: SortOrder::default(),
        search: command.search.as_deref().map(fold_words).filter(|words| !words.is_empty()),
        project_id: command.project.clone(),
        status: command.status.clone(),
        archived: None,
    };
    let store =
        open_read_only(&command.database_url).await.map_err(|error| error.chain().to_string())?;
    let page = store.list_all_sessions(command.user.as_ref(), query).await;
    store.close().await;
    page.map(|page| page.sessions).map_err(|error| error.chain().to_string())
}

fn table(sessions: &[Session], now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS);
    for session in sessions {
        table.add_row(row(session, now));
    }
    if let Some(messages) = table.column_mut(MESSAGES) {
        messages.set_cell_alignment(CellAlignment::Right);
    }
    fit(&mut table);
    table
}

fn row(session: &Session, now: Timestamp) -> [String; 9] {
    [
        session.id.to_string(),
        cell(&session.title, CELL),
        cell(session.owner.as_str(), CELL),
        session.status.as_str().to_owned(),
        minute(session.start_time),
        session.last_seen.map_or_else(|| "never".to_owned(), |seen| seen.format_ago(now)),
        session.messages_count.to_string(),
        object(&session.user_meta),
        object(&session.theme),
    ]
}

/// 2026-01-31 12:00, in UTC as everywhere.
pub(super) fn minute(time: Timestamp) -> String {
    truncate_chars(&time.to_string(), "2026-01-31T12:00".len()).replace('T', " ")
}

fn object(object: &JsonObject) -> String {
    match object.as_json() {
        "{}" => String::new(),
        json => cell(json, CELL),
    }
}
