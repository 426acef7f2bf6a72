//! Recognizes words and questions about time.

/// English words that place something in time, sorted, in the form that [`super::tokenizer`] emits
/// before stemming.
const TIME_WORDS: &[&str] = &[
    "ago",
    "april",
    "august",
    "birthday",
    "century",
    "day",
    "days",
    "decade",
    "december",
    "earlier",
    "evening",
    "february",
    "friday",
    "hour",
    "hours",
    "january",
    "july",
    "june",
    "last",
    "later",
    "march",
    "may",
    "minute",
    "minutes",
    "monday",
    "month",
    "months",
    "morning",
    "next",
    "night",
    "november",
    "october",
    "recently",
    "saturday",
    "september",
    "since",
    "soon",
    "spring",
    "summer",
    "sunday",
    "thursday",
    "today",
    "tomorrow",
    "tonight",
    "tuesday",
    "wednesday",
    "week",
    "weekend",
    "weeks",
    "winter",
    "year",
    "years",
    "yesterday",
];

/// Whether a word places something in time. Years from 1900 to 2099 count, too.
pub(super) fn is_time_word(word: &str) -> bool {
    let is_year = || {
        word.len() == 4
            && word.bytes().all(|byte| byte.is_ascii_digit())
            && ("1900".."2100").contains(&word)
    };
    TIME_WORDS.binary_search(&word).is_ok() || is_year()
}

/// Whether an English question asks when something is, was or will be.
pub(super) fn is_when_question(question: &str) -> bool {
    let question = question.to_lowercase();
    let words: Vec<&str> =
        question.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let has_pair = |pair: [&str; 2]| words.windows(2).any(|found| found == pair);
    words.contains(&"when")
        || has_pair(["how", "long"])
        || has_pair(["what", "time"])
        || words.windows(2).any(|found| {
            matches!(found[0], "what" | "which")
                && matches!(
                    found[1],
                    "date" | "day" | "month" | "season" | "week" | "weekend" | "year"
                )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_words_are_recognized() {
        assert!(TIME_WORDS.is_sorted(), "the list is searched by bisection");
        assert!(
            is_time_word("yesterday")
                && is_time_word("2023")
                && !is_time_word("3500")
                && !is_time_word("home")
        );
        assert!(is_when_question("When did she go?") && is_when_question("In which year was it?"));
        assert!(!is_when_question("What did she do?"));
    }
}
