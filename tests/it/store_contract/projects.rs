//! Projects: visibility, files, versions, and concurrent writers.

use super::{at, user};
use echoic::domain::project::{FileLanguage, FilePath, GenerationStatus, MAX_FILE_BYTES};
use echoic::domain::{Project, ProjectId};
use echoic::error::ErrorKind;
use echoic::store::{NewFile, NewProject, ProjectUpdate, Store};
use futures::future::join_all;
use std::sync::Arc;

fn path(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

fn file(at: &str, content: &str) -> NewFile {
    NewFile { path: path(at), content: content.to_owned(), language: None, tokens: 7 }
}

fn shop(files: Vec<NewFile>) -> NewProject {
    NewProject {
        id: ProjectId::generate(),
        name: "Shop".to_owned(),
        description: "Sells plants".to_owned(),
        system_prompt: Some("Write Rust.".to_owned()),
        generation_status: GenerationStatus::Idle,
        files,
    }
}

fn paths(project: &Project) -> Vec<&str> {
    project.files.iter().map(|file| file.path.as_str()).collect()
}

pub(super) async fn project_is_visible_only_to_its_owner(store: &Arc<dyn Store>) {
    let (ada, bob, mut root) = (user("ada"), user("bob"), user("root"));
    root.is_admin = true;
    let made = store.create_project(&ada, shop(vec![file("a", "A")]), at(1)).await.unwrap();
    let id = &made.id;
    assert_eq!(store.get_project(&ada, id).await.unwrap(), made);
    assert_eq!(store.get_project(&root, id).await.unwrap(), made);

    let none = ProjectUpdate { name: Some("Mine".to_owned()), ..ProjectUpdate::default() };
    for refused in [
        store.get_project(&bob, id).await.map(drop),
        store.update_project(&bob, id, none, vec![9], at(2)).await.map(drop),
        store.delete_project(&bob, id).await,
        store.get_file(&bob, id, &path("a")).await.map(drop),
        store.select_files(&bob, id, Box::new(|_| vec![path("a")])).await.map(drop),
        store.put_file(&bob, id, file("a", "B"), vec![9], at(2)).await.map(drop),
        store.delete_file(&bob, id, &path("a"), vec![9], at(2)).await.map(drop),
        store.get_project(&ada, &ProjectId::generate()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind, ErrorKind::ProjectNotFound);
    }
    assert_eq!(store.get_project(&ada, id).await.unwrap(), made);
    assert!(store.list_projects(&bob, 1, 10).await.unwrap().projects.is_empty());
    assert!(store.list_projects(&root, 1, 10).await.unwrap().projects.is_empty());
}

pub(super) async fn projects_are_listed_newest_change_first(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut made = Vec::new();
    for minute in 0..5 {
        let new = shop(vec![file("b", "B"), file("a", "A")]);
        made.push(store.create_project(&ada, new, at(minute)).await.unwrap());
    }
    let first = store.put_file(&ada, &made[0].id, file("c", "C"), Vec::new(), at(9)).await.unwrap();
    assert_eq!((first.version, first.is_new), (2, true));
    let mut seen = Vec::new();
    for page in 1..=4 {
        let found = store.list_projects(&ada, page, 2).await.unwrap();
        assert_eq!((found.pagination.total, found.pagination.pages), (5, 3));
        seen.extend(found.projects);
    }
    let ids: Vec<_> = seen.iter().map(|project| &project.id).collect();
    assert_eq!(ids, [0, 4, 3, 2, 1].map(|place: usize| &made[place].id));
    assert_eq!((paths(&seen[0]), paths(&seen[1])), (vec!["a", "b", "c"], vec!["a", "b"]));
    assert_eq!(seen[1], made[4]);
}

pub(super) async fn each_change_raises_the_version_and_stale_ones_fail(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let made = store.create_project(&ada, shop(Vec::new()), at(1)).await.unwrap();
    let (id, any) = (&made.id, Vec::new);
    let change = ProjectUpdate {
        name: Some("Market".to_owned()),
        system_prompt: Some(None),
        generation_status: Some(GenerationStatus::Generating),
        ..ProjectUpdate::default()
    };
    let changed = store.update_project(&ada, id, change.clone(), vec![1], at(2)).await.unwrap();
    assert_eq!((changed.version, changed.created_at, changed.updated_at), (2, at(1), at(2)));
    assert_eq!((changed.name.as_str(), &changed.system_prompt), ("Market", &None));
    assert_eq!(changed.description, "Sells plants");

    // A repeated change and an empty one change nothing.
    for nothing in [change, ProjectUpdate::default()] {
        let same = store.update_project(&ada, id, nothing, vec![2], at(3)).await.unwrap();
        assert_eq!(same, changed);
    }

    let rust =
        NewFile { language: Some(FileLanguage::parse("rust").unwrap()), ..file("a.rs", "v1") };
    let put = store.put_file(&ada, id, rust.clone(), vec![2], at(4)).await.unwrap();
    assert_eq!((put.version, put.is_new, put.entry.size, put.entry.tokens), (3, true, 2, 7));
    let same = store.put_file(&ada, id, rust, vec![3], at(5)).await.unwrap();
    assert_eq!((same.version, same.is_new, &same.entry), (3, false, &put.entry));
    let put = store.put_file(&ada, id, file("a.rs", "v2"), vec![7, 3], at(6)).await.unwrap();
    assert_eq!((put.version, put.is_new, put.entry.updated_at), (4, false, at(6)));
    let read = store.get_file(&ada, id, &path("a.rs")).await.unwrap();
    assert_eq!((read.content.as_str(), read.version, &read.entry), ("v2", 4, &put.entry));

    let before = store.get_project(&ada, id).await.unwrap();
    for refused in [
        store.update_project(&ada, id, ProjectUpdate::default(), vec![3], at(7)).await.map(drop),
        store.put_file(&ada, id, file("a.rs", "v3"), vec![3], at(7)).await.map(drop),
        store.put_file(&ada, id, file("b.rs", "v1"), vec![3, 5], at(7)).await.map(drop),
        store.delete_file(&ada, id, &path("a.rs"), vec![3], at(7)).await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::VersionConflict);
        assert_eq!(refused.details.unwrap()["version"], 4);
    }
    let absent = store.delete_file(&ada, id, &path("b.rs"), any(), at(7)).await.unwrap_err();
    assert_eq!(absent.kind, ErrorKind::FileNotFound);
    assert_eq!(store.get_project(&ada, id).await.unwrap(), before);

    let left = store.delete_file(&ada, id, &path("a.rs"), vec![4], at(8)).await.unwrap();
    assert_eq!((left.version, left.files.len(), left.updated_at), (5, 0, at(8)));
    let gone = store.get_file(&ada, id, &path("a.rs")).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::FileNotFound);
}

