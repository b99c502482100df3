//! A metric over the time of a page: columns that a plot can show, with what was not measured left open. Must never
//! bridge a gap.

use super::axis::Span;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{BucketView, HistoryView};

/// What a metric was over a column of a plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Which column.
    pub column: u64,
    /// The least.
    pub min: f32,
    /// The mean.
    pub mean: f32,
    /// The most.
    pub max: f32,
}

/// A metric over the time of a page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// Columns that were measured, in runs without a gap.
    pub runs: Vec<Vec<Point>>,
    /// Over all of it: the least, the mean and the most; `None`: nothing was measured.
    pub overall: Option<(f32, f32, f32)>,
}

/// The columns of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns {
    /// The time that they share.
    pub span: Span,
    /// Length of each, ms: one step of the history or some.
    pub each: u64,
    /// How many.
    pub count: u64,
}

impl Columns {
    /// Columns, `most` of them at most, for steps of `step_s` from the first that is known to `until`, but at least one.
    pub fn new(step_s: u64, first: UnixMillis, until: UnixMillis, most: u64) -> Self {
        let step = step_s.max(1) * 1000;
        let begin = first.0 - first.0 % step;
        let steps = until.0.saturating_sub(begin).div_ceil(step).max(1);
        let each = steps.div_ceil(most.max(1)) * step;
        let count = (steps * step).div_ceil(each);
        // They end with the last step; what is too much is before the first.
        let begin = (begin + steps * step).saturating_sub(count * each);
        Self { span: Span { begin, end: begin + count * each }, each, count }
    }

    fn of(&self, at: UnixMillis) -> Option<u64> {
        let column = at.0.checked_sub(self.span.begin)? / self.each;
        (column < self.count).then_some(column)
    }
}

/// A column in the making: how many readings, the least, the sum, the most.
#[derive(Clone, Copy)]
struct Open {
    column: u64,
    readings: f64,
    min: f32,
    sum: f64,
    max: f32,
}

impl Open {
    fn close(self) -> Point {
        let mean = (self.sum / self.readings) as f32;
        Point { column: self.column, min: self.min, mean, max: self.max }
    }
}

/// A metric of a history in columns.
pub(super) fn series(view: &HistoryView, metric: &str, columns: &Columns) -> Series {
    let mut points: Vec<Open> = Vec::new();
    for bucket in &view.buckets {
        let Some((column, summary, readings)) = known(bucket, metric, columns) else { continue };
        let part =
            Open { column, readings, min: summary.0, sum: f64::from(summary.1) * readings, max: summary.2 };
        match points.last_mut().filter(|last| last.column == column) {
            Some(last) => {
                *last = Open {
                    column,
                    readings: last.readings + part.readings,
                    min: last.min.min(part.min),
                    sum: last.sum + part.sum,
                    max: last.max.max(part.max),
                };
            }
            None => points.push(part),
        }
    }
    let overall = points.iter().copied().reduce(|all, one| Open {
        column: 0,
        readings: all.readings + one.readings,
        min: all.min.min(one.min),
        sum: all.sum + one.sum,
        max: all.max.max(one.max),
    });
    let overall = overall.map(Open::close).map(|all| (all.min, all.mean, all.max));
    let mut runs: Vec<Vec<Point>> = Vec::new();
    for point in points.into_iter().map(Open::close) {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.column + 1 == point.column) => run.push(point),
            _ => runs.push(vec![point]),
        }
    }
    Series { runs, overall }
}

type Known = (u64, (f32, f32, f32), f64);

fn known(bucket: &BucketView, metric: &str, columns: &Columns) -> Option<Known> {
    let column = columns.of(bucket.begins_at)?;
    let summary = bucket.values.get(metric)?;
    let values = (summary.min, summary.mean, summary.max);
    let finite = [values.0, values.1, values.2].iter().all(|value| value.is_finite() && *value >= 0.0);
    finite.then(|| (column, values, f64::from(bucket.readings.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn view(steps: &[(u64, f32)]) -> HistoryView {
        let bucket = |(step, value): &(u64, f32)| {
            json!({"begins_at": step * 60_000, "readings": 60, "values": {"cpu":
                {"min": value / 2.0, "p50": value, "p95": value, "max": value * 2.0, "mean": value}}})
        };
        let buckets: Vec<_> = steps.iter().map(bucket).collect();
        from_value(json!({"step_s": 60, "damaged": 0, "units": {"cpu": "m"}, "buckets": buckets})).unwrap()
    }

    #[test]
    fn what_was_not_measured_stays_open() {
        let view = view(&[(100, 10.0), (101, 20.0), (104, 30.0)]);
        let columns = Columns::new(60, UnixMillis(100 * 60_000), UnixMillis(106 * 60_000), 720);
        assert_eq!(columns.count, 6);
        let cpu = series(&view, "cpu", &columns);
        let runs: Vec<Vec<u64>> =
            cpu.runs.iter().map(|run| run.iter().map(|point| point.column).collect()).collect();
        assert_eq!(runs, [vec![0, 1], vec![4]]);
        assert_eq!(cpu.overall, Some((5.0, 20.0, 60.0)));
        assert_eq!(series(&view, "memory", &columns), Series { runs: vec![], overall: None });
    }

    #[test]
    fn many_steps_become_a_column_with_the_least_and_the_most_of_them() {
        let steps: Vec<(u64, f32)> = (0..10).map(|step| (step, step as f32)).collect();
        let columns = Columns::new(60, UnixMillis(0), UnixMillis(600_000), 3);
        assert_eq!((columns.each, columns.count, columns.span.end), (240_000, 3, 720_000));
        let cpu = series(&view(&steps), "cpu", &columns);
        let first = Point { column: 0, min: 0.0, mean: 1.5, max: 6.0 };
        let last = Point { column: 2, min: 4.0, mean: 8.5, max: 18.0 };
        assert_eq!((cpu.runs[0][0], cpu.runs[0][2]), (first, last));
    }
}
