//! What the rules of projects ask of a database inside one atomic step, as [`super::transaction`] does for
//! sessions.

use super::NewFile;
use crate::domain::project::FilePath;
use crate::domain::{Principal, Project, ProjectId};
use crate::error::Result;
use std::collections::HashMap;

/// A project with what only stores know of it.
#[derive(Debug, Clone)]
pub(crate) struct ProjectRow {
    /// The database's own number for it, where it has one.
    pub(crate) key: i64,
    pub(crate) project: Project,
    /// The database's own names for the contents of its files, where it has some.
    pub(crate) content_ids: HashMap<FilePath, String>,
}

/// What a change does to the files of a project.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FileChange<'a> {
    /// Nothing.
    None,
    /// Adds one, or replaces the one at its path.
    Put(&'a NewFile),
    /// Takes one out.
    Remove(&'a FilePath),
}

/// One atomic step on a project.
pub(crate) trait ProjectTransaction {
    /// A project that is `who`'s to see: of another's no more is read than of none.
    async fn find_project(
        &mut self,
        principal: &Principal,
        id: &ProjectId,
    ) -> Result<Option<ProjectRow>>;

    /// Adds a project that does not exist; `files` are the contents of its entries.
    async fn insert_project(&mut self, project: &Project, files: &[NewFile]) -> Result<()>;

    /// Replaces a project that is still as in `row` by `project`, in which the entry of the file
    /// that changes is up to date already.
    async fn update_project(
        &mut self,
        row: &ProjectRow,
        project: &Project,
        change: FileChange<'_>,
    ) -> Result<()>;

    /// Deletes a project and its files.
    async fn delete_project(&mut self, row: &ProjectRow) -> Result<()>;

    /// The contents of files that the project has, in this order.
    async fn read_files(&mut self, row: &ProjectRow, paths: &[FilePath]) -> Result<Vec<String>>;
}
