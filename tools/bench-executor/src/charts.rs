//! The charts: the rows as bars, the curves as lines, on logarithmic scales.
//!
//! Plain SVG, which is a few elements: no crate draws both of these in fewer lines than they take. Both charts bring their
//! own background and follow the reader's choice of light or dark.

use std::fmt::Write as _;

use crate::curves::{Figures, Points, SIZES};
use crate::judge::Line;
use crate::rows::Role;

/// What both charts begin with.
const STYLE: &str = "\
<style>
svg { --page: #ffffff; --ink: #1f2328; --faint: #d0d7de; --ours: #0969da; --peer: #8c959f; --limit: #bf8700; --bad: #cf222e; \
--one: #0969da; --two: #8250df; --three: #1a7f37 }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --ink: #e6edf3; --faint: #30363d; --ours: #58a6ff; \
--peer: #6e7681; --limit: #d29922; --bad: #ff7b72; --one: #58a6ff; --two: #bc8cff; --three: #3fb950 } }
text { font: 11px system-ui, sans-serif; fill: var(--ink) }
.title { font-size: 12px; font-weight: 600 } .end { text-anchor: end } .middle { text-anchor: middle } .small { font-size: 10px }
.page { fill: var(--page) } .grid { stroke: var(--faint); stroke-width: 1 } .mark { stroke: var(--ink); stroke-width: 2 }
.ours { fill: var(--ours) } .peer { fill: var(--peer) } .limit { fill: var(--limit) } .bad { fill: var(--bad) }
text.one { fill: var(--one) } text.two { fill: var(--two) } text.three { fill: var(--three) } text.limit { fill: var(--limit) }
polyline { fill: none; stroke-width: 2 } .other { stroke-dasharray: 4 3 }
</style>
";

struct Svg(String);

impl Svg {
    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.0,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        );
    }

    fn bar(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let _ = writeln!(
            self.0,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\"/>"
        );
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.0,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// The whole picture, once its size is known.
    fn finish(self, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\">\n{STYLE}<rect class=\"page\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n{}</svg>\n",
            self.0
        )
    }
}

/// Where a figure lies on a logarithmic scale: 0 at its begin, 1 at its end.
fn place(value: f64, (begin, end): (f64, f64)) -> f64 {
    ((value / begin).log10() / (end / begin).log10()).clamp(0.0, 1.0)
}

/// The powers of ten of a scale.
fn decades((begin, end): (f64, f64)) -> impl Iterator<Item = f64> {
    let (first, last) = (begin.log10().ceil() as i32, end.log10().floor() as i32);
    (first..=last).map(|power| 10f64.powi(power))
}

/// The smallest span of whole decades with all the figures.
fn scale(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let known = figures.filter(|figure| figure.is_finite() && *figure > 0.0);
    let (least, most) = known.fold((f64::INFINITY, 0f64), |(least, most), figure| {
        (least.min(figure), most.max(figure))
    });
    if most == 0.0 {
        return (1.0, 10.0);
    }
    // A bar of the least figure is to be seen.
    let begin = 10f64.powf((least * 0.8).log10().floor());
    let end = 10f64.powf(most.log10().ceil());
    (begin, end.max(10.0 * begin))
}

/// Nanoseconds in the unit that is read best.
fn duration(ns: f64) -> String {
    match ns {
        _ if ns >= 1e6 => format!("{} ms", ns / 1e6),
        _ if ns >= 1e3 => format!("{} µs", ns / 1e3),
        _ => format!("{ns} ns"),
    }
}

