//! From a request to a running turn: what is decided before the first byte goes out.

use super::ChatService;
use super::events::SessionEventKind;
use super::hub::{TurnBuffer, TurnReader};
use super::transcript::{StreamHeader, human_takeover_stream};
use super::usage_policy::ConcurrencyPermit;
use crate::clock;
use crate::domain::attachment::render_text_and_images;
use crate::domain::key::KeyId;
use crate::domain::message::{MessageBody, MessageParts};
use crate::domain::principal::AccessLevel;
use crate::domain::quota::UsagePayer;
use crate::domain::session::SessionSettings;
use crate::domain::tool::NewToolResult;
use crate::domain::{MessageId, Principal, ProjectId, Role, Session, SessionId, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{PlanInput, tokens};
use crate::store::{
    AdmissionCheck, BeginOutcome, BeginTurn, DuplicateIdPolicy, IdempotencyKey, MessageParent,
    NewMessage, OnBusy, PriorResult, ReplyFields, SessionTarget, StartedTurn, TurnInput, TurnSpec,
};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an interrupting message waits for the running turn to end.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(5);

/// A turn as a client asks for it; both request bodies become this.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    /// Who asks.
    pub principal: Principal,
    /// For which session.
    pub session: SessionTarget,
    /// The project of a session that is created.
    pub project_id: Option<ProjectId>,
    /// What is said before that in the same breath, the first message first. A turn that has some
    /// never waits.
    pub preceding: Vec<PrecedingMessage>,
    /// What to answer.
    pub intent: TurnIntent,
    /// What this turn uses, over the session's settings.
    pub settings: SessionSettings,
    /// What to do when a reply is running.
    pub on_busy: OnBusy,
    /// How a repetition is known, beside the client's message id.
    pub idempotency_key: Option<IdempotencyKey>,
    /// How whoever asks stands.
    pub caller_status: CallerStatus,
}

/// A message that is stored before the one a turn answers.
#[derive(Debug, Clone)]
pub struct PrecedingMessage {
    /// Who speaks.
    pub role: Role,
    /// What they say.
    pub body: MessageBody,
    /// What only replies have.
    pub reply: ReplyFields,
}

/// How whoever asks for a turn stands with the server.
#[derive(Debug, Clone, Default)]
pub struct CallerStatus {
    /// The key that they came with.
    pub key_id: Option<KeyId>,
    /// Why nothing new of theirs may begin. What came before may still be repeated.
    pub rejection: Option<Error>,
}

/// What a client wants answered.
#[derive(Debug, Clone)]
pub enum TurnIntent {
    /// A new message.
    Send {
        /// Who speaks: a user, or tools.
        role: Role,
        /// The message.
        body: MessageBody,
        /// The name its client gave it.
        client_message_id: Option<MessageId>,
        /// Where it stands.
        parent: MessageParent,
        /// What a known client id with other content means.
        on_duplicate_id: DuplicateIdPolicy,
    },
    /// The results of the calls that the session's last reply ended with.
    SubmitToolResults {
        /// The results, and maybe those of earlier calls.
        results: Vec<NewToolResult>,
        /// The reply that wrote the calls, where it is not to be looked for at the end of the path.
        reply_id: Option<MessageId>,
        /// The most bytes of text in them.
        max_bytes: usize,
    },
    /// An earlier message, once more.
    Regenerate {
        /// The reply to make again; the last one if none is named.
        reply_id: Option<MessageId>,
    },
}

impl ChatService {
    /// Makes the user's message durable, sets the reply going and gives a reader of it. A request
    /// that came before joins its running turn, or reads its stored reply.
    ///
    /// A caller that stops waiting changes nothing: what was begun goes on.
    pub async fn start_turn(self: &Arc<Self>, request: TurnRequest) -> Result<TurnReader> {
        // Taken before looking: a drain that begins now waits for this turn.
        let token = self.turn_tasks.token();
        self.ensure_not_draining()?;
        let chat = self.clone();
        let task = tokio::spawn(async move {
            let _token = token;
            let request = chat.resolve_tool_results(request).await?;
            chat.begin_turn(request).await
        });
        task.await.map_err(Error::internal)?
    }

