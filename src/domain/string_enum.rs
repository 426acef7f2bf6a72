//! Enums whose variants have a name, used both in JSON and in stores.

/// Implements the conversion between an enum and the names of its variants.
macro_rules! string_enum {
    ($type:ty { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $type {
            /// The name used in JSON and in stores.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The variant of that name.
            pub fn from_name(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

pub(crate) use string_enum;
