//! `echoic import`: reads a file of sessions into the store. No server may be running on it.

use super::progress;
use crate::app;
use crate::config::ImportArgs;
use crate::domain::Principal;
use crate::error::Error;
use crate::transfer::import::{ImportReport, SessionImporter};
use crate::transfer::import_notes::ImportNote;
use crate::transfer::session_reader::read_sessions;
use crate::transfer::session_record::ImportOptions;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Signature of a ZIP archive.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// Fails if any session was skipped.
pub(super) fn run_import(args: &ImportArgs) -> Result<(), String> {
    let (file, size) = open_file(args)?;
    let runtime = super::build_runtime()?;
    // Closing the store flushes it to disk; success is reported only after that.
    let store = runtime
        .block_on(app::open_for_import(&args.database_url))
        .map_err(|error| import_error(args, &error))?;
    // Access to the database file is access to everything in it, so the file's participants are
    // trusted.
    let principal = Principal { user: args.user.clone(), is_admin: true };
    let terms = ImportOptions { max_message: args.max_message, trusts_participants: true };
    let mut import =
        SessionImporter::new(store.clone(), principal, terms, runtime.handle().clone());
    let bar = progress::build_byte_bar(size);
    let read = read_sessions(bar.wrap_read(file), |session| import.import_session(session));
    let outcome = import.finish(read);
    bar.finish_and_clear();
    runtime.block_on(store.close());
    print_report(&outcome.map_err(|error| interrupted_error(args, &error))?)
}

/// Opens the file and returns its size, if it has one.
fn open_file(args: &ImportArgs) -> Result<(Box<dyn Read>, Option<u64>), String> {
    let name = args.file.display();
    let cannot_read = |error: io::Error| format!("cannot read {name}: {error}");
    let (file, size): (Box<dyn Read>, _) = if args.file.as_os_str() == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&args.file).map_err(cannot_read)?;
        let size = file.metadata().map_err(cannot_read)?.len();
        (Box::new(file), Some(size))
    };
    let mut file = BufReader::new(file);
    // ChatGPT's export arrives as an archive, so this is an easy mistake.
    if file.fill_buf().map_err(cannot_read)?.starts_with(ZIP_MAGIC) {
        return Err(format!(
            "{name} is a ZIP archive: unpack it and import the conversations.json inside"
        ));
    }
    Ok((Box::new(file), size))
}

fn import_error(args: &ImportArgs, error: &Error) -> String {
    let file = args.file.display();
    format!(
        "{}. To import while a server is running: curl --data-binary @{file} \
         -H 'content-type: application/json' http://localhost:8080/api/import",
        error.chain()
    )
}

/// The error for a file that could not be read to its end. Sessions before that point were
/// imported.
fn interrupted_error(args: &ImportArgs, error: &Error) -> String {
    let sentence = error.chain().to_string();
    // Errors about the whole body start with `body`, the field name of the HTTP route. Here it is a
    // file.
    let message = match sentence.strip_prefix("body ") {
        Some(rest) => format!("{} {rest}", args.file.display()),
        None => sentence,
    };
    let imported = error.details.as_ref().and_then(|details| details["imported"].as_u64());
    match imported {
        Some(imported) => format!("{message}; sessions imported before that: {imported}"),
        None => message,
    }
}

fn print_report(report: &ImportReport) -> Result<(), String> {
    let messages: u64 = report.sessions.iter().map(|session| session.messages).sum();
    let sessions = report.sessions.len();
    let skipped = report.skipped.len();
    let _ = writeln!(io::stdout(), "{sessions} sessions imported, {messages} new messages");
    for session in &report.sessions {
        for (what, notes) in [("left out", &session.left_out), ("mended", &session.mended)] {
            for ImportNote { kind, count, first } in notes {
                let id = &session.session_id;
                let _ = writeln!(io::stderr(), "{what} in {id}: {kind} × {count}, first {first}");
            }
        }
    }
    if skipped == 0 {
        return Ok(());
    }
    for session in &report.skipped {
        let id = session.session_id.as_deref().unwrap_or("without id");
        let index = session.index;
        let reason = &session.reason;
        let _ = writeln!(io::stderr(), "skipped sessions[{index}] ({id}): {reason}");
    }
    Err(format!("{skipped} of {} sessions were skipped", sessions + skipped))
}
