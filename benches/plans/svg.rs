//! Curves as an SVG file.

use std::fmt::Write;

use crate::statistics::Point;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 400.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 740.0;
/// The lowest precision that is drawn.
const LOWEST: f64 = 0.9;
const COLORS: [&str; 5] = ["#1b6ca8", "#c0392b", "#7d8c00", "#8e44ad", "#555555"];

/// A curve, or a single point of it.
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
    /// The point at which it is used.
    pub marked: Option<Point>,
}

fn x(hit_ratio: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * hit_ratio
}

fn y(precision: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * ((precision.max(LOWEST) - LOWEST) / (1.0 - LOWEST))
}

pub fn draw(title: &str, series: &[Series]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n"
    );
    for n in 0..=10 {
        let share = f64::from(n) / 10.0;
        let precision = LOWEST + (1.0 - LOWEST) * share;
        let (at_x, at_y) = (x(share), y(precision));
        let _ = writeln!(
            svg,
            "<path d=\"M{at_x:.1} {TOP}V{BOTTOM}M{LEFT} {at_y:.1}H{RIGHT}\" stroke=\"#dddddd\"/>\
             <text x=\"{at_x:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0} %</text>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            BOTTOM + 16.0,
            100.0 * share,
            LEFT - 6.0,
            at_y + 4.0,
            100.0 * precision
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">goals that get the right plan</text>\
         <text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">hits that are right</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 38.0,
        f64::midpoint(TOP, BOTTOM)
    );
    for (n, series) in series.iter().enumerate() {
        let color = COLORS[n % COLORS.len()];
        let mut line = String::new();
        let (mut upper, mut lower) = (String::new(), Vec::new());
        for point in &series.points {
            let (low, high) = point.precision.interval();
            let at = x(point.hit_ratio);
            let _ = write!(line, "{at:.1},{:.1} ", y(point.precision.value()));
            let _ = write!(upper, "{at:.1},{:.1} ", y(high));
            lower.push(format!("{at:.1},{:.1}", y(low)));
        }
        lower.reverse();
        let _ = writeln!(
            svg,
            "<polygon points=\"{upper}{}\" fill=\"{color}\" opacity=\"0.15\"/><polyline points=\"{line}\" fill=\"none\" stroke=\"{color}\" \
             stroke-width=\"2\"/>",
            lower.join(" ")
        );
        if let Some(point) = series.marked {
            let (low, high) = point.precision.interval();
            let at = x(point.hit_ratio);
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {:.1}V{:.1}\" stroke=\"{color}\" stroke-width=\"2\"/><circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{color}\"/>",
                y(low),
                y(high),
                y(point.precision.value())
            );
        }
        let at = BOTTOM - 12.0 - 18.0 * (series_from_below(n));
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{color}\"/><text x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT + 12.0,
            at - 10.0,
            LEFT + 30.0,
            at,
            series.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn series_from_below(n: usize) -> f64 {
    n as f64
}
