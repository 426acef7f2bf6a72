//! Renders a session's project for the prompt: description, instructions and files, within the
//! project's share of the memory budget.
//!
//! While everything fits, the text depends on the project alone, so the prompt begins the same way
//! in every turn and provider caches hold. If it does not fit, the message influences which files
//! are chosen; they are still listed in the order of their paths.

use super::Memory;
use super::budget::PromptBudget;
use super::file_relevance::rank_files;
use super::tokens::MAX_INLINE_BYTES;
use crate::cpu_pool::run_cpu;
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::model::TokenVocabulary;
use crate::domain::project::FileEntry;
use crate::domain::{FilePath, Principal, Project, ProjectId, Session};
use crate::error::{ErrorKind, Result};
use crate::prompts::{ProjectPrompt, ProjectPromptFile, PromptTemplates};
use crate::store::StoredFile;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// Estimated tokens of a file's heading and code fence. The rendered text is counted exactly later.
const FILE_TOKEN_OVERHEAD: u32 = 16;
/// The paths of omitted files may take this fraction (1/8) of the project's share.
const OMITTED_PATHS_DIVISOR: u32 = 8;
/// Estimated tokens of the sentence that only counts the omitted files.
const OMITTED_COUNT_TOKENS: u32 = 16;

/// Which parts of the session's project a prompt contains.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectInclusion {
    #[schema(value_type = String)]
    pub project_id: ProjectId,
    /// Paths of the files whose content is in the prompt, sorted.
    #[schema(value_type = Vec<String>)]
    pub files: Vec<FilePath>,
    /// Paths of the files that did not fit, sorted.
    #[schema(value_type = Vec<String>)]
    pub omitted_files: Vec<FilePath>,
    /// Other parts that did not fit: `description`, `systemPrompt`.
    pub omitted_fields: Vec<&'static str>,
}

impl ProjectInclusion {
    /// Whether nothing was omitted; then the text does not depend on the message.
    pub(super) fn is_complete(&self) -> bool {
        self.omitted_files.is_empty() && self.omitted_fields.is_empty()
    }
}

/// The rendered project and what it contains.
pub(super) struct ProjectSection {
    /// Text and its tokens; `None` if the project is empty or nothing of it fits.
    pub(super) text_tokens: Option<(Arc<str>, u32)>,
    pub(super) inclusion: ProjectInclusion,
}

impl ProjectSection {
    /// Tokens of this prompt's section, with framing.
    pub(super) fn token_cost(&self) -> u32 {
        self.text_tokens.as_ref().map_or(0, |(_, tokens)| tokens + MESSAGE_TOKEN_OVERHEAD)
    }

    /// Tokens to reserve in every turn. If the message influences which files are chosen, the size
    /// varies, so the upper bound is reserved and the conversation's share stays the same.
    pub(super) fn stable_token_cost(&self, budget: &PromptBudget) -> u32 {
        if self.inclusion.is_complete() { self.token_cost() } else { budget.max_project_tokens }
    }
}

