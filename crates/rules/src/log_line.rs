//! The JSON line that a consumer writes for each record: JSON Lines, one object a record, numbers exact.
//!
//! Fields in this order: `id`, `name`, `category`, `price`, `discount_price`, `last_updated`, `op`, `partition`, `offset`,
//! `source_ts`. A delete has its `id` and nulls. `price` and `discount_price` are JSON numbers with two places, written
//! from the integer of hundredths and never through a float.

use crate::product::Transformed;
use model::product::Price;
use model::time::Micros;

pub use crate::line::Origin;

/// Appends the line of a product, with its newline.
pub fn write(product: &Transformed<'_>, origin: Origin, out: &mut Vec<u8>) {
    number(out, "{\"id\":", product.id);
    text(out, ",\"name\":", product.name);
    text(out, ",\"category\":", product.category);
    price(out, ",\"price\":", product.price);
    price(out, ",\"discount_price\":", product.discount_price);
    time(out, ",\"last_updated\":", product.last_updated);
    tail(out, origin);
}

/// Appends the line of a deleted product, with its newline.
pub fn write_delete(id: i64, origin: Origin, out: &mut Vec<u8>) {
    let gone = Transformed { id, name: None, category: None, price: None, discount_price: None, last_updated: None };
    write(&gone, origin, out);
}

fn tail(out: &mut Vec<u8>, origin: Origin) {
    out.extend_from_slice(b",\"op\":\"");
    out.extend_from_slice(origin.op.letter().as_bytes());
    number(out, "\",\"partition\":", i64::from(origin.partition));
    number(out, ",\"offset\":", origin.offset);
    time(out, ",\"source_ts\":", Some(origin.source_ts));
    out.extend_from_slice(b"}\n");
}

// Inlined, so that the compiler knows the length of each key and copies it with a move or two.
#[inline(always)]
fn number(out: &mut Vec<u8>, key: &str, n: i64) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

#[inline(always)]
fn text(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    out.extend_from_slice(key.as_bytes());
    match value {
        Some(value) if is_plain(value) => {
            out.push(b'"');
            out.extend_from_slice(value.as_bytes());
            out.push(b'"');
        }
        // Writing to memory can't fail, and a string is always valid JSON.
        Some(value) => drop(serde_json::to_writer(&mut *out, value)),
        None => out.extend_from_slice(b"null"),
    }
}

/// Whether JSON writes the text unescaped. All bytes are checked, so the compiler can check many at a time.
fn is_plain(text: &str) -> bool {
    !text.bytes().fold(false, |escaped, b| escaped | (b < b' ') | (b == b'"') | (b == b'\\'))
}

#[inline(always)]
fn price(out: &mut Vec<u8>, key: &str, value: Option<Price>) {
    out.extend_from_slice(key.as_bytes());
    match value {
        Some(price) => {
            let n = price.hundredths();
            if n < 0 {
                out.push(b'-');
            }
            let n = n.unsigned_abs();
            out.extend_from_slice(itoa::Buffer::new().format(n / 100).as_bytes());
            let cents = (n % 100) as u8;
            out.extend_from_slice(&[b'.', b'0' + cents / 10, b'0' + cents % 10]);
        }
        None => out.extend_from_slice(b"null"),
    }
}

#[inline(always)]
fn time(out: &mut Vec<u8>, key: &str, value: Option<Micros>) {
    out.extend_from_slice(key.as_bytes());
    match value {
        Some(t) => {
            out.push(b'"');
            t.write(out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}
