//! The token budget, as a property: for any messages in any script and any model, prompt and reply
//! fit the context window, and the newest message is in the prompt.

use crate::images::png;
use echoic::domain::content::MessageBody;
use echoic::domain::memory::{MemoryOptions, MemoryStrategy, STRATEGY_NAMES};
use echoic::domain::message::MessageParts;
use echoic::domain::model::TokenVocabulary;
use echoic::domain::project::GenerationStatus;
use echoic::domain::session::{SessionSettings, SessionStatus};
use echoic::domain::{
    FilePath, MessageId, MessageType, Principal, ProjectId, Role, Session, SessionId, Timestamp,
    UserId,
};
use echoic::error::ErrorKind;
use echoic::memory::tokens;
use echoic::memory::{
    AssembledPrompt, Memory, MemoryDefaults, PlanInput, PromptInput, PromptSection, SectionKind,
};
use echoic::prompts::PromptTemplates;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    self, ImportSession, MessageParent, MessageSize, NewFile, NewProject, NewSession, PathSummary,
    ProjectStore, ReplyFields, SessionStore, Store, SummaryStore, TransferStore,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// A message, with a number of images.
#[derive(Debug, Clone)]
struct TestMessage {
    role: Role,
    text: String,
    images: usize,
}

/// A history, the next message, and the settings of the request.
#[derive(Debug, Clone)]
struct BudgetCase {
    said: Vec<TestMessage>,
    next: TestMessage,
    window: u32,
    settings: SessionSettings,
    project: Option<ProjectContent>,
}

/// The content of the session's project.
#[derive(Debug, Clone)]
struct ProjectContent {
    description: String,
    instructions: Option<String>,
    files: Vec<String>,
}

/// Texts of every size, in scripts that tokenizers treat differently, and mixtures of them.
fn text() -> impl Strategy<Value = String> {
    let phrase = prop_oneof![
        Just("The quick brown fox jumps over the lazy dog. "),
        Just("Καλημέρα, τι κάνεις σήμερα; "),
        Just("東京の天気は晴れです。"),
        Just("你好世界"),
        Just("👩🏽‍🚀🏳️‍🌈👍🏿"),
        Just("مرحبا بالعالم "),
        Just("สวัสดีชาวโลก"),
        Just("fn main() {\n\t\tprintln!(\"{}\", 1_000);\n}\n"),
        Just("aaaaaaaaaaaaaaaa"),
        Just("        \n\n\n"),
        Just("<|endoftext|>"),
        Just("\u{fffd}\u{200b}\u{301}\u{202e}"),
    ];
    let odd = proptest::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter);
    let piece = (phrase, odd, prop_oneof![8 => 0usize..6, 2 => 0usize..40, 1 => 0usize..120]);
    let piece = piece.prop_map(|(phrase, odd, times)| phrase.repeat(times) + &odd);
    proptest::collection::vec(piece, 1..3).prop_map(|pieces| pieces.concat())
}

fn settings() -> impl Strategy<Value = SessionSettings> {
    let models =
        ["gpt-4o", "gpt-4", "gpt-3.5-turbo", "openai/gpt-4", "gpt-5-mini", "llama3.2", "o"];
    let model = proptest::option::of(proptest::sample::select(models.to_vec()));
    let ways = STRATEGY_NAMES.map(|(_, way)| way);
    let way = proptest::sample::select(ways.to_vec());
    let number = || proptest::option::of(prop_oneof![1u32..60, 1u32..4000]);
    let memory = (proptest::option::of(way), number(), number(), number());
    (model, proptest::option::of(text()), proptest::option::of(1u32..1500), memory).prop_map(
        |(model, system_prompt, max_output_tokens, memory)| {
            let (strategy, last_messages, max_tokens, recall_tokens) = memory;
            SessionSettings {
                model: model.map(str::to_owned),
                system_prompt,
                max_output_tokens,
                memory: MemoryOptions { strategy, last_messages, max_tokens, recall_tokens },
                ..SessionSettings::default()
            }
        },
    )
}