/// Three places.
fn figure(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

const COLUMN: f64 = 500.0;
const LABEL: f64 = 165.0;
const BARS: f64 = 255.0;
const BAR: f64 = 15.0;
const TITLE: f64 = 30.0;
const TOP: f64 = 62.0;

/// The rows as bars, a panel a case, in two columns of about equal height.
pub fn bars(lines: &[Line]) -> String {
    let drawn: Vec<_> = lines
        .iter()
        .filter(|line| !line.row.unit.is_empty())
        .collect();
    let panels: Vec<_> = drawn.chunk_by(|a, b| a.case.name == b.case.name).collect();
    let height = |panel: &[&Line]| TITLE + BAR * panel.len() as f64;
    let whole: f64 = panels.iter().map(|panel| height(panel)).sum();
    let in_ns = drawn.iter().filter(|line| line.row.unit == "ns");
    let span = scale(in_ns.map(|line| line.row.value));
    let mut svg = Svg(String::new());
    svg.text(
        "title",
        12.0,
        22.0,
        "Anax's executor beside its peers and the hardware",
    );
    for (x, class, text) in [
        (12.0, "ours", "ours"),
        (62.0, "bad", "ours, goal not reached"),
        (204.0, "peer", "peer"),
        (254.0, "limit", "hardware or host alone"),
    ] {
        svg.bar(class, x, 33.0, 10.0, 10.0);
        svg.text("small", x + 14.0, 42.0, text);
    }
    svg.line("mark", (394.0, 32.0), (394.0, 44.0));
    svg.text(
        "small",
        400.0,
        42.0,
        "the goal. Medians; less is better; bytes on the same scale",
    );
    let (mut x, mut y, mut bottom) = (0.0, TOP, TOP);
    let mut column = Vec::new();
    for (index, panel) in panels.iter().enumerate() {
        column.push((x, y, *panel));
        y += height(panel);
        bottom = f64::max(bottom, y);
        let more = index + 1 < panels.len();
        if !more || (x == 0.0 && y - TOP >= whole / 2.0) {
            grid(&mut svg, x, y, span);
            (x, y) = (COLUMN, TOP);
        }
    }
    for (x, y, panel) in column {
        draw_panel(&mut svg, (x, y), panel, span);
    }
    svg.finish(2.0 * COLUMN, bottom + 14.0)
}

/// The scale of one column, down to `bottom`.
fn grid(svg: &mut Svg, x: f64, bottom: f64, span: (f64, f64)) {
    for decade in decades(span) {
        let x = x + LABEL + BARS * place(decade, span);
        svg.line("grid", (x, TOP + 8.0), (x, bottom));
        svg.text("small middle", x, TOP + 4.0, &duration(decade));
    }
}

fn draw_panel(svg: &mut Svg, (x, y): (f64, f64), panel: &[&Line], span: (f64, f64)) {
    svg.text("title", x + 12.0, y + TITLE - 6.0, panel[0].case.name);
    for (index, line) in panel.iter().enumerate() {
        let y = y + TITLE + BAR * index as f64;
        let class = match line.role {
            Role::Ours { .. } if line.row.ok => "ours",
            Role::Ours { .. } => "bad",
            Role::Peer => "peer",
            Role::Limit => "limit",
        };
        svg.text("end", x + LABEL - 6.0, y + 10.5, line.subject);
        if line.row.value.is_nan() {
            svg.text("", x + LABEL + 4.0, y + 10.5, "not measured");
            continue;
        }
        let width = f64::max(2.0, BARS * place(line.row.value, span));
        svg.bar(class, x + LABEL, y + 1.0, width, BAR - 4.0);
        let mut after = width;
        if let Some(goal) = line.row.limit_value.filter(|goal| goal.is_finite()) {
            let goal = BARS * place(goal, span);
            let x = x + LABEL + goal;
            svg.line("mark", (x, y - 1.0), (x, y + BAR - 2.0));
            // The text stands clear of the mark.
            if goal > after - 3.0 && goal < after + 60.0 {
                after = goal;
            }
        }
        let text = format!("{} {}", figure(line.row.value), line.row.unit);
        svg.text("small", x + LABEL + after + 5.0, y + 10.5, &text);
    }
}

const PANEL: f64 = 330.0;
const PLOT: (f64, f64) = (215.0, 260.0);
const ORIGIN: (f64, f64) = (50.0, 320.0);
const COLOURS: [&str; 3] = ["one", "two", "three"];

/// The curves as lines, a panel for each kind of thing.
pub fn curves(curves: &[Points]) -> String {
    let figures = curves
        .iter()
        .flat_map(|curve| curve.points.iter().chain(&curve.limit));
    let span = scale(figures.map(|(_, figure)| *figure));
    let sizes = (SIZES[0] as f64, SIZES[SIZES.len() - 1] as f64);
    let across = |size: f64| PLOT.0 * place(size, sizes);
    let up = |figure: f64| ORIGIN.1 - PLOT.1 * place(figure, span);
    let mut svg = Svg(String::new());
    let title = "One operation of Anax's executor, among a hundred things and among a million (dashed: for comparison)";
    svg.text("title", 12.0, 22.0, title);
    let panels = curves.chunk_by(|a, b| a.curve.panel == b.curve.panel);
    for (panel, curves) in panels.enumerate() {
        let x = PANEL * panel as f64 + ORIGIN.0;
        svg.text("title", x, 48.0, curves[0].curve.panel);
        for decade in decades(span) {
            svg.line("grid", (x, up(decade)), (x + PLOT.0, up(decade)));
            svg.text("small end", x - 4.0, up(decade) + 3.5, &duration(decade));
        }
        for (size, name) in SIZES.iter().zip(["100", "1000", "10⁴", "10⁵", "10⁶"]) {
            svg.text(
                "small middle",
                x + across(*size as f64),
                ORIGIN.1 + 15.0,
                name,
            );
        }
        let mut lines: Vec<_> = curves
            .iter()
            .zip(COLOURS)
            .map(|(points, colour)| (points.curve.name, colour, points.curve.ours, &points.points))
            .collect();
        for points in curves.iter().filter(|points| !points.limit.is_empty()) {
            lines.push(("bare walk", "limit", false, &points.limit));
        }
        let end = |figures: &Figures| figures.last().map_or(1.0, |(_, figure)| *figure);
        lines.sort_by(|a, b| end(b.3).total_cmp(&end(a.3)));
        let mut last_label = f64::NEG_INFINITY;
        for (name, colour, ours, figures) in lines {
            let mut path = String::new();
            for (size, figure) in figures {
                let _ = write!(path, "{:.1},{:.1} ", x + across(*size as f64), up(*figure));
            }
            let other = if ours { "" } else { " class=\"other\"" };
            let _ = writeln!(
                svg.0,
                "<polyline{other} style=\"stroke: var(--{colour})\" points=\"{}\"/>",
                path.trim_end()
            );
            // Labels stand at the ends of their curves, and not on one another.
            let label = f64::max(up(end(figures)) + 3.5, last_label + 12.0);
            last_label = label;
            let class = format!("small {colour}");
            svg.text(&class, x + PLOT.0 + 6.0, label, name);
        }
    }
    svg.finish(3.0 * PANEL + 10.0, ORIGIN.1 + 30.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::CASES;
    use tools::bench::report::Row;

    #[test]
    fn a_scale_has_whole_decades_around_its_figures() {
        assert_eq!(scale([2.0, 30.0].into_iter()), (1.0, 100.0));
        assert_eq!(scale([1.0, 10.0].into_iter()), (0.1, 10.0));
        assert_eq!(scale([f64::NAN, 0.0].into_iter()), (1.0, 10.0));
        assert_eq!(
            decades((1.0, 100.0)).collect::<Vec<_>>(),
            [1.0, 10.0, 100.0]
        );
        assert!((place(10.0, (1.0, 100.0)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn durations_are_written_in_their_unit() {
        assert_eq!([1.0, 1e4, 1e6].map(duration), ["1 ns", "10 µs", "1 ms"]);
    }

    #[test]
    fn a_chart_has_every_figure_and_says_which_was_not_measured() {
        let case = &CASES[0];
        let subject = &case.subjects[0];
        let line = |samples: &[f64]| Line {
            case,
            subject: subject.name,
            role: subject.role,
            row: Row::new("executor", "a & b", "ns", samples).at_most(5.0),
            busy: false,
        };
        let chart = bars(&[line(&[12.5]), line(&[])]);
        assert!(chart.contains("12.5 ns") && chart.contains("not measured"));
        assert!(chart.contains(case.name));
        assert!(!chart.contains("NaN"));
    }
}
