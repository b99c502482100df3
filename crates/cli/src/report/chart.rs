//! A plot: for each metric the mean as a line in a band from the least to the most, over the time of the page. Text is
//! HTML around the SVG, so that it stays readable at any width. Must never join what a gap parts, nor tell two metrics
//! apart by colour alone.

use super::axis::{Measure, Tick, values};
use super::markup::escape;
use super::series::{Columns, Point, Series};
use std::fmt::Write as _;

/// Size of a plot's own coordinates; it is stretched to its place.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;
/// Marks that are nearer than this, as a share of the width, have one name together: on a wide screen and on a narrow
/// one. `v10–v12` is a tenth of the plot of the one and a fifth of that of the other, half of it to each side.
const MARKS_APART: [(&str, f64); 2] = [("wide", 0.08), ("narrow", 0.2)];

/// A metric in a plot.
pub(super) struct Line {
    /// What it is called.
    pub name: &'static str,
    /// Whether there is only the guest's word for it.
    pub of_guest: bool,
    /// Its values.
    pub series: Series,
}

/// A moment that all plots show.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    /// When, ms.
    pub at: u64,
    /// What.
    pub what: Event,
    /// What tells more of it, within the page.
    pub link: String,
}

/// What a mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A new version of the VM.
    Version(u64),
    /// Somebody changed something inside.
    Inside,
    /// A morph that was undone.
    Undone,
    /// A morph that stands where it is.
    Parked,
    /// It became something else.
    Shift,
    /// It did what it does not.
    Anomaly,
}

/// A plot.
pub(super) struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// What its metrics are measured in.
    pub unit: &'static str,
    /// Three at most.
    pub lines: Vec<Line>,
}

struct Area {
    top: f64,
    columns: Columns,
}

impl Area {
    fn x(&self, column: f64) -> f64 {
        column / self.columns.count as f64 * WIDTH
    }

    fn y(&self, value: f32) -> f64 {
        HEIGHT * (1.0 - (f64::from(value) / self.top).clamp(0.0, 1.0))
    }

    /// Through the middle of each column, from the first one's beginning to the last one's end.
    fn course(&self, run: &[Point], value: impl Fn(&Point) -> f32) -> Vec<(f64, f64)> {
        let middle = |point: &Point| (self.x(point.column as f64 + 0.5), self.y(value(point)));
        let mut course: Vec<(f64, f64)> = Vec::with_capacity(run.len() + 2);
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return course };
        course.push((self.x(first.column as f64), self.y(value(first))));
        course.extend(run.iter().map(middle));
        course.push((self.x(last.column as f64 + 1.0), self.y(value(last))));
        course
    }

    fn line(&self, series: &Series) -> String {
        series.runs.iter().map(|run| format!("M{}", path(&self.course(run, |point| point.mean)))).collect()
    }

    fn band(&self, series: &Series) -> String {
        let around = |run: &Vec<Point>| {
            let mut course = self.course(run, |point| point.max);
            course.extend(self.course(run, |point| point.min).into_iter().rev());
            format!("M{}Z", path(&course))
        };
        series.runs.iter().map(around).collect()
    }
}

fn path(course: &[(f64, f64)]) -> String {
    let points: Vec<String> = course.iter().map(|(x, y)| format!("{} {}", tenth(*x), tenth(*y))).collect();
    points.join("L")
}

