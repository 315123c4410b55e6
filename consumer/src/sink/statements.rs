//! The statements of a batch apart from its rows. The transaction's search path finds the tables. The column `key` of
//! `product_parked` is there once a key was no number; `to_jsonb` reads it without naming it.

use super::layout::ParkedKey;

/// A partition's start: its first parked record without a dead letter, else its next offset.
pub(super) const NEXT: &str = "SELECT o.partition, LEAST(o.next_offset, (SELECT min(k.\"offset\") FROM product_parked k
        WHERE k.topic = o.topic AND k.partition = o.partition AND NOT k.dead_letter))
    FROM product_offsets o WHERE o.topic = $1 AND o.partition = ANY($2)";

pub(super) const LOCK: &str = "SELECT o.partition, o.next_offset, EXISTS (SELECT FROM product_parked k
        WHERE k.topic = o.topic AND k.partition = o.partition AND k.replaced_by IS NULL)
    FROM product_offsets o WHERE o.topic = $1 AND o.partition = ANY($2) ORDER BY o.partition FOR UPDATE OF o";

pub(super) const BEGIN_PARTITIONS: &str = "INSERT INTO product_offsets (topic, partition, next_offset)
    SELECT $1, p, 0 FROM UNNEST($2::int[]) AS p ON CONFLICT DO NOTHING";

pub(super) const ADVANCE: &str = "UPDATE product_offsets o SET next_offset = GREATEST(o.next_offset, n.next_offset)
    FROM UNNEST($2::int[], $3::bigint[]) AS n (partition, next_offset) WHERE o.topic = $1 AND o.partition = n.partition";

/// Parks records by this column of the key.
pub(super) fn park(key: ParkedKey) -> String {
    let (column, array) = (key.column(), key.array());
    format!(
        "INSERT INTO product_parked (topic, partition, \"offset\", {column}, column_name, sqlstate, reason)
        SELECT $1, g.*
        FROM UNNEST($2::int[], $3::bigint[], $4::text[]::{array}, $5::text[], $6::text[], $7::text[]) AS g
        ON CONFLICT (topic, partition, \"offset\") DO UPDATE SET column_name = EXCLUDED.column_name,
            sqlstate = EXCLUDED.sqlstate, reason = EXCLUDED.reason, replaced_by = NULL"
    )
}

/// Marks a parked state of a key as replaced once that state or a later one is stored or parked.
pub(super) fn replace(key: ParkedKey) -> String {
    let (column, array) = (key.column(), key.array());
    format!(
        "UPDATE product_parked k SET replaced_by = g.o
        FROM UNNEST($2::text[]::{array}, $3::int[], $4::bigint[]) AS g (k, p, o)
        WHERE k.topic = $1 AND k.replaced_by IS NULL AND k.{column} = g.k AND k.partition = g.p AND k.\"offset\" <= g.o"
    )
}

pub(super) const OWED: &str =
    "SELECT k.partition, k.\"offset\", coalesce(to_jsonb(k) ->> 'key', k.id::text), k.column_name, k.sqlstate, k.reason FROM product_parked k
    JOIN UNNEST($2::int[], $3::bigint[]) AS n (partition, next) ON k.partition = n.partition AND k.\"offset\" < n.next
    WHERE k.topic = $1 AND NOT k.dead_letter ORDER BY k.partition, k.\"offset\"";

pub(super) const COUNT_PARKED: &str =
    "SELECT count(DISTINCT coalesce(to_jsonb(k) ->> 'key', k.id::text)) FROM product_parked k
    WHERE topic = $1 AND partition = ANY($2) AND replaced_by IS NULL";

pub(super) const COUNT_ALL_PARKED: &str = "SELECT count(DISTINCT coalesce(to_jsonb(k) ->> 'key', k.id::text)) FROM product_parked k WHERE topic = $1 AND replaced_by IS NULL";

pub(super) const RETRY: &str = "UPDATE product_offsets o SET next_offset = LEAST(o.next_offset, k.first)
    FROM (SELECT partition, min(\"offset\") AS first FROM product_parked WHERE topic = $1 AND replaced_by IS NULL
        GROUP BY partition) AS k WHERE o.topic = $1 AND o.partition = k.partition";

pub(super) const NOTE_LETTERS: &str = "UPDATE product_parked k SET dead_letter = true
    FROM UNNEST($2::int[], $3::bigint[]) AS g (partition, \"offset\")
    WHERE k.topic = $1 AND k.partition = g.partition AND k.\"offset\" = g.\"offset\"";
