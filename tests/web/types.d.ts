// Types of the console and of the API it uses, for the JSDoc comments in web/js. They are checked
// by `npm run lint` and never served. The API's own description is /api/openapi.json.

// Elements

type ElementOf<Selector extends string> = Selector extends `${infer Tag}.${string}`
  ? ElementOfTag<Tag>
  : ElementOfTag<Selector>;
type ElementOfTag<Tag extends string> = Tag extends keyof HTMLElementTagNameMap
  ? HTMLElementTagNameMap[Tag]
  : HTMLElement;

/** A child of an element. Strings become text; `null`, `undefined` and `false` are left out. */
type Child = Node | string | number | null | undefined | false | Child[];

/** Properties, attributes and `on…` listeners of a new element. */
type ElementProperties = {
  [Name in keyof HTMLElementEventMap as `on${Name}`]?: (event: HTMLElementEventMap[Name]) => unknown;
} & { [name: string]: unknown };

/** An entry of a menu; `null` draws a line, `false` is left out by `getChatActions`. */
type MenuItem = { label: string; icon: string; run: () => unknown; danger?: boolean };

/** A button in a toast. `onExpire` runs if the button was not pressed in time. */
type ToastAction = { label: string; run: () => unknown; onExpire?: () => unknown; takesFocus?: boolean };

/** Options of a form dialog. `check` returns an error to show instead of closing the form. */
type FormOptions = {
  submit?: string;
  cancel?: string;
  danger?: boolean;
  check?: (data: FormData) => Promise<string | null | undefined>;
};

// The API

/** Options of a request. A `Blob` is sent unchanged, any other body as JSON. */
type RequestOptions = {
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** Lets the request outlive the page. */
  keepalive?: boolean;
  /** Replaces the stored key. A 401 then fails at once. */
  key?: string;
};

type ExportFilter = Record<string, string>;

type Role = "user" | "assistant" | "system" | "tool";
type MessageStatus = "complete" | "interrupted" | "failed";
type SessionStatus = "active" | "agent_assigned" | "closed" | (string & {});

type MemoryOptions = {
  strategy?: string;
  maxTokens?: number;
  recallTokens?: number;
  lastMessages?: number;
};

type Settings = {
  model?: string | null;
  systemPrompt?: string | null;
  temperature?: number | null;
  topP?: number | null;
  maxOutputTokens?: number | null;
  memory?: MemoryOptions;
};

type ActiveTurn = { turnId: string; messageId: string };

type Session = {
  sessionId: string;
  userId: string;
  title: string;
  titleSource: string;
  status: SessionStatus;
  participants: string[];
  invited: string[];
  settings: Settings;
  version: number;
  messagesCount: number;
  createdAt: string;
  pinned: boolean;
  archived: boolean;
  projectId?: string | null;
  headId?: string | null;
  lastMessageAt?: string | null;
  lastSeen?: string | null;
  activeTurn?: ActiveTurn | null;
};

/** The fields of a session that `PATCH` accepts. */
type SessionChange = {
  settings?: Settings;
  status?: SessionStatus;
  participants?: string[];
  pinned?: boolean;
  archived?: boolean;
  projectId?: string | null;
};

type Usage = {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  estimated?: boolean;
  cost?: number;
  firstTokenMs?: number;
};

/** A part of a message: a file, an image, reasoning, a tool call, a source. */
type MessagePart = {
  type: string;
  text?: string;
  url?: string;
  image_url?: { url?: string };
  mediaType?: string;
  filename?: string;
  title?: string;
} & Partial<ToolPart>;

type ToolPart = {
  type: string;
  toolCallId?: string;
  toolName?: string;
  state?: string;
  input?: unknown;
  output?: unknown;
  errorText?: string;
  isError?: boolean;
};

/** An image that is attached to a message, as a data URL. */
type ImagePart = { type: "file"; url: string; mediaType?: string; filename?: string };

