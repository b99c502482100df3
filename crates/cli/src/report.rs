//! A report as one HTML page: what was learned of a VM, or of all, drawn in SVG. The page is whole without a script and
//! fetches nothing. Pure: answers of the API and a moment in, text out. Must never draw what was not measured, nor put a
//! word of somebody else's on the page unescaped.

mod axis;

mod chart;

mod change;

mod fleet;

mod markup;

mod part;

mod portrait;

mod series;

mod vm;

pub(crate) use fleet::{Fleet, Member, fleet};
pub(crate) use part::brief_metrics;
pub(crate) use vm::{Single, single};
