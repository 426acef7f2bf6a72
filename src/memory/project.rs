//! What a session's project puts into the prompt: description, instructions and files, as far as
//! the project's share of the memory budget goes.
//!
//! While everything fits, the text depends on the project alone, so the prompt begins the same way
//! from turn to turn, which providers cache. Where it does not, the message has a say in which files
//! are shown; they stand in the order of their paths all the same. Called by `assemble`.

use super::Memory;
use super::budget::{MESSAGE_OVERHEAD, Plan};
use super::relevance::by_relevance;
use super::tokens::{SHORT, Vocabulary};
use crate::domain::project::FileEntry;
use crate::domain::{FilePath, Principal, Project, ProjectId, Session};
use crate::error::{Error, Kind, Result};
use crate::prompts::{ProjectPrompt, ProjectPromptFile, PromptTemplates};
use crate::store::StoredFile;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a file is believed to take beside its content and its path: its heading and its fence. What
/// it really takes is counted once the text is written.
const FILE_OVERHEAD: u32 = 16;
/// The part of the project's share that the names of files which are not shown may take.
const NAMES_SHARE: u32 = 8;
/// What it takes to say how many they are.
const COUNT: u32 = 16;

/// What of the session's project is in a prompt.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectShown {
    /// The project.
    #[schema(value_type = String)]
    pub project_id: ProjectId,
    /// The files that are in the prompt, by path.
    #[schema(value_type = Vec<String>)]
    pub files: Vec<FilePath>,
    /// The files that did not fit, by path.
    #[schema(value_type = Vec<String>)]
    pub omitted_files: Vec<FilePath>,
    /// What else did not fit: `description`, `systemPrompt`.
    pub omitted_fields: Vec<&'static str>,
}

impl ProjectShown {
    /// Whether all of the project is in the prompt, whatever the message says.
    pub(super) fn is_whole(&self) -> bool {
        self.omitted_files.is_empty() && self.omitted_fields.is_empty()
    }
}

/// A project's part of a prompt.
pub(super) struct ProjectPart {
    /// Its text and what it counts for; `None` if there is nothing to say, or no room for it.
    pub(super) piece: Option<(Arc<str>, u32)>,
    pub(super) shown: ProjectShown,
}

impl ProjectPart {
    /// What it takes of this prompt.
    pub(super) fn taken(&self) -> u32 {
        self.piece.as_ref().map_or(0, |(_, tokens)| tokens + MESSAGE_OVERHEAD)
    }

    /// What is kept for it from turn to turn: where the message has a say in what is shown, all that
    /// it may take, so that the conversation's part stays the same.
    pub(super) fn steady(&self, plan: &Plan) -> u32 {
        if self.shown.is_whole() { self.taken() } else { plan.project_tokens }
    }
}

impl Memory {
    /// The part of the session's project. `None` if the session has no project, or one that is not
    /// its owner's: then the id is but a label.
    pub(super) async fn project_part(
        &self,
        session: &Session,
        plan: &Plan,
        message: &str,
    ) -> Result<Option<ProjectPart>> {
        let Some(id) = &session.project_id else { return Ok(None) };
        let owner = Principal { user: session.owner.clone(), is_admin: false };
        let room = plan.project_tokens.saturating_sub(MESSAGE_OVERHEAD);
        let message = message.to_owned();
        let choose = Box::new(move |project: &Project| choose(project, &message, room));
        let (project, files) = match self.store.select_files(&owner, id, choose).await {
            Ok(found) => found,
            Err(error) if error.kind == Kind::ProjectNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let writer = Writer { prompts: self.prompts.clone(), vocabulary: plan.vocabulary, room };
        let size: usize = files.iter().map(|file| file.content.len()).sum();
        if size + own_size(&project) <= SHORT {
            return writer.write(&project, files).map(Some);
        }
        let write = move || writer.write(&project, files).map(Some);
        tokio::task::spawn_blocking(write).await.map_err(Error::internal)?
    }
}

/// Bytes of what a project says beside its files.
fn own_size(project: &Project) -> usize {
    project.description.len() + project.system_prompt.as_ref().map_or(0, String::len)
}

/// The files that seem to fit, most relevant first. A file that is too large makes way for those
/// behind it.
fn choose(project: &Project, message: &str, room: u32) -> Vec<FilePath> {
    let own = u32::try_from(own_size(project) / 4).unwrap_or(u32::MAX);
    let all: u32 = project.files.iter().map(expected).fold(0, u32::saturating_add);
    let mut left = room.saturating_sub(own);
    if all > left {
        // The others are named where that takes little, else counted.
        let names = project.files.iter().map(expected_name).fold(0, u32::saturating_add);
        left -= if names <= left / NAMES_SHARE { names } else { COUNT.min(left) };
    }
    let mut chosen = Vec::new();
    for file in by_relevance(&project.files, message) {
        if let Some(rest) = left.checked_sub(expected(file)) {
            left = rest;
            chosen.push(file.path.clone());
        }
    }
    chosen
}

/// What a file is believed to take.
fn expected(file: &FileEntry) -> u32 {
    file.tokens.saturating_add(expected_name(file)).saturating_add(FILE_OVERHEAD)
}

/// What its path is believed to take in a list.
fn expected_name(file: &FileEntry) -> u32 {
    u32::try_from(file.path.as_str().len() / 3 + 2).unwrap_or(u32::MAX)
}

/// Writes the text of a project and sees to it that it fits.
struct Writer {
    prompts: Arc<PromptTemplates>,
    vocabulary: Vocabulary,
    room: u32,
}

/// What of the project is tried.
#[derive(Clone, Copy)]
enum Fields {
    All,
    Instructions,
    Nothing,
}

impl Writer {
    /// The project with as many of these files, most relevant first, as fit.
    fn write(&self, project: &Project, mut files: Vec<StoredFile>) -> Result<ProjectPart> {
        loop {
            let excess = match self.attempt(project, &files, Fields::All)? {
                Ok(part) => return Ok(part),
                Err(excess) => excess,
            };
            if files.is_empty() {
                break;
            }
            // The least relevant ones go.
            let mut freed = 0;
            while freed < excess
                && let Some(file) = files.pop()
            {
                freed += expected(&file.entry);
            }
        }
        if let Ok(part) = self.attempt(project, &[], Fields::Instructions)? {
            return Ok(part);
        }
        Ok(part(project, &[], Fields::Nothing, None))
    }

