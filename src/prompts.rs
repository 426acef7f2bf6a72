//! Prompt templates: built in, or overridden by files of the same name in a folder.
//!
//! Templates are loaded and checked once at start. A variable that the template uses but the server
//! does not provide is an error rather than an empty string.

use crate::error::{Error, ErrorKind, Result};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Serialize;
use std::path::Path;

const BUILT_IN_TEMPLATES: &[(&str, &str)] = &[
    ("assistant.md.j2", include_str!("../prompts/assistant.md.j2")),
    ("project.md.j2", include_str!("../prompts/project.md.j2")),
    ("summarize.md.j2", include_str!("../prompts/summarize.md.j2")),
    ("title.md.j2", include_str!("../prompts/title.md.j2")),
];

/// Variables of the project template.
#[derive(Debug, Default, Serialize)]
pub struct ProjectPrompt<'a> {
    pub name: &'a str,
    /// May be empty.
    pub description: &'a str,
    /// May be empty.
    pub instructions: &'a str,
    /// Files that are included, sorted by path.
    pub files: Vec<ProjectPromptFile<'a>>,
    /// Paths of the omitted files, if there is room to name them.
    pub omitted_paths: Vec<&'a str>,
    /// Number of omitted files.
    pub omitted_count: usize,
}

/// A project file in the project template.
#[derive(Debug, Default, Serialize)]
pub struct ProjectPromptFile<'a> {
    pub path: &'a str,
    /// May be empty.
    pub language: &'a str,
    /// Whole lines only.
    pub content: String,
    /// A code fence longer than any in the content.
    pub fence: String,
}

/// Variables of the summary template.
#[derive(Debug, Default, Serialize)]
pub struct SummaryPrompt<'a> {
    /// The summary so far; may be empty.
    pub summary: &'a str,
    /// Messages to add, oldest first.
    pub messages: Vec<SummaryMessage<'a>>,
    /// Maximum words of the answer.
    pub words: u32,
    /// Whether the answer replaces the summary so far. Otherwise it is appended to it.
    pub rewrite: bool,
}

/// A message in the summary template.
#[derive(Debug, Default, Serialize)]
pub struct SummaryMessage<'a> {
    /// The day the message was written, such as "8 May 2023".
    pub day: String,
    pub speaker: &'a str,
    pub text: &'a str,
}

/// The loaded templates.
pub struct PromptTemplates {
    templates: Environment<'static>,
}

impl PromptTemplates {
    /// Loads the templates; files in `folder` take precedence over the built-in ones. Errors name
    /// the file.
    pub fn load(folder: Option<&Path>) -> Result<Self> {
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let message = format!("ECHOIC_PROMPTS_DIR={}: must be a folder", folder.display());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let mut templates = Environment::new();
        // A misspelled variable in a custom template must not go unnoticed as an empty string.
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        // Prompts are plain text: HTML escaping would change what users wrote.
        templates.set_auto_escape_callback(|_| AutoEscape::None);
        for (name, built_in) in BUILT_IN_TEMPLATES {
            let text = match folder.map(|folder| folder.join(name)).filter(|file| file.exists()) {
                None => (*built_in).to_owned(),
                Some(file) => {
                    std::fs::read_to_string(&file).map_err(|error| template_error(&file, &error))?
                }
            };
            templates.add_template_owned(*name, text).map_err(|error| {
                template_error(&folder.unwrap_or(Path::new("prompts")).join(name), &error)
            })?;
        }
        let prompts = Self { templates };
        // Render each template once, so that a broken one fails at start and not in the first turn.
        prompts.render_system(None)?;
        prompts.render_system(Some("x"))?;
        prompts.render_title("x")?;
        // With and without files: a template may use different variables in each case.
        prompts.render_project(&ProjectPrompt::default())?;
        prompts.render_project(&ProjectPrompt {
            files: vec![ProjectPromptFile::default()],
            ..Default::default()
        })?;
        for rewrite in [false, true] {
            let messages = vec![SummaryMessage::default()];
            prompts.render_summary(&SummaryPrompt { rewrite, messages, summary: "x", words: 1 })?;
        }
        Ok(prompts)
    }

    /// The system prompt. `instructions` are those of the request or session.
    pub fn render_system(&self, instructions: Option<&str>) -> Result<String> {
        self.render_template("assistant.md.j2", context! { instructions })
    }

    /// The prompt that asks for a title, given the first message of the conversation.
    pub fn render_title(&self, message: &str) -> Result<String> {
        self.render_template("title.md.j2", context! { message })
    }

    /// The prompt section that describes a session's project.
    pub fn render_project(&self, project: &ProjectPrompt<'_>) -> Result<String> {
        self.render_template("project.md.j2", Value::from(Serde(project)))
    }

    /// The prompt that asks for the next summary of a conversation.
    pub fn render_summary(&self, summary: &SummaryPrompt<'_>) -> Result<String> {
        self.render_template("summarize.md.j2", Value::from(Serde(summary)))
    }

    fn render_template(&self, name: &str, values: Value) -> Result<String> {
        let rendered =
            self.templates.get_template(name).and_then(|template| template.render(values));
        rendered.map_err(|error| template_error(Path::new(name), &error))
    }
}

fn template_error(file: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("prompt template {} failed: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_instructions_replace_the_default() {
        let prompts = PromptTemplates::load(None).unwrap();
        assert_eq!(
            prompts.render_system(Some("Speak like a <pirate> & mean it.")).unwrap(),
            "Speak like a <pirate> & mean it."
        );
        assert!(prompts.render_system(None).unwrap().starts_with("You are a helpful assistant."));
    }

    #[test]
    fn custom_template_with_unknown_variable_fails_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("assistant.md.j2");
        std::fs::write(&file, "House rules. {{ instructions or '' }}").unwrap();
        assert_eq!(
            PromptTemplates::load(Some(folder.path()))
                .unwrap()
                .render_system(Some("Mine."))
                .unwrap(),
            "House rules. Mine."
        );

        std::fs::write(&file, "It is {{ weather }}.").unwrap();
        let refusal = PromptTemplates::load(Some(folder.path())).err().unwrap().to_string();
        assert!(refusal.contains("assistant.md.j2") && refusal.contains("undefined"), "{refusal}");
    }
}
