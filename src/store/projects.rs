//! Store operations on projects.

use crate::domain::page::Pagination;
use crate::domain::project::{FileEntry, FileLanguage, FilePath, GenerationStatus};
use crate::domain::{Principal, Project, ProjectId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

#[derive(Debug, Clone)]
pub struct NewProject {
    pub id: ProjectId,
    pub name: String,
    pub description: String,
    /// Instructions for the model in sessions of this project.
    pub system_prompt: Option<String>,
    /// Status that the application sets.
    pub generation_status: GenerationStatus,
    /// Files with distinct paths.
    pub files: Vec<NewFile>,
}

#[derive(Debug, Clone)]
pub struct NewFile {
    pub path: FilePath,
    pub content: String,
    pub language: Option<FileLanguage>,
    /// Size of the content in o200k_base tokens.
    pub tokens: u32,
}

/// An update of a project's own fields; each `Some` replaces that field.
#[derive(Debug, Clone, Default)]
pub struct ProjectUpdate {
    pub name: Option<String>,
    pub description: Option<String>,
    /// `Some(None)` removes the instructions.
    pub system_prompt: Option<Option<String>>,
    pub generation_status: Option<GenerationStatus>,
}

/// A page of projects, most recently changed first.
#[derive(Debug)]
pub struct ProjectPage {
    pub projects: Vec<Project>,
    pub pagination: Pagination,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoredFile {
    pub entry: FileEntry,
    pub content: String,
    /// Version of the project when the file was read.
    pub version: u32,
}

/// Selects the files to read once the project is known. Runs inside the store's transaction,
/// possibly more than once, so it must be fast.
pub type FileSelector = Box<dyn Fn(&Project) -> Vec<FilePath> + Send + Sync>;

/// Result of [`ProjectStore::put_file`].
#[derive(Debug, Clone, PartialEq)]
pub struct PutFileOutcome {
    pub entry: FileEntry,
    /// Version of the project after the change.
    pub version: u32,
    /// Whether the path was free.
    pub is_new: bool,
}

/// Projects and their files. Only the owner of a project and admins have access; for all others
/// it does not exist.
///
/// Where a method takes `if_match`, the current version of the project must be in it, unless it
/// is empty; otherwise the error is `version_conflict`. A change without effect does not
/// increment the version.
#[async_trait]
pub trait ProjectStore: Send + Sync {
    /// Creates a project with its files, completely or not at all. Errors: `invalid_request` and
    /// `payload_too_large`, if the files are too many or too large.
    async fn create_project(
        &self,
        principal: &Principal,
        new: NewProject,
        now: Timestamp,
    ) -> Result<Project>;

    /// Returns one project. Errors: `project_not_found`.
    async fn get_project(&self, principal: &Principal, id: &ProjectId) -> Result<Project>;

    /// Lists the caller's own projects; pages are counted from 1.
    async fn list_projects(
        &self,
        principal: &Principal,
        page: u32,
        limit: u32,
    ) -> Result<ProjectPage>;

    /// Updates a project's own fields. Errors: `project_not_found`.
    async fn update_project(
        &self,
        principal: &Principal,
        id: &ProjectId,
        update: ProjectUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project>;

    /// Deletes a project with its files. Its sessions remain. Errors: `project_not_found`.
    async fn delete_project(&self, principal: &Principal, id: &ProjectId) -> Result<()>;

    /// Returns one file. Errors: `project_not_found`, `file_not_found`.
    async fn get_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
    ) -> Result<StoredFile>;

    /// Returns a project and the files that `choose` selects, in that order and without missing
    /// ones, as one consistent snapshot. Errors: `project_not_found`.
    async fn select_files(
        &self,
        principal: &Principal,
        id: &ProjectId,
        choose: FileSelector,
    ) -> Result<(Project, Vec<StoredFile>)>;

    /// Adds a file or replaces the one at its path. Errors: `project_not_found`, and those of
    /// [`create_project`](ProjectStore::create_project) about files.
    async fn put_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        file: NewFile,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<PutFileOutcome>;

    /// Deletes a file and returns the updated project. Errors: `project_not_found`,
    /// `file_not_found`.
    async fn delete_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project>;
}
