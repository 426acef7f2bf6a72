//! Projects and their files in MongoDB.
//!
//! A project is one document with an entry per file, which names the document of the file's
//! content. Contents are immutable. Changing a file takes three writes:
//!
//! 1. insert the new content;
//! 2. write the project's document with the new entry, if its version is unchanged;
//! 3. delete the old content.
//!
//! The second write decides, so no MongoDB transaction is needed. A crash in between leaves at most
//! an unreferenced content, which is deleted with the project. Whole projects are created and
//! deleted in MongoDB transactions.

use super::MongoStore;
use super::documents::{to_bson_date, to_document, to_timestamp, to_u32};
use super::errors::{RETRY_PAUSE, is_transient};
use super::transaction::{MongoTransaction, TransactionMode, transact};
use crate::domain::page::Pagination;
use crate::domain::project::{FileEntry, FileLanguage, FilePath, GenerationStatus};
use crate::domain::{Principal, Project, ProjectId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::project_transaction::{FileChange, ProjectRow, ProjectTransaction};
use crate::store::stored_values::decode_name;
use crate::store::{
    FileSelector, NewFile, NewProject, ProjectPage, ProjectStore, ProjectUpdate, PutFileOutcome,
    StoredFile, rules,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tokio::time::sleep;
use uuid::Uuid;

/// A project's document keeps the ids of its last eight changes.
const CHANGE_IDS_SLICE: i32 = -8;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProjectDoc {
    #[serde(rename = "_id")]
    id: String,
    user_id: String,
    name: String,
    description: String,
    system_prompt: Option<String>,
    generation_status: String,
    version: i64,
    /// Sorted by path.
    files: Vec<ProjectFileDoc>,
    created_at: DateTime,
    updated_at: DateTime,
}

/// A file's entry in its project's document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProjectFileDoc {
    path: String,
    /// Id of the document with the file's content.
    content: String,
    language: Option<String>,
    size: i64,
    tokens: i64,
    updated_at: DateTime,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileContentDoc {
    #[serde(rename = "_id")]
    id: String,
    project_id: String,
    content: String,
}

#[async_trait]
impl ProjectStore for MongoStore {
    async fn create_project(
        &self,
        principal: &Principal,
        new: NewProject,
        now: Timestamp,
    ) -> Result<Project> {
        let new = &new;
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| rules::create_project(
            tx, principal, new, now
        )
        .await)
    }

    async fn get_project(&self, principal: &Principal, id: &ProjectId) -> Result<Project> {
        transact!(self, |tx| Ok(rules::get_project(tx, principal, id).await?.project))
    }

    async fn list_projects(
        &self,
        principal: &Principal,
        page: u32,
        limit: u32,
    ) -> Result<ProjectPage> {
        let own = doc! { "userId": principal.user.as_str() };
        let total = self.collections.projects.count_documents(own.clone()).await?;
        let found: Vec<ProjectDoc> = self
            .collections
            .projects
            .clone_with_type()
            .find(own)
            .sort(doc! { "updatedAt": -1, "_id": -1 })
            .skip(u64::from(page - 1) * u64::from(limit))
            .limit(limit.into())
            .await?
            .try_collect()
            .await?;
        let projects =
            found.into_iter().map(|found| Ok(found.into_row()?.project)).collect::<Result<_>>()?;
        Ok(ProjectPage { projects, pagination: Pagination::new(page, limit, total) })
    }

    async fn update_project(
        &self,
        principal: &Principal,
        id: &ProjectId,
        change: ProjectUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project> {
        let change = &change;
        let if_match = if_match.as_slice();
        transact!(self, |tx| rules::update_project(tx, principal, id, change, if_match, now).await)
    }

    async fn delete_project(&self, principal: &Principal, id: &ProjectId) -> Result<()> {
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| rules::delete_project(
            tx, principal, id
        )
        .await)
    }

    async fn get_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
    ) -> Result<StoredFile> {
        transact!(self, |tx| rules::get_file(tx, principal, id, path).await)
    }

    async fn select_files(
        &self,
        principal: &Principal,
        id: &ProjectId,
        selector: FileSelector,
    ) -> Result<(Project, Vec<StoredFile>)> {
        let selector = &selector;
        transact!(self, |tx| rules::select_files(tx, principal, id, selector).await)
    }

    async fn put_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        file: NewFile,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<PutFileOutcome> {
        let file = &file;
        let if_match = if_match.as_slice();
        transact!(self, |tx| rules::put_file(tx, principal, id, file, if_match, now).await)
    }

    async fn delete_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project> {
        let if_match = if_match.as_slice();
        transact!(self, |tx| rules::delete_file(tx, principal, id, path, if_match, now).await)
    }
}

