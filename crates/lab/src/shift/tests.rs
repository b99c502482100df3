//! How splices are made and counted.

use super::*;

/// Scores a sample by its CPU.
struct Mirror;

impl Method for Mirror {
    fn fork(&self) -> Box<dyn Method + '_> {
        Box::new(Self)
    }

    fn push(&mut self, usage: &Usage) -> f32 {
        usage.0[0].unwrap_or(f32::NAN)
    }
}

fn series(value: f32, count: usize) -> Vec<Usage> {
    vec![Usage([Some(value), None, None, None, None, None]); count]
}

#[test]
fn a_splice_is_the_rest_of_another_vm_after_the_first_day() {
    let half = vec![series(1.0, 1000), series(2.0, 600), series(3.0, 10)];
    let all = splices(&half, 50, &mut Random::new(1));
    assert!(all[0].len() > 20 && all[1].len() > 20 && all[2].is_empty(), "one is too short");
    for (vm, own) in all.iter().enumerate() {
        assert!(own.is_sorted_by_key(|splice| splice.at));
        for splice in own {
            assert!(splice.at >= REFERENCE_SAMPLES_MIN && splice.at + NOTICED_WITHIN <= half[vm].len());
            assert_eq!(splice.strange.len(), NOTICED_WITHIN);
            assert_ne!(splice.strange[0], half[vm][0], "spliced with itself");
        }
    }
}

#[test]
fn what_was_told_before_the_splice_is_not_counted_for_it() {
    let strange = series(5.0, NOTICED_WITHIN);
    let noticed = |before: &[f32]| {
        let own: Vec<Usage> = before.iter().flat_map(|value| series(*value, 1)).collect();
        let splice = Splice { at: own.len() - 1, strange: &strange };
        let scored = Scored::of(Box::new(Mirror), &own, &[splice]);
        assert_eq!(scored.steady, before);
        scored.noticed(4.0)
    };
    assert_eq!(noticed(&[0.0; 30]), 1);
    let mut alarmed = [0.0; 30];
    alarmed[27] = 9.0;
    assert_eq!(noticed(&alarmed), 0, "quiet since two samples before");
    alarmed[27] = 0.0;
    alarmed[29 - QUIET_SAMPLES] = 9.0;
    assert_eq!(noticed(&alarmed), 1, "no longer quiet");
}
