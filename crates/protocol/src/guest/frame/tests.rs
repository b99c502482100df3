//! Any split, any garbage, any sender that dies mid-frame: the decoder finds every whole frame that follows.

use super::*;
use proptest::prelude::*;

const LIMIT: usize = 4096;

fn decoder() -> Decoder<Vec<String>> {
    Decoder::new(LIMIT)
}

fn drain(decoder: &mut Decoder<Vec<String>>) -> Vec<Vec<String>> {
    std::iter::from_fn(|| decoder.next()).filter_map(Result::ok).collect()
}

fn feed(decoder: &mut Decoder<Vec<String>>, data: &[u8], step: usize) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for chunk in data.chunks(step.max(1)) {
        decoder.push(chunk);
        out.extend(drain(decoder));
    }
    out
}

fn message(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

#[test]
fn crc_is_the_well_known_one() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn the_frame_on_the_wire_is_frozen() {
    let frame = encode(&1u8, LIMIT).unwrap();
    assert_eq!(frame, [0xF5, b'P', b'R', 1, 0, 0, 0, 1, 0x83, 0xDC, 0xEF, 0xB7, b'1']);
}

#[test]
fn a_message_over_the_limit_leaves_the_buffer_as_it_was() {
    let mut out = vec![7];
    let error = encode_into(&mut out, &message(&"x".repeat(LIMIT)), LIMIT).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { limit: LIMIT, .. }));
    assert_eq!(out, [7]);
}

#[test]
fn a_sender_that_died_mid_frame_costs_only_that_frame() {
    let whole = encode(&message("whole"), LIMIT).unwrap();
    let long = encode(&message(&"x".repeat(3000)), LIMIT).unwrap();
    for cut in 0..whole.len().min(long.len()) {
        for broken in [&long[..cut], &whole[..cut]] {
            let mut decoder = decoder();
            let stream = [broken, &whole, &whole].concat();
            let mut got = feed(&mut decoder, &stream, 5);
            while decoder.is_mid_frame() {
                decoder.resynchronise();
                got.extend(drain(&mut decoder));
            }
            assert_eq!(got, vec![message("whole"), message("whole")], "cut at {cut}");
        }
    }
}

#[test]
fn a_cut_frame_does_not_wait_for_its_length() {
    let long = encode(&message(&"x".repeat(3000)), LIMIT).unwrap();
    let mut decoder = decoder();
    decoder.push(&long[..100]);
    assert!(decoder.next().is_none());
    decoder.push(&encode(&message("next"), LIMIT).unwrap());
    assert_eq!(drain(&mut decoder), vec![message("next")]);
    assert_eq!(decoder.report(), DecoderReport { frames: 1, broken_frames: 1, dropped_bytes: 100 });
}

#[test]
fn a_whole_frame_without_a_message_is_an_error_and_not_the_end() {
    let mut decoder = decoder();
    decoder.push(&encode(&1u8, LIMIT).unwrap());
    decoder.push(&encode(&message("ok"), LIMIT).unwrap());
    assert!(matches!(decoder.next(), Some(Err(FrameError::Decode { bytes: 1, .. }))));
    assert_eq!(decoder.next().unwrap().unwrap(), message("ok"));
    assert!(decoder.next().is_none());
}

#[test]
fn a_flood_without_reading_stays_bounded() {
    let mut decoder = decoder();
    let frame = encode(&message(&"y".repeat(1000)), LIMIT).unwrap();
    for _ in 0..1000 {
        decoder.push(&frame);
        assert!(decoder.buffer.len() <= 2 * (LIMIT + HEADER_BYTES));
    }
    assert!(!drain(&mut decoder).is_empty());
    assert!(decoder.report().dropped_bytes > 900_000);
}

proptest! {
    #[test]
    fn any_split_gives_the_same_messages(
        texts in proptest::collection::vec(".{0,60}", 0..8),
        step in 1usize..200,
    ) {
        let mut stream = Vec::new();
        for text in &texts {
            encode_into(&mut stream, &message(text), LIMIT).unwrap();
        }
        let got = feed(&mut decoder(), &stream, step);
        prop_assert_eq!(got, texts.iter().map(|t| message(t)).collect::<Vec<_>>());
    }

    #[test]
    fn garbage_between_frames_loses_no_frame(
        parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), ".{0,30}"), 1..6),
        step in 1usize..64,
    ) {
        let mut stream = Vec::new();
        for (garbage, text) in &parts {
            // What looks like the start of a frame is the cut-frame test's business.
            stream.extend(garbage.iter().filter(|b| **b != MAGIC[0]));
            encode_into(&mut stream, &message(text), LIMIT).unwrap();
        }
        let mut decoder = decoder();
        let got = feed(&mut decoder, &stream, step);
        prop_assert_eq!(got, parts.iter().map(|(_, t)| message(t)).collect::<Vec<_>>());
        prop_assert_eq!(decoder.report().frames, parts.len() as u64);
    }

    #[test]
    fn a_flipped_bit_never_gives_a_wrong_message(at in 0usize..60, bit in 0u8..8) {
        let mut stream = encode(&message(&"z".repeat(40)), LIMIT).unwrap();
        let at = at % stream.len();
        stream[at] ^= 1 << bit;
        let mut decoder = decoder();
        decoder.push(&stream);
        prop_assert!(drain(&mut decoder).is_empty());
    }

    #[test]
    fn any_bytes_are_survived_and_accounted_for(
        data in proptest::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(MAGIC[0]), 1 => Just(b'P'), 1 => Just(0)], 0..3000),
        step in 1usize..300,
    ) {
        let mut decoder = decoder();
        let got = feed(&mut decoder, &data, step);
        decoder.reset();
        let report = decoder.report();
        prop_assert_eq!(report.frames as usize >= got.len(), true);
        if report.frames == 0 {
            prop_assert_eq!(report.dropped_bytes as usize, data.len());
        }
    }
}
