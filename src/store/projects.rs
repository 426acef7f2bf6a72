//! What is asked of a store about projects.

use crate::domain::page::Pagination;
use crate::domain::project::{FileEntry, FileLanguage, FilePath, GenerationStatus};
use crate::domain::{Principal, Project, ProjectId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// A project to create.
#[derive(Debug, Clone)]
pub struct NewProject {
    /// Its id.
    pub id: ProjectId,
    /// What it is called.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// What the model is told in its sessions.
    pub system_prompt: Option<String>,
    /// What the application does with it.
    pub generation_status: GenerationStatus,
    /// Its files, each path once.
    pub files: Vec<NewFile>,
}

/// A file to store.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Where it lies in the project.
    pub path: FilePath,
    /// Its text.
    pub content: String,
    /// The language it is written in.
    pub language: Option<FileLanguage>,
    /// The text's size in tokens of o200k_base.
    pub tokens: u32,
}

/// A change of a project's own fields: each `Some` replaces that field.
#[derive(Debug, Clone, Default)]
pub struct ProjectUpdate {
    /// What it is called.
    pub name: Option<String>,
    /// What it is about.
    pub description: Option<String>,
    /// What the model is told; `Some(None)` nothing.
    pub system_prompt: Option<Option<String>>,
    /// What the application does with it.
    pub generation_status: Option<GenerationStatus>,
}

/// A page of projects, newest change first.
#[derive(Debug)]
pub struct ProjectPage {
    /// The projects.
    pub projects: Vec<Project>,
    /// How many there are in all.
    pub pagination: Pagination,
}

/// A file with its content.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFile {
    /// All but the content.
    pub entry: FileEntry,
    /// Its text.
    pub content: String,
    /// The project's version.
    pub version: u32,
}

/// Says which files of a project to read, once the project is known. It runs inside the store's own
/// step, maybe more than once, so it must be quick.
pub type FileSelector = Box<dyn Fn(&Project) -> Vec<FilePath> + Send + Sync>;

/// What came of storing a file.
#[derive(Debug, Clone, PartialEq)]
pub struct PutFileOutcome {
    /// The file without its content.
    pub entry: FileEntry,
    /// The project's version.
    pub version: u32,
    /// Whether there was none at its path.
    pub is_new: bool,
}

/// Projects: created, listed, changed, deleted, and their files. Only a project's owner, and an
/// admin, may do anything to it; for all others there is no such project.
///
/// Where `if_match` is asked for, the project's version must be one of it, unless it is empty;
/// errors: `version_conflict`. A change of nothing leaves even the version.
#[async_trait]
pub trait ProjectStore: Send + Sync {
    /// Creates a project with its files: all of it or nothing. Errors: `invalid_request` and
    /// `payload_too_large`, where the files are too many or too large.
    async fn create_project(
        &self,
        principal: &Principal,
        new: NewProject,
        now: Timestamp,
    ) -> Result<Project>;

    /// One project. Errors: `project_not_found`.
    async fn get_project(&self, principal: &Principal, id: &ProjectId) -> Result<Project>;

    /// The caller's own projects, page by page from 1.
    async fn list_projects(
        &self,
        principal: &Principal,
        page: u32,
        limit: u32,
    ) -> Result<ProjectPage>;

    /// Changes a project's own fields. Errors: `project_not_found`.
    async fn update_project(
        &self,
        principal: &Principal,
        id: &ProjectId,
        change: ProjectUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project>;

    /// Deletes a project with its files; its sessions are others' business. Errors:
    /// `project_not_found`.
    async fn delete_project(&self, principal: &Principal, id: &ProjectId) -> Result<()>;

    /// One file. Errors: `project_not_found`, `file_not_found`.
    async fn get_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
    ) -> Result<StoredFile>;

    /// A project with those of its files that `choose` wants, as far as they are there, in this
    /// order: one consistent view. Errors: `project_not_found`.
    async fn select_files(
        &self,
        principal: &Principal,
        id: &ProjectId,
        choose: FileSelector,
    ) -> Result<(Project, Vec<StoredFile>)>;

    /// Stores a file, new or in another's place. Errors: `project_not_found`, and what creating
    /// one says of its files.
    async fn put_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        file: NewFile,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<PutFileOutcome>;

    /// Deletes a file; the project as it is then. Errors: `project_not_found`, `file_not_found`.
    async fn delete_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project>;
}
