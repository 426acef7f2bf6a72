//! What a session's project puts into the prompt: description, instructions and files, as far as
//! the project's share of the memory budget goes.
//!
//! While everything fits, the text depends on the project alone, so the prompt begins the same way
//! from turn to turn, which providers cache. Where it does not, the message has a say in which files
//! are shown; they stand in the order of their paths all the same. Called by `assemble`.

use super::Memory;
use super::budget::{MESSAGE_TOKEN_OVERHEAD, PromptBudget};
use super::file_relevance::rank_files;
use super::tokens::{MAX_INLINE_BYTES, TokenVocabulary};
use crate::domain::project::FileEntry;
use crate::domain::{FilePath, Principal, Project, ProjectId, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::prompts::{ProjectPrompt, ProjectPromptFile, PromptTemplates};
use crate::store::StoredFile;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a file is believed to take beside its content and its path: its heading and its fence. What
/// it really takes is counted once the text is written.
const FILE_TOKEN_OVERHEAD: u32 = 16;
/// The part of the project's share that the names of files which are not shown may take.
const OMITTED_PATHS_DIVISOR: u32 = 8;
/// What it takes to say how many they are.
const OMITTED_COUNT_TOKENS: u32 = 16;

/// What of the session's project is in a prompt.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectInclusion {
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

impl ProjectInclusion {
    /// Whether all of the project is in the prompt, whatever the message says.
    pub(super) fn is_complete(&self) -> bool {
        self.omitted_files.is_empty() && self.omitted_fields.is_empty()
    }
}

/// A project's part of a prompt.
pub(super) struct ProjectSection {
    /// Its text and what it counts for; `None` if there is nothing to say, or no room for it.
    pub(super) text_tokens: Option<(Arc<str>, u32)>,
    pub(super) inclusion: ProjectInclusion,
}

impl ProjectSection {
    /// What it takes of this prompt.
    pub(super) fn token_cost(&self) -> u32 {
        self.text_tokens.as_ref().map_or(0, |(_, tokens)| tokens + MESSAGE_TOKEN_OVERHEAD)
    }

    /// What is kept for it from turn to turn: where the message has a say in what is shown, all that
    /// it may take, so that the conversation's part stays the same.
    pub(super) fn stable_token_cost(&self, plan: &PromptBudget) -> u32 {
        if self.inclusion.is_complete() { self.token_cost() } else { plan.max_project_tokens }
    }
}

impl Memory {
    /// The part of the session's project. `None` if the session has no project, or one that is not
    /// its owner's: then the id is but a label.
    pub(super) async fn build_project_section(
        &self,
        session: &Session,
        plan: &PromptBudget,
        message: &str,
    ) -> Result<Option<ProjectSection>> {
        let Some(id) = &session.project_id else { return Ok(None) };
        let owner = Principal { user: session.owner.clone(), is_admin: false };
        let room = plan.max_project_tokens.saturating_sub(MESSAGE_TOKEN_OVERHEAD);
        let message = message.to_owned();
        let choose = Box::new(move |project: &Project| choose_files(project, &message, room));
        let (project, files) = match self.store.select_files(&owner, id, choose).await {
            Ok(found) => found,
            Err(error) if error.kind == ErrorKind::ProjectNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let writer = ProjectRenderer {
            prompts: self.prompts.clone(),
            vocabulary: plan.vocabulary,
            available_tokens: room,
        };
        let size: usize = files.iter().map(|file| file.content.len()).sum();
        if size + count_own_bytes(&project) <= MAX_INLINE_BYTES {
            return writer.render_section(&project, files).map(Some);
        }
        let write = move || writer.render_section(&project, files).map(Some);
        tokio::task::spawn_blocking(write).await.map_err(Error::internal)?
    }
}

/// Bytes of what a project says beside its files.
fn count_own_bytes(project: &Project) -> usize {
    project.description.len() + project.system_prompt.as_ref().map_or(0, String::len)
}

/// The files that seem to fit, most relevant first. A file that is too large makes way for those
/// behind it.
fn choose_files(project: &Project, message: &str, room: u32) -> Vec<FilePath> {
    let own = u32::try_from(count_own_bytes(project) / 4).unwrap_or(u32::MAX);
    let all: u32 = project.files.iter().map(estimate_file_tokens).fold(0, u32::saturating_add);
    let mut left = room.saturating_sub(own);
    if all > left {
        // The others are named where that takes little, else counted.
        let names = project.files.iter().map(estimate_path_tokens).fold(0, u32::saturating_add);
        left -= if names <= left / OMITTED_PATHS_DIVISOR {
            names
        } else {
            OMITTED_COUNT_TOKENS.min(left)
        };
    }
    let mut chosen = Vec::new();
    for file in rank_files(&project.files, message) {
        if let Some(rest) = left.checked_sub(estimate_file_tokens(file)) {
            left = rest;
            chosen.push(file.path.clone());
        }
    }
    chosen
}

/// What a file is believed to take.
fn estimate_file_tokens(file: &FileEntry) -> u32 {
    file.tokens.saturating_add(estimate_path_tokens(file)).saturating_add(FILE_TOKEN_OVERHEAD)
}

/// What its path is believed to take in a list.
fn estimate_path_tokens(file: &FileEntry) -> u32 {
    u32::try_from(file.path.as_str().len() / 3 + 2).unwrap_or(u32::MAX)
}

/// Writes the text of a project and sees to it that it fits.
struct ProjectRenderer {
    prompts: Arc<PromptTemplates>,
    vocabulary: TokenVocabulary,
    available_tokens: u32,
}

/// What of the project is tried.
#[derive(Clone, Copy)]
enum ProjectFields {
    All,
    InstructionsOnly,
    Nothing,
}

impl ProjectRenderer {
    /// The project with as many of these files, most relevant first, as fit.
    fn render_section(
        &self,
        project: &Project,
        mut files: Vec<StoredFile>,
    ) -> Result<ProjectSection> {
        loop {
            let excess = match self.try_render_section(project, &files, ProjectFields::All)? {
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
                freed += estimate_file_tokens(&file.entry);
            }
        }
        if let Ok(part) = self.try_render_section(project, &[], ProjectFields::InstructionsOnly)? {
            return Ok(part);
        }
        Ok(build_section(project, &[], ProjectFields::Nothing, None))
    }

    /// The text with these files, or by how many tokens it is too long.
    fn try_render_section(
        &self,
        project: &Project,
        files: &[StoredFile],
        fields: ProjectFields,
    ) -> Result<Result<ProjectSection, u32>> {
        let text = self.render_text(project, files, fields)?;
        let tokens = self.vocabulary.count_tokens(&text);
        let piece = (!text.is_empty()).then(|| (text.into(), tokens));
        Ok(match tokens.checked_sub(self.available_tokens) {
            None | Some(0) => Ok(build_section(project, files, fields, piece)),
            Some(excess) => Err(excess),
        })
    }

    fn render_text(
        &self,
        project: &Project,
        files: &[StoredFile],
        fields: ProjectFields,
    ) -> Result<String> {
        let description = match fields {
            ProjectFields::All => project.description.as_str(),
            ProjectFields::InstructionsOnly | ProjectFields::Nothing => "",
        };
        let instructions = project.system_prompt.as_deref().unwrap_or_default();
        if description.is_empty() && instructions.is_empty() && project.files.is_empty() {
            return Ok(String::new());
        }
        let shown: HashSet<_> = files.iter().map(|file| &file.entry.path).collect();
        let others = project.files.iter().filter(|file| !shown.contains(&file.path));
        let others: Vec<_> = others.collect();
        let names = others.iter().copied().map(estimate_path_tokens).fold(0, u32::saturating_add);
        let are_named = names <= self.available_tokens / OMITTED_PATHS_DIVISOR;
        let mut files: Vec<_> = files.iter().map(build_project_file).collect();
        files.sort_by_key(|file| file.path);
        self.prompts.render_project(&ProjectPrompt {
            name: &project.name,
            description,
            instructions,
            files,
            omitted_count: others.len(),
            omitted_paths: others
                .iter()
                .filter(|_| are_named)
                .map(|file| file.path.as_str())
                .collect(),
        })
    }
}

fn build_section(
    project: &Project,
    files: &[StoredFile],
    fields: ProjectFields,
    piece: Option<(Arc<str>, u32)>,
) -> ProjectSection {
    let shown: HashSet<_> = files.iter().map(|file| &file.entry.path).collect();
    let (files, omitted_files) =
        project.files.iter().map(|file| file.path.clone()).partition(|path| shown.contains(path));
    let has_description = !project.description.is_empty();
    let has_instructions = project.system_prompt.is_some();
    let (no_description, no_instructions) = match fields {
        ProjectFields::All => (false, false),
        ProjectFields::InstructionsOnly => (has_description, false),
        ProjectFields::Nothing => (has_description, has_instructions),
    };
    let omitted = [(no_description, "description"), (no_instructions, "systemPrompt")];
    let omitted_fields = omitted.into_iter().filter(|(is_omitted, _)| *is_omitted);
    let shown = ProjectInclusion {
        project_id: project.id.clone(),
        files,
        omitted_files,
        omitted_fields: omitted_fields.map(|(_, field)| field).collect(),
    };
    ProjectSection { text_tokens: piece, inclusion: shown }
}

fn build_project_file(stored: &StoredFile) -> ProjectPromptFile<'_> {
    let mut content = stored.content.clone();
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    ProjectPromptFile {
        path: stored.entry.path.as_str(),
        language: stored.entry.language.as_ref().map_or("", |language| language.as_str()),
        fence: code_fence(&content),
        content,
    }
}

/// Longer than any run of backticks in the content, so that nothing in it ends the block.
fn code_fence(content: &str) -> String {
    let (mut longest, mut run) = (0, 0);
    for byte in content.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    "`".repeat(usize::max(3, longest + 1))
}

#[cfg(test)]
mod tests {
    use super::code_fence;

    #[test]
    fn code_fence_outlasts_backtick_runs() {
        assert_eq!(code_fence("plain `code`"), "```");
        assert_eq!(code_fence("```rust\n```"), "````");
        assert_eq!(code_fence("`````"), "``````");
    }
}
