//! `echoic memory`: prints the next prompt of a session, section by section, with token counts and
//! their share of the context window. It only reads the store, so it works while a server is
//! running and calls no provider. Token corrections that a running server has learned are not
//! applied.

use super::output::{fit_to_terminal, print_line, sanitize_cell};
use crate::app::{build_read_only_memory, open_read_only};
use crate::clock;
use crate::config::MemoryCommand;
use crate::domain::content::MessageBody;
use crate::domain::message::MessageParts;
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageType, Principal, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{MessageQuery, Store};
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Characters of a section's text that are shown.
const MAX_TEXT_CHARS: usize = 72;
/// Width of the bar, in characters.
const BAR_WIDTH: usize = 64;
/// How many of the newest messages are searched for a reply, to find its model.
const RECENT_MESSAGES: u32 = 10;
/// Model to assume if none is given and no reply exists.
const FALLBACK_MODEL: &str = "default";

/// The fields of the API's memory preview that are shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreviewResponse {
    strategy: String,
    model: String,
    context_window: u32,
    reply_reserve: u32,
    prompt_tokens: u32,
    cacheable_prefix_tokens: u32,
    pieces: Vec<PreviewSection>,
}

#[derive(Deserialize)]
struct PreviewSection {
    kind: String,
    role: String,
    tokens: u32,
    score: Option<f64>,
    #[serde(default)]
    images: u32,
    text: String,
}

pub(super) fn run_memory(command: &MemoryCommand) -> Result<(), String> {
    let found = super::build_runtime()?.block_on(load_preview(command));
    let (session, preview) = found.map_err(|error| error.chain().to_string())?;
    if command.json {
        return print_line(&preview.to_string());
    }
    let preview = PreviewResponse::deserialize(preview).map_err(|error| error.to_string())?;
    print_line(&format_report(&session, &preview))
}

/// The session and its preview, as the API returns it.
async fn load_preview(command: &MemoryCommand) -> Result<(Session, Value)> {
    let store = open_read_only(&command.database_url).await?;
    let found = build_preview(&store, command).await;
    store.close().await;
    found
}

async fn build_preview(
    store: &Arc<dyn Store>,
    command: &MemoryCommand,
) -> Result<(Session, Value)> {
    // Access to the database is access to everything in it.
    let session =
        store.get_session(&Principal::server(), &command.session, AccessLevel::Owner).await?;
    if command.user.as_ref().is_some_and(|user| *user != session.owner) {
        return Err(Error::new(ErrorKind::SessionNotFound, "this user has no such session"));
    }
    // The same validation as for a posted message, without its size limit.
    let read = |text: &String| {
        let parts = MessageParts::default();
        let kind = MessageType::Text;
        MessageBody::parse("message", text.clone(), parts, kind, usize::MAX)
            .map(|body| body.content)
    };
    let message = command.message.as_ref().map(read).transpose()?;
    let model = match command.model.clone() {
        Some(model) => model,
        None => {
            find_last_model(&**store, &session).await?.unwrap_or_else(|| FALLBACK_MODEL.to_owned())
        }
    };
    let memory = build_read_only_memory(store.clone(), command, model)?;
    let preview =
        memory.preview_prompt(&session, command.memory_options(), message, clock::now()).await?;
    Ok((session, serde_json::to_value(preview).map_err(Error::internal)?))
}

/// The model of the newest reply.
async fn find_last_model(store: &dyn Store, session: &Session) -> Result<Option<String>> {
    let query = MessageQuery {
        view: MessageView::Path,
        slice: MessageSlice::Newest,
        limit: RECENT_MESSAGES,
        with_siblings: false,
    };
    let newest = store.list_messages(&Principal::server(), &session.id, query).await?.messages;
    Ok(newest.into_iter().rev().find_map(|message| message.model))
}

fn format_report(session: &Session, preview: &PreviewResponse) -> String {
    let title = sanitize_cell(&session.title, MAX_TEXT_CHARS);
    let owner = sanitize_cell(session.owner.as_str(), MAX_TEXT_CHARS);
    let PreviewResponse { strategy, model, prompt_tokens, cacheable_prefix_tokens, .. } = preview;
    let model = sanitize_cell(model, MAX_TEXT_CHARS);
    format!(
        "{title} ({owner}): strategy {strategy}, model {model}\n\n{}\n\n\
         {prompt_tokens} tokens, of which the next turn repeats the first {cacheable_prefix_tokens} \
         (cacheable)\n{}",
        build_table(&preview.pieces).trim_fmt(),
        format_budget(preview),
    )
}

