//! The operations that the rules of projects need from a database within one atomic transaction;
//! [`super::transaction`] has those for sessions.

use super::NewFile;
use crate::domain::project::FilePath;
use crate::domain::{Principal, Project, ProjectId};
use crate::error::Result;
use std::collections::HashMap;

/// A project plus the fields that only stores use.
#[derive(Debug, Clone)]
pub(crate) struct ProjectRow {
    pub(crate) project: Project,
    /// Ids of the file contents, in databases that store them in documents of their own.
    pub(crate) content_ids: HashMap<FilePath, String>,
}

/// The effect of an update on the files of a project.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FileChange<'a> {
    None,
    /// Adds a file, or replaces the one at the same path.
    Put(&'a NewFile),
    Remove(&'a FilePath),
}

/// One atomic transaction on a project.
pub(crate) trait ProjectTransaction {
    /// Finds a project that `principal` may see. For another user's project no more is read than
    /// for a missing one.
    async fn find_project(
        &mut self,
        principal: &Principal,
        id: &ProjectId,
    ) -> Result<Option<ProjectRow>>;

    /// Inserts a new project; `files` holds the contents of its entries.
    async fn insert_project(&mut self, project: &Project, files: &[NewFile]) -> Result<()>;

    /// Replaces the state in `row` by `project`, whose file entries already reflect `change`. Fails
    /// with a conflict if the stored project is no longer as in `row`.
    async fn update_project(
        &mut self,
        row: &ProjectRow,
        project: &Project,
        change: FileChange<'_>,
    ) -> Result<()>;

    /// Deletes a project with its files.
    async fn delete_project(&mut self, row: &ProjectRow) -> Result<()>;

    /// Reads the contents of existing files, in the order of `paths`.
    async fn read_files(&mut self, row: &ProjectRow, paths: &[FilePath]) -> Result<Vec<String>>;
}
