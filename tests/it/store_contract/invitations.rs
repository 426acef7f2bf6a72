//! Invitations, departures, and what each participant sets for themselves.

use super::{at, create, id, listed_ids, message, post, user};
use echoic::domain::export_format::ExportFormat;
use echoic::domain::page::{PagePosition, SessionCursor, SessionQuery, SortField, SortOrder};
use echoic::domain::principal::AccessLevel;
use echoic::domain::search::{SearchQuery, parse_title_terms};
use echoic::domain::title::SessionTitle;
use echoic::domain::{Principal, Role, Session, UserId};
use echoic::error::ErrorKind;
use echoic::store::{MessageParent, NewSession, SessionUpdate, Store};
use echoic::transfer::export::{ExportScope, SessionExporter};
use echoic::transfer::import::SessionImporter;
use echoic::transfer::session_record::ImportOptions;
use serde_json::Value;
use std::sync::Arc;
use tokio::runtime::Handle;

fn query(is_of_invitations: bool, archived: Option<bool>) -> SessionQuery {
    SessionQuery {
        position: PagePosition::Page(1),
        limit: 100,
        sort: SortOrder::default(),
        search: None,
        project_id: None,
        status: None,
        archived,
        is_of_invitations,
    }
}

async fn invitations(store: &Arc<dyn Store>, who: &Principal) -> Vec<Session> {
    store.list_sessions(who, query(true, None)).await.unwrap().sessions
}

async fn invite(store: &Arc<dyn Store>, owner: &Principal, session: &str, users: &[&Principal]) {
    let change = SessionUpdate {
        participants: Some(users.iter().map(|user| user.user.clone()).collect()),
        needs_consent: true,
        ..SessionUpdate::default()
    };
    store.update_session(owner, &id(session), change, Vec::new(), at(1)).await.unwrap();
}

async fn update(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
    change: SessionUpdate,
) -> Session {
    store.update_session(who, &id(session), change, Vec::new(), at(9)).await.unwrap()
}

async fn read(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
) -> Result<Session, ErrorKind> {
    let read = store.get_session(who, &id(session), AccessLevel::Participant).await;
    read.map_err(|error| error.kind)
}

fn names(users: &[UserId]) -> Vec<&str> {
    users.iter().map(|user| user.as_str()).collect()
}

fn pin() -> SessionUpdate {
    SessionUpdate { pinned: Some(true), ..SessionUpdate::default() }
}

fn archive() -> SessionUpdate {
    SessionUpdate { archived: Some(true), ..SessionUpdate::default() }
}

pub async fn invited_user_is_a_stranger_until_they_accept(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let new = NewSession {
        id: Some(id("s")),
        title: SessionTitle::from_user(Some("Garden plans")).unwrap(),
        invited: vec![bob.user.clone(), ada.user.clone(), bob.user.clone()],
        ..NewSession::default()
    };
    let made = store.create_session(&ada, new, at(0)).await.unwrap().0;
    assert_eq!((names(&made.participants), names(&made.invited)), (vec!["ada"], vec!["bob"]));
    post(store, &ada, "s", message("ada", Role::User, "roses", 5000), MessageParent::Head).await;

    assert_eq!(read(store, &bob, "s").await.unwrap_err(), ErrorKind::SessionNotFound);
    assert_eq!(listed_ids(store, &bob, None).await, Vec::<String>::new());
    let search = SearchQuery {
        terms: parse_title_terms("garden"),
        limit: 10,
        session_id: None,
        project_id: None,
        role: None,
        from: None,
        to: None,
        after: None,
    };
    assert!(store.search_titles(&bob, &search).await.unwrap().is_empty());
    assert_eq!(store.search_titles(&ada, &search).await.unwrap().len(), 1);

    let invited = invitations(store, &bob).await.pop().unwrap();
    assert_eq!(
        (invited.id.as_str(), invited.owner.as_str(), &*invited.title),
        ("s", "ada", "Garden plans")
    );
    assert_eq!((invited.messages_count, invited.last_message, invited.head_id), (0, None, None));
    assert_eq!((invited.last_message_at, invited.updated_at), (None, invited.created_at));
    assert!(invitations(store, &eve).await.is_empty());

    let refused = store.accept_invitation(&eve, &id("s"), at(6000)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::SessionNotFound);
    let accepted = store.accept_invitation(&bob, &id("s"), at(6000)).await.unwrap();
    assert_eq!((names(&accepted.participants), accepted.invited), (vec!["ada", "bob"], Vec::new()));
    assert_eq!((accepted.messages_count, accepted.version), (1, made.version + 1));
    let again = store.accept_invitation(&bob, &id("s"), at(7000)).await.unwrap();
    assert_eq!((again.version, again.updated_at), (accepted.version, accepted.updated_at));
    assert!(invitations(store, &bob).await.is_empty());
    assert_eq!(listed_ids(store, &bob, None).await, ["s"]);
    let root = Principal { is_admin: true, ..user("root") };
    let refused = store.accept_invitation(&root, &id("s"), at(8000)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Forbidden);
}