    /// The text with these files, or by how many tokens it is too long.
    fn attempt(
        &self,
        project: &Project,
        files: &[StoredFile],
        fields: Fields,
    ) -> Result<Result<ProjectPart, u32>> {
        let text = self.text(project, files, fields)?;
        let tokens = self.vocabulary.count(&text);
        let piece = (!text.is_empty()).then(|| (text.into(), tokens));
        Ok(match tokens.checked_sub(self.room) {
            None | Some(0) => Ok(part(project, files, fields, piece)),
            Some(excess) => Err(excess),
        })
    }

    fn text(&self, project: &Project, files: &[StoredFile], fields: Fields) -> Result<String> {
        let description = match fields {
            Fields::All => project.description.as_str(),
            Fields::Instructions | Fields::Nothing => "",
        };
        let instructions = project.system_prompt.as_deref().unwrap_or_default();
        if description.is_empty() && instructions.is_empty() && project.files.is_empty() {
            return Ok(String::new());
        }
        let shown: HashSet<_> = files.iter().map(|file| &file.entry.path).collect();
        let others = project.files.iter().filter(|file| !shown.contains(&file.path));
        let others: Vec<_> = others.collect();
        let names = others.iter().copied().map(expected_name).fold(0, u32::saturating_add);
        let are_named = names <= self.room / NAMES_SHARE;
        let mut files: Vec<_> = files.iter().map(file).collect();
        files.sort_by_key(|file| file.path);
        self.prompts.render_project(&ProjectPrompt {
            name: &project.name,
            description,
            instructions,
            files,
            hidden: others.len(),
            others: others.iter().filter(|_| are_named).map(|file| file.path.as_str()).collect(),
        })
    }
}

fn part(
    project: &Project,
    files: &[StoredFile],
    fields: Fields,
    piece: Option<(Arc<str>, u32)>,
) -> ProjectPart {
    let shown: HashSet<_> = files.iter().map(|file| &file.entry.path).collect();
    let (files, omitted_files) =
        project.files.iter().map(|file| file.path.clone()).partition(|path| shown.contains(path));
    let has_description = !project.description.is_empty();
    let has_instructions = project.system_prompt.is_some();
    let (no_description, no_instructions) = match fields {
        Fields::All => (false, false),
        Fields::Instructions => (has_description, false),
        Fields::Nothing => (has_description, has_instructions),
    };
    let omitted = [(no_description, "description"), (no_instructions, "systemPrompt")];
    let omitted_fields = omitted.into_iter().filter(|(is_omitted, _)| *is_omitted);
    let shown = ProjectShown {
        project_id: project.id.clone(),
        files,
        omitted_files,
        omitted_fields: omitted_fields.map(|(_, field)| field).collect(),
    };
    ProjectPart { piece, shown }
}

fn file(stored: &StoredFile) -> ProjectPromptFile<'_> {
    let mut content = stored.content.clone();
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    ProjectPromptFile {
        path: stored.entry.path.as_str(),
        language: stored.entry.language.as_ref().map_or("", |language| language.as_str()),
        fence: fence(&content),
        content,
    }
}

/// Longer than any run of backticks in the content, so that nothing in it ends the block.
fn fence(content: &str) -> String {
    let (mut longest, mut run) = (0, 0);
    for byte in content.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    "`".repeat(usize::max(3, longest + 1))
}

#[cfg(test)]
mod tests {
    use super::fence;

    #[test]
    fn a_fence_is_longer_than_what_it_encloses() {
        assert_eq!(fence("plain `code`"), "```");
        assert_eq!(fence("```rust\n```"), "````");
        assert_eq!(fence("`````"), "``````");
    }
}
