//! Turns a request into a running turn: everything decided before the first byte is sent.

use super::ChatService;
use super::empty_streams::{aborted_stream, error_frames, human_takeover_stream};
use super::events::SessionEventKind;
use super::hub::{TurnBuffer, TurnReader};
use super::transcript::StreamHeader;
use super::usage_policy::ConcurrencyPermit;
use crate::clock;
use crate::cpu_pool::run_cpu;
use crate::domain::attachment::render_text_and_images;
use crate::domain::content::MessageBody;
use crate::domain::key::KeyId;
use crate::domain::message::MessageParts;
use crate::domain::principal::AccessLevel;
use crate::domain::quota::UsagePayer;
use crate::domain::session::SessionSettings;
use crate::domain::tool::NewToolResult;
use crate::domain::{MessageId, Principal, ProjectId, Role, Session, SessionId, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::{inherit_owner, run_as};
use crate::memory::{PlanInput, tokens};
use crate::store::{
    AdmissionCheck, BeginOutcome, BeginTurn, DuplicateIdPolicy, IdempotencyKey, MessageParent,
    NewMessage, OnBusy, PriorResult, ReplyFields, SessionTarget, SkippedTurn, StartedTurn,
    TurnInput, TurnSpec,
};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a message sent with `onBusy: interrupt` waits for the running turn to end.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request for a turn, common to all request formats.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    pub principal: Principal,
    pub session: SessionTarget,
    /// Project of the session if the request creates it.
    pub project_id: Option<ProjectId>,
    /// Messages stored before the one to answer, in order. A turn with preceding messages is never
    /// queued.
    pub preceding: Vec<PrecedingMessage>,
    pub intent: TurnIntent,
    /// Overrides the settings of the session for this turn.
    pub settings: SessionSettings,
    pub on_busy: OnBusy,
    /// Identifies a retry, in addition to the client message id.
    pub idempotency_key: Option<IdempotencyKey>,
    pub caller_status: CallerStatus,
}

/// A message that is stored before the one a turn answers.
#[derive(Debug, Clone)]
pub struct PrecedingMessage {
    pub role: Role,
    pub body: MessageBody,
    /// Only meaningful for assistant messages.
    pub reply: ReplyFields,
}

/// API key and rate-limit status of the caller.
#[derive(Debug, Clone, Default)]
pub struct CallerStatus {
    pub key_id: Option<KeyId>,
    /// The error for a caller over a limit. A retry of an earlier request is still answered.
    pub rejection: Option<Error>,
}

#[derive(Debug, Clone)]
pub enum TurnIntent {
    Send {
        /// `User`, or `Tool` for tool results.
        role: Role,
        body: MessageBody,
        client_message_id: Option<MessageId>,
        parent: MessageParent,
        /// How to treat a known client message id with different content.
        on_duplicate_id: DuplicateIdPolicy,
    },
    /// Answer the tool calls that ended the session's last reply.
    SubmitToolResults {
        /// May include results of earlier calls; those are ignored.
        results: Vec<NewToolResult>,
        /// The reply that made the calls; `None` searches the end of the path.
        reply_id: Option<MessageId>,
        /// Maximum text size of the resulting message, in bytes.
        max_bytes: usize,
    },
    /// Answer an earlier message again.
    Regenerate {
        /// The reply to replace; `None` for the last one.
        reply_id: Option<MessageId>,
    },
}

impl ChatService {
    /// Stores the user's message, starts the reply and returns a reader for it. A retry of an
    /// earlier request joins its running turn or reads its stored reply.
    ///
    /// The turn does not depend on the caller: it runs on if this future is dropped.
    pub async fn start_turn(self: &Arc<Self>, request: TurnRequest) -> Result<TurnReader> {
        // The token is taken before the drain check: a drain that starts in between waits for the
        // token, so it cannot miss this turn.
        let _token = self.turn_tasks.token();
        self.ensure_not_draining()?;
        let chat = self.clone();
        // A client may disconnect at any await. `begin_turn` must still complete and start its
        // turn, or a committed claim would be left without a runner.
        let principal = request.principal.clone();
        let checked_at = Instant::now();
        let task = self.turn_tasks.spawn(inherit_owner(async move {
            let request = chat.resolve_tool_results(request).await?;
            chat.begin_turn(request).await
        }));
        let reader = task.await.map_err(Error::internal)??;
        Ok(self.access_watch.watch_reader(&principal, reader, checked_at))
    }