impl ProjectTransaction for MongoTransaction {
    async fn find_project(
        &mut self,
        principal: &Principal,
        id: &ProjectId,
    ) -> Result<Option<ProjectRow>> {
        let projects = self.collections.projects.clone();
        let mut filter = doc! { "_id": id.as_str() };
        if !principal.is_admin {
            filter.insert("userId", principal.user.as_str());
        }
        let found: Option<ProjectDoc> = self.find_one(&projects, filter, None).await?;
        found.map(ProjectDoc::into_row).transpose()
    }

    async fn insert_project(&mut self, project: &Project, files: &[NewFile]) -> Result<()> {
        let mut contents = HashMap::new();
        let mut documents = Vec::new();
        for file in files {
            let content = FileContentDoc::new(&project.id, file);
            contents.insert(file.path.clone(), content.id.clone());
            documents.push(to_document(&content)?);
        }
        let project = to_document(&ProjectDoc::new(project, &contents)?)?;
        let collections = self.collections.clone();
        if !documents.is_empty() {
            let inserted = collections
                .project_files
                .insert_many(documents)
                .session(&mut self.client_session)
                .await;
            self.check_result(inserted)?;
        }
        let inserted =
            collections.projects.insert_one(project).session(&mut self.client_session).await;
        self.check_result(inserted).map(|_| ())
    }

    async fn update_project(
        &mut self,
        row: &ProjectRow,
        project: &Project,
        change: FileChange<'_>,
    ) -> Result<()> {
        let contents_before = &row.content_ids;
        let mut contents = contents_before.clone();
        let outdated = match change {
            FileChange::None => None,
            FileChange::Remove(path) => contents_before.get(path).cloned(),
            FileChange::Put(file) => {
                let content = FileContentDoc::new(&project.id, file);
                // Not in a MongoDB transaction: the content means nothing until the project's
                // document names it.
                let inserted =
                    self.collections.project_files.insert_one(to_document(&content)?).await;
                self.check_result(inserted)?;
                contents.insert(file.path.clone(), content.id)
            }
        };
        let mut after = to_document(&ProjectDoc::new(project, &contents)?)?;
        after.remove("_id");
        self.replace_project(&row.project, after).await?;
        // After the commit. A reader with the old version that misses the content reads again.
        if let Some(outdated) = outdated {
            let deleted = self.collections.project_files.delete_one(doc! { "_id": outdated }).await;
            if let Err(error) = deleted {
                tracing::warn!(%error, "deleting an unreferenced file content failed");
            }
        }
        Ok(())
    }

    async fn delete_project(&mut self, row: &ProjectRow) -> Result<()> {
        let (id, collections) = (row.project.id.as_str(), self.collections.clone());
        self.delete_many(&collections.projects, doc! { "_id": id }).await?;
        self.delete_many(&collections.project_files, doc! { "projectId": id }).await?;
        Ok(())
    }

    async fn read_files(&mut self, row: &ProjectRow, paths: &[FilePath]) -> Result<Vec<String>> {
        let ids: Vec<_> = paths.iter().filter_map(|path| row.content_ids.get(path)).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let collection = self.collections.project_files.clone();
        let pipeline = vec![doc! { "$match": { "_id": { "$in": &ids } } }];
        let found: Vec<FileContentDoc> = self.run_pipeline(&collection, pipeline).await?;
        let mut contents: HashMap<_, _> =
            found.into_iter().map(|found| (found.id, found.content)).collect();
        let found: Option<Vec<_>> = ids.into_iter().map(|id| contents.remove(id)).collect();
        // A missing content means that its file was changed since the project was read. Retry with
        // the new version of the project.
        found.ok_or_else(|| self.record_conflict())
    }
}

