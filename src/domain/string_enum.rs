//! Enums whose variants have a name, used in JSON, in stores and on the command line.

/// Implements the conversion between an enum and the names of its variants.
macro_rules! string_enum {
    ($type:ty { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $type {
            /// Every variant with its name.
            pub const NAMES: &[(&str, Self)] = &[$(($word, Self::$variant)),*];

            /// The name used in JSON, in stores and on the command line.
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
