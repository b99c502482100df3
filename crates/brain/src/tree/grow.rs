//! Grows one tree, leaf by leaf, where it gains most.

use super::bin::{BINS, Bins};
use super::{Node, Training};

/// Sums over the examples of one bin: slope, curvature, how many.
type Sum = (f64, f64, u32);

/// What a tree grows on.
pub(super) struct Ground<'a> {
    pub(super) bins: &'a Bins,
    /// First and second derivative of each example's loss.
    pub(super) slopes: &'a [(f64, f64)],
    /// Features that may be asked for.
    pub(super) features: &'a [usize],
    pub(super) training: &'a Training,
}

#[derive(Debug, Clone, Copy)]
struct Best {
    gain: f64,
    feature: usize,
    bin: usize,
    below: f32,
}

/// A tree of twice as many nodes can still number them in 16 bits.
const LEAVES_MAX: usize = 1 << 15;

struct Leaf {
    node: usize,
    rows: Vec<u32>,
    /// One histogram after the other, in the order of the features.
    sums: Vec<Sum>,
    best: Option<Best>,
}

impl Ground<'_> {
    fn sums(&self, rows: &[u32]) -> Vec<Sum> {
        let mut sums = vec![(0.0, 0.0, 0); self.features.len() * BINS];
        for (feature, sums) in self.features.iter().zip(sums.chunks_exact_mut(BINS)) {
            let column = self.bins.column(*feature);
            for row in rows {
                let (slope, curve) = self.slopes[*row as usize];
                let sum = &mut sums[usize::from(column[*row as usize])];
                *sum = (sum.0 + slope, sum.1 + curve, sum.2 + 1);
            }
        }
        sums
    }

    fn total(&self, rows: &[u32]) -> (f64, f64) {
        rows.iter().map(|row| self.slopes[*row as usize]).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    fn worth(&self, slope: f64, curve: f64) -> f64 {
        slope * slope / (curve + self.training.pull)
    }

    fn best(&self, rows: &[u32], sums: &[Sum]) -> Option<Best> {
        let (slope, curve) = self.total(rows);
        let whole = self.worth(slope, curve);
        let mut best: Option<Best> = None;
        for (feature, sums) in self.features.iter().zip(sums.chunks_exact(BINS)) {
            let (mut left, mut count) = ((0.0, 0.0), 0);
            for (bin, sum) in sums.iter().enumerate() {
                left = (left.0 + sum.0, left.1 + sum.1);
                count += sum.2 as usize;
                if count < self.training.leaf_examples {
                    continue;
                }
                if rows.len() - count < self.training.leaf_examples {
                    break;
                }
                let right = (slope - left.0, curve - left.1);
                let gain = self.worth(left.0, left.1) + self.worth(right.0, right.1) - whole;
                // Too little is what rounding makes of nothing.
                if gain > 1e-6
                    && best.is_none_or(|best| gain > best.gain)
                    && let Some(below) = self.bins.edge_above(*feature, bin)
                {
                    best = Some(Best { gain, feature: *feature, bin, below });
                }
            }
        }
        best
    }

    fn leaf(&self, node: usize, rows: Vec<u32>, sums: Vec<Sum>) -> Leaf {
        let best = self.best(&rows, &sums);
        Leaf { node, rows, sums, best }
    }

    /// What these examples are to be moved by, by their slopes alone.
    pub(super) fn step(&self, rows: &[u32]) -> f32 {
        let (slope, curve) = self.total(rows);
        (-slope / (curve + self.training.pull) * self.training.rate) as f32
    }

    /// The two leaves that a leaf becomes.
    fn split(&self, leaf: Leaf, best: Best, nodes: [usize; 2]) -> [Leaf; 2] {
        let column = self.bins.column(best.feature);
        let (left, right): (Vec<u32>, Vec<u32>) =
            leaf.rows.iter().partition(|row| usize::from(column[**row as usize]) <= best.bin);
        // The smaller one is counted; the larger one is the rest.
        let small = self.sums(if left.len() <= right.len() { &left } else { &right });
        let large =
            leaf.sums.iter().zip(&small).map(|(all, part)| (all.0 - part.0, all.1 - part.1, all.2 - part.2));
        let large: Vec<Sum> = large.collect();
        let (left_sums, right_sums) = if left.len() <= right.len() { (small, large) } else { (large, small) };
        [self.leaf(nodes[0], left, left_sums), self.leaf(nodes[1], right, right_sums)]
    }
}

/// A tree on these examples; `value` says what a leaf of some of them adds.
pub(super) fn grow(ground: &Ground<'_>, rows: Vec<u32>, value: impl Fn(&[u32]) -> f32) -> Vec<Node> {
    let sums = ground.sums(&rows);
    let mut nodes = vec![Node::Leaf(0.0)];
    let mut leaves = vec![ground.leaf(0, rows, sums)];
    while leaves.len() < ground.training.leaves.min(LEAVES_MAX) {
        let gains = leaves.iter().enumerate().filter_map(|(at, leaf)| Some((at, leaf.best?)));
        // The first of equals, so that it is the same each time.
        let next = gains.reduce(|a, b| if b.1.gain > a.1.gain { b } else { a });
        let Some((at, best)) = next else { break };
        let leaf = leaves.swap_remove(at);
        let (node, left) = (leaf.node, nodes.len());
        nodes.extend([Node::Leaf(0.0); 2]);
        // Both fit 16 bits: `learn` checks the one, `LEAVES_MAX` the other.
        nodes[node] = Node::Split {
            feature: best.feature as u16,
            below: best.below,
            left: left as u16,
            right: left as u16 + 1,
        };
        leaves.extend(ground.split(leaf, best, [left, left + 1]));
    }
    for leaf in &leaves {
        nodes[leaf.node] = Node::Leaf(value(&leaf.rows));
    }
    nodes
}
