//! Sessions: visibility, listing, and search.

use super::{at, begin, create, id, listed_ids, message, post, user};
use echoic::domain::page::{
    MessageSlice, MessageView, PagePosition, SessionCursor, SessionQuery, SortField, SortOrder,
};
use echoic::domain::principal::AccessLevel;
use echoic::domain::search::parse_title_terms;
use echoic::domain::session::SessionStatus;
use echoic::domain::title::SessionTitle;
use echoic::domain::{Principal, ProjectId, Role};
use echoic::error::{Error, ErrorKind};
use echoic::store::{
    DeleteFilter, MessageParent, MessageQuery, NewSession, SessionTarget, SessionUpdate, Store,
};
use std::sync::Arc;

pub async fn session_hides_from_strangers_and_owner_rights_from_guests(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let new = NewSession {
        id: Some(id("s")),
        participants: vec![bob.user.clone()],
        ..NewSession::default()
    };
    store.create_session(&ada, new, at(0)).await.unwrap();
    post(store, &bob, "s", message("bob", Role::User, "hello", 1), MessageParent::Head).await;

    let session = id("s");
    let kind = |error: Error| error.kind;
    let title =
        || SessionUpdate { title: Some(SessionTitle::default()), ..SessionUpdate::default() };
    let status = || SessionUpdate {
        status: SessionStatus::parse("waiting").ok(),
        ..SessionUpdate::default()
    };
    assert_eq!(
        store.get_session(&bob, &session, AccessLevel::Participant).await.unwrap().participants,
        [ada.user.clone(), bob.user.clone()]
    );
    assert!(store.update_session(&bob, &session, status(), Vec::new(), at(2)).await.is_ok());
    for refused in [
        store.get_session(&bob, &session, AccessLevel::Owner).await.unwrap_err(),
        store.update_session(&bob, &session, title(), Vec::new(), at(2)).await.unwrap_err(),
        store.delete_session(&bob, &session).await.unwrap_err(),
    ] {
        assert_eq!(kind(refused), ErrorKind::Forbidden);
    }
    let query = MessageQuery {
        view: MessageView::Path,
        slice: MessageSlice::Newest,
        limit: 1,
        with_siblings: true,
    };
    for hidden in [
        store.get_session(&eve, &session, AccessLevel::Participant).await.unwrap_err(),
        store.list_messages(&eve, &session, query).await.unwrap_err(),
        store.update_session(&eve, &session, status(), Vec::new(), at(2)).await.unwrap_err(),
        store.delete_session(&eve, &session).await.unwrap_err(),
        store.begin_turn(begin(&eve, "s", "let me in")).await.unwrap_err(),
    ] {
        assert_eq!(kind(hidden), ErrorKind::SessionNotFound);
    }
    assert_eq!(
        (listed_ids(store, &ada, None).await, listed_ids(store, &bob, None).await),
        (vec!["s".to_owned()], vec!["s".to_owned()])
    );
    assert_eq!(listed_ids(store, &eve, None).await, Vec::<String>::new());
    let everybody_out =
        SessionUpdate { participants: Some(Vec::new()), ..SessionUpdate::default() };
    store.update_session(&ada, &session, everybody_out, Vec::new(), at(3)).await.unwrap();
    assert_eq!(listed_ids(store, &bob, None).await, Vec::<String>::new());
}

pub async fn session_id_belongs_to_its_first_user(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    create(store, &ada, "s").await;
    let again = NewSession { id: Some(id("s")), ..NewSession::default() };
    assert_eq!(
        store.create_session(&bob, again.clone(), at(1)).await.unwrap_err().kind,
        ErrorKind::IdConflict
    );
    assert!(!store.create_session(&ada, again, at(1)).await.unwrap().1);
    let mut turn = begin(&bob, "s", "mine");
    turn.target = SessionTarget::Ensure(id("s"));
    assert_eq!(store.begin_turn(turn).await.unwrap_err().kind, ErrorKind::IdConflict);
}