pub async fn participants_set_again_stay_in_and_new_ones_are_invited(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    create(store, &ada, "s").await;
    invite(store, &ada, "s", &[&bob]).await;
    store.accept_invitation(&bob, &id("s"), at(2)).await.unwrap();
    update(store, &bob, "s", pin()).await;

    invite(store, &ada, "s", &[&bob, &eve]).await;
    let session = read(store, &bob, "s").await.unwrap();
    assert_eq!(
        (names(&session.participants), names(&session.invited)),
        (vec!["ada", "bob"], vec!["eve"])
    );
    assert!(session.pinned);

    // Removed and invited again, bob has to accept again.
    invite(store, &ada, "s", &[&eve]).await;
    assert_eq!(read(store, &bob, "s").await.unwrap_err(), ErrorKind::SessionNotFound);
    invite(store, &ada, "s", &[&bob]).await;
    assert_eq!(read(store, &bob, "s").await.unwrap_err(), ErrorKind::SessionNotFound);
    assert!(invitations(store, &eve).await.is_empty(), "the invitation was withdrawn");
    let session = store.accept_invitation(&bob, &id("s"), at(3)).await.unwrap();
    assert!(!session.pinned, "the earlier pin is gone");

    // Without consent an invited user gets in at once.
    invite(store, &ada, "s", &[&bob, &eve]).await;
    let participants = Some(vec![bob.user.clone(), eve.user.clone()]);
    update(store, &ada, "s", SessionUpdate { participants, ..SessionUpdate::default() }).await;
    assert_eq!(names(&read(store, &eve, "s").await.unwrap().participants), ["ada", "bob", "eve"]);
    assert!(invitations(store, &eve).await.is_empty());
}

pub async fn everyone_but_the_owner_can_leave(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    create(store, &ada, "s").await;
    invite(store, &ada, "s", &[&bob, &eve]).await;
    store.accept_invitation(&bob, &id("s"), at(2)).await.unwrap();
    let leave = async |who: &Principal| {
        store.leave_session(who, &id("s"), at(3)).await.map_err(|error| error.kind)
    };
    let root = Principal { is_admin: true, ..user("root") };
    assert_eq!(leave(&ada).await, Err(ErrorKind::Forbidden));
    assert_eq!(leave(&root).await, Err(ErrorKind::Forbidden));
    assert_eq!(leave(&user("eva")).await, Err(ErrorKind::SessionNotFound));
    assert_eq!((leave(&bob).await, leave(&eve).await), (Ok(()), Ok(())));
    assert_eq!(leave(&bob).await, Err(ErrorKind::SessionNotFound));
    assert_eq!(read(store, &bob, "s").await.unwrap_err(), ErrorKind::SessionNotFound);
    assert!(invitations(store, &eve).await.is_empty());
    let left = read(store, &ada, "s").await.unwrap();
    assert_eq!((names(&left.participants), left.invited), (vec!["ada"], Vec::new()));
}

pub async fn archive_and_pins_are_each_participants_own(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for (number, session) in ["a", "b", "c"].into_iter().enumerate() {
        let new = NewSession {
            id: Some(id(session)),
            participants: vec![bob.user.clone()],
            ..NewSession::default()
        };
        store.create_session(&ada, new, at(number as i64)).await.unwrap();
    }
    create(store, &bob, "d").await;
    let before = read(store, &ada, "a").await.unwrap();
    let pinned = update(store, &bob, "a", pin()).await;
    assert!(pinned.pinned && !read(store, &ada, "a").await.unwrap().pinned);
    assert_eq!((pinned.version, pinned.updated_at), (before.version, before.updated_at));
    update(store, &bob, "b", archive()).await;
    update(store, &ada, "c", archive()).await;
    update(store, &ada, "b", pin()).await;

    let listed = async |who: &Principal, archived| {
        let page = store.list_sessions(who, query(false, archived)).await.unwrap();
        let shown = page.sessions.iter().map(|session| {
            let mark = |is_set: bool, mark| if is_set { mark } else { "" };
            format!("{}{}{}", session.id, mark(session.pinned, "!"), mark(session.archived, "-"))
        });
        (shown.collect::<Vec<_>>().join(" "), page.pagination.unwrap().total)
    };
    assert_eq!(listed(&ada, Some(false)).await, ("b! a".to_owned(), 2));
    assert_eq!(listed(&ada, Some(true)).await, ("c-".to_owned(), 1));
    assert_eq!(listed(&ada, None).await, ("b! c- a".to_owned(), 3));
    assert_eq!(listed(&bob, Some(false)).await, ("a! c d".to_owned(), 3));
    assert_eq!(listed(&bob, Some(true)).await, ("b-".to_owned(), 1));
    assert_eq!(listed(&bob, None).await, ("a! c b- d".to_owned(), 4));

    // With other fields the update is the owner's, and the version changes.
    let title = Some(SessionTitle::from_user(Some("x")).unwrap());
    let both = SessionUpdate { title, pinned: Some(true), ..SessionUpdate::default() };
    let refused = store.update_session(&bob, &id("c"), both.clone(), Vec::new(), at(9)).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Forbidden);
    assert_eq!(update(store, &ada, "c", both).await.version, before.version + 1);
}

