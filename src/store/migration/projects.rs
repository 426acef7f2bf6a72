//! Migration of projects exactly as they are stored: ids, versions and times stay the same, and the
//! copy is read back and compared.

use super::{MigrationSource, MigrationTarget, with_retry};
use crate::domain::{Principal, Project, ProjectId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{NewFile, ProjectStore, StoredFile};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProjectMigrationOutcome {
    /// Present and equal, whether copied now or before.
    Equal,
    /// Present but different: it was used since. It is left alone.
    Differs,
}

/// Migrates a project unless it is present. Starts over after a transient failure of a store.
pub(crate) async fn migrate_project(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    id: &ProjectId,
) -> Result<ProjectMigrationOutcome> {
    with_retry(|| async move {
        let original = load_project(from, id).await?.ok_or_else(Error::project_not_found)?;
        if load_project(to, id).await?.is_none() {
            let (project, files) = &original;
            let files: Vec<_> = files.iter().map(to_new_file).collect();
            to.insert_project(project, &files).await?;
        }
        let is_equal = load_project(to, id).await?.is_some_and(|stored| stored == original);
        Ok(if is_equal { ProjectMigrationOutcome::Equal } else { ProjectMigrationOutcome::Differs })
    })
    .await
}

async fn load_project(
    store: &(impl ProjectStore + ?Sized),
    id: &ProjectId,
) -> Result<Option<(Project, Vec<StoredFile>)>> {
    let all = |project: &Project| project.files.iter().map(|file| file.path.clone()).collect();
    match store.select_files(&Principal::server(), id, Box::new(all)).await {
        Ok(loaded) => Ok(Some(loaded)),
        Err(error) if error.kind == ErrorKind::ProjectNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn to_new_file(stored: &StoredFile) -> NewFile {
    NewFile {
        path: stored.entry.path.clone(),
        content: stored.content.clone(),
        language: stored.entry.language.clone(),
        tokens: stored.entry.tokens,
    }
}