pub async fn titles_are_found_by_word_prefixes(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for (owner, session, title) in [
        (&ada, "1", "Crème brûlée"),
        (&ada, "2", "brulé crew"),
        (&bob, "3", "Creme"),
        (&ada, "4", "東京 2026"),
    ] {
        let title = SessionTitle::from_user(Some(title)).unwrap();
        let new = NewSession { id: Some(id(session)), title, ..NewSession::default() };
        store.create_session(owner, new, at(0)).await.unwrap();
    }
    for (search, found) in [
        ("cre bru", vec!["2", "1"]),
        ("CRÈME", vec!["1"]),
        ("東", vec!["4"]),
        ("202", vec!["4"]),
        ("reme", vec![]),
        ("new", vec![]),
    ] {
        assert_eq!(listed_ids(store, &ada, Some(search)).await, found, "{search}");
    }
    let renamed = SessionUpdate {
        title: Some(SessionTitle::from_user(Some("Soup")).unwrap()),
        ..SessionUpdate::default()
    };
    store.update_session(&ada, &id("1"), renamed, Vec::new(), at(1)).await.unwrap();
    assert_eq!(listed_ids(store, &ada, Some("creme")).await, Vec::<String>::new());
    assert_eq!(listed_ids(store, &ada, Some("sou")).await, ["1"]);
    store.delete_session(&ada, &id("1")).await.unwrap();
    assert_eq!(listed_ids(store, &ada, Some("sou")).await, Vec::<String>::new());
}