pub async fn guests_list_is_paged_in_its_own_order(store: &Arc<dyn Store>) {
    // A user id that databases might take for a reference to a field.
    let (ada, guest) = (user("ada"), user("$userId"));
    for number in 0..12 {
        let (owner, other) = if number % 3 == 0 { (&guest, &ada) } else { (&ada, &guest) };
        let new = NewSession {
            id: Some(id(&format!("s{number:02}"))),
            participants: vec![other.user.clone()],
            ..NewSession::default()
        };
        store.create_session(owner, new, at(number % 4)).await.unwrap();
        let session = format!("s{number:02}");
        if number % 4 == 1 {
            update(store, &guest, &session, pin()).await;
        }
        if number % 5 == 0 {
            update(store, &ada, &session, pin()).await;
        }
    }
    for descending in [true, false] {
        let sort = SortOrder { field: SortField::CreatedAt, descending };
        let whole = SessionQuery { sort, ..query(false, Some(false)) };
        let shown = |sessions: &[Session]| {
            let one = |session: &Session| (session.id.to_string(), session.pinned);
            sessions.iter().map(one).collect::<Vec<_>>()
        };
        let whole = shown(&store.list_sessions(&guest, whole).await.unwrap().sessions);
        assert_eq!(whole.iter().filter(|(_, pinned)| *pinned).count(), 3);
        assert!(whole[..3].iter().all(|(_, pinned)| *pinned), "{whole:?}");
        let (mut paged, mut position) = (Vec::new(), PagePosition::Page(1));
        for _ in 0..12 {
            let page = SessionQuery { position, limit: 2, sort, ..query(false, Some(false)) };
            let page = store.list_sessions(&guest, page).await.unwrap();
            paged.extend(shown(&page.sessions));
            let Some(next) = page.next_cursor else { break };
            position = PagePosition::After(SessionCursor::decode(&next.encode(), sort).unwrap());
        }
        assert_eq!(paged, whole);
    }
}

async fn export(store: &Arc<dyn Store>, who: &Principal) -> Vec<u8> {
    let scope = ExportScope::Session(id("s"));
    let format = ExportFormat::Json;
    let mut export =
        SessionExporter::open(store.clone(), who.clone(), scope, format).await.unwrap();
    let mut file = Vec::new();
    while let Some(chunk) = export.next_chunk().await.unwrap() {
        file.extend(chunk);
    }
    file
}

async fn import(store: &Arc<dyn Store>, who: &Principal, file: Vec<u8>) {
    let options =
        ImportOptions { max_message: 1000, trusts_participants: true, needs_consent: true };
    let mut import = SessionImporter::new(store.clone(), who.clone(), options, Handle::current());
    let task = tokio::task::spawn_blocking(move || {
        let read = import.read_file(file.as_slice());
        import.finish(read).unwrap()
    });
    assert!(task.await.unwrap().skipped.is_empty());
}

pub async fn members_survive_export_and_import(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    create(store, &ada, "s").await;
    invite(store, &ada, "s", &[&bob, &eve]).await;
    store.accept_invitation(&bob, &id("s"), at(2)).await.unwrap();
    update(store, &bob, "s", pin()).await;
    update(store, &ada, "s", archive()).await;

    let own: Value = serde_json::from_slice(&export(store, &ada).await).unwrap();
    assert!(own["sessions"][0].get("placements").is_none(), "bob's pin is not ada's business");
    let admin = Principal { is_admin: true, ..ada.clone() };
    let file = export(store, &admin).await;
    store.delete_session(&ada, &id("s")).await.unwrap();
    import(store, &admin, file).await;

    let session = read(store, &ada, "s").await.unwrap();
    assert_eq!(
        (names(&session.participants), names(&session.invited)),
        (vec!["ada", "bob"], vec!["eve"])
    );
    assert_eq!((session.archived, session.pinned), (true, false));
    let session = read(store, &bob, "s").await.unwrap();
    assert_eq!((session.archived, session.pinned), (false, true));
    assert_eq!(invitations(store, &eve).await.len(), 1);
}

pub async fn participants_of_older_files_are_invited(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    let file = r#"{"sessions": [{"sessionId": "s", "participants": ["ada", "bob"]}]}"#;
    import(store, &ada, file.into()).await;
    let session = read(store, &ada, "s").await.unwrap();
    assert_eq!((names(&session.participants), names(&session.invited)), (vec!["ada"], vec!["bob"]));
    assert_eq!(invitations(store, &bob).await.len(), 1);
}
