//! Schema of the database file: its version, migrations and backups.
//!
//! A migration is one SQL script, run in one transaction together with the new version number.
//! A file with data is backed up first, so a failed or unwanted upgrade can be undone by
//! renaming the copy.

use crate::error::{Error, ErrorKind, Result};
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `PRAGMA application_id` of Echoic's files: "Echo".
const APPLICATION_ID: i32 = 0x4563_686F;

/// Migration scripts; the n-th one leads to version n.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/v1.sql"),
    include_str!("schema/v2.sql"),
    include_str!("schema/v3.sql"),
    include_str!("schema/v4.sql"),
    include_str!("schema/v5.sql"),
];

/// Brings the file of an open connection to the current version. Returns a note for the operator if
/// that upgraded existing data.
pub(super) fn migrate_schema(connection: &mut Connection, path: &Path) -> Result<Option<String>> {
    apply_migrations(connection, path, MIGRATIONS)
}

/// Requires the current version, for connections that must not change the file.
pub(super) fn ensure_current(connection: &Connection, path: &Path) -> Result<()> {
    let latest = MIGRATIONS.len();
    match detect_schema(connection)? {
        SchemaState::Versioned(version) if version == latest => Ok(()),
        SchemaState::Versioned(version) => Err(schema_error(format!(
            "{} has schema version {version}, but this Echoic reads version {latest}; use the version that \
             serves it, or serve it once with this one",
            path.display()
        ))),
        SchemaState::Empty | SchemaState::Foreign => {
            Err(schema_error(format!("{} is not an Echoic database", path.display())))
        }
    }
}

fn apply_migrations(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<Option<String>> {
    let latest = migrations.len();
    let version = match detect_schema(connection)? {
        SchemaState::Empty => 0,
        SchemaState::Versioned(version) if (1..=latest).contains(&version) => version,
        SchemaState::Versioned(version) if version > latest => {
            return Err(schema_error(format!(
                "{} was written by a newer Echoic: its schema is version {version}, this one supports up to {latest}; \
                 start the newer version, or use a copy made before the upgrade",
                path.display()
            )));
        }
        SchemaState::Versioned(version) => {
            return Err(schema_error(format!(
                "{} has schema version {version}, which is older than any that this Echoic can upgrade",
                path.display()
            )));
        }
        SchemaState::Foreign => {
            return Err(schema_error(format!("{} is not an Echoic database", path.display())));
        }
    };
    let mut upgrade = None;
    // Version 0 is an empty file, which needs no backup.
    if (1..latest).contains(&version) {
        let copy = backup_file(connection, path, version)?;
        upgrade = Some(format!(
            " (upgraded from schema {version} to {latest}, copy in {})",
            copy.display()
        ));
    }
    for (index, script) in migrations.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(script)?;
        // Both pragmas are part of the transaction, so a script that fails leaves the old
        // version in place.
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", (index + 1) as i64)?;
        transaction.commit()?;
    }
    Ok(upgrade)
}

enum SchemaState {
    Empty,
    Versioned(usize),
    Foreign,
}

fn detect_schema(connection: &Connection) -> Result<SchemaState> {
    let read = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    // On a file that is not a database, the first read fails.
    let application = read("application_id").map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            schema_error("the file is not an Echoic database")
        }
        _ => error.into(),
    })?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application == i64::from(APPLICATION_ID), tables) {
        (true, _) => SchemaState::Versioned(read("user_version")?.try_into().unwrap_or(0)),
        // A file without tables may be used regardless of its application id.
        (false, 0) => SchemaState::Empty,
        (false, _) => SchemaState::Foreign,
    })
}

/// Writes a consistent copy with `VACUUM INTO`, including what is still in the write-ahead log.
fn backup_file(connection: &Connection, path: &Path, version: usize) -> Result<PathBuf> {
    let copy = path.with_extension(format!("v{version}.backup.db"));
    if copy.exists() {
        return Err(schema_error(format!(
            "{} must be backed up before its upgrade, but {} already exists; move that copy away",
            path.display(),
            copy.display()
        )));
    }
    // Created for its permissions: `VACUUM INTO` accepts an empty file. It must be new, because an
    // existing one could be readable by others.
    let created = File::options().write(true).create_new(true).mode(0o600).open(&copy);
    created.map_err(Error::store_unavailable)?;
    connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    Ok(copy)
}

fn schema_error(sentence: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::StoreUnavailable, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn open(path: &Path) -> Connection {
        Connection::open(path).unwrap()
    }

    #[test]
    fn upgrade_backs_up_file_and_keeps_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echoic.db");
        let first = "CREATE TABLE t (x); INSERT INTO t VALUES (7);";
        apply_migrations(&mut open(&path), &path, &[first]).unwrap();

        apply_migrations(&mut open(&path), &path, &[first, "ALTER TABLE t ADD COLUMN y;"]).unwrap();

        let columns = |file: &Path| {
            let count = "SELECT count(*) FROM pragma_table_info('t')";
            open(file).query_row(count, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        let copy = path.with_extension("v1.backup.db");
        assert_eq!((columns(&path), columns(&copy)), (2, 1));
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let kept: i64 = open(&path).query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 7);
    }

    #[test]
    fn failed_upgrade_leaves_file_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echoic.db");
        apply_migrations(&mut open(&path), &path, &["CREATE TABLE t (x);"]).unwrap();

        let broken = "CREATE TABLE u (x); CREATE TABLE nonsense";
        apply_migrations(&mut open(&path), &path, &["CREATE TABLE t (x);", broken]).unwrap_err();

        let tables = "SELECT group_concat(name) FROM sqlite_schema";
        let tables: String = open(&path).query_row(tables, [], |row| row.get(0)).unwrap();
        assert_eq!(tables, "t");
    }

    #[test]
    fn newer_older_and_foreign_files_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echoic.db");
        migrate_schema(&mut open(&path), &path).unwrap();
        let refusal = |version: usize| {
            open(&path).pragma_update(None, "user_version", version as i64).unwrap();
            migrate_schema(&mut open(&path), &path).unwrap_err().to_string()
        };
        assert!(refusal(MIGRATIONS.len() + 1).contains("written by a newer Echoic"));
        assert!(refusal(0).contains("older than any"));

        let foreign = folder.path().join("foreign.db");
        open(&foreign).execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(
            migrate_schema(&mut open(&foreign), &foreign)
                .unwrap_err()
                .to_string()
                .contains("not an Echoic")
        );
        let text = folder.path().join("text.db");
        std::fs::write(
            &text,
            "no database at all, but more than enough text for a header".repeat(20),
        )
        .unwrap();
        assert!(
            migrate_schema(&mut open(&text), &text)
                .unwrap_err()
                .to_string()
                .contains("not an Echoic")
        );
    }
}
