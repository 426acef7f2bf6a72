//! Prompt templates: built in, or overridden by files of the same name in a folder.
//!
//! They are read and checked once, at start. A variable that a template uses and nobody gives is
//! an error, not an empty string.

use crate::error::{Error, ErrorKind, Result};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Serialize;
use std::path::Path;

/// Name and built-in text of each template.
const BUILT_IN_TEMPLATES: &[(&str, &str)] = &[
    ("assistant.md.j2", include_str!("../prompts/assistant.md.j2")),
    ("project.md.j2", include_str!("../prompts/project.md.j2")),
    ("summarize.md.j2", include_str!("../prompts/summarize.md.j2")),
    ("title.md.j2", include_str!("../prompts/title.md.j2")),
];

/// What the template of a project is filled in with.
#[derive(Debug, Default, Serialize)]
pub struct ProjectPrompt<'a> {
    /// What the project is called.
    pub name: &'a str,
    /// What it is about; may be empty.
    pub description: &'a str,
    /// What it wants of the model; may be empty.
    pub instructions: &'a str,
    /// The files that are shown, by path.
    pub files: Vec<ProjectPromptFile<'a>>,
    /// The paths of those that are not, if they are to be named.
    pub omitted_paths: Vec<&'a str>,
    /// How many are not shown.
    pub omitted_count: usize,
}

/// A file as the template of a project shows it.
#[derive(Debug, Default, Serialize)]
pub struct ProjectPromptFile<'a> {
    /// Where it lies.
    pub path: &'a str,
    /// Its language; may be empty.
    pub language: &'a str,
    /// Its text, in whole lines.
    pub content: String,
    /// What stands before and behind the text, and nowhere in it.
    pub fence: String,
}

/// What the template of a summary is filled in with.
#[derive(Debug, Default, Serialize)]
pub struct SummaryPrompt<'a> {
    /// What stands for everything before the messages; may be empty.
    pub summary: &'a str,
    /// What is to be added, oldest first.
    pub messages: Vec<SummaryMessage<'a>>,
    /// The most words of the answer.
    pub words: u32,
    /// Whether the answer takes the summary's place.
    pub rewrite: bool,
}

/// A message as the template of a summary shows it.
#[derive(Debug, Default, Serialize)]
pub struct SummaryMessage<'a> {
    /// The day on which it was said, in words.
    pub day: String,
    /// Who said it.
    pub speaker: &'a str,
    /// What.
    pub text: &'a str,
}

/// The templates, ready to be filled in.
pub struct PromptTemplates {
    templates: Environment<'static>,
}

impl PromptTemplates {
    /// Reads the templates; those in `folder` win over the built-in ones. Errors name the file.
    pub fn load(folder: Option<&Path>) -> Result<Self> {
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let message = format!("ECHOIC_PROMPTS_DIR={}: must be a folder", folder.display());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
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
        // What would fail in the first turn fails at start.
        prompts.render_system(None)?;
        prompts.render_system(Some("x"))?;
        prompts.render_title("x")?;
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

    /// The system prompt; `instructions` are the request's or the session's own.
    pub fn render_system(&self, instructions: Option<&str>) -> Result<String> {
        self.render_template("assistant.md.j2", context! { instructions })
    }

    /// What asks a model for the title of a conversation that begins with this message.
    pub fn render_title(&self, message: &str) -> Result<String> {
        self.render_template("title.md.j2", context! { message })
    }

    /// What a session's project says.
    pub fn render_project(&self, project: &ProjectPrompt<'_>) -> Result<String> {
        self.render_template("project.md.j2", Value::from(Serde(project)))
    }

    /// What asks a model to go on with the summary of a conversation.
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
    Error::new(
        ErrorKind::Internal,
        format!("the prompt template {} cannot be used: {error}", file.display()),
    )
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
