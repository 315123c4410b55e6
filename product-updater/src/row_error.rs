//! Recognises errors of MySQL that one row causes, so that the row is rejected and the others are applied.
//!
//! By SQLSTATE: class 22 (data), 23 (integrity: unique keys, foreign keys, NULL) and 45 (SIGNAL of a trigger); and by
//! the error number for those with SQLSTATE HY000. No row causes other errors, such as a missing right or a full disk.
//! Source: reference manual, "Server Error Message Reference".

/// Why the table refuses a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowError {
    /// The column in MySQL's message; empty when it has none.
    pub(crate) column: String,
    /// MySQL's reason.
    pub(crate) reason: String,
}

/// Truncated, invalid or wrong text, no default, no partition for the value, SIGNAL, CHECK, text that the column's
/// character set can't represent.
const OF_A_ROW: [u16; 10] = [1265, 1300, 1364, 1366, 1526, 1644, 1748, 3819, 3854, 3988];

impl RowError {
    /// `None` when no row causes the error.
    pub(crate) fn of(error: &mysql_async::Error) -> Option<Self> {
        let mysql_async::Error::Server(e) = error else { return None };
        let by_state = ["22", "23", "45"].iter().any(|class| e.state.starts_with(class));
        (by_state || OF_A_ROW.contains(&e.code)).then(|| Self::from(&e.message, e.code))
    }

    /// From the server's message and number.
    pub(crate) fn from(message: &str, code: u16) -> Self {
        // The row number is dropped, as the row is the only one of its statement.
        let message = message.split(" at row ").next().unwrap_or_default();
        let named = ["olumn '", "Field '"].iter().find_map(|before| message.split_once(before)?.1.split('\'').next());
        let reason = format!("the table refuses the row: {message} (MySQL error {code})");
        Self { column: named.unwrap_or_default().to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_async::ServerError;

    #[test]
    fn only_what_one_row_is_to_blame_for() {
        let error = |code, state: &str, message: &str| {
            mysql_async::Error::Server(ServerError { code, state: state.to_owned(), message: message.to_owned() })
        };
        for (code, state, message, column) in [
            (1062, "23000", "Duplicate entry 'mug' for key 'product.uk'", Some("")),
            (1406, "22001", "Data too long for column 'name' at row 7", Some("name")),
            (1366, "HY000", "Incorrect string value: '\\xE2\\x98\\x83' for column 'name' at row 1", Some("name")),
            (1364, "HY000", "Field 'sku' doesn't have a default value", Some("sku")),
            (3819, "HY000", "Check constraint 'cheap' is violated.", Some("")),
            (1644, "45000", "not on Sundays", Some("")),
            (1644, "ABCDE", "not on Sundays", Some("")),
            (1452, "23000", "Cannot add or update a child row: a foreign key constraint fails", Some("")),
            (1142, "42000", "INSERT command denied to user", None),
            (1146, "42S02", "Table 'x.product' doesn't exist", None),
            (1114, "HY000", "The table 'product' is full", None),
            (1205, "HY000", "Lock wait timeout exceeded", None),
            (1213, "40001", "Deadlock found", None),
            (1290, "HY000", "The MySQL server is running with the --read-only option", None),
        ] {
            let got = RowError::of(&error(code, state, message));
            assert_eq!(got.as_ref().map(|r| r.column.as_str()), column, "{message}");
            assert!(got.is_none_or(|r| !r.reason.contains("at row")));
        }
    }
}
