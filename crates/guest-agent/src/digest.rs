//! SipHash-2-4 with 128 bits of result (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): a digest with a key,
//! by which two contents are told apart and nothing is learned of either by who lacks the key. Must never be taken for a
//! digest that somebody who has the key cannot forge.

/// A digest with a key, fed in parts.
pub struct Digest {
    state: [u64; 4],
    /// Bytes that do not fill a word yet.
    rest: [u8; 8],
    length: usize,
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

impl Digest {
    /// With a key.
    pub fn new([k0, k1]: [u64; 2]) -> Self {
        let state = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Self { state, rest: [0; 8], length: 0 }
    }

    fn word(&mut self, word: u64) {
        self.state[3] ^= word;
        round(&mut self.state);
        round(&mut self.state);
        self.state[0] ^= word;
    }

    /// Goes on with these bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.rest[self.length % 8] = *byte;
            self.length += 1;
            if self.length.is_multiple_of(8) {
                self.word(u64::from_le_bytes(self.rest));
            }
        }
    }

    /// The digest.
    pub fn close(mut self) -> u128 {
        let left = self.length % 8;
        self.rest[left..].fill(0);
        // The last byte is the length, modulo 256.
        self.rest[7] = self.length.to_le_bytes()[0];
        self.word(u64::from_le_bytes(self.rest));
        self.state[2] ^= 0xee;
        (0..4).for_each(|_| round(&mut self.state));
        let low = self.state[0] ^ self.state[1] ^ self.state[2] ^ self.state[3];
        self.state[1] ^= 0xdd;
        (0..4).for_each(|_| round(&mut self.state));
        let high = self.state[0] ^ self.state[1] ^ self.state[2] ^ self.state[3];
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The digest of a whole.
pub fn digest(key: [u64; 2], bytes: &[u8]) -> u128 {
    let mut digest = Digest::new(key);
    digest.add(bytes);
    digest.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The authors' key, 00 01 … 0f, and the first of their results for 00 01 … of each length.
    #[test]
    fn it_is_what_its_authors_publish() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let text = |bytes: &[u8]| {
            let digest = digest(key, bytes).to_le_bytes();
            digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(text(&[]), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(text(&[0]), "da87c1d86b99af44347659119b22fc45");
        assert_eq!(text(&[0, 1]), "8177228da4a45dc7fca38bdef60affe4");
    }

    proptest! {
        #[test]
        fn parts_and_the_whole_agree_and_a_flipped_bit_shows(
            bytes in prop::collection::vec(any::<u8>(), 1..200),
            cut in 0..200usize,
            bit in 0..8u32,
        ) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut parts = Digest::new([1, 2]);
            parts.add(first);
            parts.add(second);
            prop_assert_eq!(parts.close(), digest([1, 2], &bytes));
            let mut flipped = bytes.clone();
            let at = cut % bytes.len();
            flipped[at] ^= 1 << bit;
            prop_assert_ne!(digest([1, 2], &flipped), digest([1, 2], &bytes));
            prop_assert_ne!(digest([1, 3], &bytes), digest([1, 2], &bytes));
        }
    }
}
