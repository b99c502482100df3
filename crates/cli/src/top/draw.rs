//! The frame of `proteus top`. Pure: what is known in, cells out. Must never ask for anything, nor tell by colour alone:
//! each state has its word.

use super::row::{COLUMNS, Column, Mood};
use super::{Entry, Sort, Top};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// Most morphs that have a line of their own.
const MORPHS_SHOWN: usize = 3;
/// Between two columns.
const APART: u16 = 2;

/// Lines above the table: two of the host, those of morphs, one of what is wrong, an empty one, the heading.
fn above(top: &Top) -> u16 {
    let morphs = top.morphs.len().min(MORPHS_SHOWN + 1) as u16;
    2 + morphs + u16::from(top.lost.is_some()) + 1 + 1
}

/// Rows that there is room for.
pub(crate) fn room(top: &Top, height: u16) -> usize {
    // The last line says which keys there are.
    usize::from(height.saturating_sub(above(top) + 1))
}

/// Columns that there is room for, and how wide the first one is.
fn columns(width: u16) -> (&'static [Column], u16) {
    let mut taken = 0;
    let mut count = 0;
    for column in COLUMNS {
        let more = column.width + if count == 0 { 0 } else { APART };
        if taken + more > width && count > 0 {
            break;
        }
        taken += more;
        count += 1;
    }
    let first = COLUMNS.first().map_or(0, |column| column.width);
    (&COLUMNS[..count], (first + width.saturating_sub(taken)).min(32))
}

/// Text in a width: cut, and the cut shown.
fn fitted(text: &str, width: u16, right: bool) -> String {
    let width = usize::from(width);
    let length = text.chars().count();
    if length > width {
        return text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

fn row<'a>(cell: impl Fn(&Column) -> String, shown: (&[Column], u16)) -> Vec<Span<'a>> {
    let mut spans = Vec::new();
    for (index, column) in shown.0.iter().enumerate() {
        let width = if index == 0 { shown.1 } else { column.width };
        if index > 0 {
            spans.push(Span::raw(" ".repeat(usize::from(APART))));
        }
        spans.push(Span::raw(fitted(&cell(column), width, column.right)));
    }
    spans
}

fn vm<'a>(top: &Top, entry: &Entry, shown: (&[Column], u16), marked: bool) -> Line<'a> {
    let mut spans = row(|column| (column.cell)(top, entry), shown);
    let style = match top.state(entry).1 {
        Mood::Well => Style::new(),
        Mood::Changing => Style::new().fg(Color::Cyan),
        Mood::Asleep => Style::new().add_modifier(Modifier::DIM),
        Mood::Unwell => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    };
    for span in &mut spans {
        span.style = style;
    }
    let marked = if marked { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Line::from(spans).style(marked)
}

fn head(top: &Top) -> Vec<Line<'static>> {
    let [first, second] = top.summary();
    let mut lines = vec![Line::styled(first, Style::new().add_modifier(Modifier::BOLD)), Line::raw(second)];
    let cyan = Style::new().fg(Color::Cyan);
    lines
        .extend(top.morphs.iter().take(MORPHS_SHOWN).map(|morph| Line::styled(Top::morph_line(morph), cyan)));
    if top.morphs.len() > MORPHS_SHOWN {
        lines.push(Line::styled("and more morphs; each VM shows its own".to_owned(), cyan));
    }
    if let Some(why) = &top.lost {
        let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        lines.push(Line::styled(format!("{why}; what was known before is shown"), red));
    }
    lines.push(Line::raw(""));
    lines
}

fn foot(top: &Top, width: u16) -> Line<'static> {
    let arrow = if top.reversed == (top.sort == Sort::Name) { "↓" } else { "↑" };
    let total = top.entries.len();
    let last = (top.first + top.seen).min(total);
    let first = if total == 0 { 0 } else { top.first + 1 };
    let place = format!("{} {arrow}  {first}–{last} of {total}", top.sort.word());
    let keys: Vec<String> = Sort::ALL.iter().map(|sort| format!("{} {}", sort.key(), sort.word())).collect();
    let keys = format!("q quit · r reverse · {}", keys.join(" · "));
    let room = width.saturating_sub(place.chars().count() as u16 + 2);
    let dim = Style::new().add_modifier(Modifier::DIM);
    Line::from(vec![Span::styled(fitted(&keys, room, false), dim), Span::raw("  "), Span::raw(place)])
}

/// Draws what is known.
pub(crate) fn draw(frame: &mut Frame<'_>, top: &Top) {
    let area = frame.area();
    let layout = [Constraint::Length(above(top)), Constraint::Min(0), Constraint::Length(1)];
    let [top_area, rows_area, foot_area]: [Rect; 3] = Layout::vertical(layout).areas(area);
    let shown = columns(area.width);
    let mut lines = head(top);
    let heading = row(|column| column.heading.to_owned(), shown);
    lines.push(Line::from(heading).style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)));
    frame.render_widget(Paragraph::new(lines), top_area);
    let rows: Vec<Line<'_>> = match (&top.host, top.entries.is_empty()) {
        (Some(_), true) => vec![Line::raw("no VMs yet; `proteus vm create --help` says how to make one")],
        _ => {
            let marked = top.marked;
            let line = |entry: &Entry| vm(top, entry, shown, Some(entry.vm.id) == marked);
            top.visible().iter().map(line).collect()
        }
    };
    frame.render_widget(Paragraph::new(rows), rows_area);
    frame.render_widget(Paragraph::new(foot(top, area.width)), foot_area);
}
