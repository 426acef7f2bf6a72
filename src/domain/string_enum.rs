//! Enums that have a word for each variant: the same in JSON and in stores.

/// Spells an enum the way its JSON does, for stores that keep words.
macro_rules! string_enum {
    ($type:ty { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $type {
            /// The word used in JSON and in stores.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// Reads that word back; `None` for any other.
            pub fn from_name(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

pub(crate) use string_enum;
