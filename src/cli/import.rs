//! `echoic import`: reads files of sessions into the store. No server may be running on it.

use super::progress::{self, ProgressBar};
use crate::app;
use crate::config::ImportArgs;
use crate::domain::Principal;
use crate::error::Error;
use crate::transfer::import::{ImportReport, SessionImporter};
use crate::transfer::import_files::{FileImporter, FileKind, detect_kind};
use crate::transfer::import_notes::ImportNote;
use crate::transfer::session_record::ImportOptions;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Levels of folders that are searched.
const MAX_FOLDER_DEPTH: usize = 32;

/// A file to read.
struct ImportInput {
    path: PathBuf,
    size: u64,
    /// Named on the command line, rather than found in a folder.
    is_named: bool,
}

/// A file or folder that is passed over.
struct UnreadInput {
    path: PathBuf,
    reason: String,
    is_failure: bool,
}

/// The files that were named and those in the folders that were named.
#[derive(Default)]
struct InputList {
    inputs: Vec<ImportInput>,
    unread: Vec<UnreadInput>,
}

impl ImportInput {
    fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }
}

/// Fails if any session was skipped.
pub(super) fn run_import(args: &ImportArgs) -> Result<(), String> {
    let InputList { inputs, unread } = list_inputs(&args.files)?;
    let runtime = super::build_runtime()?;
    // Closing the store flushes it to disk; success is reported only after that.
    let store = runtime
        .block_on(app::open_for_import(&args.database_url))
        .map_err(|error| import_error(args, &error))?;
    // Access to the database file is access to everything in it, so the file's participants are
    // trusted.
    let principal = Principal { user: args.user.clone(), is_admin: true };
    let options = ImportOptions {
        max_message: args.max_message,
        trusts_participants: true,
        needs_consent: false,
    };
    let sessions =
        SessionImporter::new(store.clone(), principal, options, runtime.handle().clone());
    let has_stdin = inputs.iter().any(ImportInput::is_stdin);
    let total: u64 = inputs.iter().map(|input| input.size).sum();
    let bar = progress::build_byte_bar((!has_stdin).then_some(total));
    let advance = bar.clone();
    let mut import =
        FileImporter::new(sessions).with_archive_progress(move |bytes| advance.inc(bytes));
    for UnreadInput { path, reason, is_failure } in unread {
        let _ = import.skip_file(&display_name(&path), reason, is_failure);
    }
    for input in &inputs {
        if import_input(&mut import, input, &bar).is_break() {
            break;
        }
    }
    let outcome = import.finish();
    bar.finish_and_clear();
    runtime.block_on(store.close());
    print_report(&outcome.map_err(|error| describe_error(&error))?)
}

/// Fails if a path that was named does not exist.
fn list_inputs(paths: &[PathBuf]) -> Result<InputList, String> {
    let mut list = InputList::default();
    for path in paths {
        if path.as_os_str() == "-" {
            list.inputs.push(ImportInput { path: path.clone(), size: 0, is_named: true });
            continue;
        }
        let metadata =
            path.metadata().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if metadata.is_dir() {
            list_folder(path, &mut list);
        } else {
            let size = metadata.len();
            list.inputs.push(ImportInput { path: path.clone(), size, is_named: true });
        }
    }
    Ok(list)
}

/// Lists the files of a folder and its subfolders. Links are not followed, since they may lead
/// anywhere.
fn list_folder(folder: &Path, list: &mut InputList) {
    let is_visible = |name: &std::ffi::OsStr| !name.to_string_lossy().starts_with('.');
    let entries = WalkDir::new(folder).max_depth(MAX_FOLDER_DEPTH).sort_by_file_name();
    let entries = entries
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || is_visible(entry.file_name()));
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                let reason = format!("cannot be read: {}", io::Error::from(error));
                list.unread.push(UnreadInput { path, reason, is_failure: true });
                continue;
            }
        };
        let kind = entry.file_type();
        let (reason, is_failure) = if kind.is_file() {
            // The size only serves to display the progress.
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            list.inputs.push(ImportInput { path: entry.into_path(), size, is_named: false });
            continue;
        } else if kind.is_dir() && entry.depth() < MAX_FOLDER_DEPTH {
            continue;
        } else if kind.is_dir() {
            (format!("is more than {MAX_FOLDER_DEPTH} folders deep"), true)
        } else if kind.is_symlink() {
            ("is a symbolic link, which is only followed if it is named".to_owned(), false)
        } else {
            ("is not a regular file".to_owned(), false)
        };
        list.unread.push(UnreadInput { path: entry.into_path(), reason, is_failure });
    }
}

