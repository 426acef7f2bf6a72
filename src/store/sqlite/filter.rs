//! The condition of a query that is put together from parts.

use rusqlite::types::Value;
use rusqlite::{ParamsFromIter, params_from_iter};

/// SQL conditions that must all hold, and the values of their parameters in the same order.
#[derive(Debug, Default)]
pub(super) struct SqlFilter {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl SqlFilter {
    pub(super) fn add_condition<const N: usize>(
        &mut self,
        condition: impl Into<String>,
        values: [Value; N],
    ) {
        self.conditions.push(condition.into());
        self.values.extend(values);
    }

    pub(super) fn where_clause(&self) -> String {
        self.conditions.join(" AND ")
    }

    pub(super) fn params(&self) -> ParamsFromIter<&Vec<Value>> {
        params_from_iter(&self.values)
    }
}