/// To a tenth, as short as can be.
fn tenth(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Stretches of columns in which no line has a value.
fn gaps(lines: &[Line], columns: &Columns) -> Vec<(u64, u64)> {
    let mut known = vec![false; usize::try_from(columns.count).unwrap_or(0)];
    for point in lines.iter().flat_map(|line| line.series.runs.iter().flatten()) {
        if let Some(column) = usize::try_from(point.column).ok().and_then(|column| known.get_mut(column)) {
            *column = true;
        }
    }
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for (column, _) in (0u64..).zip(&known).filter(|(_, known)| !**known) {
        match gaps.last_mut().filter(|(_, end)| *end == column) {
            Some(last) => last.1 = column + 1,
            None => gaps.push((column, column + 1)),
        }
    }
    gaps
}

fn drawing(lines: &[Line], area: &Area, ticks: (&[Tick], &[Tick]), marks: &[(f64, &Mark)]) -> String {
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\n");
    // Writing into a String cannot fail.
    for (begin, end) in gaps(lines, &area.columns) {
        let (x, width) = (area.x(begin as f64), area.x((end - begin) as f64));
        let _ = writeln!(
            svg,
            "<rect class=\"gap\" x=\"{}\" y=\"0\" width=\"{}\" height=\"{HEIGHT}\"/>",
            tenth(x),
            tenth(width)
        );
    }
    for (index, tick) in ticks.0.iter().enumerate() {
        let (class, y) = (if index == 0 { "base" } else { "grid" }, tenth(HEIGHT * (1.0 - tick.at)));
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M0 {y}H{WIDTH}\"/>");
    }
    for tick in ticks.1 {
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{} 0V{HEIGHT}\"/>", tenth(tick.at * WIDTH));
    }
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.series.overall.is_some()) {
        let _ = writeln!(svg, "<path class=\"band s{index}\" d=\"{}\"/>", area.band(&line.series));
    }
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.series.overall.is_some()) {
        let _ = writeln!(svg, "<path class=\"line s{index}\" d=\"{}\"/>", area.line(&line.series));
    }
    for (at, mark) in marks {
        let class = match mark.what {
            Event::Version(_) => "mark",
            Event::Inside => "mark inside",
            Event::Shift => "mark shift",
            Event::Undone | Event::Parked | Event::Anomaly => "mark undone",
        };
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{} -6V{HEIGHT}\"/>", tenth(at * WIDTH));
    }
    svg + "</svg>\n"
}

fn percent(share: f64) -> String {
    format!("{}%", tenth(share * 100.0))
}

/// What marks that are close together are called.
fn mark_name(events: &[Event]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let versions = events.iter().filter_map(|event| match event {
        Event::Version(number) => Some(*number),
        _ => None,
    });
    match (versions.clone().min(), versions.max()) {
        (Some(first), Some(last)) if first < last => parts.push(format!("v{first}–v{last}")),
        (Some(only), _) => parts.push(format!("v{only}")),
        (None, _) => {}
    }
    for (event, sign) in [
        (Event::Inside, "✎"),
        (Event::Undone, "↩"),
        (Event::Parked, "!"),
        (Event::Shift, "⇄"),
        (Event::Anomaly, "?"),
    ] {
        match events.iter().filter(|other| **other == event).count() {
            0 => {}
            1 => parts.push(sign.to_owned()),
            count => parts.push(format!("{count}{sign}")),
        }
    }
    parts.join(" ")
}

/// Names above the plot; what is close together has one.
fn mark_names(marks: &[(f64, &Mark)]) -> String {
    let mut text = String::new();
    for (class, apart) in MARKS_APART {
        let mut groups: Vec<Vec<&(f64, &Mark)>> = Vec::new();
        for mark in marks {
            match groups.last_mut() {
                Some(group) if group.first().is_some_and(|first| mark.0 - first.0 < apart) => {
                    group.push(mark)
                }
                _ => groups.push(vec![mark]),
            }
        }
        for group in groups {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let middle = percent(((first.0 + last.0) / 2.0).clamp(0.02, 0.98));
            let events: Vec<Event> = group.iter().map(|mark| mark.1.what).collect();
            let (link, name) = (escape(&first.1.link), mark_name(&events));
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "<span class=\"m {class}\" style=\"left:{middle}\"><a href=\"#{link}\">{name}</a></span>"
            );
        }
    }
    text
}

