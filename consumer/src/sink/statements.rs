//! The statements of a batch. The transaction's search path finds the tables.

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

pub(super) const PRESENT: &str = "SELECT id FROM product WHERE id = ANY($1)";

pub(super) const UPSERT: &str = "INSERT INTO product
    (id, name, category, price, discount_price, last_updated, source_partition, source_offset)
    SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::numeric[], $5::numeric[], $6::timestamptz[],
        $7::int[], $8::bigint[])
    ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, category = EXCLUDED.category, price = EXCLUDED.price,
        discount_price = EXCLUDED.discount_price, last_updated = EXCLUDED.last_updated,
        source_partition = EXCLUDED.source_partition, source_offset = EXCLUDED.source_offset
    WHERE product.source_partition <> EXCLUDED.source_partition OR product.source_offset < EXCLUDED.source_offset";

pub(super) const DELETE: &str =
    "DELETE FROM product p USING UNNEST($1::bigint[], $2::int[], $3::bigint[]) AS g (id, partition, \"offset\")
    WHERE p.id = g.id AND (p.source_partition <> g.partition OR p.source_offset < g.\"offset\")";

pub(super) const PARK: &str =
    "INSERT INTO product_parked (topic, partition, \"offset\", id, column_name, sqlstate, reason)
    SELECT $1, g.* FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[]) AS g
    ON CONFLICT (topic, partition, \"offset\") DO UPDATE SET column_name = EXCLUDED.column_name,
        sqlstate = EXCLUDED.sqlstate, reason = EXCLUDED.reason, replaced_by = NULL";

/// Marks a parked state of a key as replaced once that state or a later one is stored or parked.
pub(super) const REPLACE: &str = "UPDATE product_parked k SET replaced_by = g.\"offset\"
    FROM UNNEST($2::bigint[], $3::int[], $4::bigint[]) AS g (id, partition, \"offset\")
    WHERE k.topic = $1 AND k.replaced_by IS NULL AND k.id = g.id AND k.partition = g.partition
        AND k.\"offset\" <= g.\"offset\"";

pub(super) const OWED: &str =
    "SELECT k.partition, k.\"offset\", k.id, k.column_name, k.sqlstate, k.reason FROM product_parked k
    JOIN UNNEST($2::int[], $3::bigint[]) AS n (partition, next) ON k.partition = n.partition AND k.\"offset\" < n.next
    WHERE k.topic = $1 AND NOT k.dead_letter ORDER BY k.partition, k.\"offset\"";

pub(super) const COUNT_PARKED: &str = "SELECT count(DISTINCT id) FROM product_parked
    WHERE topic = $1 AND partition = ANY($2) AND replaced_by IS NULL";

pub(super) const COUNT_ALL_PARKED: &str =
    "SELECT count(DISTINCT id) FROM product_parked WHERE topic = $1 AND replaced_by IS NULL";

pub(super) const RETRY: &str = "UPDATE product_offsets o SET next_offset = LEAST(o.next_offset, k.first)
    FROM (SELECT partition, min(\"offset\") AS first FROM product_parked WHERE topic = $1 AND replaced_by IS NULL
        GROUP BY partition) AS k WHERE o.topic = $1 AND o.partition = k.partition";

pub(super) const NOTE_LETTERS: &str = "UPDATE product_parked k SET dead_letter = true
    FROM UNNEST($2::int[], $3::bigint[]) AS g (partition, \"offset\")
    WHERE k.topic = $1 AND k.partition = g.partition AND k.\"offset\" = g.\"offset\"";
