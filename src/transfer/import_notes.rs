//! Notes of an import: contents of a session that could not be kept, and values that were changed.

use crate::domain::text::truncate_chars;
use serde::Serialize;
use utoipa::ToSchema;

/// Maximum number of kinds per session. Kinds come from the file, so their number needs a bound.
const MAX_KINDS: usize = 100;
const MAX_KIND_CHARS: usize = 64;
const MAX_PLACE_CHARS: usize = 200;
/// The kind that stands for all kinds beyond the maximum.
const OTHER_KINDS: &str = "other";

/// Contents or values of a session that an import treated in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImportNote {
    /// Kind of content, or name of the field.
    pub kind: String,
    /// Number of occurrences.
    pub count: u64,
    /// Path of the first one in the session.
    pub first: String,
}

/// The notes about one session, in the order in which their kinds were first met.
#[derive(Debug, Default)]
pub struct ImportNotes(Vec<ImportNote>);

impl ImportNotes {
    /// Counts one occurrence. `place` is its path in the session, such as `messages[3].createdAt`.
    pub fn add(&mut self, kind: &str, place: &str) {
        self.add_many(kind, 1, place);
    }

    pub fn add_many(&mut self, kind: &str, count: u64, place: &str) {
        let known = self.0.len() < MAX_KINDS || self.0.iter().any(|note| note.kind == kind);
        let kind = if known { truncate_chars(kind, MAX_KIND_CHARS) } else { OTHER_KINDS };
        match self.0.iter_mut().find(|note| note.kind == kind) {
            Some(note) => note.count += count,
            None => self.0.push(ImportNote {
                kind: kind.to_owned(),
                count,
                first: truncate_chars(place, MAX_PLACE_CHARS).to_owned(),
            }),
        }
    }

    pub fn into_list(self) -> Vec<ImportNote> {
        self.0
    }

    /// The notes; as a single one if they are more than `room`.
    pub fn into_short_list(mut self, room: usize) -> Vec<ImportNote> {
        if self.0.len() > room.max(1) {
            let count = self.0.iter().map(|note| note.count).sum();
            self.0.truncate(1);
            self.0[0] = ImportNote { kind: OTHER_KINDS.to_owned(), count, ..self.0[0].clone() };
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_counted_by_kind_and_name_the_first_place() {
        let mut notes = ImportNotes::default();
        for place in ["a", "b"] {
            notes.add("createdAt", place);
        }
        notes.add("role", "c");
        let note = |kind: &str, count, first: &str| ImportNote {
            kind: kind.to_owned(),
            count,
            first: first.to_owned(),
        };
        assert_eq!(notes.into_list(), [note("createdAt", 2, "a"), note("role", 1, "c")]);
    }

    #[test]
    fn notes_without_room_become_one() {
        let mut notes = ImportNotes::default();
        notes.add("createdAt", "a");
        notes.add_many("role", 2, "b");
        let list = notes.into_short_list(0);
        assert_eq!((list.len(), list[0].kind.as_str(), list[0].count), (1, "other", 3));
        assert_eq!(list[0].first, "a");
        assert!(ImportNotes::default().into_short_list(0).is_empty());
    }

    #[test]
    fn number_of_kinds_is_bounded() {
        let mut notes = ImportNotes::default();
        for number in 0..1000 {
            notes.add(&number.to_string(), "place");
        }
        let list = notes.into_list();
        assert_eq!(list.len(), MAX_KINDS + 1);
        assert_eq!((list[MAX_KINDS].kind.as_str(), list[MAX_KINDS].count), ("other", 900));
    }
}