fn legend(lines: &[Line], measure: Measure) -> String {
    let mut text = String::from("<ul class=\"legend\">\n");
    for (index, line) in lines.iter().enumerate() {
        let word = if line.of_guest { ", the guest’s word" } else { "" };
        let values = match line.series.overall {
            Some((least, mean, most)) => {
                let (least, mean) = (measure.number(least), measure.number(mean));
                format!("least {least} · mean {mean} · most {}", measure.told(most))
            }
            None => "not measured".to_owned(),
        };
        let _ = writeln!(
            text,
            "<li><svg viewBox=\"0 0 24 10\" aria-hidden=\"true\"><path class=\"line s{index}\" d=\"M1 5H23\"/></svg>{}{word} \
             <span class=\"faint\">{values}</span></li>",
            escape(line.name)
        );
    }
    text + "</ul>\n"
}

/// A plot with its names. Where nothing was measured, that in words.
pub(super) fn figure(chart: &Chart, columns: &Columns, marks: &[Mark]) -> String {
    let title = escape(chart.title);
    let most = chart.lines.iter().filter_map(|line| line.series.overall).map(|all| all.2).reduce(f32::max);
    let Some(most) = most else {
        return format!("<p class=\"note\"><b>{title}</b>: not measured in this time.</p>\n");
    };
    let measure = Measure::of(chart.unit, most);
    let (top, ticks) = values(measure, most);
    let area = Area { top, columns: *columns };
    let times = columns.span.ticks();
    let placed: Vec<(f64, &Mark)> =
        marks.iter().filter_map(|mark| Some((columns.span.place(mark.at)?, mark))).collect();
    let marked = if placed.is_empty() { "" } else { " marked" };
    let unit = escape(measure.unit);
    let mut text = format!(
        "<figure class=\"chart\">\n<figcaption><b>{title}</b> <span class=\"faint\">{unit}</span></figcaption>\n\
         <div class=\"plot{marked}\">\n"
    );
    text.push_str(&drawing(&chart.lines, &area, (&ticks, &times), &placed));
    for tick in &ticks {
        let _ =
            writeln!(text, "<span class=\"y\" style=\"bottom:{}\">{}</span>", percent(tick.at), tick.name);
    }
    for (index, tick) in times.iter().enumerate() {
        let odd = if index % 2 == 1 { " odd" } else { "" };
        let _ =
            writeln!(text, "<span class=\"x{odd}\" style=\"left:{}\">{}</span>", percent(tick.at), tick.name);
    }
    text.push_str(&mark_names(&placed));
    text.push_str("</div>\n");
    text.push_str(&legend(&chart.lines, measure));
    text + "</figure>\n"
}

