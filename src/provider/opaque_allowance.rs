//! The bound on data of a reply that only its provider understands, such as signatures. It does not
//! show in the events of the reply until a call needs it, so the parsers count it themselves.

use super::MAX_REPLY_BYTES;

/// Bytes that a parser may still collect for one reply.
#[derive(Debug)]
pub(in crate::provider) struct OpaqueAllowance(usize);

impl Default for OpaqueAllowance {
    fn default() -> Self {
        Self(MAX_REPLY_BYTES)
    }
}

impl OpaqueAllowance {
    /// Whether data of this size may be collected. After the first refusal all data is refused: an
    /// incomplete signature is of no use.
    pub(in crate::provider) fn take(&mut self, bytes: usize) -> bool {
        if self.is_spent() {
            return false;
        }
        self.0 = self.0.saturating_sub(bytes);
        if self.is_spent() {
            tracing::warn!(
                limit_bytes = MAX_REPLY_BYTES,
                "data that the provider wants back is too large, dropped"
            );
        }
        !self.is_spent()
    }

    pub(in crate::provider) const fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_data_is_refused_after_the_first_refusal() {
        let mut allowance = OpaqueAllowance::default();
        assert!(allowance.take(MAX_REPLY_BYTES - 1));
        assert!(!allowance.take(MAX_REPLY_BYTES));
        assert!(allowance.is_spent() && !allowance.take(0));
    }
}
