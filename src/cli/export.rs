//! `echoic export`: sessions from the store into a file, also while a server runs.

use super::progress;
use crate::app;
use crate::config::{ExportArgs, ExportFormatArg};
use crate::domain::Principal;
use crate::transfer::export::{ExportFormat, ExportScope, SessionExporter};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Exports as told. A reader of standard output that has enough ends it quietly.
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

/// Why an export ended before its end.
enum ExportStop {
    ReaderClosed,
    Failed(String),
}

/// How many sessions were written.
async fn write_export(args: &ExportArgs, target: &mut ExportTarget) -> Result<usize, ExportStop> {
    let failed = |error: crate::error::Error| ExportStop::Failed(error.chain().to_string());
    let store = app::open_read_only(&args.database_url).await.map_err(failed)?;
    // Whoever can read the store's file may read all of it.
    let who = Principal { user: args.user.clone(), is_admin: true };
    let which = match (&args.session, &args.project) {
        (Some(id), _) => ExportScope::Session(id.clone()),
        (None, Some(id)) => ExportScope::Project(id.clone()),
        (None, None) => ExportScope::All,
    };
    let format = match args.format {
        ExportFormatArg::Json => ExportFormat::Json,
        ExportFormatArg::Jsonl => ExportFormat::Jsonl,
        ExportFormatArg::Markdown => ExportFormat::Markdown,
    };
    let mut export =
        SessionExporter::open(store.clone(), who, which, format).await.map_err(failed)?;
    let bar = progress::build_session_bar(export.sessions_remaining(), target.is_terminal());
    while let Some(piece) = export.next_chunk().await.map_err(failed)? {
        target.write_bytes(&piece)?;
        bar.set_position(export.sessions_started() as u64);
    }
    target.flush()?;
    bar.finish_and_clear();
    store.close().await;
    Ok(export.sessions_started())
}

fn print_summary(args: &ExportArgs, sessions: usize) {
    let mut told = io::stderr();
    let _ = match (&args.output, sessions) {
        (_, 0) => writeln!(
            told,
            "echoic: there was nothing to export of the user {}; --user names another",
            args.user
        ),
        (Some(file), _) => writeln!(told, "{sessions} sessions written to {}", file.display()),
        (None, _) => Ok(()),
    };
}

/// Where the text goes. A file is written beside its place and put there once it is whole.
enum ExportTarget {
    Stdout(io::Stdout),
    File { file: File, partial_path: PathBuf, path: PathBuf },
}

impl ExportTarget {
    fn open_target(place: Option<&Path>) -> Result<Self, String> {
        let Some(place) = place else { return Ok(Self::Stdout(io::stdout())) };
        let mut part = place.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|error| write_error(&part, &error))?;
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
            let _ = std::fs::remove_file(part);
        }
    }
}

fn write_error(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}
