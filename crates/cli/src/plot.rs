//! Plots for a terminal: one line of bars. Must never draw what was not measured: a gap is a space.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line of `width` bars, oldest first: each the largest of its part of the values, against the largest of all. What
/// is missing is a space; where there are fewer values than bars, each has one.
pub fn line(values: &[Option<f32>], width: usize) -> String {
    let top = values.iter().flatten().copied().fold(0.0f32, f32::max);
    let count = values.len().min(width);
    let bar = |index: usize| {
        let (begin, end) = (index * values.len() / count, (index + 1) * values.len() / count);
        let value = values[begin..end].iter().flatten().copied().reduce(f32::max);
        value.map_or(' ', |value| {
            let level = if top > 0.0 { value / top * (BARS.len() - 1) as f32 } else { 0.0 };
            BARS[(level.round() as usize).min(BARS.len() - 1)]
        })
    };
    (0..count).map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn each_bar_is_the_largest_of_its_part_and_a_gap_is_a_gap() {
        let ramp: Vec<Option<f32>> = (0..8).map(|value| Some(value as f32)).collect();
        assert_eq!(line(&ramp, 80), "▁▂▃▄▅▆▇█");
        assert_eq!(line(&ramp, 4), "▂▄▆█");
        assert_eq!(line(&[Some(1.0), None, Some(2.0)], 80), "▅ █");
        assert_eq!(line(&[Some(0.0), Some(0.0)], 80), "▁▁");
        assert_eq!(line(&[None, None], 80), "  ");
        assert_eq!(line(&[], 80), "");
    }
}
