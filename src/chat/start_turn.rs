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
    pub async fn start_turn(self: &Arc<Self>, new: TurnRequest) -> Result<TurnReader> {
        // Taken before looking: a drain that begins now waits for this turn.
        let token = self.turn_tasks.token();
        self.ensure_not_draining()?;
        let chat = self.clone();
        let started = tokio::spawn(async move {
            let _token = token;
            let new = chat.resolve_tool_results(new).await?;
            chat.begin_turn(new).await
        });
        started.await.map_err(Error::internal)?
    }

    async fn begin_turn(self: &Arc<Self>, new: TurnRequest) -> Result<TurnReader> {
        let slot = self.concurrency.acquire(&new.principal.user);
        let mut refusal = new.caller_status.rejection.clone();
        let mut full = slot.check_limit(self.usage_policy.max_concurrent_turns);
        if refusal.is_none() && full.is_some() && !self.has_running_turn(&new).await {
            refusal = full.take();
        }
        let turn = self.build_turn_spec(&new, refusal.is_some()).await;
        // Open before anybody can learn of the turn, so that whoever does finds its buffer.
        let live = self.hub.open_buffer(new.session.id(), &turn.turn_id);
        let (turn_id, reply_id) = (turn.turn_id.clone(), turn.reply_id.clone());
        match self.begin_in_store(&new, turn, refusal, full).await {
            Ok(BeginOutcome::Running(begun)) => Ok(self.spawn_turn(begun, slot)),
            Ok(BeginOutcome::Queued { session }) => {
                // What waits has no place yet.
                drop(slot);
                self.handle_queued_turn(&new, &session, live, &reply_id).await
            }
            Ok(BeginOutcome::HumanTakeover { session, message_id }) => {
                self.hub.discard_buffer(&turn_id);
                if let TurnIntent::Send { body, .. } = &new.intent {
                    self.publish_message(&session, &message_id, &body.content);
                }
                Ok(TurnReader::from_frames(human_takeover_stream(
                    turn_id,
                    &stream_header(&session, &message_id, &message_id),
                )))
            }
            Ok(BeginOutcome::Repeated { session, prior: led_to }) => {
                drop(slot);
                self.hub.discard_buffer(&turn_id);
                self.handle_repeated_request(new, &session, led_to).await
            }
            Err(error) => {
                self.hub.discard_buffer(&turn_id);
                Err(error)
            }
        }
    }

    /// Whether a reply is running in the session, so that a turn would wait or interrupt, and add none.
    async fn has_running_turn(&self, new: &TurnRequest) -> bool {
        let session = self
            .store
            .get_session(&new.principal, new.session.id(), AccessLevel::Participant)
            .await;
        session.is_ok_and(|session| session.active_turn.is_some())
    }

    /// What is refused begins nothing, so its tokens need not be counted.
    async fn build_turn_spec(&self, new: &TurnRequest, is_refused: bool) -> TurnSpec {
        let ask = match &new.intent {
            TurnIntent::Regenerate { reply_id: reply } => {
                TurnInput::Regenerate { reply_id: reply.clone() }
            }
            // Results became a message before.
            TurnIntent::SubmitToolResults { .. } => TurnInput::Regenerate { reply_id: None },
            TurnIntent::Send {
                role,
                body,
                client_message_id,
                parent,
                on_duplicate_id: on_known,
            } => {
                let message = NewMessage {
                    id: MessageId::generate(),
                    client_message_id: client_message_id.clone(),
                    role: *role,
                    sender_id: new.principal.user.clone(),
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
                    on_duplicate_id: *on_known,
                }
            }
        };
        let options = new.settings.clone();
        TurnSpec {
            turn_id: TurnId::generate(),
            reply_id: MessageId::generate(),
            input: ask,
            options,
        }
    }

    /// Begins the turn if it surely fits the model; if that cannot be told from sizes alone, counts
    /// first.
    async fn begin_in_store(
        self: &Arc<Self>,
        new: &TurnRequest,
        turn: TurnSpec,
        refusal: Option<Error>,
        full: Option<Error>,
    ) -> Result<BeginOutcome> {
        let (chat, options) = (self.clone(), new.settings.clone());
        let earlier = build_preceding_messages(new).await;
        // Judged inside the step, behind the look for what came before: a repetition begins nothing.
        let payer =
            UsagePayer { user: new.principal.user.clone(), key: new.caller_status.key_id.clone() };
        let (terms, asked) = (self.clone(), new.settings.model.clone());
        let may_begin = move |session: &Session| {
            refusal.clone().map_or(Ok(()), Err)?;
            if session.status.is_agent_assigned() {
                // A person answers.
                return Ok(());
            }
            let model = asked.as_ref().or(session.settings.model.as_ref());
            let model = model.map_or(terms.memory.default_model(), String::as_str);
            terms.require_price(model, &payer, &session.owner, session.project_id.as_ref())?;
            // A turn that has to wait adds no reply to those that run.
            full.clone().filter(|_| session.active_turn.is_none()).map_or(Ok(()), Err)
        };
        let allowed = may_begin.clone();
        let surely_fits: AdmissionCheck = Box::new(move |session, size| {
            allowed(session)?;
            let settings = options.clone().with_defaults(session.settings.clone());
            if chat.memory.definitely_fits(&settings, size) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::ContextTooLong, "the message may not fit the model"))
        });
        let begin = self.build_begin_turn(new, turn.clone(), earlier.clone(), surely_fits);
        match self.store.begin_turn(begin).await {
            Err(error) if error.kind == ErrorKind::ContextTooLong => {
                self.check_fits_context(new).await?;
                let counted: AdmissionCheck = Box::new(move |session, _| may_begin(session));
                self.store.begin_turn(self.build_begin_turn(new, turn, earlier, counted)).await
            }
            began => began,
        }
    }

    fn build_begin_turn(
        &self,
        new: &TurnRequest,
        turn: TurnSpec,
        earlier: Vec<NewMessage>,
        admit: AdmissionCheck,
    ) -> BeginTurn {
        BeginTurn {
            principal: new.principal.clone(),
            target: new.session.clone(),
            project_id: new.project_id.clone(),
            on_busy: new.on_busy,
            idempotency_key: new.idempotency_key.clone(),
            turn,
            preceding: earlier,
            key_id: new.caller_status.key_id.clone(),
            quotas: self.usage_policy.quotas.clone(),
            admission: admit,
            lease_holder: self.lease_holder.clone(),
            now: clock::now(),
        }
    }

    /// Errors: `context_too_long`.
    async fn check_fits_context(&self, new: &TurnRequest) -> Result<()> {
        let id = new.session.id();
        let session =
            match self.store.get_session(&new.principal, id, AccessLevel::Participant).await {
                Ok(session) => Some(session),
                Err(error) if error.kind == ErrorKind::SessionNotFound => None,
                Err(error) => return Err(error),
            };
        let (text, parts) = match (&new.intent, &session) {
            (TurnIntent::Send { body, .. }, _) => (body.content.clone(), body.parts.clone()),
            (TurnIntent::Regenerate { reply_id: reply }, Some(session)) => {
                self.load_user_message(new, session, reply.as_ref()).await?
            }
            (TurnIntent::SubmitToolResults { .. }, Some(_)) => return Ok(()),
            (TurnIntent::Regenerate { .. } | TurnIntent::SubmitToolResults { .. }, None) => {
                return Ok(());
            }
        };
        let own = session.map(|session| session.settings).unwrap_or_default();
        let settings = new.settings.clone().with_defaults(own);
        let memory = self.memory.clone();
        let count = move || {
            let (told, images) = render_text_and_images(&text, &parts);
            let tokens = tokens::count_tokens(&told);
            let incoming = PlanInput { text: &told, tokens, images: &images, extra_tokens: 0 };
            memory.plan_prompt(&settings, Some(incoming)).map(|_| ())
        };
        tokio::task::spawn_blocking(count).await.map_err(Error::internal)?
    }

    /// Text and parts of the message that a reply, or the last one, answered.
    async fn load_user_message(
        &self,
        new: &TurnRequest,
        session: &Session,
        reply: Option<&MessageId>,
    ) -> Result<(String, MessageParts)> {
        let Some(id) = reply.or(session.head_id.as_ref()) else { return Ok(Default::default()) };
        let mut message = self.store.get_message(&new.principal, &session.id, id).await?;
        if let (Role::Assistant, Some(id)) = (message.role, &message.parent_id) {
            message = self.store.get_message(&new.principal, &session.id, id).await?;
        }
        Ok((message.content, message.parts))
    }

    /// Sets the task going that owns the turn from here on.
    pub(super) fn spawn_turn(
        self: &Arc<Self>,
        begun: Box<StartedTurn>,
        slot: ConcurrencyPermit,
    ) -> TurnReader {
        let live = self.hub.open_buffer(&begun.session.id, &begun.turn.turn_id);
        live.mark_local();
        self.journal.wake();
        self.publish_turn_start(&begun);
        let title = self.spawn_title(&begun);
        let (chat, reader) = (self.clone(), TurnReader::new(live.clone()));
        self.turn_tasks.spawn(async move {
            let turn = chat.clone().run_turn(*begun, live.clone(), title, slot);
            if AssertUnwindSafe(turn).catch_unwind().await.is_err() {
                // A mistake of ours: the claim stays until the next start, the readers need not.
                tracing::error!(turn.id = %live.turn_id, "a turn panicked while it was being settled");
                chat.hub.close_buffer(&live);
            }
        });
        reader
    }

    fn publish_turn_start(&self, begun: &StartedTurn) {
        let StartedTurn { session, user_message: question, turn, preceding: earlier, .. } = begun;
        // A session that came with its first message was created in the same step.
        let new = earlier.len() + 1;
        if session.messages_count as usize == new && session.created_at == turn.started_at {
            self.events.publish(&session.id, SessionEventKind::Created);
        }
        for message in earlier {
            self.publish_message(session, &message.id, &message.body.content);
        }
        if begun.is_user_message_new {
            self.publish_message(session, &question.id, &question.content);
        }
        self.events
            .publish(&session.id, SessionEventKind::turn_started(&turn.turn_id, &turn.message_id));
    }

    /// The turn waits in the session's queue; an interrupting one sees to it that it is not long.
    async fn handle_queued_turn(
        &self,
        new: &TurnRequest,
        session: &Session,
        live: Arc<TurnBuffer>,
        reply: &MessageId,
    ) -> Result<TurnReader> {
        live.mark_queued();
        if self.store.is_shared() {
            // Whoever ends the running turn begins this one.
            live.mark_remote(reply);
        }
        if self.is_draining() {
            // The drain may have looked for waiting turns before this one was known to be one.
            self.hub.close_buffer(&live);
            return Ok(TurnReader::new(live));
        }
        if new.on_busy != OnBusy::Interrupt {
            return Ok(TurnReader::new(live));
        }
        if let Some(running) = &session.active_turn {
            self.request_cancel(&session.id, &running.turn_id).await?;
        }
        let has_begun = timeout(INTERRUPT_TIMEOUT, live.wait_until_started()).await.is_ok();
        if !has_begun && self.store.remove_queued_turn(&session.id, &live.turn_id).await? {
            // Repeats of the request may be reading it, too.
            self.abort_queued(std::slice::from_ref(&live.turn_id));
            return Err(session_busy_error(session, "the running reply did not end in time"));
        }
        Ok(TurnReader::new(live))
    }

    async fn handle_repeated_request(
        self: &Arc<Self>,
        new: TurnRequest,
        session: &Session,
        led_to: PriorResult,
    ) -> Result<TurnReader> {
        match led_to {
            PriorResult::Turn { turn_id, reply_id } => {
                if let Some(live) = self.hub.find_session_buffer(&session.id, &turn_id) {
                    return Ok(TurnReader::new(live));
                }
                let runs =
                    session.active_turn.as_ref().is_some_and(|active| active.turn_id == turn_id);
                if self.store.is_shared() {
                    return Ok(TurnReader::new(self.hub.open_remote_buffer(
                        &session.id,
                        &turn_id,
                        &reply_id,
                    )));
                }
                if runs {
                    return Err(session_busy_error(session, "the message is being answered"));
                }
                // It waits since before this server's start.
                let live = self.hub.open_buffer(&session.id, &turn_id);
                live.mark_queued();
                Ok(TurnReader::new(live))
            }
            PriorResult::Reply(reply) => Ok(TurnReader::from_frames(
                self.replay_stored_reply(session, TurnId::generate(), &reply).await?,
            )),
            // The message was stored, but never answered: now it is.
            PriorResult::Unanswered(id) => {
                let wish = TurnIntent::Regenerate { reply_id: Some(id) };
                let new = TurnRequest { intent: wish, idempotency_key: None, ..new };
                Box::pin(self.begin_turn(new)).await
            }
        }
    }

    /// Ends the streams of turns that waited and will not run.
    pub(super) fn abort_queued(&self, turns: &[TurnId]) {
        for live in turns.iter().filter_map(|turn| self.hub.find_buffer(turn)) {
            if live.is_pending() {
                live.publish_frames(super::transcript::aborted_stream(live.turn_id.clone()));
                self.hub.close_buffer(&live);
            }
        }
    }
}

/// The messages that go before a turn's own, as they are stored.
async fn build_preceding_messages(new: &TurnRequest) -> Vec<NewMessage> {
    let mut messages = Vec::with_capacity(new.preceding.len());
    for PrecedingMessage { role, body, reply } in &new.preceding {
        messages.push(NewMessage {
            id: MessageId::generate(),
            client_message_id: None,
            role: *role,
            sender_id: new.principal.user.clone(),
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
