//! A report as one file that a browser opens from disk: tables, and plots as SVG.
//!
//! In: a [`Report`]. Out: HTML that fetches nothing and runs no script.
//! Always holds: every text of the outside (a server's words, a command line) is escaped.

use std::fmt::Write as _;

use crate::report::{Report, Run, Summary, readable};
use crate::timeline::Point;

/// Size of a plot, and what is left beside its axes.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 16.0;

/// What the page looks like, in the light and in the dark. Lines of a plot have the colours `c0` to `c3`.
const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1f2328;--quiet:#59636e;--page:#fff;--grid:#e1e4e8;--bad:#b00020;
 --c0:#1b6ca8;--c1:#2e8540;--c2:#d97706;--c3:#b00020}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--quiet:#9198a1;--page:#0d1117;--grid:#2b3139;--bad:#ff7b72;
 --c0:#58a6ff;--c1:#56d364;--c2:#e3b341;--c3:#ff7b72}}
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;padding:0 1em;max-width:860px;color:var(--text);background:var(--page)}
h1{margin-bottom:0}h2{margin-top:2em;border-bottom:1px solid var(--grid)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:2px 0 2px 16px;text-align:right;border-bottom:1px solid var(--grid)}
td:first-child,th:first-child{text-align:left;white-space:pre-wrap;padding-left:0}
code{overflow-wrap:anywhere}.quiet,.unit{color:var(--quiet)}.bad{color:var(--bad)}
svg{display:block;margin:1.5em 0}svg text{font:11px system-ui,sans-serif;fill:var(--quiet)}svg .title{font-weight:600;fill:var(--text)}
svg .grid{stroke:var(--grid)}svg .line{fill:none;stroke-width:1.5;stroke-linejoin:round}
svg .c0{stroke:var(--c0)}svg .c1{stroke:var(--c1)}svg .c2{stroke:var(--c2)}svg .c3{stroke:var(--c3)}
svg .bar{fill:var(--c0)}svg text.c0,svg text.c1,svg text.c2,svg text.c3{stroke:none}
svg text.c0{fill:var(--c0)}svg text.c1{fill:var(--c1)}svg text.c2{fill:var(--c2)}svg text.c3{fill:var(--c3)}";

/// One line of a plot.
struct Series {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>loadtest: {scenario}</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>{scenario}</h1>\n<p><code>loadtest {command}</code></p>\n\
         <p class=\"quiet\">{runs} runs, kernel {kernel}, {congestion}</p>\n",
        scenario = escaped(report.scenario),
        command = escaped(&report.command),
        runs = report.runs.len(),
        kernel = escaped(&report.kernel),
        congestion = escaped(&report.congestion_control),
    );
    let verdict = if report.is_good() {
        "<p>Valid.</p>\n"
    } else {
        "<p class=\"bad\">NOT VALID.</p>\n"
    };
    page.push_str(verdict);
    for unmet in &report.unmet {
        push(
            &mut page,
            format_args!("<p class=\"bad\">Not met: {}</p>\n", escaped(unmet)),
        );
    }
    page.push_str(&table(&report.summary()));
    page.push_str(&published(report));
    let ratios = report.ratios();
    if !ratios.is_empty() {
        page.push_str("<h2>Times the other server's</h2>\n");
        page.push_str(&table(&ratios));
    }
    for (whose, runs) in [
        ("Run", &report.runs),
        ("The other server, run", &report.against),
    ] {
        for (index, run) in runs.iter().enumerate() {
            push(&mut page, format_args!("<h2>{whose} {}</h2>\n", index + 1));
            page.push_str(&section(run));
        }
    }
    page.push_str("</body></html>\n");
    page
}

/// What was published of the workload, if it is one.
fn published(report: &Report) -> String {
    let (Some((preset, _)), Some(words)) = (report.preset, report.published_words()) else {
        return String::new();
    };
    let mut text = format!("<h2>Beside it</h2>\n<p>{}</p>\n<table>", escaped(&words));
    for (name, unit, value) in preset.figures {
        let (name, value) = (named(name, unit), readable(*value));
        push(
            &mut text,
            format_args!("<tr><td>{name}</td><td>{value}</td></tr>\n"),
        );
    }
    text + "</table>\n"
}

/// What one run has beside its figures.
fn section(run: &Run) -> String {
    let mut section = String::new();
    let words = |text: &str, class: &str| format!("<p{class}>{}</p>\n", escaped(text));
    for note in &run.notes {
        section.push_str(&words(note, ""));
    }
    for text in run.problems.iter().take(20).chain(&run.invalid) {
        section.push_str(&words(text, " class=\"bad\""));
    }
    if let Some(timeline) = &run.timeline {
        let points = timeline.points();
        let series = |name, of: fn(&Point) -> f64| Series {
            name,
            points: points
                .iter()
                .map(|point| (point.seconds, of(point)))
                .collect(),
        };
        let latency = [
            series("p50", |point| point.p50_us / 1e3),
            series("p95", |point| point.p95_us / 1e3),
            series("p99", |point| point.p99_us / 1e3),
            series("max", |point| point.max_us / 1e3),
        ];
        section.push_str(&plot("how long it took, ms, over seconds", &latency, true));
        let arrived = [series("", |point| point.per_second)];
        let title = "how many arrived per second, over seconds";
        section.push_str(&plot(title, &arrived, false));
        section.push_str(&bars("how many took how long, ms", &timeline.bars()));
    }
    if run.memory.len() > 1 {
        let memory = [Series {
            name: "",
            points: run.memory.clone(),
        }];
        section.push_str(&plot(
            "the server's memory, MB, over seconds",
            &memory,
            false,
        ));
    }
    section
}