fn budget_case() -> impl Strategy<Value = BudgetCase> {
    let role =
        proptest::sample::select(&[Role::User, Role::Assistant, Role::System, Role::Tool][..]);
    let images = || prop_oneof![6 => Just(0usize), 2 => Just(1), 1 => 2usize..4];
    let line = |role, text, images| TestMessage { role, text, images };
    let said =
        (role, text(), images()).prop_map(move |(role, text, images)| line(role, text, images));
    let next = (text(), images()).prop_map(move |(text, images)| line(Role::User, text, images));
    let window = prop_oneof![256u32..1000, 1000u32..8000, 8000u32..60_000, 20_000u32..90_000];
    let said = proptest::collection::vec(said, 0..14);
    (said, next, window, settings(), proptest::option::of(project_content())).prop_map(
        |(said, next, window, settings, project)| BudgetCase {
            said,
            next,
            window,
            settings,
            project,
        },
    )
}

fn project_content() -> impl Strategy<Value = ProjectContent> {
    let files = proptest::collection::vec(text(), 0..9);
    (text(), proptest::option::of(text()), files).prop_map(|(description, instructions, files)| {
        ProjectContent { description, instructions, files }
    })
}

fn parts(images: usize) -> MessageParts {
    let image = serde_json::json!({"type": "image", "url": png(1024, 1024)});
    MessageParts::from_stored(serde_json::Value::from(vec![image; images]).to_string()).unwrap()
}

fn ada() -> Principal {
    Principal { user: UserId::new_unchecked("ada"), is_admin: false }
}

/// Stores the history as a session. Each message's id is its index.
async fn store_session(
    store: &SqliteStore,
    session: &str,
    said: &[TestMessage],
    new: NewSession,
) -> Session {
    let at = Timestamp::from_millis(0);
    let message = |(place, TestMessage { role, text: content, images }): (usize, &TestMessage)| {
        let message = store::NewMessage {
            id: MessageId::new_unchecked(place.to_string()),
            client_message_id: None,
            role: *role,
            sender_id: UserId::new_unchecked("ada"),
            tokens: tokens::count_tokens(content),
            body: MessageBody {
                content: content.clone(),
                parts: parts(*images),
                kind: MessageType::Text,
            },
            // Timestamps jump between three days, so that order by time is not the order of the
            // path.
            created_at: Timestamp::from_millis((place as i64 * 5 % 3) * 86_400_000),
            reply: ReplyFields::default(),
        };
        (message, MessageParent::Head)
    };
    let import = ImportSession {
        id: SessionId::new_unchecked(session),
        fallback_id: SessionId::new_unchecked("nobody"),
        fields: new,
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        placements: Vec::new(),
        created_at: at,
        last_seen: None,
        read_marks: HashMap::new(),
        keep_title: false,
        head_id: None,
        messages: said.iter().enumerate().map(message).collect(),
    };
    let stored = store.import_session(&ada(), import, at).await.unwrap();
    let access = echoic::domain::principal::AccessLevel::Owner;
    store.get_session(&ada(), &stored.session_id, access).await.unwrap()
}

/// Stores a summary of the older half of the history, of any size.
async fn store_summary(store: &SqliteStore, session: &SessionId, case: &BudgetCase) {
    let Some(middle) = (case.said.len() / 2).checked_sub(1) else { return };
    let summary = PathSummary {
        first_message: MessageId::new_unchecked("0"),
        last_message: MessageId::new_unchecked(middle.to_string()),
        tokens_before: 0,
        path_tokens: 1,
        text: format!("- {}\n- {}", case.next.text, case.said[middle].text),
        model: "m".to_owned(),
    };
    store.save_summary(session, &summary).await.unwrap();
}

