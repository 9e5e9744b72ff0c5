//! A report as one file that a browser opens from disk: tables, and plots as SVG.
//!
//! In: a [`Report`]. Out: HTML that fetches nothing and runs no script.
//! Always holds: every text of the outside (a server's words, a command line) is escaped.

use std::fmt::Write as _;

use crate::report::{Report, Run, Summary, readable};

/// Size of a plot, and what is left beside its axes.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 16.0;

/// One line of a plot.
struct Series {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>loadtest: {scenario}</title>\n\
         <style>body{{font:14px system-ui,sans-serif;margin:2em auto;max-width:800px;color:#222}}\
         table{{border-collapse:collapse}}td,th{{padding:2px 12px 2px 0;text-align:right}}\
         td:first-child,th:first-child{{text-align:left;white-space:pre}}code{{overflow-wrap:anywhere}}\
         .bad{{color:#b00020}}svg text{{font:11px system-ui,sans-serif}}</style></head><body>\n\
         <h1>{scenario}</h1>\n<p><code>loadtest {command}</code></p>\n<p>kernel {kernel}, {congestion}</p>\n",
        scenario = escaped(report.scenario),
        command = escaped(&report.command),
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
    page.push_str(&table("", &report.summary()));
    let ratios = report.ratios();
    if !ratios.is_empty() {
        page.push_str("<h2>Times the other server's</h2>\n");
        page.push_str(&table("", &ratios));
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
        let series = |name, colour, of: fn(&crate::timeline::Point) -> f64| Series {
            name,
            colour,
            points: points
                .iter()
                .map(|point| (point.seconds, of(point)))
                .collect(),
        };
        let latency = [
            series("p50", "#1b6ca8", |point| point.p50_us / 1e3),
            series("p99", "#d97706", |point| point.p99_us / 1e3),
            series("max", "#b00020", |point| point.max_us / 1e3),
        ];
        section.push_str(&plot("latency, ms, over seconds", &latency, true));
        let arrived = [series("arrived", "#1b6ca8", |point| point.per_second)];
        section.push_str(&plot("arrivals per second, over seconds", &arrived, false));
        section.push_str(&bars("how many took how long, ms", &timeline.bars()));
    }
    if run.memory.len() > 1 {
        let memory = [Series {
            name: "resident",
            colour: "#1b6ca8",
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

fn table(caption: &str, lines: &[Summary]) -> String {
    let mut table =
        format!("<table><tr><th>{caption}</th><th>min</th><th>median</th><th>max</th></tr>\n");
    for line in lines {
        push(
            &mut table,
            format_args!(
                "<tr><td>{} [{}]</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escaped(&line.name),
                line.unit,
                readable(line.min),
                readable(line.median),
                readable(line.max)
            ),
        );
    }
    table + "</table>\n"
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
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        let value = if logarithmic {
            (scale(y_min) + share * (scale(y_max) - scale(y_min))).exp()
        } else {
            y_max * share
        };
        push(
            &mut drawing,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>\n",
                y(value),
                LEFT - 6.0,
                y(value) + 4.0,
                readable(value),
            ),
        );
        push(
            &mut drawing,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{}\">{}</text>\n",
                x(x_max * share),
                HEIGHT - 10.0,
                if tick == 4 { "end" } else { "middle" },
                readable(x_max * share),
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
                "<polyline fill=\"none\" stroke=\"{0}\" stroke-width=\"1.5\" points=\"{1}\"/>\
             <text x=\"{2}\" y=\"12\" fill=\"{0}\" text-anchor=\"end\">{3}</text>\n",
                series.colour,
                points.join(" "),
                WIDTH - 60.0 * index as f64,
                series.name,
            ),
        );
    }
    drawing + "</svg>\n"
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
                "<rect x=\"{at:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#1b6ca8\">\
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
         <text x=\"{LEFT}\" y=\"12\" font-weight=\"bold\">{0}</text>\n",
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
        assert_eq!(page.matches("<polyline ").count(), 3 + 1 + 1);
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
    fn a_run_of_which_nothing_arrived_has_no_plots() {
        let mut report = report();
        report.runs[0].timeline = Some(Start::default().timeline());
        report.runs[0].memory.clear();
        assert!(!page(&report).contains("<svg "));
    }
}
