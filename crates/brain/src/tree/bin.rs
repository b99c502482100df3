//! Values of features put into bins of about the same number of examples: where a tree may split. Bin 0 is "not
//! measured".

use super::Examples;

/// Bins of a feature, bin 0 included; a byte holds the number of one.
pub(super) const BINS: usize = 64;
/// Most examples that the edges are taken from.
const LOOKED_AT: usize = 100_000;

/// The examples' features as bins.
pub(super) struct Bins {
    /// For each feature the bin of each example.
    columns: Vec<Vec<u8>>,
    /// For each feature the least value of bin 2 and on.
    edges: Vec<Vec<f32>>,
}

impl Bins {
    pub(super) fn of(examples: &Examples) -> Self {
        let (mut columns, mut edges) = (Vec::new(), Vec::new());
        let step = examples.len().div_ceil(LOOKED_AT).max(1);
        for feature in 0..examples.features {
            let value = |at: usize| examples.values[at * examples.features + feature];
            let mut seen: Vec<f32> =
                (0..examples.len()).step_by(step).map(value).filter(|value| !value.is_nan()).collect();
            let edge = edges_of(&mut seen);
            columns.push((0..examples.len()).map(|at| bin_of(&edge, value(at))).collect());
            edges.push(edge);
        }
        Self { columns, edges }
    }

    pub(super) fn column(&self, feature: usize) -> &[u8] {
        &self.columns[feature]
    }

    /// The least value that is in a bin above `bin`; `None`: there is none.
    pub(super) fn edge_above(&self, feature: usize, bin: usize) -> Option<f32> {
        match bin {
            0 => Some(f32::NEG_INFINITY),
            bin => self.edges[feature].get(bin - 1).copied(),
        }
    }
}

fn edges_of(seen: &mut [f32]) -> Vec<f32> {
    seen.sort_unstable_by(f32::total_cmp);
    // Bins 1 to 63 have 62 edges between them.
    let mut edges: Vec<f32> =
        (1..BINS - 1).filter_map(|part| seen.get(seen.len() * part / (BINS - 1)).copied()).collect();
    edges.dedup();
    // Nothing is below the least value.
    edges.retain(|edge| seen.first() != Some(edge));
    edges
}

fn bin_of(edges: &[f32], value: f32) -> u8 {
    if value.is_nan() {
        return 0;
    }
    // At most 62 edges: fits a byte.
    1 + edges.partition_point(|edge| *edge <= value) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_about_as_many_and_edges_part_them() {
        let mut examples = Examples::new(2);
        for at in 0..1000 {
            let odd = if at % 10 == 0 { f32::NAN } else { 3.0 };
            examples.push(&[at as f32, odd], at % 2 == 0);
        }
        let bins = Bins::of(&examples);
        let mut counts = [0; BINS];
        for bin in bins.column(0) {
            counts[usize::from(*bin)] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| (14..=18).contains(count)), "{counts:?}");
        for at in 0..1000 {
            let bin = usize::from(bins.column(0)[at]);
            assert!(bins.edge_above(0, bin).is_none_or(|edge| (at as f32) < edge));
            assert!(bins.edge_above(0, bin - 1).is_some_and(|edge| at as f32 >= edge));
        }
        assert_eq!(bins.column(1)[0], 0);
        assert_eq!(bins.column(1)[1], 1);
        assert_eq!(bins.edge_above(1, 1), None);
    }
}
