//! Projects: access, changes, and their files.

use crate::domain::project::{FileEntry, FilePath};
use crate::domain::{Principal, Project, ProjectId, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::project_transaction::{FileChange, ProjectRow, ProjectTransaction};
use crate::store::{FileSelector, NewFile, NewProject, ProjectUpdate, PutFileOutcome, StoredFile};
use serde_json::json;

/// Returns the project if `principal` may see it. Errors: `project_not_found`.
pub(in crate::store) async fn get_project(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
) -> Result<ProjectRow> {
    let present = tx.find_project(principal, id).await?;
    // Databases may filter by access to save work, but it is decided here.
    present
        .filter(|row| row.project.is_accessible_to(principal))
        .ok_or_else(Error::project_not_found)
}

pub(in crate::store) async fn create_project(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    new: &NewProject,
    now: Timestamp,
) -> Result<Project> {
    let mut project = Project {
        id: new.id.clone(),
        owner: principal.user.clone(),
        name: new.name.clone(),
        description: new.description.clone(),
        system_prompt: new.system_prompt.clone(),
        files: Vec::new(),
        version: 1,
        generation_status: new.generation_status,
        created_at: now,
        updated_at: now,
    };
    for file in &new.files {
        project.upsert_file(build_entry(file, now))?;
    }
    tx.insert_project(&project, &new.files).await?;
    Ok(project)
}

pub(in crate::store) async fn update_project(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
    update: &ProjectUpdate,
    if_match: &[u32],
    now: Timestamp,
) -> Result<Project> {
    let row = get_matching_project(tx, principal, id, if_match).await?;
    let mut project = row.project.clone();
    let ProjectUpdate { name, description, system_prompt, generation_status } = update.clone();
    project.name = name.unwrap_or(project.name);
    project.description = description.unwrap_or(project.description);
    project.system_prompt = system_prompt.unwrap_or(project.system_prompt);
    project.generation_status = generation_status.unwrap_or(project.generation_status);
    // A change without effect must not invalidate the versions that clients hold.
    if project == row.project {
        return Ok(project);
    }
    bump_version(&mut project, now);
    tx.update_project(&row, &project, FileChange::None).await?;
    Ok(project)
}

pub(in crate::store) async fn delete_project(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
) -> Result<()> {
    let row = get_project(tx, principal, id).await?;
    tx.delete_project(&row).await
}

pub(in crate::store) async fn get_file(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
    path: &FilePath,
) -> Result<StoredFile> {
    let row = get_project(tx, principal, id).await?;
    let present = read_selected_files(tx, &row, std::slice::from_ref(path)).await?.pop();
    present.ok_or_else(Error::file_not_found)
}

pub(in crate::store) async fn select_files(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
    choose: &FileSelector,
) -> Result<(Project, Vec<StoredFile>)> {
    let row = get_project(tx, principal, id).await?;
    let files = read_selected_files(tx, &row, &choose(&row.project)).await?;
    Ok((row.project, files))
}

/// Reads the files at these paths, without missing ones.
async fn read_selected_files(
    tx: &mut impl ProjectTransaction,
    row: &ProjectRow,
    paths: &[FilePath],
) -> Result<Vec<StoredFile>> {
    let entries: Vec<_> = paths.iter().filter_map(|path| row.project.find_file(path)).collect();
    let present: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
    let contents = tx.read_files(row, &present).await?;
    let version = row.project.version;
    let files = entries.into_iter().zip(contents);
    Ok(files
        .map(|(entry, content)| StoredFile { entry: entry.clone(), content, version })
        .collect())
}

pub(in crate::store) async fn put_file(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
    file: &NewFile,
    if_match: &[u32],
    now: Timestamp,
) -> Result<PutFileOutcome> {
    let row = get_matching_project(tx, principal, id, if_match).await?;
    if let Some(entry) = find_unchanged_entry(tx, &row, file).await? {
        // A client that writes all files back changes only those that differ; the others keep their
        // time of change, and the project its version.
        return Ok(PutFileOutcome { entry, version: row.project.version, is_new: false });
    }
    let mut project = row.project.clone();
    let entry = build_entry(file, now);
    let is_new = project.upsert_file(entry.clone())?;
    bump_version(&mut project, now);
    tx.update_project(&row, &project, FileChange::Put(file)).await?;
    Ok(PutFileOutcome { entry, version: project.version, is_new })
}

pub(in crate::store) async fn delete_file(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
    path: &FilePath,
    if_match: &[u32],
    now: Timestamp,
) -> Result<Project> {
    let row = get_matching_project(tx, principal, id, if_match).await?;
    let mut project = row.project.clone();
    if !project.remove_file(path) {
        return Err(Error::file_not_found());
    }
    bump_version(&mut project, now);
    tx.update_project(&row, &project, FileChange::Remove(path)).await?;
    Ok(project)
}

/// Returns the project if `principal` may see it and its version is in `if_match`.
async fn get_matching_project(
    tx: &mut impl ProjectTransaction,
    principal: &Principal,
    id: &ProjectId,
    if_match: &[u32],
) -> Result<ProjectRow> {
    let row = get_project(tx, principal, id).await?;
    ensure_version_matches(&row.project, if_match)?;
    Ok(row)
}

/// An empty `if_match` matches every version. Errors: `version_conflict`.
fn ensure_version_matches(project: &Project, if_match: &[u32]) -> Result<()> {
    if if_match.is_empty() || if_match.contains(&project.version) {
        return Ok(());
    }
    let message = "the project has changed in the meantime; read it again";
    let wants = format!("must name the project's version, \"{}\"", project.version);
    Err(Error::new(ErrorKind::VersionConflict, message)
        .with_details(json!({ "version": project.version, "If-Match": wants })))
}

/// Returns the entry at the file's path if content and language are unchanged.
async fn find_unchanged_entry(
    tx: &mut impl ProjectTransaction,
    row: &ProjectRow,
    file: &NewFile,
) -> Result<Option<FileEntry>> {
    let Some(entry) = row.project.find_file(&file.path) else { return Ok(None) };
    // Contents are large: read the stored one only if the cheap fields are equal.
    if entry.size as usize != file.content.len() || entry.language != file.language {
        return Ok(None);
    }
    let stored = tx.read_files(row, std::slice::from_ref(&file.path)).await?;
    Ok((stored == [file.content.as_str()]).then(|| entry.clone()))
}

fn build_entry(file: &NewFile, now: Timestamp) -> FileEntry {
    FileEntry {
        path: file.path.clone(),
        size: u32::try_from(file.content.len()).unwrap_or(u32::MAX),
        language: file.language.clone(),
        updated_at: now,
        tokens: file.tokens,
    }
}

fn bump_version(project: &mut Project, now: Timestamp) {
    project.version += 1;
    project.updated_at = now;
}