fn table(lines: &[Summary]) -> String {
    let mut table = "<table><tr><th></th><th>min</th><th>median</th><th>max</th></tr>\n".to_owned();
    for line in lines {
        push(
            &mut table,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                named(&line.name, line.unit),
                readable(line.min),
                readable(line.median),
                readable(line.max)
            ),
        );
    }
    table + "</table>\n"
}

/// A figure's name with its unit, if it has one.
fn named(name: &str, unit: &str) -> String {
    let name = escaped(name);
    if unit.is_empty() {
        return name;
    }
    format!("{name} <span class=\"unit\">{}</span>", escaped(unit))
}

/// Lines over time. On a logarithmic scale what is not above zero is left out.
fn plot(title: &str, all: &[Series], logarithmic: bool) -> String {
    let is_shown = |value: f64| value.is_finite() && (!logarithmic || value > 0.0);
    let shown = || {
        let points = all.iter().flat_map(|series| &series.points);
        points.filter(|(_, value)| is_shown(*value))
    };
    let x_max = shown().map(|point| point.0).fold(0.0, f64::max);
    let y_max = shown().map(|point| point.1).fold(0.0, f64::max);
    if x_max <= 0.0 || y_max <= 0.0 {
        return String::new();
    }
    let y_min = if logarithmic {
        shown().map(|point| point.1).fold(y_max, f64::min) / 1.2
    } else {
        0.0
    };
    let y_max = y_max * 1.1;
    let scale = |value: f64| if logarithmic { value.ln() } else { value };
    let x = |value: f64| LEFT + value / x_max * (WIDTH - LEFT);
    let y = |value: f64| {
        let share = (scale(value) - scale(y_min)) / (scale(y_max) - scale(y_min));
        TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
    };
    let mut drawing = frame(title);
    let heights = if logarithmic {
        decades(y_min, y_max)
    } else {
        steps(y_max)
    };
    for value in heights {
        push(
            &mut drawing,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{value}</text>\n",
                y(value),
                LEFT - 6.0,
                y(value) + 4.0,
            ),
        );
    }
    for value in steps(x_max) {
        let anchor = if x(value) > WIDTH - 20.0 {
            "end"
        } else {
            "middle"
        };
        push(
            &mut drawing,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{value}</text>\n",
                x(value),
                HEIGHT - 10.0,
            ),
        );
    }
    for (index, series) in all.iter().enumerate() {
        let points = series.points.iter().filter(|(_, value)| is_shown(*value));
        let points: Vec<String> = points
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        push(
            &mut drawing,
            format_args!(
                "<polyline class=\"line c{index}\" points=\"{}\"/>\
             <text class=\"c{index}\" x=\"{}\" y=\"12\" text-anchor=\"end\">{}</text>\n",
                points.join(" "),
                WIDTH - 40.0 * (all.len() - 1 - index) as f64,
                series.name,
            ),
        );
    }
    drawing + "</svg>\n"
}

/// Round numbers from 0 to `max`, a few of them.
fn steps(max: f64) -> Vec<f64> {
    let decade = 10_f64.powf((max / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * decade)
        .into_iter()
        .find(|step| max / step <= 7.0)
        .unwrap_or(max);
    let count = (max / step + 1e-9).floor() as u32;
    (0..=count)
        .map(|index| rounded(f64::from(index) * step))
        .collect()
}

/// Round numbers between two that are above zero, as a logarithmic scale has them.
fn decades(min: f64, max: f64) -> Vec<f64> {
    let first = min.log10().floor() as i32;
    let last = max.log10().ceil() as i32;
    let within = |factors: &[f64]| -> Vec<f64> {
        (first..=last)
            .flat_map(|exponent| {
                factors
                    .iter()
                    .map(move |factor| factor * 10_f64.powi(exponent))
            })
            .map(rounded)
            .filter(|value| (min..=max).contains(value))
            .collect()
    };
    let fine = within(&[1.0, 2.0, 5.0]);
    match fine.len() {
        0 => steps(max)
            .into_iter()
            .filter(|value| *value >= min)
            .collect(),
        1..=8 => fine,
        _ => within(&[1.0]),
    }
}

/// A number without the dust of its calculation.
fn rounded(value: f64) -> f64 {
    format!("{value:.9}").parse().unwrap_or(value)
}

/// A histogram: what a bar is up to, and how many it stands for.
fn bars(title: &str, all: &[(f64, u64)]) -> String {
    let most = all.iter().map(|(_, count)| *count).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let mut drawing = frame(title);
    let width = (WIDTH - LEFT) / all.len() as f64;
    // Each tenth bar or so says where it is.
    let step = all.len().div_ceil(10);
    for (index, (up_to, count)) in all.iter().enumerate() {
        let height = *count as f64 / most as f64 * (HEIGHT - TOP - BOTTOM);
        let at = LEFT + width * index as f64;
        push(
            &mut drawing,
            format_args!(
                "<rect class=\"bar\" x=\"{at:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\">\
             <title>up to {} ms: {count}</title></rect>\n",
                HEIGHT - BOTTOM - height,
                (width - 1.0).max(0.5),
                readable(*up_to),
            ),
        );
        if index % step == 0 {
            push(
                &mut drawing,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                    at + width / 2.0,
                    HEIGHT - 10.0,
                    readable(*up_to),
                ),
            );
        }
    }
    push(
        &mut drawing,
        format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most}</text>\n",
            LEFT - 6.0,
            TOP + 4.0,
        ),
    );
    drawing + "</svg>\n"
}