fn import_input(
    import: &mut FileImporter,
    input: &ImportInput,
    bar: &ProgressBar,
) -> ControlFlow<()> {
    let name = display_name(&input.path);
    match open_and_import(import, input, &name, bar) {
        Ok(flow) => flow,
        Err(error) => import.skip_file(&name, format!("cannot be read: {error}"), true),
    }
}

fn open_and_import(
    import: &mut FileImporter,
    input: &ImportInput,
    name: &str,
    bar: &ProgressBar,
) -> io::Result<ControlFlow<()>> {
    if input.is_stdin() {
        return import_stream(import, io::stdin().lock(), name, bar, true);
    }
    let file = File::open(&input.path)?;
    let is_seekable = file.metadata()?.is_file();
    let mut head = &file;
    if is_seekable && detect_kind(head)?.0 == FileKind::Archive {
        return Ok(import.import_archive(Some(name), file));
    }
    if is_seekable {
        head.rewind()?;
    }
    import_stream(import, file, name, bar, input.is_named)
}

/// Imports a file that may be a pipe.
fn import_stream(
    import: &mut FileImporter,
    file: impl Read,
    name: &str,
    bar: &ProgressBar,
    is_named: bool,
) -> io::Result<ControlFlow<()>> {
    let (kind, mut file) = detect_kind(file)?;
    if kind != FileKind::Archive {
        return Ok(import.import_file(name, bar.wrap_read(file), is_named));
    }
    // The directory of an archive is at its end.
    let mut copy = tempfile::tempfile()?;
    io::copy(&mut file, &mut copy)?;
    Ok(import.import_archive(Some(name), copy))
}

fn display_name(path: &Path) -> String {
    let name =
        if path.as_os_str() == "-" { "standard input".into() } else { path.to_string_lossy() };
    // `import .` finds `./name`.
    name.strip_prefix("./").unwrap_or(&name).to_owned()
}

fn import_error(args: &ImportArgs, error: &Error) -> String {
    let upload = match args.files.as_slice() {
        [file] => {
            format!("curl --data-binary @{} -H 'content-type: application/json'", file.display())
        }
        files => {
            let parts = files.iter().map(|file| format!("-F file=@{}", file.display()));
            format!("curl {}", parts.collect::<Vec<_>>().join(" "))
        }
    };
    format!(
        "{}. To import while a server is running: {upload} http://localhost:8080/api/import",
        error.chain()
    )
}

/// The error if nothing was imported, or not everything of the only file.
fn describe_error(error: &Error) -> String {
    let sentence = error.chain().to_string();
    // Errors about the whole body start with `body`, the field name of the HTTP route. Here these
    // are files.
    match sentence.strip_prefix("body ") {
        Some(rest) => format!("the files {rest}"),
        None => sentence,
    }
}

fn print_report(report: &ImportReport) -> Result<(), String> {
    let messages: u64 = report.sessions.iter().map(|session| session.messages).sum();
    let sessions = report.sessions.len();
    let skipped = report.skipped.len() as u64 + report.more_skipped;
    let _ = writeln!(io::stdout(), "{sessions} sessions imported, {messages} new messages");
    for session in &report.sessions {
        for (what, notes) in [("left out", &session.left_out), ("mended", &session.mended)] {
            for ImportNote { kind, count, first } in notes {
                let id = &session.session_id;
                let _ = writeln!(io::stderr(), "{what} in {id}: {kind} × {count}, first {first}");
            }
        }
    }
    for session in &report.skipped {
        let id = session.session_id.as_deref().unwrap_or("without id");
        let index = session.index;
        let reason = &session.reason;
        let file = session.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default();
        let _ = writeln!(io::stderr(), "{file}skipped sessions[{index}] ({id}): {reason}");
    }
    if report.more_skipped > 0 {
        let _ = writeln!(io::stderr(), "skipped {} more entries", report.more_skipped);
    }
    for file in &report.skipped_files {
        let _ = writeln!(io::stderr(), "not imported: {}: {}", file.file, file.reason);
    }
    if report.more_skipped_files > 0 {
        let _ = writeln!(io::stderr(), "not imported: {} more files", report.more_skipped_files);
    }
    let failures = report.skipped_files.iter().filter(|file| file.is_failure).count();
    match (skipped, failures) {
        (0, 0) => Ok(()),
        (0, failures) => Err(format!("{failures} files could not be imported")),
        _ => Err(format!("{skipped} of {} sessions were skipped", sessions as u64 + skipped)),
    }
}