type Message = {
  id: string;
  role: Role;
  content: string;
  createdAt: string;
  parts?: MessagePart[];
  parentId?: string | null;
  siblingIds?: string[];
  siblingCount?: number;
  siblingIndex?: number;
  senderId?: string;
  clientMessageId?: string | null;
  status?: MessageStatus;
  error?: { code: string; message: string } | null;
  model?: string | null;
  usage?: Usage | null;
  seen?: boolean;
  /** Set by the console: the message is not stored yet. */
  isPending?: boolean;
};

/** The bounds of a page of messages: the ids of its neighbors. */
type PageBounds = { before?: string; after?: string };
type MessagePage = { messages: Message[]; hasMore: boolean };
type SessionPage = { sessions: Session[]; nextCursor: string | null };
type ProjectFile = { path: string; size: number };

type Project = {
  projectId: string;
  name: string;
  description?: string | null;
  systemPrompt?: string | null;
  files: ProjectFile[];
  updatedAt: string;
  version: number;
};

type User = { userId: string; admin?: boolean; name?: string | null; email?: string | null };
type Model = { id: string };

type SearchResult = {
  sessionId: string;
  title: string;
  snippet: string;
  highlights: [number, number][];
  createdAt: string;
  messageId?: string | null;
};
type SearchPage = { results: SearchResult[]; nextCursor: string | null };

/** A part of the next prompt, as the memory preview lists it. */
type PromptPiece = {
  kind: string;
  tokens: number;
  role: Role;
  text: string;
  messageIds?: string[];
  images?: number;
  score?: number;
};

/** A part of the prompt in the budget bar. */
type BudgetPart = { kind: string; tokens: number };

type PromptPreview = {
  model: string;
  strategy: string;
  contextWindow: number;
  promptTokens: number;
  replyReserve: number;
  cacheablePrefixTokens: number;
  pieces: PromptPiece[];
  tokenCorrection?: number | null;
  project?: { omittedFields?: string[]; omittedFiles?: string[] } | null;
};

// Streams

/** A server-sent event. */
type StreamEvent = { id: string | null; event: string; data: string };
/** A server-sent event that is still being read. */
type PartialEvent = { id: string | null; event: string; data: string | null };
type ByteTransform = TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>;

type ToolFrame = {
  type:
    | "tool-input-start"
    | "tool-input-delta"
    | "tool-input-available"
    | "tool-input-error"
    | "tool-output-available"
    | "tool-output-error"
    | "tool-output-denied";
  toolCallId: string;
  inputTextDelta?: string;
} & Omit<ToolPart, "type">;

/** A frame of a streamed reply, in the AI SDK's UI message stream format. */
type TurnFrame =
  | { type: "start"; messageId: string; messageMetadata?: { sessionId?: string; turnId?: string } }
  | { type: "text-delta" | "reasoning-delta"; delta: string }
  | { type: "data-session"; data: { sessionId: string; title: string; userMessageId: string } }
  | { type: "data-title"; data: { title: string } }
  | { type: "reasoning-start" | "reasoning-end" | "text-start" | "text-end" }
  | { type: "start-step" | "finish-step" | "finish" | "abort" | "error" }
  | ToolFrame;

type ConnectionState = "connecting" | "live" | "offline" | "unauthenticated";

/** Events of `/api/events` by type, and `state` for changes of the connection itself. */
type ServerEvents = {
  sync: { type: "sync" };
  session: { type: "session"; action: string; sessionId: string; session?: Session };
  message: { type: "message"; sessionId: string };
  turn: { type: "turn"; action: "started" | "ended"; sessionId: string; turnId: string; messageId: string };
  seen: { type: "seen"; sessionId: string };
  state: ConnectionState;
};

// The page

type Route =
  | { view: "chat"; sessionId: string; messageId: string | null }
  | { view: "new"; projectId: string | null }
  | { view: "project"; projectId: string }
  | { view: "projects" };

/** The message that an edited one replaces. Its siblings share `parentId`. */
type EditTarget = { id: string; parentId?: string | null };

/** The message that the composer edits, with the new text and images. */
type Edit = EditTarget & { text: string; images: ImagePart[] };