fn frame(title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"100%\" role=\"img\" aria-label=\"{0}\">\
         <text class=\"title\" x=\"{LEFT}\" y=\"12\">{0}</text>\n",
        escaped(title)
    )
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes everything");
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Start;

    fn report() -> Report {
        let start = Start::default();
        start.begin(1.0);
        let mut timeline = start.timeline();
        let begin = crate::clock::now_ns();
        for index in 0..300 {
            let slot = timeline.slot(begin + index * 1_000_000);
            slot.saturating_record(1_000_000 * (1 + index % 7));
        }
        let mut run = Run::default();
        run.push("latency <p99>", "us", 7.0);
        run.problems
            .push("the server said: <script>alert(1)</script> & \"x\"".to_owned());
        run.timeline = Some(timeline);
        run.memory = vec![(0.0, 10.0), (1.0, 20.0)];
        let mut report = Report::new("test");
        report.runs.push(run);
        report.unmet.push("run 1: p99<1ms: is 7".to_owned());
        report
    }

    /// Names of the elements that are open at the end, and that were closed in a wrong order.
    fn unbalanced(page: &str) -> Vec<String> {
        let mut open: Vec<&str> = Vec::new();
        let mut wrong = Vec::new();
        for element in page.split('<').skip(1) {
            let inside = element.split('>').next().unwrap_or_default();
            let name = inside.split(' ').next().unwrap_or_default();
            if let Some(closed) = name.strip_prefix('/') {
                if open.pop() != Some(closed) {
                    wrong.push(closed.to_owned());
                }
            } else if !inside.ends_with('/') && !["!doctype", "meta"].contains(&name) {
                open.push(name);
            }
        }
        wrong.extend(open.into_iter().map(str::to_owned));
        wrong
    }

    #[test]
    fn a_page_has_its_plots_and_every_element_ends() {
        let page = page(&report());
        assert_eq!(
            page.matches("<svg ").count(),
            4,
            "latency, arrivals, histogram, memory"
        );
        assert_eq!(page.matches("<polyline ").count(), 4 + 1 + 1);
        assert!(page.contains("Not met: run 1: p99&lt;1ms: is 7"));
        assert_eq!(unbalanced(&page), [""; 0]);
        for number in ["NaN", "inf"] {
            assert!(!page.contains(number), "{number}");
        }
    }

    #[test]
    fn words_of_the_outside_are_no_markup_and_nothing_is_fetched() {
        let page = page(&report());
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;x&quot;"));
        assert!(page.contains("latency &lt;p99&gt;"));
        for word in ["<script", "http://", "https://", "src=", "url("] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(steps(12.1), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(steps(0.3), [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]);
        assert_eq!(steps(4840.0), [0.0, 1000.0, 2000.0, 3000.0, 4000.0]);
        assert_eq!(
            decades(0.6, 157.0),
            [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        );
        assert_eq!(decades(0.01, 1000.0), [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(decades(1.1, 1.9), [1.5]);
    }

    #[test]
    fn what_was_published_stands_beside_it() {
        let mut report = report();
        assert!(!page(&report).contains("Beside it"));
        report.preset = crate::presets::Preset::of("broadcast").map(|preset| (preset, 0.5));
        let page = page(&report);
        assert!(page.contains("32,000 users, 224,000 messages/s (this load: 0.5 of it)"));
        assert!(page.contains("<td>latency p50 <span class=\"unit\">us</span></td><td>6000</td>"));
        assert_eq!(unbalanced(&page), [""; 0]);
    }

    #[test]
    fn a_run_of_which_nothing_arrived_has_no_plots() {
        let mut report = report();
        report.runs[0].timeline = Some(Start::default().timeline());
        report.runs[0].memory.clear();
        assert!(!page(&report).contains("<svg "));
    }
}
