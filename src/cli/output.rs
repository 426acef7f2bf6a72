//! Terminal output shared by the commands: tables, and user-supplied text made safe for a terminal.

use crate::domain::text::truncate_chars;
use comfy_table::{ContentArrangement, Table};
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Prints a line. A closed pipe is not an error: its reader has seen enough.
pub(super) fn print_line(text: &str) -> Result<(), String> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| error.to_string()),
    }
}

/// Fits a table to the width of the terminal. In a file or pipe every row stays on one line,
/// however long.
pub(super) fn fit_to_terminal(table: &mut Table) {
    if io::stdout().is_terminal()
        && let Some((width, _)) = terminal_size::terminal_size()
    {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.0);
    }
}

/// User-supplied text on one line, cut to `most` characters, without control characters and
/// bidirectional overrides.
pub(super) fn sanitize_cell(text: &str, most: usize) -> String {
    // Escape sequences could rewrite the screen, and bidirectional overrides could reorder a row.
    let is_unsafe =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String = text.chars().map(|c| if is_unsafe(c) { ' ' } else { c }).collect();
    match truncate_chars(&plain, most) {
        all if all.len() == plain.len() => plain,
        beginning => format!("{beginning}…"),
    }
}
