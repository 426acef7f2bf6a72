//! `echoic import`: a file of sessions into the store, while no server has it.

use super::progress;
use crate::app;
use crate::config::ImportArgs;
use crate::domain::Principal;
use crate::error::Error;
use crate::transfer::import::{ImportOptions, ImportReport, SessionImporter};
use crate::transfer::session_reader::read_sessions;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

/// The first bytes of a ZIP archive.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// Imports as told. It has failed if anything was skipped.
pub(super) fn run_import(args: &ImportArgs) -> Result<(), String> {
    let (file, size) = open_file(args)?;
    let runtime = super::build_runtime()?;
    // Closing the store brings all of it to the disk; until then nobody is told of success.
    let store = runtime
        .block_on(app::open_for_import(&args.database_url))
        .map_err(|error| import_error(args, &error))?;
    // Whoever can write the store's file may say who takes part.
    let who = Principal { user: args.user.clone(), is_admin: true };
    let terms = ImportOptions { max_message: args.max_message, trusts_participants: true };
    let mut import = SessionImporter::new(store.clone(), who, terms, runtime.handle().clone());
    let bar = progress::build_byte_bar(size);
    let read = read_sessions(bar.wrap_read(file), |session| import.import_session(session));
    let outcome = import.finish(read);
    bar.finish_and_clear();
    runtime.block_on(store.close());
    print_report(&outcome.map_err(|error| interrupted_error(args, &error))?)
}

/// The file, and its size where it has one.
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
    if file.fill_buf().map_err(cannot_read)?.starts_with(ZIP_MAGIC) {
        return Err(format!(
            "{name} is a ZIP archive: unpack it, and import its conversations.json"
        ));
    }
    Ok((Box::new(file), size))
}

fn import_error(args: &ImportArgs, error: &Error) -> String {
    let file = args.file.display();
    format!(
        "{}. A running server imports by itself: curl --data-binary @{file} \
         -H 'content-type: application/json' http://localhost:8080/api/import",
        error.chain()
    )
}

/// The reading broke off; what stood before that went in.
fn interrupted_error(args: &ImportArgs, error: &Error) -> String {
    let sentence = error.chain().to_string();
    let told = match sentence.strip_prefix("body ") {
        Some(wants) => format!("{} {wants}", args.file.display()),
        None => sentence,
    };
    let imported = error.details.as_ref().and_then(|details| details["imported"].as_u64());
    match imported {
        Some(imported) => format!("{told}; sessions that went in before: {imported}"),
        None => told,
    }
}

fn print_report(report: &ImportReport) -> Result<(), String> {
    let messages: u64 = report.sessions.iter().map(|session| session.messages).sum();
    let (sessions, skipped) = (report.sessions.len(), report.skipped.len());
    let _ = writeln!(io::stdout(), "{sessions} sessions imported, {messages} new messages");
    if skipped == 0 {
        return Ok(());
    }
    for session in &report.skipped {
        let id = session.session_id.as_deref().unwrap_or("without id");
        let (index, reason) = (session.index, &session.reason);
        let _ = writeln!(io::stderr(), "skipped sessions[{index}] ({id}): {reason}");
    }
    Err(format!("{skipped} of {} sessions were skipped", sessions + skipped))
}