impl Memory {
    /// Renders the session's project. `None` if the session has no project or its owner cannot read
    /// it; then the id is only a label.
    pub(super) async fn build_project_section(
        &self,
        session: &Session,
        budget: &PromptBudget,
        message: &str,
    ) -> Result<Option<ProjectSection>> {
        let Some(id) = &session.project_id else { return Ok(None) };
        // Read with the rights of the session's owner: guests of the session get the owner's
        // project, and the id of somebody else's project gives no access to it.
        let owner = Principal { user: session.owner.clone(), is_admin: false };
        let available_tokens = budget.max_project_tokens.saturating_sub(MESSAGE_TOKEN_OVERHEAD);
        let message = message.to_owned();
        // Files are chosen by their metadata, so only the contents of the chosen ones are read.
        let choose =
            Box::new(move |project: &Project| choose_files(project, &message, available_tokens));
        let (project, files) = match self.store.select_files(&owner, id, choose).await {
            Ok(found) => found,
            Err(error) if error.kind == ErrorKind::ProjectNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let renderer = ProjectRenderer {
            prompts: self.prompts.clone(),
            vocabulary: budget.vocabulary,
            available_tokens,
        };
        let bytes: usize = files.iter().map(|file| file.content.len()).sum();
        if bytes + count_own_bytes(&project) <= MAX_INLINE_BYTES {
            return renderer.render_section(&project, files).map(Some);
        }
        let render = move || renderer.render_section(&project, files).map(Some);
        run_cpu(render).await?
    }
}

/// Bytes of description and instructions.
fn count_own_bytes(project: &Project) -> usize {
    project.description.len() + project.system_prompt.as_ref().map_or(0, String::len)
}

/// Selects the files that are expected to fit, most relevant first. A file that is too large is
/// skipped in favor of the following ones.
fn choose_files(project: &Project, message: &str, available_tokens: u32) -> Vec<FilePath> {
    // About four bytes are one token; the exact count follows after rendering.
    let own = u32::try_from(count_own_bytes(project) / 4).unwrap_or(u32::MAX);
    let all: u32 = project.files.iter().map(estimate_file_tokens).fold(0, u32::saturating_add);
    let mut left = available_tokens.saturating_sub(own);
    if all > left {
        // Reserve room to name the omitted files, or to count them if naming takes too much.
        let paths = project.files.iter().map(estimate_path_tokens).fold(0, u32::saturating_add);
        left -= if paths <= left / OMITTED_PATHS_DIVISOR {
            paths
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

fn estimate_file_tokens(file: &FileEntry) -> u32 {
    file.tokens.saturating_add(estimate_path_tokens(file)).saturating_add(FILE_TOKEN_OVERHEAD)
}

fn estimate_path_tokens(file: &FileEntry) -> u32 {
    u32::try_from(file.path.as_str().len() / 3 + 2).unwrap_or(u32::MAX)
}

/// Renders a project and drops files until the text fits.
struct ProjectRenderer {
    prompts: Arc<PromptTemplates>,
    vocabulary: TokenVocabulary,
    available_tokens: u32,
}

/// Which text fields of a project are rendered.
#[derive(Clone, Copy)]
enum ProjectFields {
    All,
    InstructionsOnly,
    Nothing,
}

impl ProjectRenderer {
    /// Renders as many of the files, given most relevant first, as fit.
    fn render_section(
        &self,
        project: &Project,
        mut files: Vec<StoredFile>,
    ) -> Result<ProjectSection> {
        loop {
            let excess = match self.try_render_section(project, &files, ProjectFields::All)? {
                Ok(section) => return Ok(section),
                Err(excess) => excess,
            };
            if files.is_empty() {
                break;
            }
            // Files are sorted by relevance, so the least relevant ones are dropped.
            let mut freed = 0;
            while freed < excess
                && let Some(file) = files.pop()
            {
                freed += estimate_file_tokens(&file.entry);
            }
        }
        let instructions_only = ProjectFields::InstructionsOnly;
        if let Ok(section) = self.try_render_section(project, &[], instructions_only)? {
            return Ok(section);
        }
        Ok(build_section(project, &[], ProjectFields::Nothing, None))
    }

    /// The section with these files, or the number of tokens by which it is too long.
    fn try_render_section(
        &self,
        project: &Project,
        files: &[StoredFile],
        fields: ProjectFields,
    ) -> Result<Result<ProjectSection, u32>> {
        let text = self.render_text(project, files, fields)?;
        let tokens = self.vocabulary.count_tokens(&text);
        let text_tokens = (!text.is_empty()).then(|| (text.into(), tokens));
        Ok(match tokens.checked_sub(self.available_tokens) {
            None | Some(0) => Ok(build_section(project, files, fields, text_tokens)),
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
        // A project with nothing but a name adds no section.
        if description.is_empty() && instructions.is_empty() && project.files.is_empty() {
            return Ok(String::new());
        }
        let included: HashSet<_> = files.iter().map(|file| &file.entry.path).collect();
        let omitted: Vec<_> =
            project.files.iter().filter(|file| !included.contains(&file.path)).collect();
        let path_tokens =
            omitted.iter().copied().map(estimate_path_tokens).fold(0, u32::saturating_add);
        let names_omitted = path_tokens <= self.available_tokens / OMITTED_PATHS_DIVISOR;
        let mut files: Vec<_> = files.iter().map(build_project_file).collect();
        // Sorting by path instead of relevance keeps the text the same for every message that
        // selects the same files.
        files.sort_by_key(|file| file.path);
        self.prompts.render_project(&ProjectPrompt {
            name: &project.name,
            description,
            instructions,
            files,
            omitted_count: omitted.len(),
            omitted_paths: omitted
                .iter()
                .filter(|_| names_omitted)
                .map(|file| file.path.as_str())
                .collect(),
        })
    }
}

fn build_section(
    project: &Project,
    files: &[StoredFile],
    fields: ProjectFields,
    text_tokens: Option<(Arc<str>, u32)>,
) -> ProjectSection {
    let included: HashSet<_> = files.iter().map(|file| &file.entry.path).collect();
    let (files, omitted_files) = project
        .files
        .iter()
        .map(|file| file.path.clone())
        .partition(|path| included.contains(path));
    let has_description = !project.description.is_empty();
    let has_instructions = project.system_prompt.is_some();
    let (omits_description, omits_instructions) = match fields {
        ProjectFields::All => (false, false),
        ProjectFields::InstructionsOnly => (has_description, false),
        ProjectFields::Nothing => (has_description, has_instructions),
    };
    let omitted = [(omits_description, "description"), (omits_instructions, "systemPrompt")];
    let omitted_fields = omitted.into_iter().filter(|(is_omitted, _)| *is_omitted);
    let inclusion = ProjectInclusion {
        project_id: project.id.clone(),
        files,
        omitted_files,
        omitted_fields: omitted_fields.map(|(_, field)| field).collect(),
    };
    ProjectSection { text_tokens, inclusion }
}

fn build_project_file(stored: &StoredFile) -> ProjectPromptFile<'_> {
    let mut content = stored.content.clone();
    if !content.is_empty() && !content.ends_with('\n') {
        // The template puts the closing fence right after the content.
        content.push('\n');
    }
    ProjectPromptFile {
        path: stored.entry.path.as_str(),
        language: stored.entry.language.as_ref().map_or("", |language| language.as_str()),
        fence: code_fence(&content),
        content,
    }
}

/// A fence longer than any run of backticks in the content, so that the content cannot close it.
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
