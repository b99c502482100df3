//! Frames: magic, length, CRC-32, JSON. Must never panic, grow without limit, or wait for the rest of a frame
//! whose sender died in the middle of it.
//!
//! ```text
//! +------------------+-----------------+-----------------+----------------+
//! | F5 'P' 'R' 01    | length, u32 BE  | CRC-32, u32 BE  | payload, JSON  |
//! +------------------+-----------------+-----------------+----------------+
//! ```
//!
//! The byte F5 never occurs in UTF-8, and so never in a payload. When it turns up where a payload should be, the
//! frame before it was cut short, and the decoder looks for the next magic at once instead of waiting.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// First bytes of each frame. The last is the version of the framing itself.
pub const MAGIC: [u8; 4] = [0xF5, b'P', b'R', 0x01];

/// Magic, length and checksum: 4 + 4 + 4.
pub const HEADER_BYTES: usize = 12;

/// Why a message could not be put into, or taken out of, a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message does not fit.
    #[error("message of {bytes} bytes is larger than the channel's limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What the other side takes.
        limit: usize,
    },
    /// The message cannot be written as JSON.
    #[error("write a message as JSON")]
    Encode(#[source] serde_json::Error),
    /// The frame was whole, but what was in it is not a message.
    #[error("read a message from a frame of {bytes} bytes")]
    Decode {
        /// Size of the payload.
        bytes: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            // 0xEDB88320: the polynomial of IEEE 802.3, bits reversed.
            value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// CRC-32 as in IEEE 802.3.
pub fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// Appends `message` to `out` as one frame; on error `out` is as it was. Reuse `out` to save allocations.
pub fn encode_into<T: Serialize>(out: &mut Vec<u8>, message: &T, limit: usize) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    if let Err(source) = serde_json::to_writer(&mut *out, message) {
        out.truncate(start);
        return Err(FrameError::Encode(source));
    }
    let bytes = out.len() - start - HEADER_BYTES;
    if bytes > limit {
        out.truncate(start);
        return Err(FrameError::TooLarge { bytes, limit });
    }
    let crc = crc32(&out[start + HEADER_BYTES..]);
    // `bytes` is at most `limit`, which is far below 2^32 on both sides.
    let length = bytes as u32;
    out[start..start + 4].copy_from_slice(&MAGIC);
    out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
    out[start + 8..start + 12].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// `message` as one frame.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    encode_into(&mut out, message, limit)?;
    Ok(out)
}

/// What a decoder met so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecoderReport {
    /// Whole frames with a right checksum.
    pub frames: u64,
    /// Frames that were cut short, too long, or had a wrong checksum.
    pub broken_frames: u64,
    /// Bytes thrown away while looking for the next frame.
    pub dropped_bytes: u64,
}

/// Takes bytes as they come and gives back messages. It holds at most `2 × (limit + 12)` bytes: what a caller
/// pushes beyond that without calling [`Decoder::next`] is dropped from the front, and counted.
#[derive(Debug)]
pub struct Decoder<T> {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that are already done with.
    consumed: usize,
    /// How many payload bytes of the frame at the front were searched for F5.
    searched: usize,
    limit: usize,
    report: DecoderReport,
    message: PhantomData<fn() -> T>,
}

enum Front {
    Incomplete,
    Broken,
    Payload { start: usize, end: usize },
}

impl<T: DeserializeOwned> Decoder<T> {
    /// A decoder that takes payloads of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            consumed: 0,
            searched: 0,
            limit,
            report: DecoderReport::default(),
            message: PhantomData,
        }
    }

    /// What it met so far.
    pub fn report(&self) -> DecoderReport {
        self.report
    }

    /// Whether a frame has begun and not ended.
    pub fn is_mid_frame(&self) -> bool {
        self.consumed < self.buffer.len()
    }

    /// Forgets what is buffered, counting it as dropped: for a peer that went away.
    pub fn reset(&mut self) {
        self.report.dropped_bytes += (self.buffer.len() - self.consumed) as u64;
        self.buffer.clear();
        self.consumed = 0;
        self.searched = 0;
    }

    /// Gives up the frame that has begun and looks for the next one: for a frame whose end does not come.
    pub fn resynchronise(&mut self) {
        if self.is_mid_frame() {
            self.report.broken_frames += 1;
            self.drop_front(1);
        }
    }

    /// Adds bytes. Call [`Decoder::next`] until it gives `None` after each push.
    pub fn push(&mut self, data: &[u8]) {
        let room = 2 * (self.limit + HEADER_BYTES);
        let data = if data.len() > room {
            self.report.dropped_bytes += (data.len() - room) as u64;
            &data[data.len() - room..]
        } else {
            data
        };
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        let over = (self.buffer.len() + data.len()).saturating_sub(room);
        if over > 0 {
            self.buffer.drain(..over);
            self.searched = 0;
            self.report.dropped_bytes += over as u64;
        }
        self.buffer.extend_from_slice(data);
    }

    /// The next message; an error is a whole frame that held no message, and does not end the stream.
    #[allow(clippy::should_implement_trait, reason = "an iterator would have to borrow across push")]
    pub fn next(&mut self) -> Option<Result<T, FrameError>> {
        loop {
            if !self.seek_magic() {
                return None;
            }
            match self.front() {
                Front::Incomplete => return None,
                Front::Broken => {
                    self.report.broken_frames += 1;
                    self.drop_front(1);
                }
                Front::Payload { start, end } => {
                    let result = serde_json::from_slice(&self.buffer[start..end])
                        .map_err(|source| FrameError::Decode { bytes: end - start, source });
                    self.report.frames += 1;
                    self.consume(end - self.consumed);
                    return Some(result);
                }
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes;
        self.searched = 0;
        if self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
            // One large message must not hold its memory for ever.
            self.buffer.shrink_to(64 * 1024);
        }
    }

    fn drop_front(&mut self, bytes: usize) {
        self.report.dropped_bytes += bytes as u64;
        self.consume(bytes);
    }

    /// Drops bytes until the buffer begins with a magic or with what may become one. False: nothing is left.
    fn seek_magic(&mut self) -> bool {
        loop {
            let rest = &self.buffer[self.consumed..];
            let Some(skip) = rest.iter().position(|b| *b == MAGIC[0]) else {
                let all = rest.len();
                self.drop_front(all);
                return false;
            };
            if skip > 0 {
                self.drop_front(skip);
            }
            let rest = &self.buffer[self.consumed..];
            let have = rest.len().min(MAGIC.len());
            if rest[..have] == MAGIC[..have] {
                return true;
            }
            self.drop_front(1);
        }
    }

    /// What stands at the front of the buffer, which begins with (a part of) a magic.
    fn front(&mut self) -> Front {
        let rest = &self.buffer[self.consumed..];
        let (Some(length), Some(crc)) = (read_u32(rest, 4), read_u32(rest, 8)) else {
            return match read_u32(rest, 4) {
                Some(length) if length as usize > self.limit => Front::Broken,
                _ => Front::Incomplete,
            };
        };
        let length = length as usize;
        if length > self.limit {
            return Front::Broken;
        }
        let payload = &rest[HEADER_BYTES..rest.len().min(HEADER_BYTES + length)];
        if payload[self.searched..].contains(&MAGIC[0]) {
            return Front::Broken;
        }
        self.searched = payload.len();
        if payload.len() < length {
            return Front::Incomplete;
        }
        if crc32(payload) != crc {
            return Front::Broken;
        }
        let start = self.consumed + HEADER_BYTES;
        Front::Payload { start, end: start + length }
    }
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests;