    async fn begin_turn(self: &Arc<Self>, request: TurnRequest) -> Result<TurnReader> {
        let permit = self.concurrency.acquire(&request.principal.user);
        let mut rejection = request.caller_status.rejection.clone();
        let mut limit_error = permit.check_limit(self.usage_policy.max_concurrent_turns);
        if rejection.is_none() && limit_error.is_some() && !self.has_running_turn(&request).await {
            rejection = limit_error.take();
        }
        let turn = self.build_turn_spec(&request, rejection.is_some()).await;
        // Open before anybody can learn of the turn, so that whoever does finds its buffer.
        let buffer = self.hub.open_buffer(request.session.id(), &turn.turn_id);
        let turn_id = turn.turn_id.clone();
        let reply_id = turn.reply_id.clone();
        match self.begin_in_store(&request, turn, rejection, limit_error).await {
            Ok(BeginOutcome::Running(started)) => Ok(self.spawn_turn(started, permit)),
            Ok(BeginOutcome::Queued { session }) => {
                // What waits has no place yet.
                drop(permit);
                self.handle_queued_turn(&request, &session, buffer, &reply_id).await
            }
            Ok(BeginOutcome::HumanTakeover { session, message_id }) => {
                self.hub.discard_buffer(&turn_id);
                if let TurnIntent::Send { body, .. } = &request.intent {
                    self.publish_message(&session, &message_id, &body.content);
                }
                Ok(TurnReader::from_frames(human_takeover_stream(
                    turn_id,
                    &stream_header(&session, &message_id, &message_id),
                )))
            }
            Ok(BeginOutcome::Repeated { session, prior }) => {
                drop(permit);
                self.hub.discard_buffer(&turn_id);
                self.handle_repeated_request(request, &session, prior).await
            }
            Err(error) => {
                self.hub.discard_buffer(&turn_id);
                Err(error)
            }
        }
    }

    /// Whether a reply is running in the session, so that a turn would wait or interrupt, and add none.
    async fn has_running_turn(&self, request: &TurnRequest) -> bool {
        let session = self
            .store
            .get_session(&request.principal, request.session.id(), AccessLevel::Participant)
            .await;
        session.is_ok_and(|session| session.active_turn.is_some())
    }

    /// What is refused begins nothing, so its tokens need not be counted.
    async fn build_turn_spec(&self, request: &TurnRequest, is_refused: bool) -> TurnSpec {
        let input = match &request.intent {
            TurnIntent::Regenerate { reply_id } => {
                TurnInput::Regenerate { reply_id: reply_id.clone() }
            }
            // Results became a message before.
            TurnIntent::SubmitToolResults { .. } => TurnInput::Regenerate { reply_id: None },
            TurnIntent::Send { role, body, client_message_id, parent, on_duplicate_id } => {
                let message = NewMessage {
                    id: MessageId::generate(),
                    client_message_id: client_message_id.clone(),
                    role: *role,
                    sender_id: request.principal.user.clone(),
                    tokens: match is_refused {
                        true => 0,
                        false => tokens::count_tokens_async(&body.countable_text()).await,
                    },
                    body: body.clone(),
                    created_at: clock::now(),
                    reply: ReplyFields::default(),
                };
                TurnInput::Send {
                    message: Box::new(message),
                    parent: parent.clone(),
                    on_duplicate_id: *on_duplicate_id,
                }
            }
        };
        let options = request.settings.clone();
        TurnSpec { turn_id: TurnId::generate(), reply_id: MessageId::generate(), input, options }
    }