pub(super) async fn project_is_stored_whole_or_not_and_deleted_with_files(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let large = "x".repeat(MAX_FILE_BYTES);
    let files = |count: usize| (0..count).map(|number| file(&format!("{number:02}"), &large));
    let refused = store.create_project(&ada, shop(files(17).collect()), at(1)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PayloadTooLarge);
    assert!(store.list_projects(&ada, 1, 10).await.unwrap().projects.is_empty());

    let made = store.create_project(&ada, shop(files(16).collect()), at(1)).await.unwrap();
    let one_more = store.put_file(&ada, &made.id, file("more", "x"), Vec::new(), at(2)).await;
    assert_eq!(one_more.unwrap_err().kind, ErrorKind::PayloadTooLarge);
    store.put_file(&ada, &made.id, file("07", "small"), Vec::new(), at(3)).await.unwrap();
    store.put_file(&ada, &made.id, file("more", "x"), Vec::new(), at(4)).await.unwrap();
    let choose = |project: &Project| {
        assert_eq!(project.version, 3);
        vec![path("more"), path("absent"), path("07"), path("15")]
    };
    let (project, read) = store.select_files(&ada, &made.id, Box::new(choose)).await.unwrap();
    assert_eq!(project, store.get_project(&ada, &made.id).await.unwrap());
    let read: Vec<_> =
        read.iter().map(|file| (file.entry.path.as_str(), file.content.as_str())).collect();
    assert_eq!(read, [("more", "x"), ("07", "small"), ("15", large.as_str())]);

    store.delete_project(&ada, &made.id).await.unwrap();
    for gone in [
        store.delete_project(&ada, &made.id).await,
        store.get_file(&ada, &made.id, &path("07")).await.map(drop),
    ] {
        assert_eq!(gone.unwrap_err().kind, ErrorKind::ProjectNotFound);
    }
}

pub(super) async fn concurrent_writers_lose_nothing_and_one_version_wins_once(
    store: &Arc<dyn Store>,
) {
    let ada = user("ada");
    let made = store.create_project(&ada, shop(Vec::new()), at(1)).await.unwrap();
    let names: Vec<String> = (0..12).map(|number| format!("{number:02}")).collect();
    let writers = names.iter().map(|name| {
        let (ada, id) = (&ada, &made.id);
        async move { store.put_file(ada, id, file(name, name), Vec::new(), at(2)).await }
    });
    let mut versions: Vec<_> =
        join_all(writers).await.into_iter().map(|put| put.unwrap().version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..14).collect::<Vec<_>>());
    let project = store.get_project(&ada, &made.id).await.unwrap();
    assert_eq!(
        (paths(&project), project.version),
        (names.iter().map(String::as_str).collect(), 13)
    );
    for name in &names {
        assert_eq!(store.get_file(&ada, &made.id, &path(name)).await.unwrap().content, *name);
    }

    let rivals = names.iter().map(|name| {
        let (ada, id) = (&ada, &made.id);
        async move { store.put_file(ada, id, file("one", name), vec![13], at(3)).await }
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(rivals).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 11));
    assert!(lost.into_iter().all(|lost| lost.unwrap_err().kind == ErrorKind::VersionConflict));
}