/// The sections in the order in which they are sent.
fn build_table(pieces: &[PreviewSection]) -> Table {
    let has_scores = pieces.iter().any(|piece| piece.score.is_some());
    let columns = ["KIND", "ROLE", "TOKENS", "SCORE", "TEXT"];
    let is_shown = |column: &usize| has_scores || columns[*column] != "SCORE";
    let shown: Vec<usize> = (0..columns.len()).filter(is_shown).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(shown.iter().map(|column| columns[*column]));
    for piece in pieces {
        let row = format_row(piece);
        table.add_row(shown.iter().map(|column| row[*column].as_str()));
    }
    for (place, column) in shown.iter().enumerate() {
        if matches!(columns[*column], "TOKENS" | "SCORE")
            && let Some(column) = table.column_mut(place)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    fit_to_terminal(&mut table);
    table
}

fn format_row(piece: &PreviewSection) -> [String; 5] {
    let plain = sanitize_cell(&piece.text, usize::MAX);
    let text =
        sanitize_cell(&plain.split_whitespace().collect::<Vec<_>>().join(" "), MAX_TEXT_CHARS);
    let text = match piece.images {
        0 => text,
        1 => format!("[1 image] {text}"),
        images => format!("[{images} images] {text}"),
    };
    let score = piece.score.map_or_else(String::new, |score| format!("{score:.2}"));
    [piece.kind.clone(), piece.role.clone(), piece.tokens.to_string(), score, text]
}

/// A part of the context window.
struct WindowShare {
    symbol: char,
    name: String,
    tokens: u32,
}

/// A bar of the context window, with a legend.
fn format_budget(preview: &PreviewResponse) -> String {
    let shares = compute_shares(preview);
    let width = shares.iter().map(|share| share.tokens.to_string().len()).max().unwrap_or(0);
    let mut text =
        format!("[{}] of {}", render_bar(&shares, preview.context_window), preview.context_window);
    for WindowShare { symbol: mark, name, tokens } in &shares {
        let percent = f64::from(*tokens) * 100.0 / f64::from(preview.context_window.max(1));
        text.push_str(&format!("\n  {mark} {name:<9} {tokens:>width$} {percent:>5.1} %"));
    }
    text
}

/// The parts of the context window: each kind of section, the overhead of messages, the reserve for
/// the reply, and the rest.
fn compute_shares(preview: &PreviewResponse) -> Vec<WindowShare> {
    let mut shares: Vec<WindowShare> = Vec::new();
    for piece in &preview.pieces {
        match shares.iter_mut().find(|share| share.name == piece.kind) {
            Some(share) => share.tokens += piece.tokens,
            None => {
                let mark = choose_symbol(&piece.kind, &shares);
                shares.push(WindowShare {
                    symbol: mark,
                    name: piece.kind.clone(),
                    tokens: piece.tokens,
                });
            }
        }
    }
    let listed: u32 = shares.iter().map(|share| share.tokens).sum();
    let used = preview.prompt_tokens.saturating_add(preview.reply_reserve);
    let share =
        |mark, name: &str, tokens| WindowShare { symbol: mark, name: name.to_owned(), tokens };
    shares.push(share('+', "overhead", preview.prompt_tokens.saturating_sub(listed)));
    shares.push(share('=', "reply", preview.reply_reserve));
    shares.push(share('.', "free", preview.context_window.saturating_sub(used)));
    shares
}

/// The first letter of a kind that is not in use yet.
fn choose_symbol(kind: &str, taken: &[WindowShare]) -> char {
    let is_free = |letter: &char| taken.iter().all(|share| share.symbol != *letter);
    kind.chars().map(|letter| letter.to_ascii_uppercase()).find(is_free).unwrap_or('?')
}

/// Renders [`BAR_WIDTH`] characters, at least one for each part that is not empty.
fn render_bar(shares: &[WindowShare], window: u32) -> String {
    let cells = |tokens: u32| {
        let exact = u64::from(tokens) * BAR_WIDTH as u64 / u64::from(window.max(1));
        // Even a small part gets a character, so that the legend matches the bar.
        (exact as usize).max(usize::from(tokens > 0))
    };
    let mut widths: Vec<usize> = shares.iter().map(|share| cells(share.tokens)).collect();
    // Correct the rounding in the widest part, where it is least visible.
    while widths.iter().sum::<usize>() != BAR_WIDTH {
        let is_short = widths.iter().sum::<usize>() < BAR_WIDTH;
        let Some(widest) = widths.iter_mut().max() else { break };
        *widest = if is_short { *widest + 1 } else { widest.saturating_sub(1) };
    }
    let part = |(share, width): (&WindowShare, &usize)| share.symbol.to_string().repeat(*width);
    shares.iter().zip(&widths).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_bar(tokens: &[u32]) -> String {
        let share = |(place, tokens): (usize, &u32)| {
            let mark = char::from(b'a' + place as u8);
            WindowShare { symbol: mark, name: String::new(), tokens: *tokens }
        };
        let shares: Vec<WindowShare> = tokens.iter().enumerate().map(share).collect();
        render_bar(&shares, tokens.iter().sum())
    }

    #[test]
    fn bar_has_fixed_width_and_shows_each_share() {
        assert_eq!(sample_bar(&[1, 1]), "a".repeat(32) + &"b".repeat(32));
        assert_eq!(sample_bar(&[1, 1_000_000, 0]), "a".to_owned() + &"b".repeat(63));
        for tokens in [&[5, 7, 11][..], &[1; 9], &[1, 1, 1, 400_000], &[99, 1, 33, 33, 33], &[0, 3]]
        {
            let bar = sample_bar(tokens);
            assert_eq!(bar.len(), BAR_WIDTH, "{tokens:?}");
            for (place, tokens) in tokens.iter().enumerate() {
                assert_eq!(bar.contains(char::from(b'a' + place as u8)), *tokens > 0, "{bar}");
            }
        }
    }

    #[test]
    fn kinds_with_the_same_initial_get_distinct_symbols() {
        let mut shares = Vec::new();
        for (kind, expected) in
            [("system", 'S'), ("summary", 'U'), ("recent", 'R'), ("recalled", 'E')]
        {
            let mark = choose_symbol(kind, &shares);
            assert_eq!(mark, expected);
            shares.push(WindowShare { symbol: mark, name: kind.to_owned(), tokens: 1 });
        }
    }
}