/// Stores the project, if there is one.
async fn store_project(store: &SqliteStore, project: Option<&ProjectContent>) -> Option<ProjectId> {
    let ProjectContent { description, instructions, files } = project?;
    let file = |(place, content): (usize, &String)| NewFile {
        path: FilePath::parse(&format!("src/{place}.txt")).unwrap(),
        content: content.clone(),
        language: None,
        tokens: tokens::count_tokens(content),
    };
    let new = NewProject {
        id: ProjectId::generate(),
        name: "Project".to_owned(),
        description: description.clone(),
        system_prompt: instructions.clone(),
        generation_status: GenerationStatus::Idle,
        files: files.iter().enumerate().map(file).collect(),
    };
    let at = Timestamp::from_millis(0);
    Some(store.create_project(&ada(), new, at).await.unwrap().id)
}

/// Whether the model has the older tokenizer and takes no images.
fn has_old_tokenizer(settings: &SessionSettings) -> bool {
    let model = settings.model.as_deref().unwrap_or("gpt-4o");
    matches!(model, "gpt-4" | "openai/gpt-4" | "gpt-3.5-turbo")
}

/// Lower and upper bound of an image's tokens.
fn image_token_bounds(settings: &SessionSettings) -> [u32; 2] {
    match settings.model.as_deref().unwrap_or("gpt-4o") {
        _ if has_old_tokenizer(settings) => [0; 2],
        "gpt-4o" => [765; 2],
        "gpt-5-mini" => [1659; 2],
        _ => [64, 6404],
    }
}

/// Counts the tokens of a prompt independently: 4 around each message, 3 before the reply, `image`
/// for each image.
fn count_tokens<'a>(
    settings: &SessionSettings,
    image: u32,
    said: impl Iterator<Item = (&'a str, usize)>,
) -> u32 {
    let vocabulary =
        if has_old_tokenizer(settings) { TokenVocabulary::Cl100k } else { TokenVocabulary::O200k };
    3 + said
        .map(|(text, images)| vocabulary.count_tokens(text) + 4 + image * images as u32)
        .sum::<u32>()
}

fn reserve(case: &BudgetCase) -> u32 {
    case.settings.max_output_tokens.unwrap_or(u32::min(4096, case.window / 4))
}

fn check_prompt(case: &BudgetCase, assembled: &AssembledPrompt) {
    let BudgetCase { said, next, window, settings, project } = case;
    let sent = assembled.to_prompt(settings).messages;
    let said_of = || sent.iter().map(|one| (&*one.content, one.images.len()));
    let [least, counted] =
        image_token_bounds(settings).map(|image| count_tokens(settings, image, said_of()));
    let recalled: Vec<_> =
        assembled.pieces.iter().filter(|piece| piece.kind == SectionKind::Recalled).collect();
    if recalled.is_empty() {
        assert_eq!(assembled.prompt_tokens, counted);
    }
    assert!(counted <= assembled.prompt_tokens, "{counted}: {assembled:?}");
    let reserve = reserve(case);
    assert_eq!((assembled.reply_reserve, assembled.context_window), (reserve, *window));
    // Images of a model with unknown image costs may exceed the window by their upper bound, but
    // then nothing else is sent along.
    assert!(least + reserve <= *window, "{assembled:?}");
    let is_alone = assembled.memory_tokens() == 0;
    assert!(assembled.prompt_tokens + reserve <= *window || is_alone, "{assembled:?}");
    assert!(assembled.cacheable_prefix_tokens <= assembled.prompt_tokens);

    let (newest, before) = assembled.pieces.split_last().unwrap();
    assert_eq!(
        (newest.kind, newest.role, &*newest.text),
        (SectionKind::New, Role::User, &*next.text)
    );
    assert_eq!(newest.images.len(), if has_old_tokenizer(settings) { 0 } else { next.images });
    let system = before.iter().filter(|piece| piece.kind == SectionKind::System).count();
    assert!(system <= 1 && before[..system].iter().all(|piece| piece.kind == SectionKind::System));
    let rest = &before[system..];
    let common = rest.iter().take_while(|piece| piece.kind == SectionKind::Project);
    let common: Vec<_> = common.collect();
    check_project(project.as_ref(), &common, assembled);
    // The recent part is a gapless end of the history, without the messages that are never sent to
    // a model. The images of a message are included all or none, and only those of users.
    let rest = &rest[common.len()..rest.len() - recalled.len()];
    let summed = rest.iter().take_while(|piece| piece.kind == SectionKind::Summary).count();
    assert!(summed <= 1);
    let (summary, recent) = rest.split_at(summed);
    check_recalled(case, &recalled, recent);
    let shown = said.iter().filter(|line| line.role != Role::Tool && !line.text.is_empty());
    let shown: Vec<_> = shown.map(|line| (line.role, line.text.as_str())).collect();
    let recent_texts = recent.iter().filter(|piece| !piece.text.is_empty());
    let recent_texts: Vec<_> = recent_texts.map(|piece| (piece.role, &*piece.text)).collect();
    assert_eq!(recent_texts, shown[shown.len() - recent_texts.len()..]);
    for piece in recent {
        let line = &said[piece.message_ids[0].as_str().parse::<usize>().unwrap()];
        let all =
            if line.role == Role::User && !has_old_tokenizer(settings) { line.images } else { 0 };
        assert!(piece.images.len() == all || piece.images.is_empty(), "{piece:?}");
        assert!(!(piece.text.is_empty() && piece.images.is_empty()), "{piece:?}");
    }

    let memory = settings.memory;
    let most = memory.max_tokens.unwrap_or(u32::MAX);
    let verbatim = common.iter().copied().chain(summary).chain(recent);
    let verbatim: u32 = verbatim.map(|piece| piece.tokens + 4).sum();
    let of_recalled: u32 = recalled.iter().map(|piece| piece.tokens).sum();
    assert!(verbatim + of_recalled <= most);
    assert!(of_recalled <= memory.recall_tokens.unwrap_or(u32::MAX));
    assert!(common.iter().all(|piece| piece.tokens + 4 <= most / 2));
    if memory.strategy == Some(MemoryStrategy::Window) {
        assert!(recent.len() <= memory.last_messages.unwrap_or(20) as usize);
    }
}

