//! `echoic migrate`: everything from one store into another, compared there, and told.

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

/// Sessions that move at the same time: while one waits for a majority, others go on.
const CONCURRENT_SESSIONS: usize = 8;
/// Ids that are read at once.
const ID_PAGE_SIZE: u32 = 256;

/// Moves what the command names. Errors say what is not moved, and what to do.
pub(super) fn run_migrate(args: &MigrateArgs) -> Result<(), String> {
    super::build_runtime()?.block_on(migrate_database(args))
}

async fn migrate_database(args: &MigrateArgs) -> Result<(), String> {
    let (from, to) = open_for_migration(&args.from, &args.to)
        .await
        .map_err(|error| error.chain().to_string())?;
    let (started, source) = (Instant::now(), from.describe_location());
    let moved = migrate_all(&*from, &*to).await;
    from.disconnect().await;
    to.disconnect().await;
    let moved = moved.map_err(|error| {
        // What a store's sentence says of "nothing" goes for one step, not for the whole move.
        let why = error.source.as_ref().map_or(error.message.to_string(), ToString::to_string);
        format!("the move stopped: {why}; the same command goes on from there")
    })?;
    let told = format_report(&moved, started);
    // A pipe that nobody reads any more does not change what was done.
    let _ = write!(io::stdout(), "{told}");
    moved.check_complete(&source)
}

/// What was moved.
#[derive(Default)]
struct MigrationReport {
    /// What there was to move, as the source counts it.
    source: StoreTotals,
    /// What was read back from the target, and is equal.
    verified: StoreTotals,
    /// Sessions that were not there before.
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
    let (out, into) = (from.describe_location(), to.describe_location());
    let _ = writeln!(
        io::stderr(),
        "moving {sessions} sessions with {messages} messages from {out} to {into}"
    );
    let (now, mut moved, mut behind) =
        (clock::now(), MigrationReport { source, ..MigrationReport::default() }, None);
    for stored in from.list_keys().await? {
        match migrate_key(to, &stored).await? {
            true => moved.verified.keys += 1,
            false => moved.different_keys.push(stored.key.id),
        }
    }
    let mut booked = None;
    loop {
        let page = migrate_ledger(from, to, booked.as_ref()).await?;
        let Some((last, _)) = page.last() else { break };
        booked = Some(last.turn_id.clone());
        let equal = page.iter().filter(|(_, is_equal)| *is_equal).count() as u64;
        moved.verified.usage += equal;
        moved.different_turns += page.len() as u64 - equal;
    }
    // Before their sessions, which read them.
    for id in from.list_project_ids().await? {
        match migrate_project(from, to, &id).await? {
            ProjectMigrationOutcome::Equal => moved.verified.projects += 1,
            ProjectMigrationOutcome::Differs => moved.different_projects.push(id),
        }
    }
    let progress = MessageProgress::new(messages);
    loop {
        let ids = from.list_session_ids(behind.as_ref(), ID_PAGE_SIZE).await?;
        let Some(last) = ids.last() else { break };
        behind = Some(last.clone());
        let passed = |messages| progress.advance(messages);
        let moving = ids.into_iter().map(|id| async {
            let outcome = migrate_session(from, to, &id, now, &passed).await?;
            Ok::<_, Error>((id, outcome))
        });
        let mut outcomes = stream::iter(moving).buffer_unordered(CONCURRENT_SESSIONS);
        while let Some((id, outcome)) = outcomes.try_next().await? {
            moved.add_outcome(id, outcome);
        }
    }
    progress.finish();
    Ok(moved)
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
            return Err(format!("{left} of {} sessions were not moved", self.source.sessions));
        }
        let left = self.different_projects.len();
        if left > 0 {
            return Err(format!("{left} of {} projects were not moved", self.source.projects));
        }
        let left = self.different_keys.len();
        if left > 0 {
            return Err(format!("{left} of {} keys were not moved", self.source.keys));
        }
        if self.different_turns > 0 {
            return Err(format!("the use of {} turns was not moved", self.different_turns));
        }
        if self.verified != self.source {
            return Err(format!(
                "the counts differ although every session was compared: {source} contradicts itself; \
                 keep it"
            ));
        }
        Ok(())
    }
}

/// The table at the end, and what is not in it.
fn format_report(moved: &MigrationReport, started: Instant) -> String {
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
    } = moved;
    let mut told = format!("{:<10}{:>14}{:>14}\n", "", "source", "verified");
    told += &line("keys", source.keys, verified.keys);
    told += &line("usage", source.usage, verified.usage);
    told += &line("projects", source.projects, verified.projects);
    told += &line("sessions", source.sessions, verified.sessions);
    told += &line("messages", source.messages, verified.messages);
    told += &line("nodes", source.nodes, verified.nodes);
    told += &format!(
        "{new} sessions moved, {} were there already, in {:.1} s\n",
        verified.sessions - new,
        started.elapsed().as_secs_f64()
    );
    for id in different {
        told += &format!("left alone, because it differs in the target: {id}\n");
    }
    for id in different_projects {
        told += &format!("left alone, because it differs in the target: project {id}\n");
    }
    for id in different_keys {
        told += &format!("left alone, because it differs in the target: key {id}\n");
    }
    for id in too_large {
        told += &format!("not moved, because a message is too large for the target: {id}\n");
    }
    told
}
