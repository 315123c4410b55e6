//! Writes the parts of an Avro value (specification 1.12, "Binary encoding" and "Logical types").

/// Appends an `int` or a `long`: zigzag, then seven bits a byte, lowest first.
pub fn long(n: i64, out: &mut Vec<u8>) {
    let mut z = ((n << 1) ^ (n >> 63)) as u64;
    if z < 0x80 {
        return out.push(z as u8);
    }
    let len = (70 - z.leading_zeros() as usize) / 7;
    if len > 8 {
        for _ in 1..len {
            out.push(z as u8 | 0x80);
            z >>= 7;
        }
        return out.push(z as u8);
    }
    // All bytes but the last have the highest bit set. Appending eight and then cutting checks the capacity once.
    let more = 0x8080_8080_8080_8080 & ((1 << (8 * (len - 1))) - 1);
    let end = out.len() + len;
    out.extend_from_slice(&(spread(z) | more).to_le_bytes());
    out.truncate(end);
}

/// The low 56 bits, seven to a byte: halves, quarters and eighths move apart.
fn spread(n: u64) -> u64 {
    let n = (n & 0x00ff_ffff_f000_0000) << 4 | n & 0x0000_0000_0fff_ffff;
    let n = (n & 0x0fff_c000_0fff_c000) << 2 | n & 0x0000_3fff_0000_3fff;
    (n & 0x3f80_3f80_3f80_3f80) << 1 | n & 0x007f_007f_007f_007f
}

/// Appends a `bytes` or a `string`: its length, then the bytes.
#[inline]
pub fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Appends a `decimal` on `bytes` by its unscaled number: the shortest two's complement, big-endian; zero is one byte.
#[inline]
pub fn decimal(unscaled: i64, out: &mut Vec<u8>) {
    let bytes = unscaled.to_be_bytes();
    // The number of leading bits that only repeat the sign, without the sign bit.
    let redundant = (unscaled ^ (unscaled >> 63)).leading_zeros() - 1;
    let shortest = &bytes[(redundant / 8) as usize..];
    out.push((shortest.len() as u8) << 1);
    out.extend_from_slice(shortest);
}

/// An integer of up to 255 bits without a sign: room for the 65 digits of MySQL's DECIMAL with 30 more places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wide([u32; 8]);

impl Wide {
    /// Multiplies and adds; bits beyond the width are lost, which 76 digits do not reach.
    pub fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.0 {
            let product = u64::from(*limb) * u64::from(factor) + carry;
            *limb = product as u32;
            carry = product >> 32;
        }
    }

    /// Appends it as a `decimal` on `bytes` with this sign.
    pub fn write(mut self, is_negative: bool, out: &mut Vec<u8>) {
        if is_negative {
            let mut carry = true;
            for limb in &mut self.0 {
                let (sum, overflows) = (!*limb).overflowing_add(u32::from(carry));
                *limb = sum;
                carry = overflows;
            }
        }
        let mut wide = [0_u8; 32];
        for (place, limb) in wide.chunks_exact_mut(4).zip(self.0.iter().rev()) {
            place.copy_from_slice(&limb.to_be_bytes());
        }
        let sign = if wide[0] & 0x80 == 0 { 0 } else { 0xff };
        let redundant = wide.windows(2).take_while(|pair| pair[0] == sign && pair[1] & 0x80 == sign & 0x80).count();
        bytes(&wide[redundant..], out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shortest_twos_complement() {
        for (digits, is_negative, want) in [
            ("0", false, &[2, 0][..]),
            ("0", true, &[2, 0]),
            ("127", false, &[2, 0x7f]),
            ("128", false, &[4, 0, 0x80]),
            ("128", true, &[2, 0x80]),
            ("129", true, &[4, 0xff, 0x7f]),
            ("18446744073709551615", false, &[18, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            let mut wide = Wide::default();
            digits.bytes().for_each(|digit| wide.multiply_add(10, u32::from(digit - b'0')));
            let mut out = Vec::new();
            wide.write(is_negative, &mut out);
            assert_eq!(out, want, "{digits}");
        }
    }

    proptest! {
        #[test]
        fn wide_numbers_are_written_as_small_ones(number: i64) {
            let (mut small, mut large) = (Vec::new(), Vec::new());
            decimal(number, &mut small);
            let mut wide = Wide::default();
            for digit in number.unsigned_abs().to_string().bytes() {
                wide.multiply_add(10, u32::from(digit - b'0'));
            }
            wide.write(number < 0, &mut large);
            prop_assert_eq!(small, large);
        }
    }
}