/// A plot as large as a word, against its own most.
pub(super) fn spark(series: &Series, columns: &Columns, words: &str) -> String {
    let Some((_, _, most)) = series.overall else {
        return "<span class=\"faint\">not measured</span>".to_owned();
    };
    let area = Area { top: f64::from(most).max(1e-9) * 1.05, columns: *columns };
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{}\"><path class=\"band s0\" d=\"{}\"/><path class=\"line s0\" d=\"{}\"/></svg>",
        escape(words),
        area.band(series),
        area.line(series)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proteus_model::unit::UnixMillis;

    fn line(name: &'static str, runs: &[&[(u64, f32)]]) -> Line {
        let point = |(column, mean): &(u64, f32)| Point {
            column: *column,
            min: mean / 2.0,
            mean: *mean,
            max: mean * 1.5,
        };
        let runs: Vec<Vec<Point>> = runs.iter().map(|run| run.iter().map(point).collect()).collect();
        let most = runs.iter().flatten().map(|point| point.max).reduce(f32::max);
        Line {
            name,
            of_guest: false,
            series: Series { runs, overall: most.map(|most| (0.0, most / 2.0, most)) },
        }
    }

    #[test]
    fn a_gap_parts_the_line_and_is_shown() {
        let columns = Columns::new(60, UnixMillis(1_790_000_400_000), UnixMillis(1_790_000_700_000), 10);
        let chart = Chart {
            title: "CPU time",
            unit: "m",
            lines: vec![line("vCPUs", &[&[(0, 100.0), (1, 200.0)], &[(4, 400.0)]]), line("VMM", &[])],
        };
        let mark = |at: u64, what| Mark { at: 1_790_000_400_000 + at, what, link: "there".to_owned() };
        let (v1, v2) = (Event::Version(1), Event::Version(2));
        let marks =
            [mark(60_000, v1), mark(61_000, Event::Undone), mark(240_000, v2), mark(900_000, Event::Parked)];
        expect![[r##"
            <figure class="chart">
            <figcaption><b>CPU time</b> <span class="faint">CPUs</span></figcaption>
            <div class="plot marked">
            <svg viewBox="0 0 1000 200" preserveAspectRatio="none" aria-hidden="true">
            <rect class="gap" x="400" y="0" width="400" height="200"/>
            <path class="base" d="M0 200H1000"/>
            <path class="grid" d="M0 133.3H1000"/>
            <path class="grid" d="M0 66.7H1000"/>
            <path class="grid" d="M0 0H1000"/>
            <path class="grid" d="M0 0V200"/>
            <path class="grid" d="M200 0V200"/>
            <path class="grid" d="M400 0V200"/>
            <path class="grid" d="M600 0V200"/>
            <path class="grid" d="M800 0V200"/>
            <path class="grid" d="M1000 0V200"/>
            <path class="band s0" d="M0 150L100 150L300 100L400 100L400 166.7L300 166.7L100 183.3L0 183.3ZM800 0L900 0L1000 0L1000 133.3L900 133.3L800 133.3Z"/>
            <path class="line s0" d="M0 166.7L100 166.7L300 133.3L400 133.3M800 66.7L900 66.7L1000 66.7"/>
            <path class="mark" d="M200 -6V200"/>
            <path class="mark undone" d="M203.3 -6V200"/>
            <path class="mark" d="M800 -6V200"/>
            </svg>
            <span class="y" style="bottom:0%">0.0</span>
            <span class="y" style="bottom:33.3%">0.2</span>
            <span class="y" style="bottom:66.7%">0.4</span>
            <span class="y" style="bottom:100%">0.6</span>
            <span class="x" style="left:0%">14:20</span>
            <span class="x odd" style="left:20%">14:21</span>
            <span class="x" style="left:40%">14:22</span>
            <span class="x odd" style="left:60%">14:23</span>
            <span class="x" style="left:80%">14:24</span>
            <span class="x odd" style="left:100%">14:25</span>
            <span class="m wide" style="left:20.2%"><a href="#there">v1 ↩</a></span>
            <span class="m wide" style="left:80%"><a href="#there">v2</a></span>
            <span class="m narrow" style="left:20.2%"><a href="#there">v1 ↩</a></span>
            <span class="m narrow" style="left:80%"><a href="#there">v2</a></span>
            </div>
            <ul class="legend">
            <li><svg viewBox="0 0 24 10" aria-hidden="true"><path class="line s0" d="M1 5H23"/></svg>vCPUs <span class="faint">least 0 · mean 0.30 · most 0.60 CPUs</span></li>
            <li><svg viewBox="0 0 24 10" aria-hidden="true"><path class="line s1" d="M1 5H23"/></svg>VMM <span class="faint">not measured</span></li>
            </ul>
            </figure>
        "##]].assert_eq(&figure(&chart, &columns, &marks));
    }

    #[test]
    fn marks_that_are_close_together_have_one_name() {
        use Event::{Inside, Parked, Undone, Version};
        assert_eq!(mark_name(&[Version(3)]), "v3");
        assert_eq!(mark_name(&[Version(3), Undone, Inside, Version(5), Undone, Parked]), "v3–v5 ✎ 2↩ !");
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let columns = Columns::new(60, UnixMillis(0), UnixMillis(60_000), 10);
        let chart = Chart { title: "Disk", unit: "KiB/s", lines: vec![line("read", &[])] };
        assert_eq!(
            figure(&chart, &columns, &[]),
            "<p class=\"note\"><b>Disk</b>: not measured in this time.</p>\n"
        );
        assert!(spark(&chart.lines[0].series, &columns, "").contains("not measured"));
    }
}
