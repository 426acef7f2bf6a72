//! `echoic keys`: creates, lists and revokes API keys. Works while a server is running, and before
//! there is one.

use super::output::sanitize_cell;
use super::sessions::{MAX_CELL_CHARS, format_minute};
use crate::app::{open_read_only, open_shared};
use crate::auth::{NewApiKey, generate_key};
use crate::clock;
use crate::config::{DatabaseUrl, KeysCommand, KeysTask, NewKeyArgs};
use crate::domain::Timestamp;
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::error::Error;
use comfy_table::{Table, presets};
use std::io::{self, Write};

const COLUMNS: [&str; 7] = ["ID", "NAME", "USER", "SCOPE", "CREATED", "EXPIRES", "LAST USED"];

pub(super) fn run_keys(command: KeysCommand) -> Result<(), String> {
    let KeysCommand { database_url, task } = command;
    let output = super::build_runtime()?.block_on(async {
        match task {
            KeysTask::Create(args) => create_key(&database_url, args).await,
            KeysTask::List { json } => list_keys(&database_url, json).await,
            KeysTask::Revoke { id } => revoke_key(&database_url, &id).await,
        }
    })?;
    writeln!(io::stdout(), "{output}").map_err(|error| error.to_string())
}

/// Standard output receives the key alone, so that a script can capture it.
async fn create_key(url: &DatabaseUrl, args: NewKeyArgs) -> Result<String, String> {
    let now = clock::now();
    let scope = if args.admin { AuthScope::Admin } else { args.scope };
    let expires_at = args.expires.map(|validity| {
        let validity = i64::try_from(validity.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(now.as_millis().saturating_add(validity))
    });
    let terms = NewApiKey { user: args.user, name: args.name, scope, expires_at };
    let (text, stored) = generate_key(terms, now).map_err(format_error)?;
    let id = stored.key.id.clone();
    let user = stored.key.user.clone();
    let store = open_shared(url).await.map_err(format_error)?;
    let added = store.add_key(stored).await;
    store.close().await;
    added.map_err(format_error)?;
    let note = format!("created key {id} for {user}: store it now, it cannot be shown again");
    let _ = writeln!(io::stderr(), "{note}");
    Ok(text)
}

async fn list_keys(url: &DatabaseUrl, json: bool) -> Result<String, String> {
    let store = open_read_only(url).await.map_err(format_error)?;
    let keys = store.list_keys().await;
    store.close().await;
    let keys: Vec<ApiKey> =
        keys.map_err(format_error)?.into_iter().map(|stored| stored.key).collect();
    if json {
        return serde_json::to_string(&keys).map_err(|error| error.to_string());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS);
    for key in &keys {
        table.add_row(format_row(key, clock::now()));
    }
    Ok(table.trim_fmt())
}

async fn revoke_key(url: &DatabaseUrl, id: &KeyId) -> Result<String, String> {
    let store = open_shared(url).await.map_err(format_error)?;
    let revoked = store.revoke_key(id).await;
    store.close().await;
    match revoked.map_err(format_error)? {
        true => Ok(format!("key {id} is revoked; running servers reject it from now on")),
        false => Err(format!("there is no key {id}; echoic keys list shows all keys")),
    }
}

fn format_row(key: &ApiKey, now: Timestamp) -> [String; 7] {
    let expires = match key.expires_at {
        None => "never".to_owned(),
        Some(end) if key.is_valid_at(now) => format_minute(end),
        Some(end) => format!("{} (expired)", format_minute(end)),
    };
    [
        key.id.to_string(),
        key.name.as_deref().map(|name| sanitize_cell(name, MAX_CELL_CHARS)).unwrap_or_default(),
        sanitize_cell(key.user.as_str(), MAX_CELL_CHARS),
        key.scope.as_str().to_owned(),
        format_minute(key.created_at),
        expires,
        key.last_used_at.map_or_else(|| "never".to_owned(), |used| used.format_ago(now)),
    ]
}

fn format_error(error: Error) -> String {
    error.chain().to_string()
}