    async fn begin_turn(self: &Arc<Self>, request: TurnRequest) -> Result<TurnReader> {
        let permit = self.concurrency.acquire(&request.principal.user);
        let mut rejection = request.caller_status.rejection.clone();
        // At the limit, a request for a session that is running a reply may still be queued or
        // interrupt that reply, since neither adds a running one. Only then is the decision left to
        // the transaction. The extra read happens only for users at their limit.
        let mut limit_error = permit.check_limit(self.usage_policy.max_concurrent_turns);
        if rejection.is_none() && limit_error.is_some() && !self.has_running_turn(&request).await {
            rejection = limit_error.take();
        }
        let turn = self.build_turn_spec(&request, rejection.is_some()).await;
        // Opened before the commit that makes the turn visible, so that a client that learns of the
        // turn always finds its buffer.
        let buffer = self.hub.open_buffer(request.session.id(), &turn.turn_id);
        let turn_id = turn.turn_id.clone();
        let reply_id = turn.reply_id.clone();
        match self.begin_in_store(&request, turn, rejection, limit_error).await {
            Ok(BeginOutcome::Running(started)) => Ok(self.spawn_turn(started, permit)),
            Ok(BeginOutcome::Queued { session }) => {
                // A queued turn does not count against the concurrency limit. It gets its permit
                // when it starts.
                drop(permit);
                self.handle_queued_turn(&request, &session, buffer, &reply_id).await
            }
            Ok(BeginOutcome::HumanTakeover { session, message_id }) => {
                self.hub.discard_buffer(&turn_id);
                // A human agent answers: the message was stored and published, but no turn was
                // started.
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

    /// Whether the session is running a reply. Errors count as "no": `begin_turn` reports them.
    async fn has_running_turn(&self, request: &TurnRequest) -> bool {
        let session = self
            .store
            .get_session(&request.principal, request.session.id(), AccessLevel::Participant)
            .await;
        session.is_ok_and(|session| session.active_turn.is_some())
    }

    /// Skips counting tokens for a rejected request; it is built only so that a retry can be
    /// recognized.
    async fn build_turn_spec(&self, request: &TurnRequest, is_refused: bool) -> TurnSpec {
        let input = match &request.intent {
            TurnIntent::Regenerate { reply_id } => {
                TurnInput::Regenerate { reply_id: reply_id.clone() }
            }
            // `resolve_tool_results` has already replaced this intent by `Send`.
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

    /// Begins the turn in the store. The size check inside the transaction uses upper bounds only;
    /// if they cannot rule out that the message is too long, its tokens are counted exactly and the
    /// transaction is repeated.
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
        // Admission runs inside the transaction, after the lookup of earlier requests: a retry of
        // an admitted request must succeed even if the caller is over a limit now.
        let payer = UsagePayer {
            user: request.principal.user.clone(),
            key: request.caller_status.key_id.clone(),
        };
        let policy = self.clone();
        let requested_model = request.settings.model.clone();
        let check_admission = move |session: &Session| {
            rejection.clone().map_or(Ok(()), Err)?;
            if session.status.is_agent_assigned() {
                // A human agent answers, so neither prices nor concurrency apply.
                return Ok(());
            }
            let model = requested_model.as_ref().or(session.settings.model.as_ref());
            let model = model.map_or(policy.memory.default_model(), String::as_str);
            policy.require_price(model, &payer, &session.owner, session.project_id.as_ref())?;
            // A turn that will be queued adds no running reply.
            limit_error.clone().filter(|_| session.active_turn.is_none()).map_or(Ok(()), Err)
        };
        let check_allowed = check_admission.clone();
        // The transaction holds the store writer or will be retried on conflict, so this check is
        // arithmetic on sizes: no tokenizer, no I/O.
        let check_definite_fit: AdmissionCheck = Box::new(move |session, size| {
            check_allowed(session)?;
            let settings = options.clone().with_defaults(session.settings.clone());
            if chat.memory.definitely_fits(&settings, size) {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::ContextTooLong,
                "the message may not fit the context window of the model",
            ))
        });
        let begin =
            self.build_begin_turn(request, turn.clone(), preceding.clone(), check_definite_fit);
        match self.store.begin_turn(begin).await {
            Err(error) if error.kind == ErrorKind::ContextTooLong => {
                // Counted exactly outside the transaction. If the message does fit, the second
                // attempt skips the size check but repeats all others, since the session may have
                // changed.
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

    /// Counts the message exactly. Errors: `context_too_long`.
    async fn check_fits_context(&self, request: &TurnRequest) -> Result<()> {
        let id = request.session.id();
        let session =
            match self.store.get_session(&request.principal, id, AccessLevel::Participant).await {
                Ok(session) => Some(session),
                // The turn may create its session; then only the settings of the request apply.
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
        // Tokenizing a large message takes milliseconds of CPU.
        run_cpu(count).await?
    }

    /// Text and parts of the user message that `reply`, or the last reply, answers.
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

    /// Spawns the task that owns the turn from here on.
    pub(super) fn spawn_turn(
        self: &Arc<Self>,
        started: Box<StartedTurn>,
        permit: ConcurrencyPermit,
    ) -> TurnReader {
        let buffer = self.hub.open_buffer(&started.session.id, &started.turn.turn_id);
        // The turn may have been queued while another instance was expected to run it.
        buffer.mark_local();
        self.journal.wake();
        self.publish_turn_start(&started);
        let title = self.spawn_title(&started);
        let chat = self.clone();
        // Created before the task starts, so that this reader sees the first frame.
        let reader = TurnReader::new(buffer.clone());
        let owner = started.session.owner.clone();
        self.turn_tasks.spawn(run_as(owner, async move {
            let turn = chat.clone().run_turn(*started, buffer.clone(), title, permit);
            if AssertUnwindSafe(turn).catch_unwind().await.is_err() {
                // A bug in `finish_turn`. The session stays claimed until recovery ends the turn,
                // but the readers must not wait for that.
                tracing::error!(turn.id = %buffer.turn_id, "turn panicked while finishing");
                chat.hub.close_buffer(&buffer);
            }
        }));
        reader
    }

    fn publish_turn_start(&self, started: &StartedTurn) {
        let StartedTurn { session, user_message, turn, preceding, .. } = started;
        // A new session has exactly the messages of this request and was created in the same
        // transaction, hence with the same timestamp.
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

    /// Returns a reader for a turn that the store has queued. With `onBusy: interrupt` the running
    /// turn is cancelled first, and the request fails if that takes too long.
    async fn handle_queued_turn(
        &self,
        request: &TurnRequest,
        session: &Session,
        buffer: Arc<TurnBuffer>,
        reply: &MessageId,
    ) -> Result<TurnReader> {
        buffer.mark_queued();
        if self.store.is_shared() {
            // The instance that ends the running turn starts this one, and it may not be this
            // instance.
            buffer.mark_remote(reply);
        }
        if self.is_draining() {
            // `drain` closes the buffers of queued turns. It may have run between opening this
            // buffer and marking it as queued.
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
        // Removing can lose a race against the turn being started. Then the turn runs and is read
        // normally.
        if !has_started && self.store.remove_queued_turn(&session.id, &buffer.turn_id).await? {
            // Retries of this request may be reading the same buffer; end their streams too.
            self.abort_queued(std::slice::from_ref(&buffer.turn_id));
            return Err(session_busy_error(session, "the running reply did not stop in time"));
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
                // The turn is running according to the store, but this single process has no buffer
                // for it: its task is gone, and recovery will end the turn.
                if is_running {
                    return Err(session_busy_error(
                        session,
                        "this message is already being answered",
                    ));
                }
                // Queued before this process started: recovery will start it, and then its frames
                // arrive in this buffer.
                let buffer = self.hub.open_buffer(&session.id, &turn_id);
                buffer.mark_queued();
                Ok(TurnReader::new(buffer))
            }
            PriorResult::Reply(reply) => Ok(TurnReader::from_frames(
                self.replay_stored_reply(session, TurnId::generate(), &reply).await?,
            )),
            // The message was stored without a reply, for example because the server stopped:
            // answer it now.
            PriorResult::Unanswered(id) => {
                let intent = TurnIntent::Regenerate { reply_id: Some(id) };
                let request = TurnRequest { intent, idempotency_key: None, ..request };
                Box::pin(self.begin_turn(request)).await
            }
        }
    }

    /// Ends the streams of queued turns that were skipped. A sender who has lost access gets the
    /// error that the request would get now.
    pub(super) fn end_skipped(&self, skipped: &[SkippedTurn]) {
        for SkippedTurn { turn_id, has_lost_access } in skipped {
            if !has_lost_access {
                self.abort_queued(std::slice::from_ref(turn_id));
            } else if let Some(buffer) = self.hub.find_buffer(turn_id) {
                let text = Error::session_not_found().message;
                buffer.publish_frames(error_frames(turn_id.clone(), 1, &text));
                self.hub.close_buffer(&buffer);
            }
        }
    }

    /// Ends the streams of queued turns that will not run.
    pub(super) fn abort_queued(&self, turns: &[TurnId]) {
        for buffer in turns.iter().filter_map(|turn| self.hub.find_buffer(turn)) {
            if buffer.is_pending() {
                buffer.publish_frames(aborted_stream(buffer.turn_id.clone()));
                self.hub.close_buffer(&buffer);
            }
        }
    }
}

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
