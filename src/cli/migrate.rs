//! `echoic migrate`: copies everything from SQLite to MongoDB, verifies the copy and prints a
//! report.

use super::progress::MessageProgress;
use crate::app::open_for_migration;
use crate::clock;
use crate::config::MigrateArgs;
use crate::domain::key::KeyId;
use crate::domain::{ProjectId, SessionId};
use crate::error::{Error, Result};
use crate::store::migration::{
    MigrationSource, MigrationTarget, ProjectMigrationOutcome, SessionMigrationOutcome,
    StoreTotals, migrate_key, migrate_ledger, migrate_project, migrate_session,
};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::io::{self, Write};
use std::time::Instant;

/// Sessions migrated concurrently: while one waits for a write majority, others proceed.
const CONCURRENT_SESSIONS: usize = 8;
/// Session ids read at a time.
const ID_PAGE_SIZE: u32 = 256;

/// Errors say what was not migrated and what to do.
pub(super) fn run_migrate(args: &MigrateArgs) -> Result<(), String> {
    super::build_runtime()?.block_on(migrate_database(args))
}

async fn migrate_database(args: &MigrateArgs) -> Result<(), String> {
    let (from, to) = open_for_migration(&args.from, &args.to)
        .await
        .map_err(|error| error.chain().to_string())?;
    let started = Instant::now();
    let source = from.describe_location();
    let report = migrate_all(&*from, &*to).await;
    // Also after an error: the target holds connections and the source a lock on the file.
    from.disconnect().await;
    to.disconnect().await;
    let report = report.map_err(|error| {
        // The store's sentence says that nothing was changed. That is true of the failed step, not
        // of the migration, so only its cause is printed.
        let cause = error.source.as_ref().map_or(error.message.to_string(), ToString::to_string);
        format!("migration failed: {cause}; run the same command again to continue")
    })?;
    let text = format_report(&report, started);
    // A closed pipe does not change the outcome of the migration.
    let _ = write!(io::stdout(), "{text}");
    report.check_complete(&source)
}

/// The progress and outcome of a migration.
#[derive(Default)]
struct MigrationReport {
    /// The source's totals, by its own counters.
    source: StoreTotals,
    /// Totals of what was read back from the target and found equal.
    verified: StoreTotals,
    /// Sessions that the target did not have yet.
    new_sessions: u64,
    different_sessions: Vec<SessionId>,
    different_projects: Vec<ProjectId>,
    different_keys: Vec<KeyId>,
    different_turns: u64,
    too_large_sessions: Vec<SessionId>,
}

async fn migrate_all(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
) -> Result<MigrationReport> {
    let source = from.count_totals().await?;
    let StoreTotals { sessions, messages, .. } = source;
    let location = from.describe_location();
    let target = to.describe_location();
    let _ = writeln!(
        io::stderr(),
        "migrating {sessions} sessions with {messages} messages from {location} to {target}"
    );
    let now = clock::now();
    let mut report = MigrationReport { source, ..MigrationReport::default() };
    for stored in from.list_keys().await? {
        match migrate_key(to, &stored).await? {
            true => report.verified.keys += 1,
            false => report.different_keys.push(stored.key.id),
        }
    }
    // Page by page, since a ledger has a row per turn.
    let mut last_turn = None;
    loop {
        let page = migrate_ledger(from, to, last_turn.as_ref()).await?;
        let Some((last, _)) = page.last() else { break };
        last_turn = Some(last.turn_id.clone());
        let equal = page.iter().filter(|(_, is_equal)| *is_equal).count() as u64;
        // An entry that exists with other values is the target's own and is not overwritten.
        report.verified.usage += equal;
        report.different_turns += page.len() as u64 - equal;
    }
    // Projects first, since sessions refer to them.
    for id in from.list_project_ids().await? {
        match migrate_project(from, to, &id).await? {
            ProjectMigrationOutcome::Equal => report.verified.projects += 1,
            ProjectMigrationOutcome::Differs => report.different_projects.push(id),
        }
    }
    let progress = MessageProgress::new(messages);
    let mut last_session = None;
    loop {
        let ids = from.list_session_ids(last_session.as_ref(), ID_PAGE_SIZE).await?;
        let Some(last) = ids.last() else { break };
        last_session = Some(last.clone());
        let on_progress = |messages| progress.advance(messages);
        let migrations = ids.into_iter().map(|id| async {
            let outcome = migrate_session(from, to, &id, now, &on_progress).await?;
            Ok::<_, Error>((id, outcome))
        });
        let mut outcomes = stream::iter(migrations).buffer_unordered(CONCURRENT_SESSIONS);
        while let Some((id, outcome)) = outcomes.try_next().await? {
            report.add_outcome(id, outcome);
        }
    }
    progress.finish();
    Ok(report)
}

