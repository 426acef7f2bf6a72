//! A set of strings, numbered in the order in which they are added. All texts share one allocation,
//! because an index has millions of short terms.

use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

#[derive(Default)]
pub(super) struct TermTable {
    texts: String,
    /// End of each term in `texts`, by number.
    ends: Vec<u32>,
    numbers: HashTable<u32>,
    /// Seeded at random, so that terms with equal hashes cannot be chosen.
    hasher: RandomState,
}

impl TermTable {
    pub(super) fn find(&self, term: &str) -> Option<u32> {
        let is_term = |number: &u32| term_text(&self.texts, &self.ends, *number) == term;
        self.numbers.find(self.hasher.hash_one(term), is_term).copied()
    }

    /// Adds a term that is not in the table, and returns its number.
    pub(super) fn add(&mut self, term: &str) -> u32 {
        let Self { texts, ends, numbers, hasher } = self;
        let number = ends.len() as u32;
        texts.push_str(term);
        ends.push(texts.len() as u32);
        let hash_of = |number: &u32| hasher.hash_one(term_text(texts, ends, *number));
        numbers.insert_unique(hasher.hash_one(term), number, hash_of);
        number
    }

    /// Memory in bytes, as allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.texts.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.numbers.allocation_size()
    }
}

fn term_text<'a>(texts: &'a str, ends: &[u32], number: u32) -> &'a str {
    let number = number as usize;
    let start = number.checked_sub(1).map_or(0, |previous| ends[previous]);
    &texts[start as usize..ends[number] as usize]
}