/// Recalled messages are in the order of the path and older than the recent part, quote only text
/// of their message, and appear once each.
fn check_recalled(case: &BudgetCase, recalled: &[&PromptSection], recent: &[PromptSection]) {
    let place = |piece: &PromptSection| piece.message_ids[0].as_str().parse::<usize>().unwrap();
    let mut places: Vec<_> = recalled.iter().map(|piece| place(piece)).collect();
    places.extend(recent.first().map(place));
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    for piece in recalled {
        let said = &case.said[place(piece)];
        assert!(said.role != Role::Tool && piece.score.unwrap() > 0.0);
        // An excerpt may be shorter than a word.
        let letters: Vec<char> = said.text.chars().collect();
        let mut quotes = letters.windows(letters.len().clamp(1, 4)).map(String::from_iter);
        assert!(quotes.any(|quote: String| piece.text.contains(&quote)), "{piece:?}");
    }
}

/// Each file is either in the prompt as a whole or listed as omitted.
fn check_project(
    project: Option<&ProjectContent>,
    pieces: &[&PromptSection],
    assembled: &AssembledPrompt,
) {
    let Some(ProjectContent { description, instructions, files }) = project else {
        return assert!(pieces.is_empty() && assembled.project.is_none());
    };
    let shown = assembled.project.as_ref().unwrap();
    let text = pieces.first().map_or("", |piece| &piece.text);
    assert!(pieces.len() <= 1 && shown.files.len() + shown.omitted_files.len() == files.len());
    for path in &shown.files {
        let place = path.as_str().trim_start_matches("src/").trim_end_matches(".txt");
        assert!(text.contains(&files[place.parse::<usize>().unwrap()]), "{path}: {text}");
    }
    if !shown.omitted_fields.contains(&"description") && !text.is_empty() {
        assert!(text.contains(description));
    }
    if !shown.omitted_fields.contains(&"systemPrompt") && !text.is_empty() {
        assert!(text.contains(instructions.as_deref().unwrap_or_default()));
    }
}