impl MongoTransaction {
    /// Writes a project's document on the condition that its version is unchanged, and retries
    /// until the outcome is known. A repeated write has no effect: it finds another version, and
    /// its own change id.
    async fn replace_project(&mut self, before: &Project, after: Document) -> Result<()> {
        let (projects, name) =
            (self.collections.projects.clone(), Uuid::now_v7().simple().to_string());
        let id = before.id.as_str();
        let unchanged = doc! { "_id": id, "version": i64::from(before.version) };
        let update = doc! {
            "$set": after,
            "$push": { "changes": { "$each": [&name], "$slice": CHANGE_IDS_SLICE } },
        };
        loop {
            match projects.update_one(unchanged.clone(), update.clone()).await {
                Ok(updated) if updated.matched_count == 1 => return Ok(()),
                Ok(_) => break,
                Err(error) if is_transient(&error) => sleep(RETRY_PAUSE).await,
                Err(error) => return self.check_result(Err(error)),
            }
        }
        // Another version: written by a try whose response was lost, or by another client.
        let own_change = projects.find_one(doc! { "_id": id, "changes": name }).await;
        match self.check_result(own_change)? {
            Some(_) => Ok(()),
            None => Err(self.record_conflict()),
        }
    }
}

impl ProjectDoc {
    /// `contents` maps each file's path to the id of its content.
    fn new(project: &Project, contents: &HashMap<FilePath, String>) -> Result<Self> {
        let file = |entry: &FileEntry| {
            let content = contents.get(&entry.path).cloned();
            Ok(ProjectFileDoc {
                content: content.ok_or_else(|| Error::internal("a file has no content id"))?,
                path: entry.path.to_string(),
                language: entry.language.as_ref().map(|language| language.as_str().to_owned()),
                size: entry.size.into(),
                tokens: entry.tokens.into(),
                updated_at: to_bson_date(entry.updated_at),
            })
        };
        Ok(Self {
            id: project.id.to_string(),
            user_id: project.owner.to_string(),
            name: project.name.clone(),
            description: project.description.clone(),
            system_prompt: project.system_prompt.clone(),
            generation_status: project.generation_status.as_str().to_owned(),
            version: project.version.into(),
            files: project.files.iter().map(file).collect::<Result<_>>()?,
            created_at: to_bson_date(project.created_at),
            updated_at: to_bson_date(project.updated_at),
        })
    }

    fn into_row(self) -> Result<ProjectRow> {
        let (mut files, mut contents) = (Vec::with_capacity(self.files.len()), HashMap::new());
        for file in self.files {
            let entry = FileEntry {
                path: FilePath::new_unchecked(file.path),
                size: to_u32(file.size),
                language: file.language.map(FileLanguage::new_unchecked),
                updated_at: to_timestamp(file.updated_at),
                tokens: to_u32(file.tokens),
            };
            contents.insert(entry.path.clone(), file.content);
            files.push(entry);
        }
        let project = Project {
            id: ProjectId::new_unchecked(self.id),
            owner: UserId::new_unchecked(self.user_id),
            name: self.name,
            description: self.description,
            system_prompt: self.system_prompt,
            files,
            version: to_u32(self.version),
            generation_status: decode_name(GenerationStatus::from_name, &self.generation_status)?,
            created_at: to_timestamp(self.created_at),
            updated_at: to_timestamp(self.updated_at),
        };
        Ok(ProjectRow { project, content_ids: contents })
    }
}

impl FileContentDoc {
    fn new(project: &ProjectId, file: &NewFile) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            project_id: project.to_string(),
            content: file.content.clone(),
        }
    }
}
