//! `echoic export`: sessions from the store into a file, also while a server runs.

use super::progress;
use crate::app;
use crate::config::{ExportArgs, ExportFormat};
use crate::domain::Principal;
use crate::transfer::export::{Export, Format, Which};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Exports as told. A reader of standard output that has enough ends it quietly.
pub(super) fn run(args: ExportArgs) -> Result<(), String> {
    let runtime = super::runtime()?;
    let mut target = Target::open(args.output.as_deref())?;
    match runtime.block_on(write(&args, &mut target)) {
        Ok(sessions) => {
            target.keep()?;
            report(&args, sessions);
            Ok(())
        }
        Err(Stop::Enough) => Ok(()),
        Err(Stop::Failed(sentence)) => {
            target.discard();
            Err(sentence)
        }
    }
}

/// Why an export ended before its end.
enum Stop {
    Enough,
    Failed(String),
}

/// How many sessions were written.
async fn write(args: &ExportArgs, target: &mut Target) -> Result<usize, Stop> {
    let failed = |error: crate::error::Error| Stop::Failed(error.chain().to_string());
    let store = app::open_read_only(&args.database_url).await.map_err(failed)?;
    // Whoever can read the store's file may read all of it.
    let who = Principal { user: args.user.clone(), is_admin: true };
    let which = match (&args.session, &args.project) {
        (Some(id), _) => Which::Session(id.clone()),
        (None, Some(id)) => Which::Project(id.clone()),
        (None, None) => Which::All,
    };
    let format = match args.format {
        ExportFormat::Json => Format::Json,
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Markdown => Format::Markdown,
    };
    let mut export = Export::open(store.clone(), who, which, format).await.map_err(failed)?;
    let bar = progress::of_sessions(export.remaining(), target.is_terminal());
    while let Some(piece) = export.next().await.map_err(failed)? {
        target.write(&piece)?;
        bar.set_position(export.begun() as u64);
    }
    target.flush()?;
    bar.finish_and_clear();
    store.close().await;
    Ok(export.begun())
}

fn report(args: &ExportArgs, sessions: usize) {
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
enum Target {
    Stdout(io::Stdout),
    File { file: File, part: PathBuf, place: PathBuf },
}

impl Target {
    fn open(place: Option<&Path>) -> Result<Self, String> {
        let Some(place) = place else { return Ok(Self::Stdout(io::stdout())) };
        let mut part = place.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|error| cannot_write(&part, &error))?;
        Ok(Self::File { file, part, place: place.to_owned() })
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout(out) if out.is_terminal())
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Stop> {
        let written = match self {
            Self::Stdout(out) => out.write_all(text),
            Self::File { file, .. } => file.write_all(text),
        };
        written.map_err(|error| self.stop(&error))
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let flushed = match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, .. } => file.sync_all(),
        };
        flushed.map_err(|error| self.stop(&error))
    }

    fn stop(&self, error: &io::Error) -> Stop {
        match self {
            Self::Stdout(_) if error.kind() == ErrorKind::BrokenPipe => Stop::Enough,
            Self::Stdout(_) => Stop::Failed(format!("cannot write to standard output: {error}")),
            Self::File { part, .. } => Stop::Failed(cannot_write(part, error)),
        }
    }

    fn keep(self) -> Result<(), String> {
        let Self::File { part, place, .. } = self else { return Ok(()) };
        std::fs::rename(part, &place).map_err(|error| cannot_write(&place, &error))
    }

    fn discard(self) {
        if let Self::File { part, .. } = self {
            let _ = std::fs::remove_file(part);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}
