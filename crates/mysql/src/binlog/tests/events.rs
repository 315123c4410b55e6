//! Builds the bodies of table map and rows events.

/// A table map of `db.t`, whose id is 1 and whose columns are a, b, c, ….
#[derive(Debug, Clone, Default)]
pub(super) struct TableMap {
    types: Vec<u8>,
    type_metadata: Vec<u8>,
    nullable: u8,
    fields: Vec<u8>,
    nameless: bool,
}

impl TableMap {
    pub(super) fn column(mut self, column_type: u8, metadata: &[u8]) -> Self {
        self.types.push(column_type);
        self.type_metadata.extend(metadata);
        self
    }

    /// A field of the optional metadata.
    pub(super) fn field(mut self, kind: u8, value: &[u8]) -> Self {
        self.fields.extend([kind, u8::try_from(value.len()).unwrap()]);
        self.fields.extend(value);
        self
    }

    pub(super) fn signs(self, unsigned: &[u8]) -> Self {
        self.field(1, unsigned)
    }

    pub(super) fn collations(self, ids: &[u16]) -> Self {
        self.field(3, &lenenc(ids))
    }

    /// The labels of one ENUM (6) or SET (5) column.
    pub(super) fn labels(self, kind: u8, collation: u16, labels: &[&str]) -> Self {
        let mut value = vec![u8::try_from(labels.len()).unwrap()];
        for label in labels {
            value.push(u8::try_from(label.len()).unwrap());
            value.extend(label.bytes());
        }
        self.field(kind, &value).field(11, &lenenc(&[collation]))
    }

    pub(super) fn nullable(mut self, bits: u8) -> Self {
        self.nullable = bits;
        self
    }

    pub(super) fn without_names(mut self) -> Self {
        self.nameless = true;
        self
    }

    /// Replaces the columns by any bytes.
    pub(super) fn tail(mut self, bytes: &[u8]) -> Self {
        self.fields.extend(bytes);
        self
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = vec![1, 0, 0, 0, 0, 0, 1, 0];
        body.extend(b"\x02db\0\x01t\0");
        body.push(u8::try_from(self.types.len()).unwrap());
        body.extend(&self.types);
        body.push(u8::try_from(self.type_metadata.len()).unwrap());
        body.extend(&self.type_metadata);
        if !self.types.is_empty() {
            body.push(self.nullable);
        }
        if !self.nameless && !self.types.is_empty() {
            body.extend([4, u8::try_from(2 * self.types.len()).unwrap()]);
            body.extend((b'a'..).take(self.types.len()).flat_map(|name| [1, name]));
        }
        body.extend(&self.fields);
        body
    }
}

fn lenenc(numbers: &[u16]) -> Vec<u8> {
    let encode = |number: &u16| match u8::try_from(*number) {
        Ok(small @ ..=250) => vec![small],
        _ => [&[252], &number.to_le_bytes()[..]].concat(),
    };
    numbers.iter().flat_map(encode).collect()
}

/// A rows event of table 1 with at most 8 columns, the last of its statement.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) version: u8,
    pub(super) before: Option<u8>,
    pub(super) after: Option<u8>,
    pub(super) columns: u8,
    pub(super) rows: Vec<u8>,
}

impl Event {
    /// An insert, version 2, with all columns.
    pub(super) fn insert(columns: u8, rows: &[&[u8]]) -> Self {
        Self { version: 2, before: None, after: Some(0xff), columns, rows: rows.concat() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = vec![1, 0, 0, 0, 0, 0, 1, 0];
        if self.version == 2 {
            body.extend([2, 0]);
        }
        body.push(self.columns);
        body.extend(self.before);
        body.extend(self.after);
        body.extend(&self.rows);
        body
    }
}