/** A message that the server has not accepted yet. */
type UnsentMessage = {
  clientMessageId: string;
  text: string;
  images: ImagePart[];
  edit?: EditTarget | null;
  isSending?: boolean;
};

/** The body of a request that starts a turn, without the session. */
type TurnBody = { onBusy?: string; [field: string]: unknown };

/** A message that is sent from this tab. `draft` gets it back if that fails. */
type OutgoingMessage = { message: UnsentMessage; body: TurnBody; draft: Draft; view: MessageView };

/** A reply, and the message that it replies to. */
type ReplyEntry = {
  sessionId: string | null;
  reply: LiveReply;
  turn: TurnReader;
  retry?: () => void;
  /** Unset for a regenerated or joined reply. */
  outgoing?: OutgoingMessage;
  /** The message after which the reply starts a new branch. */
  branchParentId?: string | null;
  /** The running reply that an edit replaces. */
  interrupted?: ReplyEntry | null;
  /** Resolves when the user message is shown as stored. */
  starting?: Promise<void>;
  /** The server has the message. */
  isAccepted: boolean;
  /** The message waits until its new chat has an id. */
  isHeld: boolean;
  /** The user stopped the reply before its turn id was known. */
  isStopRequested: boolean;
  isClosed: boolean;
  /** The user has opened another chat. */
  hasLeft: boolean;
};

/** Callbacks of a turn. `onEnd` is called once, unless the reader leaves before. */
type TurnHandlers = {
  /** The server has the message. */
  onAccepted: () => void;
  /** Called with each frame once, in order. */
  onFrame: (frame: TurnFrame) => void;
  onConnectionChange: (isConnected: boolean) => void;
  /**
   * "done" after the last frame, "gone" if the turn is over and its result must be fetched,
   * "refused" with the error if the request failed.
   */
  onEnd: (reason: "done" | "gone" | "refused", error?: ApiError) => unknown;
};

type ComposerHandlers = {
  send: (message: UnsentMessage) => void;
  stop: () => void;
  chooseModel: (model: string) => void;
};

/** A finished reply as it is shown, for the view that replaces it. */
type FinishedReply = { text: string; body: HTMLElement; preamble: HTMLElement };

/** A page of messages, and a view by id for each that had none. */
type LoadedPage = MessagePage & { views: Map<string, MessageView> };
type ThreadItem = MessageView | LiveReply;

type SessionFilter = { search: string; projectId: string; archived: string };
type SessionGroup = { element: HTMLElement; list: HTMLElement };

type TabName = "memory" | "settings" | "people";
type Tab = { show(body: HTMLElement, chat: ChatView): unknown };

type ApiError = import("../../web/js/api.js").ApiError;
type App = import("../../web/js/main.js").App;
type ChatView = import("../../web/js/chat/chat-view.js").ChatView;
type Draft = import("../../web/js/chat/drafts.js").Draft;
type InvitationList = import("../../web/js/sessions/invitations.js").InvitationList;
type LiveReply = import("../../web/js/chat/live-reply.js").LiveReply;
type MessageView = import("../../web/js/chat/message-view.js").MessageView;
type ProjectsPage = import("../../web/js/projects/page.js").ProjectsPage;
type SessionList = import("../../web/js/sessions/list.js").SessionList;
type TurnReader = import("../../web/js/chat/turn-reader.js").TurnReader;

interface WindowEventMap {
  /** The address names another view. */
  routechange: Event;
  /** The list of projects was loaded. */
  projects: Event;
  /** The user entered a valid key; `detail` is the id of its owner. */
  authenticated: CustomEvent<string | null>;
  /** The user closed the key dialog without a key. */
  unauthenticated: Event;
}

interface MapConstructor {
  /** Not in every browser that the console supports. */
  groupBy?<K, T>(items: Iterable<T>, keySelector: (item: T) => K): Map<K, T[]>;
}

interface Window {
  trustedTypes?: { createPolicy(name: string, rules: { createHTML(html: string): string }): { createHTML(html: string): string } };
}