    /// Begins the turn if it surely fits the model; if that cannot be told from sizes alone, counts
    /// first.
    async fn begin_in_store(
        self: &Arc<Self>,
        request: &TurnRequest,
        turn: TurnSpec,
        rejection: Option<Error>,
        limit_error: Option<Error>,
    ) -> Result<BeginOutcome> {
        let chat = self.clone();
        let options = request.settings.clone();
        let preceding = build_preceding_messages(request).await;
        // Judged inside the step, behind the look for what came before: a repetition begins nothing.
        let payer = UsagePayer {
            user: request.principal.user.clone(),
            key: request.caller_status.key_id.clone(),
        };
        let policy = self.clone();
        let requested_model = request.settings.model.clone();
        let check_admission = move |session: &Session| {
            rejection.clone().map_or(Ok(()), Err)?;
            if session.status.is_agent_assigned() {
                // A person answers.
                return Ok(());
            }
            let model = requested_model.as_ref().or(session.settings.model.as_ref());
            let model = model.map_or(policy.memory.default_model(), String::as_str);
            policy.require_price(model, &payer, &session.owner, session.project_id.as_ref())?;
            // A turn that has to wait adds no reply to those that run.
            limit_error.clone().filter(|_| session.active_turn.is_none()).map_or(Ok(()), Err)
        };
        let check_allowed = check_admission.clone();
        let check_definite_fit: AdmissionCheck = Box::new(move |session, size| {
            check_allowed(session)?;
            let settings = options.clone().with_defaults(session.settings.clone());
            if chat.memory.definitely_fits(&settings, size) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::ContextTooLong, "the message may not fit the model"))
        });
        let begin =
            self.build_begin_turn(request, turn.clone(), preceding.clone(), check_definite_fit);
        match self.store.begin_turn(begin).await {
            Err(error) if error.kind == ErrorKind::ContextTooLong => {
                self.check_fits_context(request).await?;
                let check_counted: AdmissionCheck =
                    Box::new(move |session, _| check_admission(session));
                self.store
                    .begin_turn(self.build_begin_turn(request, turn, preceding, check_counted))
                    .await
            }
            outcome => outcome,
        }
    }

    fn build_begin_turn(
        &self,
        request: &TurnRequest,
        turn: TurnSpec,
        preceding: Vec<NewMessage>,
        admission: AdmissionCheck,
    ) -> BeginTurn {
        BeginTurn {
            principal: request.principal.clone(),
            target: request.session.clone(),
            project_id: request.project_id.clone(),
            on_busy: request.on_busy,
            idempotency_key: request.idempotency_key.clone(),
            turn,
            preceding,
            key_id: request.caller_status.key_id.clone(),
            quotas: self.usage_policy.quotas.clone(),
            admission,
            lease_holder: self.lease_holder.clone(),
            now: clock::now(),
        }
    }

    /// Errors: `context_too_long`.
    async fn check_fits_context(&self, request: &TurnRequest) -> Result<()> {
        let id = request.session.id();
        let session =
            match self.store.get_session(&request.principal, id, AccessLevel::Participant).await {
                Ok(session) => Some(session),
                Err(error) if error.kind == ErrorKind::SessionNotFound => None,
                Err(error) => return Err(error),
            };
        let (text, parts) = match (&request.intent, &session) {
            (TurnIntent::Send { body, .. }, _) => (body.content.clone(), body.parts.clone()),
            (TurnIntent::Regenerate { reply_id }, Some(session)) => {
                self.load_user_message(request, session, reply_id.as_ref()).await?
            }
            (TurnIntent::SubmitToolResults { .. }, Some(_)) => return Ok(()),
            (TurnIntent::Regenerate { .. } | TurnIntent::SubmitToolResults { .. }, None) => {
                return Ok(());
            }
        };
        let session_settings = session.map(|session| session.settings).unwrap_or_default();
        let settings = request.settings.clone().with_defaults(session_settings);
        let memory = self.memory.clone();
        let count = move || {
            let (rendered, images) = render_text_and_images(&text, &parts);
            let tokens = tokens::count_tokens(&rendered);
            let input = PlanInput { text: &rendered, tokens, images: &images, extra_tokens: 0 };
            memory.plan_prompt(&settings, Some(input)).map(|_| ())
        };
        tokio::task::spawn_blocking(count).await.map_err(Error::internal)?
    }

    /// Text and parts of the message that a reply, or the last one, answered.
    async fn load_user_message(
        &self,
        request: &TurnRequest,
        session: &Session,
        reply: Option<&MessageId>,
    ) -> Result<(String, MessageParts)> {
        let Some(id) = reply.or(session.head_id.as_ref()) else { return Ok(Default::default()) };
        let mut message = self.store.get_message(&request.principal, &session.id, id).await?;
        if let (Role::Assistant, Some(id)) = (message.role, &message.parent_id) {
            message = self.store.get_message(&request.principal, &session.id, id).await?;
        }
        Ok((message.content, message.parts))
    }

    /// Sets the task going that owns the turn from here on.
    pub(super) fn spawn_turn(
        self: &Arc<Self>,
        started: Box<StartedTurn>,
        permit: ConcurrencyPermit,
    ) -> TurnReader {
        let buffer = self.hub.open_buffer(&started.session.id, &started.turn.turn_id);
        buffer.mark_local();
        self.journal.wake();
        self.publish_turn_start(&started);
        let title = self.spawn_title(&started);
        let chat = self.clone();
        let reader = TurnReader::new(buffer.clone());
        self.turn_tasks.spawn(async move {
            let turn = chat.clone().run_turn(*started, buffer.clone(), title, permit);
            if AssertUnwindSafe(turn).catch_unwind().await.is_err() {
                // A mistake of ours: the claim stays until the next start, the readers need not.
                tracing::error!(turn.id = %buffer.turn_id, "a turn panicked while it was being settled");
                chat.hub.close_buffer(&buffer);
            }
        });
        reader
    }

    fn publish_turn_start(&self, started: &StartedTurn) {
        let StartedTurn { session, user_message, turn, preceding, .. } = started;
        // A session that came with its first message was created in the same step.
        let message_count = preceding.len() + 1;
        if session.messages_count as usize == message_count && session.created_at == turn.started_at
        {
            self.events.publish(&session.id, SessionEventKind::Created);
        }
        for message in preceding {
            self.publish_message(session, &message.id, &message.body.content);
        }
        if started.is_user_message_new {
            self.publish_message(session, &user_message.id, &user_message.content);
        }
        self.events
            .publish(&session.id, SessionEventKind::turn_started(&turn.turn_id, &turn.message_id));
    }

    /// The turn waits in the session's queue; an interrupting one sees to it that it is not long.
    async fn handle_queued_turn(
        &self,
        request: &TurnRequest,
        session: &Session,
        buffer: Arc<TurnBuffer>,
        reply: &MessageId,
    ) -> Result<TurnReader> {
        buffer.mark_queued();
        if self.store.is_shared() {
            // Whoever ends the running turn begins this one.
            buffer.mark_remote(reply);
        }
        if self.is_draining() {
            // The drain may have looked for waiting turns before this one was known to be one.
            self.hub.close_buffer(&buffer);
            return Ok(TurnReader::new(buffer));
        }
        if request.on_busy != OnBusy::Interrupt {
            return Ok(TurnReader::new(buffer));
        }
        if let Some(running) = &session.active_turn {
            self.request_cancel(&session.id, &running.turn_id).await?;
        }
        let has_started = timeout(INTERRUPT_TIMEOUT, buffer.wait_until_started()).await.is_ok();
        if !has_started && self.store.remove_queued_turn(&session.id, &buffer.turn_id).await? {
            // Repeats of the request may be reading it, too.
            self.abort_queued(std::slice::from_ref(&buffer.turn_id));
            return Err(session_busy_error(session, "the running reply did not end in time"));
        }
        Ok(TurnReader::new(buffer))
    }

    async fn handle_repeated_request(
        self: &Arc<Self>,
        request: TurnRequest,
        session: &Session,
        prior: PriorResult,
    ) -> Result<TurnReader> {
        match prior {
            PriorResult::Turn { turn_id, reply_id } => {
                if let Some(buffer) = self.hub.find_session_buffer(&session.id, &turn_id) {
                    return Ok(TurnReader::new(buffer));
                }
                let is_running =
                    session.active_turn.as_ref().is_some_and(|active| active.turn_id == turn_id);
                if self.store.is_shared() {
                    return Ok(TurnReader::new(self.hub.open_remote_buffer(
                        &session.id,
                        &turn_id,
                        &reply_id,
                    )));
                }
                if is_running {
                    return Err(session_busy_error(session, "the message is being answered"));
                }
                // It waits since before this server's start.
                let buffer = self.hub.open_buffer(&session.id, &turn_id);
                buffer.mark_queued();
                Ok(TurnReader::new(buffer))
            }
            PriorResult::Reply(reply) => Ok(TurnReader::from_frames(
                self.replay_stored_reply(session, TurnId::generate(), &reply).await?,
            )),
            // The message was stored, but never answered: now it is.
            PriorResult::Unanswered(id) => {
                let intent = TurnIntent::Regenerate { reply_id: Some(id) };
                let request = TurnRequest { intent, idempotency_key: None, ..request };
                Box::pin(self.begin_turn(request)).await
            }
        }
    }

    /// Ends the streams of turns that waited and will not run.
    pub(super) fn abort_queued(&self, turns: &[TurnId]) {
        for buffer in turns.iter().filter_map(|turn| self.hub.find_buffer(turn)) {
            if buffer.is_pending() {
                buffer.publish_frames(super::transcript::aborted_stream(buffer.turn_id.clone()));
                self.hub.close_buffer(&buffer);
            }
        }
    }
}

/// The messages that go before a turn's own, as they are stored.
async fn build_preceding_messages(request: &TurnRequest) -> Vec<NewMessage> {
    let mut messages = Vec::with_capacity(request.preceding.len());
    for PrecedingMessage { role, body, reply } in &request.preceding {
        messages.push(NewMessage {
            id: MessageId::generate(),
            client_message_id: None,
            role: *role,
            sender_id: request.principal.user.clone(),
            tokens: tokens::count_tokens_async(&body.countable_text()).await,
            body: body.clone(),
            created_at: clock::now(),
            reply: reply.clone(),
        });
    }
    messages
}

fn session_busy_error(session: &Session, message: &'static str) -> Error {
    let running = session.active_turn.as_ref();
    Error::new(ErrorKind::SessionBusy, message).with_details(serde_json::json!({
        "turnId": running.map(|turn| &turn.turn_id),
        "messageId": running.map(|turn| &turn.message_id),
    }))
}

fn stream_header<'a>(
    session: &'a Session,
    message_id: &'a MessageId,
    user_message_id: &'a MessageId,
) -> StreamHeader<'a> {
    let session_id: &SessionId = &session.id;
    StreamHeader { message_id, continues: None, session_id, title: &session.title, user_message_id }
}
