//! `echoic export`: writes sessions to a file. Works while a server is running.

use super::progress;
use crate::app;
use crate::config::ExportArgs;
use crate::domain::Principal;
use crate::transfer::export::{ExportScope, SessionExporter};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// If standard output is a pipe whose reader stops reading, the export ends without an error.
pub(super) fn run_export(args: ExportArgs) -> Result<(), String> {
    let runtime = super::build_runtime()?;
    let mut target = ExportTarget::open_target(args.output.as_deref())?;
    match runtime.block_on(write_export(&args, &mut target)) {
        Ok(sessions) => {
            target.commit()?;
            print_summary(&args, sessions);
            Ok(())
        }
        Err(ExportStop::ReaderClosed) => Ok(()),
        Err(ExportStop::Failed(sentence)) => {
            target.discard();
            Err(sentence)
        }
    }
}

/// Why an export ended early.
enum ExportStop {
    ReaderClosed,
    Failed(String),
}

/// Returns the number of sessions written.
async fn write_export(args: &ExportArgs, target: &mut ExportTarget) -> Result<usize, ExportStop> {
    let failed = |error: crate::error::Error| ExportStop::Failed(error.chain().to_string());
    let store = app::open_read_only(&args.database_url).await.map_err(failed)?;
    // Access to the database file is access to everything in it, so the command runs as an admin.
    let principal = Principal { user: args.user.clone(), is_admin: true };
    let which = match (&args.session, &args.project) {
        (Some(id), _) => ExportScope::Session(id.clone()),
        (None, Some(id)) => ExportScope::Project(id.clone()),
        (None, None) => ExportScope::All,
    };
    let mut export = SessionExporter::open(store.clone(), principal, which, args.format)
        .await
        .map_err(failed)?;
    let bar = progress::build_session_bar(export.sessions_remaining(), target.is_terminal());
    while let Some(piece) = export.next_chunk().await.map_err(failed)? {
        target.write_bytes(&piece)?;
        bar.set_position(export.sessions_started() as u64);
    }
    // The file must be on disk before it is renamed over an older export.
    target.flush()?;
    bar.finish_and_clear();
    store.close().await;
    Ok(export.sessions_started())
}

fn print_summary(args: &ExportArgs, sessions: usize) {
    let mut stderr = io::stderr();
    let _ = match (&args.output, sessions) {
        (_, 0) => writeln!(
            stderr,
            "echoic: user {} has nothing to export; choose another user with --user",
            args.user
        ),
        (Some(file), _) => writeln!(stderr, "{sessions} sessions written to {}", file.display()),
        (None, _) => Ok(()),
    };
}

/// The destination. A file is written next to its path and renamed once it is complete, so that a
/// failed export never replaces an older one.
enum ExportTarget {
    Stdout(io::Stdout),
    File { file: File, partial_path: PathBuf, path: PathBuf },
}

impl ExportTarget {
    fn open_target(place: Option<&Path>) -> Result<Self, String> {
        let Some(place) = place else { return Ok(Self::Stdout(io::stdout())) };
        let mut part = place.as_os_str().to_owned();
        // In the same folder, because a rename across file systems would fail.
        part.push(".part");
        let part = PathBuf::from(part);
        let file = create_private_file(&part).map_err(|error| write_error(&part, &error))?;
        Ok(Self::File { file, partial_path: part, path: place.to_owned() })
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout(out) if out.is_terminal())
    }

    fn write_bytes(&mut self, text: &[u8]) -> Result<(), ExportStop> {
        let written = match self {
            Self::Stdout(out) => out.write_all(text),
            Self::File { file, .. } => file.write_all(text),
        };
        written.map_err(|error| self.to_export_stop(&error))
    }

    fn flush(&mut self) -> Result<(), ExportStop> {
        let flushed = match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, .. } => file.sync_all(),
        };
        flushed.map_err(|error| self.to_export_stop(&error))
    }

    fn to_export_stop(&self, error: &io::Error) -> ExportStop {
        match self {
            // For example `echoic export | head`.
            Self::Stdout(_) if error.kind() == ErrorKind::BrokenPipe => ExportStop::ReaderClosed,
            Self::Stdout(_) => {
                ExportStop::Failed(format!("cannot write to standard output: {error}"))
            }
            Self::File { partial_path: part, .. } => ExportStop::Failed(write_error(part, error)),
        }
    }

    fn commit(self) -> Result<(), String> {
        let Self::File { partial_path: part, path: place, .. } = self else { return Ok(()) };
        std::fs::rename(part, &place).map_err(|error| write_error(&place, &error))
    }

    fn discard(self) {
        if let Self::File { partial_path: part, .. } = self {
            // Best effort: the export has failed already, and that error is the one to report.
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Creates a file that only its owner can read, in place of what an interrupted export left.
fn create_private_file(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Never opens an existing file: that would keep its permissions, and follow a link.
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn write_error(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}