impl MigrationReport {
    fn add_outcome(&mut self, id: SessionId, outcome: SessionMigrationOutcome) {
        let verified = match outcome {
            SessionMigrationOutcome::Moved(totals) => {
                self.new_sessions += 1;
                totals
            }
            SessionMigrationOutcome::AlreadyPresent(totals) => totals,
            SessionMigrationOutcome::Differs => return self.different_sessions.push(id),
            SessionMigrationOutcome::TooLarge => return self.too_large_sessions.push(id),
        };
        self.verified.sessions += verified.sessions;
        self.verified.messages += verified.messages;
        self.verified.nodes += verified.nodes;
    }

    fn check_complete(&self, source: &str) -> Result<(), String> {
        let left = self.different_sessions.len() + self.too_large_sessions.len();
        if left > 0 {
            return Err(format!("{left} of {} sessions were not migrated", self.source.sessions));
        }
        let left = self.different_projects.len();
        if left > 0 {
            return Err(format!("{left} of {} projects were not migrated", self.source.projects));
        }
        let left = self.different_keys.len();
        if left > 0 {
            return Err(format!("{left} of {} keys were not migrated", self.source.keys));
        }
        if self.different_turns > 0 {
            return Err(format!("the usage of {} turns was not migrated", self.different_turns));
        }
        // Every part is equal, so the source's counters must be wrong. Keep the file for an
        // investigation.
        if self.verified != self.source {
            return Err(format!(
                "the totals differ although every session is equal: the counters of {source} are \
                 inconsistent; keep it"
            ));
        }
        Ok(())
    }
}

/// The table of counts, followed by what was not migrated.
fn format_report(report: &MigrationReport, started: Instant) -> String {
    let line =
        |name: &str, source: u64, verified: u64| format!("{name:<10}{source:>14}{verified:>14}\n");
    let MigrationReport {
        source,
        verified,
        new_sessions: new,
        different_sessions: different,
        different_projects,
        different_keys,
        too_large_sessions: too_large,
        ..
    } = report;
    let mut text = format!("{:<10}{:>14}{:>14}\n", "", "source", "verified");
    text += &line("keys", source.keys, verified.keys);
    text += &line("usage", source.usage, verified.usage);
    text += &line("projects", source.projects, verified.projects);
    text += &line("sessions", source.sessions, verified.sessions);
    text += &line("messages", source.messages, verified.messages);
    text += &line("nodes", source.nodes, verified.nodes);
    text += &format!(
        "{new} sessions migrated, {} already present, in {:.1} s\n",
        verified.sessions - new,
        started.elapsed().as_secs_f64()
    );
    for id in different {
        text += &format!("skipped, differs in the target: {id}\n");
    }
    for id in different_projects {
        text += &format!("skipped, differs in the target: project {id}\n");
    }
    for id in different_keys {
        text += &format!("skipped, differs in the target: key {id}\n");
    }
    for id in too_large {
        text += &format!("skipped, a message is too large for the target: {id}\n");
    }
    text
}