pub async fn bulk_deletion_takes_only_the_callers_own_sessions(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    let project = |name: &str| Some(ProjectId::new_unchecked(name));
    for (owner, session, project_id, day) in [
        (&ada, "1", project("p"), 1),
        (&ada, "2", project("p"), 5),
        (&ada, "3", project("q"), 1),
        (&ada, "4", None, 5),
        (&bob, "5", project("p"), 1),
    ] {
        // Both take part in every session, which gives no right to delete it.
        let participants = vec![ada.user.clone(), bob.user.clone()];
        let id = Some(id(session));
        let new = NewSession { id, project_id, participants, ..NewSession::default() };
        store.create_session(owner, new, at(0)).await.unwrap();
        let said = message(owner.user.as_str(), Role::User, "hi", day);
        post(store, owner, session, said, MessageParent::Head).await;
    }
    // Without a message the creation time counts.
    let (silent, created) = (NewSession { id: Some(id("6")), ..NewSession::default() }, at(2));
    store.create_session(&ada, silent, created).await.unwrap();
    let owned = async |who: &Principal, filter: DeleteFilter| {
        let mut ids = store.list_owned_sessions(who, filter).await.unwrap();
        ids.sort();
        ids.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let of = |name: &str| DeleteFilter::Project(ProjectId::new_unchecked(name));
    assert_eq!(owned(&ada, of("p")).await, ["1", "2"]);
    assert_eq!(owned(&bob, of("p")).await, ["5"]);
    assert_eq!(owned(&bob, of("q")).await, Vec::<String>::new());
    assert_eq!(owned(&ada, DeleteFilter::InactiveSince(at(1))).await, Vec::<String>::new());
    assert_eq!(owned(&ada, DeleteFilter::InactiveSince(at(2))).await, ["1", "3"]);
    assert_eq!(owned(&ada, DeleteFilter::InactiveSince(at(3))).await, ["1", "3", "6"]);
    assert_eq!(owned(&bob, DeleteFilter::InactiveSince(at(9))).await, ["5"]);
    assert_eq!(owned(&user("eve"), DeleteFilter::InactiveSince(at(9))).await, Vec::<String>::new());
    let deleted = store.delete_session(&ada, &id("1")).await.unwrap();
    assert_eq!((deleted.sessions, deleted.messages, deleted.turns), (1, 1, Vec::new()));
    assert_eq!(owned(&ada, of("p")).await, ["2"]);
}

pub async fn operator_finds_all_sessions_by_their_owner(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for (owner, guest, session, title) in
        [(&ada, &bob, "1", "Soup"), (&bob, &ada, "2", "Salad"), (&ada, &ada, "3", "Soufflé")]
    {
        let new = NewSession {
            id: Some(id(session)),
            title: SessionTitle::from_user(Some(title)).unwrap(),
            participants: vec![guest.user.clone()],
            ..NewSession::default()
        };
        store.create_session(owner, new, at(0)).await.unwrap();
    }
    let query = |search: Option<&str>, limit| SessionQuery {
        position: PagePosition::Page(1),
        limit,
        sort: SortOrder { field: SortField::Title, descending: false },
        search: search.map(parse_title_terms),
        project_id: None,
        status: None,
        archived: None,
        is_of_invitations: false,
    };
    let found = async |owner: Option<&Principal>, search, limit| {
        let owner = owner.map(|owner| &owner.user);
        let page = store.list_all_sessions(owner, query(search, limit)).await.unwrap();
        let total = page.pagination.unwrap().total;
        (page.sessions.iter().map(|session| session.id.to_string()).collect::<String>(), total)
    };
    assert_eq!(found(None, None, 10).await, ("231".to_owned(), 3));
    assert_eq!(found(None, None, 2).await, ("23".to_owned(), 3));
    assert_eq!(found(None, Some("sou"), 10).await, ("31".to_owned(), 2));
    // A participant is not an owner.
    assert_eq!(found(Some(&ada), None, 10).await, ("31".to_owned(), 2));
    assert_eq!(found(Some(&bob), None, 10).await, ("2".to_owned(), 1));
    assert_eq!(found(Some(&user("eve")), None, 10).await, (String::new(), 0));
}

pub async fn cursor_list_shows_each_session_once_while_others_arrive(store: &Arc<dyn Store>) {
    let sorts =
        [SortField::LastMessageAt, SortField::CreatedAt, SortField::UpdatedAt, SortField::Title];
    for (round, key) in sorts.into_iter().enumerate() {
        for descending in [false, true] {
            let who = user(&format!("reader {round} {descending}"));
            // Forty sessions share seven times and titles, so most neighbors have equal sort keys.
            let create = async |number: i64| {
                let title =
                    SessionTitle::from_user(Some(&format!("title {}", number % 7))).unwrap();
                let session = id(&format!("{round}-{descending}-{:02}", (number * 37) % 101));
                let new = NewSession { id: Some(session), title, ..NewSession::default() };
                store.create_session(&who, new, at(number % 7)).await.unwrap().0
            };
            let mut expected = Vec::new();
            for number in 0..40 {
                let session = create(number).await;
                if number % 11 == 0 {
                    let pin = SessionUpdate { pinned: Some(true), ..SessionUpdate::default() };
                    let now = session.updated_at;
                    store.update_session(&who, &session.id, pin, Vec::new(), now).await.unwrap();
                }
                let order = (number % 7, session.id.to_string());
                expected.push((number % 11 != 0, order));
            }
            expected.sort_by(|(unpinned, one), (other_unpinned, other)| {
                let order = if descending { other.cmp(one) } else { one.cmp(other) };
                unpinned.cmp(other_unpinned).then(order)
            });

            let (mut seen, mut place) = (Vec::new(), PagePosition::Page(1));
            let mut arriving = 40;
            loop {
                let sort = SortOrder { field: key, descending };
                let (search, project_id, status) = (None, None, None);
                let query = SessionQuery {
                    position: place,
                    limit: 3,
                    sort,
                    search,
                    project_id,
                    status,
                    archived: None,
                    is_of_invitations: false,
                };
                let page = store.list_sessions(&who, query).await.unwrap();
                seen.extend(page.sessions.iter().map(|session| session.id.to_string()));
                arriving += 1;
                create(arriving).await;
                let Some(cursor) = page.next_cursor else { break };
                // Encoded and decoded, as a client passes it back.
                place = PagePosition::After(SessionCursor::decode(&cursor.encode(), sort).unwrap());
            }
            let before: Vec<_> = expected.into_iter().map(|(_, (_, id))| id).collect();
            let known: Vec<_> = seen.iter().filter(|id| before.contains(id)).cloned().collect();
            assert_eq!(known, before, "{key:?} {descending}");
            let mut once = seen.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "a session was shown twice: {seen:?}");
        }
    }
}
