//! Projects and their files in SQLite.

use super::SqliteStore;
use super::rows::decode_word;
use super::transaction::{SqliteTransaction, run_ready};
use crate::domain::page::Pagination;
use crate::domain::project::{FileEntry, FileLanguage, FilePath, GenerationStatus};
use crate::domain::{Principal, Project, ProjectId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::project_transaction::{FileChange, ProjectRow, ProjectTransaction};
use crate::store::{
    FileSelector, NewFile, NewProject, ProjectPage, ProjectStore, ProjectUpdate, PutFileOutcome,
    StoredFile, rules,
};
use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use std::collections::HashMap;

/// Columns in the order in which [`decode_project`] reads them.
const SELECT_PROJECT: &str = "SELECT key, id, owner, name, description, system_prompt, generation_status, \
     version, created_at, updated_at FROM projects";

#[async_trait]
impl ProjectStore for SqliteStore {
    async fn create_project(
        &self,
        principal: &Principal,
        new: NewProject,
        now: Timestamp,
    ) -> Result<Project> {
        let principal = principal.clone();
        self.transact(async move |tx| rules::create_project(tx, &principal, &new, now).await).await
    }

    async fn get_project(&self, principal: &Principal, id: &ProjectId) -> Result<Project> {
        let principal = principal.clone();
        let id = id.clone();
        self.run_read(move |db| {
            Ok(run_ready(rules::get_project(&mut SqliteTransaction::new(db), &principal, &id))?
                .project)
        })
        .await
    }

    async fn list_projects(
        &self,
        principal: &Principal,
        page: u32,
        limit: u32,
    ) -> Result<ProjectPage> {
        let owner = principal.user.clone();
        self.run_read(move |db| list_projects(db, &owner, page, limit)).await
    }

    async fn update_project(
        &self,
        principal: &Principal,
        id: &ProjectId,
        update: ProjectUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| {
            rules::update_project(tx, &principal, &id, &update, &if_match, now).await
        })
        .await
    }

    async fn delete_project(&self, principal: &Principal, id: &ProjectId) -> Result<()> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| rules::delete_project(tx, &principal, &id).await).await
    }

    async fn get_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
    ) -> Result<StoredFile> {
        let principal = principal.clone();
        let id = id.clone();
        let path = path.clone();
        self.run_read(move |db| {
            run_ready(rules::get_file(&mut SqliteTransaction::new(db), &principal, &id, &path))
        })
        .await
    }

    async fn select_files(
        &self,
        principal: &Principal,
        id: &ProjectId,
        choose: FileSelector,
    ) -> Result<(Project, Vec<StoredFile>)> {
        let principal = principal.clone();
        let id = id.clone();
        self.run_read(move |db| {
            run_ready(rules::select_files(
                &mut SqliteTransaction::new(db),
                &principal,
                &id,
                &choose,
            ))
        })
        .await
    }

    async fn put_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        file: NewFile,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<PutFileOutcome> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| {
            rules::put_file(tx, &principal, &id, &file, &if_match, now).await
        })
        .await
    }

    async fn delete_file(
        &self,
        principal: &Principal,
        id: &ProjectId,
        path: &FilePath,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Project> {
        let principal = principal.clone();
        let id = id.clone();
        let path = path.clone();
        self.transact(async move |tx| {
            rules::delete_file(tx, &principal, &id, &path, &if_match, now).await
        })
        .await
    }
}

