//! Hands the messages of an import to the store in chunks.

use super::import_notes::ImportNotes;
use super::lenient_values::join_place;
use crate::domain::{Principal, Timestamp};
use crate::error::Result;
use crate::store::{
    ImportDraft, ImportEnd, ImportOutcome, ImportTarget, MAX_CHUNK_BYTES, MAX_CHUNK_MESSAGES,
    MessageParent, NewMessage, Store, UnknownReferences,
};
use tokio::runtime::Handle;

/// An import of a session that has begun in the store.
pub(super) struct DraftWriter<'a> {
    store: &'a dyn Store,
    runtime: &'a Handle,
    draft: ImportDraft,
    messages: Vec<(NewMessage, MessageParent)>,
    /// Paths of the messages in the file.
    places: Vec<String>,
    bytes: usize,
}

impl<'a> DraftWriter<'a> {
    /// `runtime` is the one that the store runs on.
    pub(super) fn begin(
        store: &'a dyn Store,
        runtime: &'a Handle,
        principal: &Principal,
        target: ImportTarget,
        now: Timestamp,
    ) -> Result<Self> {
        let draft = runtime.block_on(store.begin_import(principal, target, now))?;
        Ok(Self { store, runtime, draft, messages: Vec::new(), places: Vec::new(), bytes: 0 })
    }

    /// Adds a message. One whose parent is unknown becomes a root, which is noted.
    pub(super) fn push(
        &mut self,
        message: NewMessage,
        parent: MessageParent,
        place: String,
        mended: &mut ImportNotes,
    ) -> Result<()> {
        self.bytes += message.body.content.len() + message.body.parts.as_json().len();
        self.messages.push((message, parent));
        self.places.push(place);
        if self.messages.len() >= MAX_CHUNK_MESSAGES || self.bytes >= MAX_CHUNK_BYTES {
            return self.flush(mended);
        }
        Ok(())
    }

    fn flush(&mut self, mended: &mut ImportNotes) -> Result<()> {
        let messages = std::mem::take(&mut self.messages);
        let places = std::mem::take(&mut self.places);
        self.bytes = 0;
        if messages.is_empty() {
            return Ok(());
        }
        let added = self.store.add_to_import(&mut self.draft, messages);
        for orphan in self.runtime.block_on(added)? {
            if let Some(place) = places.get(orphan) {
                mended.add("parentId", &join_place(place, "parentId"));
            }
        }
        Ok(())
    }

    pub(super) fn finish(
        mut self,
        end: ImportEnd,
        now: Timestamp,
        mended: &mut ImportNotes,
    ) -> Result<(ImportOutcome, UnknownReferences)> {
        if let Err(error) = self.flush(mended) {
            self.discard();
            return Err(error);
        }
        self.runtime.block_on(self.store.finish_import(self.draft, end, now))
    }

    pub(super) fn discard(self) {
        self.runtime.block_on(self.store.discard_import(self.draft));
    }
}
