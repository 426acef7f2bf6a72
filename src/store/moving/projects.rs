//! Projects moved as they are kept: their ids, versions and times stay what they are, and what was
//! written is read back and compared.

use super::{MoveIn, MoveOut, patiently};
use crate::domain::{Principal, Project, ProjectId};
use crate::error::{Error, Kind, Result};
use crate::store::{NewFile, ProjectStore, StoredFile};

/// What became of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProjectOutcome {
    /// It is there, and reads back as it was.
    Equal,
    /// What is there is not equal: it was used since. It is left alone.
    Differs,
}

/// Moves a project, unless it is there already; begins anew when a store fails for a moment.
pub(crate) async fn move_project(
    from: &dyn MoveOut,
    to: &dyn MoveIn,
    id: &ProjectId,
) -> Result<ProjectOutcome> {
    patiently(|| async move {
        let original = kept(from, id).await?.ok_or_else(Error::project_not_found)?;
        if kept(to, id).await?.is_none() {
            let (project, files) = &original;
            let files: Vec<_> = files.iter().map(new_file).collect();
            to.put_project(project, &files).await?;
        }
        let is_equal = kept(to, id).await?.is_some_and(|there| there == original);
        Ok(if is_equal { ProjectOutcome::Equal } else { ProjectOutcome::Differs })
    })
    .await
}

/// A project with all of its files.
async fn kept(
    store: &(impl ProjectStore + ?Sized),
    id: &ProjectId,
) -> Result<Option<(Project, Vec<StoredFile>)>> {
    let all = |project: &Project| project.files.iter().map(|file| file.path.clone()).collect();
    match store.files(&Principal::server(), id, Box::new(all)).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == Kind::ProjectNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_file(stored: &StoredFile) -> NewFile {
    NewFile {
        path: stored.entry.path.clone(),
        content: stored.content.clone(),
        language: stored.entry.language.clone(),
        tokens: stored.entry.tokens,
    }
}