impl ProjectTransaction for SqliteTransaction<'_> {
    async fn find_project(
        &mut self,
        principal: &Principal,
        id: &ProjectId,
    ) -> Result<Option<ProjectRow>> {
        // Access is part of the condition: the project of another user takes no longer
        // than a missing one.
        let sql = format!("{SELECT_PROJECT} WHERE id = ?1 AND (?2 OR owner = ?3)");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows =
            statement.query(params![id.as_str(), principal.is_admin, principal.user.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let project = decode_project(self.db, row)?;
        self.note_project(&project.id, row.get(0)?);
        // The contents are in the rows of the files, so they need no ids.
        Ok(Some(ProjectRow { project, content_ids: HashMap::new() }))
    }

    async fn insert_project(&mut self, project: &Project, files: &[NewFile]) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO projects (id, owner, name, description, system_prompt, \
                 generation_status, version, created_at, updated_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                project.id.as_str(),
                project.owner.as_str(),
                project.name,
                project.description,
                project.system_prompt,
                project.generation_status.as_str(),
                project.version,
                project.created_at.as_millis(),
                project.updated_at.as_millis(),
            ])?;
        let key = self.db.last_insert_rowid();
        files.iter().try_for_each(|file| upsert_file(self.db, key, project, file))
    }

    async fn update_project(
        &mut self,
        row: &ProjectRow,
        project: &Project,
        change: FileChange<'_>,
    ) -> Result<()> {
        let key = self.project_key(row)?;
        self.db
            .prepare_cached(
                "UPDATE projects SET name = ?2, description = ?3, system_prompt = ?4, \
                 generation_status = ?5, version = ?6, updated_at = ?7 WHERE key = ?1",
            )?
            .execute(params![
                key,
                project.name,
                project.description,
                project.system_prompt,
                project.generation_status.as_str(),
                project.version,
                project.updated_at.as_millis(),
            ])?;
        match change {
            FileChange::None => Ok(()),
            FileChange::Put(file) => upsert_file(self.db, key, project, file),
            FileChange::Remove(path) => {
                let sql = "DELETE FROM project_files WHERE project = ?1 AND path = ?2";
                self.db.prepare_cached(sql)?.execute(params![key, path.as_str()])?;
                Ok(())
            }
        }
    }

    async fn delete_project(&mut self, row: &ProjectRow) -> Result<()> {
        let key = self.project_key(row)?;
        for rows in
            ["DELETE FROM project_files WHERE project = ?1", "DELETE FROM projects WHERE key = ?1"]
        {
            self.db.prepare_cached(rows)?.execute([key])?;
        }
        Ok(())
    }

    async fn read_files(&mut self, row: &ProjectRow, paths: &[FilePath]) -> Result<Vec<String>> {
        let key = self.project_key(row)?;
        let sql = "SELECT content FROM project_files WHERE project = ?1 AND path = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        let read = |path: &FilePath| {
            Ok(statement.query_row(params![key, path.as_str()], |row| row.get(0))?)
        };
        paths.iter().map(read).collect()
    }
}

/// Inserts or replaces a file: its content, and the metadata from the project's entry.
fn upsert_file(db: &Connection, key: i64, project: &Project, file: &NewFile) -> Result<()> {
    let entry = project.find_file(&file.path).ok_or_else(Error::file_not_found)?;
    db.prepare_cached(
        "INSERT INTO project_files (project, path, language, size, tokens, updated_at, content) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (project, path) DO UPDATE SET \
         language = ?3, size = ?4, tokens = ?5, updated_at = ?6, content = ?7",
    )?
    .execute(params![
        key,
        entry.path.as_str(),
        entry.language.as_ref().map(FileLanguage::as_str),
        entry.size,
        entry.tokens,
        entry.updated_at.as_millis(),
        file.content,
    ])?;
    Ok(())
}

fn list_projects(db: &Connection, owner: &UserId, page: u32, limit: u32) -> Result<ProjectPage> {
    let total: u32 = db
        .prepare_cached("SELECT count(*) FROM projects WHERE owner = ?1")?
        .query_row([owner.as_str()], |row| row.get(0))?;
    let sql = format!(
        "{SELECT_PROJECT} WHERE owner = ?1 ORDER BY updated_at DESC, id DESC LIMIT ?2 OFFSET ?3"
    );
    let offset = i64::from(page - 1) * i64::from(limit);
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![owner.as_str(), limit, offset])?;
    let mut projects = Vec::new();
    while let Some(row) = rows.next()? {
        projects.push(decode_project(db, row)?);
    }
    Ok(ProjectPage { projects, pagination: Pagination::new(page, limit, total.into()) })
}

fn decode_project(db: &Connection, row: &Row<'_>) -> Result<Project> {
    Ok(Project {
        id: ProjectId::new_unchecked(row.get::<_, String>(1)?),
        owner: UserId::new_unchecked(row.get::<_, String>(2)?),
        name: row.get(3)?,
        description: row.get(4)?,
        system_prompt: row.get(5)?,
        files: list_file_entries(db, row.get(0)?)?,
        generation_status: decode_word(GenerationStatus::from_name, row, 6)?,
        version: row.get(7)?,
        created_at: Timestamp::from_millis(row.get(8)?),
        updated_at: Timestamp::from_millis(row.get(9)?),
    })
}

fn list_file_entries(db: &Connection, project: i64) -> Result<Vec<FileEntry>> {
    // The content is the last column, so SQLite does not read it for the others.
    let sql = "SELECT path, language, size, tokens, updated_at FROM project_files \
         WHERE project = ?1 ORDER BY path";
    let mut statement = db.prepare_cached(sql)?;
    let entries = statement.query_map([project], |row| {
        Ok(FileEntry {
            path: FilePath::new_unchecked(row.get::<_, String>(0)?),
            language: row.get::<_, Option<String>>(1)?.map(FileLanguage::new_unchecked),
            size: row.get(2)?,
            tokens: row.get(3)?,
            updated_at: Timestamp::from_millis(row.get(4)?),
        })
    })?;
    Ok(entries.collect::<Result<_, _>>()?)
}
