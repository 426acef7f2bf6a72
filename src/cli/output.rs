//! What the commands that show something have in common: tables for terminals and for pipes, and
//! texts of users that harm neither.

use crate::domain::text::truncate_chars;
use comfy_table::{ContentArrangement, Table};
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Prints a text. Whoever was reading and has seen enough is no error.
pub(super) fn print_line(text: &str) -> Result<(), String> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| error.to_string()),
    }
}

/// A terminal gets a table that is as wide as it is; a file or a pipe gets each row on one line,
/// however long.
pub(super) fn fit_to_terminal(table: &mut Table) {
    if io::stdout().is_terminal()
        && let Some((width, _)) = terminal_size::terminal_size()
    {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.0);
    }
}

/// Texts of users in one line of so many characters, and without what would steer a terminal.
pub(super) fn sanitize_cell(text: &str, most: usize) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain: String = text.chars().map(|c| if steers(c) { ' ' } else { c }).collect();
    match truncate_chars(&plain, most) {
        all if all.len() == plain.len() => plain,
        beginning => format!("{beginning}…"),
    }
}