#[test]
fn prompt_and_reply_fit_and_newest_message_is_included() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("echoic.db"), Durability::Normal).unwrap();
    let store = Arc::new(store);
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (number, planned, cut) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let (pictured, recalled, projects) = (Cell::new(0), Cell::new(0), Cell::new((0, 0)));
    let summed = Cell::new(0);
    let outcome = runner.run(&budget_case(), |case| {
        number.set(number.get() + 1);
        let name = format!("s{}", number.get());
        let defaults = MemoryDefaults {
            strategy: MemoryStrategy::Auto,
            max_tokens: None,
            context_window: Some(case.window),
            model: "gpt-4o".to_owned(),
        };
        let memory = Memory::new(store.clone(), prompts.clone(), defaults).unwrap();
        let TestMessage { text, images, .. } = &case.next;
        let parts = parts(*images);
        let size = MessageSize::measure(text, &parts, tokens::count_tokens(text));
        let definitely_fits = memory.definitely_fits(&case.settings, size);
        let pictures = echoic::domain::image::find_images(&parts);
        let incoming = PlanInput { text, tokens: size.tokens, images: &pictures, extra_tokens: 0 };
        let plan = match memory.plan_prompt(&case.settings, Some(incoming)) {
            Ok(plan) => plan,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::ContextTooLong);
                assert!(!definitely_fits, "what definitely fits can be planned: {error}");
                let system = prompts.render_system(case.settings.system_prompt.as_deref()).unwrap();
                let [least, _] = image_token_bounds(&case.settings);
                let alone = [(system.as_str(), 0), (text, *images)].into_iter();
                let alone = count_tokens(&case.settings, least, alone);
                assert!(alone + reserve(&case) > case.window, "it would have fitted: {error}");
                return Ok(());
            }
        };
        planned.set(planned.get() + 1);
        let assembled = runtime.block_on(async {
            let project_id = store_project(&store, case.project.as_ref()).await;
            let new = NewSession { project_id, ..NewSession::default() };
            let session = store_session(&store, &name, &case.said, new).await;
            let last = session.head_id.clone();
            store_summary(&store, &session.id, &case).await;
            let at = Timestamp::from_millis(0);
            let new = PromptInput {
                images: pictures.clone(),
                ..PromptInput::from_user(text.as_str(), at)
            };
            let mut plan = plan;
            plan.recall_timeout = None;
            memory.assemble_prompt(&session, plan, last.as_ref(), Some(new)).await.unwrap()
        });
        let is_recalled = |piece: &PromptSection| piece.kind == SectionKind::Recalled;
        if assembled.pieces.iter().any(|piece| piece.kind == SectionKind::Summary) {
            summed.set(summed.get() + 1);
        }
        if assembled.pieces.iter().any(is_recalled) {
            recalled.set(recalled.get() + 1);
        }
        if assembled.earlier_message_count() < case.said.len() {
            cut.set(cut.get() + 1);
        }
        if assembled.pieces.iter().any(|piece| !piece.images.is_empty()) {
            pictured.set(pictured.get() + 1);
        }
        if let Some(shown) = &assembled.project {
            let [all, part] = if shown.omitted_files.is_empty() { [1, 0] } else { [0, 1] };
            projects.set((projects.get().0 + all, projects.get().1 + part));
        }
        check_prompt(&case, &assembled);
        Ok(())
    });
    outcome.unwrap();
    // The cases are the same in every run. These minimums show that they cover all sections, and
    // that most fit while many need trimming.
    assert!(projects.get().0 > 20 && projects.get().1 > 20, "whole, in part: {projects:?}");
    assert!(summed.get() > 8, "only {} prompts with a summary", summed.get());
    assert!(recalled.get() > 8, "only {} prompts with something recalled", recalled.get());
    assert!(pictured.get() > 30, "only {} prompts with pictures", pictured.get());
    assert!(planned.get() > 150 && cut.get() > 100, "{} of them, {}", planned.get(), cut.get());
    runtime.block_on(async { store.close().await });
}
