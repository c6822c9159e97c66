//! Horizontal bar charts as SVG, readable on a light page and on a dark one.

use std::fmt::{Arguments, Write};

use crate::table::whole;

/// Sizes in pixels.
const WIDTH: u32 = 800;
const MARGIN: u32 = 20;
/// X of the baseline, at which labels end and bars start.
const BASELINE: u32 = 260;
/// Length of the longest bar. Its value is written to the right of it.
const LONGEST: f64 = 440.0;
const BAR: u32 = 12;
const LINE: u32 = 18;

/// Blue, orange and purple, which differ for the color-blind too: on light, and on dark.
const COLORS: [(&str, &str); 3] = [
    ("#0969da", "#58a6ff"),
    ("#bc4c00", "#f0883e"),
    ("#8250df", "#bc8cff"),
];

/// Bars of one contender.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    pub label: String,
    /// One value per series of the chart; `None` for a measurement that failed.
    pub values: Vec<Option<f64>>,
}

/// A chart with a linear scale that starts at zero.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    pub title: String,
    /// Unit, conditions and source, in lines below the title.
    pub about: Vec<String>,
    /// Names of the series, at most three.
    pub series: Vec<String>,
    pub bars: Vec<Bars>,
}

impl BarChart {
    /// Renders the chart as an SVG document.
    ///
    /// It sets its own background: a page may be dark while the browser asks for light pictures.
    pub fn svg(&self) -> String {
        let mut body = String::new();
        let mut y = MARGIN + 10;
        text(&mut body, "title", MARGIN.into(), y, &self.title);
        for line in &self.about {
            y += LINE;
            text(&mut body, "muted", MARGIN.into(), y, line);
        }
        y += LINE + 6;
        let mut x = MARGIN;
        for (index, name) in self.series.iter().enumerate() {
            rectangle(&mut body, index, x, y - 10, f64::from(BAR));
            text(&mut body, "text", (x + 18).into(), y, name);
            // Width of the widest of these letters.
            x += 40 + 7 * u32::try_from(name.chars().count()).unwrap_or(0);
        }
        y += 16;
        let top = y;
        for bars in &self.bars {
            y = self.group(&mut body, bars, y);
        }
        let baseline = BASELINE - 1;
        line(
            &mut body,
            format_args!(
                r#"<path class="line" d="M{baseline} {top}V{}"/>"#,
                y.saturating_sub(8)
            ),
        );
        let height = y + MARGIN - 8;

        let mut svg = String::new();
        line(
            &mut svg,
            format_args!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title data" font-family="system-ui, sans-serif" font-size="12">"#
            ),
        );
        line(
            &mut svg,
            format_args!(r#"<title id="title">{}</title>"#, escaped(&self.title)),
        );
        line(
            &mut svg,
            format_args!(r#"<desc id="data">{}</desc>"#, escaped(&self.data())),
        );
        line(&mut svg, format_args!("{}", style()));
        line(
            &mut svg,
            format_args!(
                r#"<rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="6"/>"#,
                WIDTH - 1,
                height - 1
            ),
        );
        svg.push_str(&body);
        svg.push_str("</svg>\n");
        svg
    }

    /// Draws the bars of one contender from `y` down, and returns the y of the next ones.
    fn group(&self, body: &mut String, bars: &Bars, mut y: u32) -> u32 {
        text(body, "label", (BASELINE - 10).into(), y + 10, &bars.label);
        for (index, value) in bars.values.iter().enumerate() {
            let length = self.length(*value);
            if length > 0.0 {
                rectangle(body, index, BASELINE, y, length);
            }
            let end = f64::from(BASELINE + 6) + length;
            text(body, "text", end, y + 10, &shown(*value));
            y += BAR + 2;
        }
        y + 10
    }

    /// Length of a bar in whole pixels, at least one if the value is not zero.
    fn length(&self, value: Option<f64>) -> f64 {
        let values = self.bars.iter().flat_map(|bars| &bars.values);
        let most = values.copied().flatten().fold(0.0, f64::max);
        match value {
            Some(value) if value > 0.0 => (value / most * LONGEST).round().max(1.0),
            _ => 0.0,
        }
    }

    /// Describes the chart in words, for screen readers.
    fn data(&self) -> String {
        let groups = self.bars.iter().map(|bars| {
            let values = self.series.iter().zip(&bars.values);
            let values = values.map(|(name, value)| format!("{name} {}", shown(*value)));
            format!("{}: {}", bars.label, values.collect::<Vec<_>>().join(", "))
        });
        groups.collect::<Vec<_>>().join("; ")
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or("failed".to_owned(), whole)
}

fn style() -> String {
    let colors = |of: fn(&(&'static str, &'static str)) -> &'static str| {
        let fills = COLORS.iter().enumerate();
        let fills = fills.map(|(index, colors)| format!(".s{index}{{fill:{}}}", of(colors)));
        fills.collect::<Vec<_>>().concat()
    };
    let light = colors(|(light, _)| light);
    let dark = colors(|(_, dark)| dark);
    [
        "<style>",
        ".card{fill:#ffffff;stroke:#d1d9e0}.title,.text,.label{fill:#1f2328}.muted{fill:#59636e}",
        ".title{font-size:16px;font-weight:600}.label{text-anchor:end}.line{stroke:#818b98}",
        &light,
        "@media (prefers-color-scheme:dark){",
        ".card{fill:#0d1117;stroke:#3d444d}.title,.text,.label{fill:#f0f6fc}.muted{fill:#9198a1}",
        &dark,
        "}",
        "</style>",
    ]
    .join("\n")
}

fn rectangle(out: &mut String, series: usize, x: u32, y: u32, width: f64) {
    line(
        out,
        format_args!(
            r#"<rect class="s{series}" x="{x}" y="{y}" width="{width}" height="{BAR}" rx="1"/>"#
        ),
    );
}

fn text(out: &mut String, class: &str, x: f64, y: u32, content: &str) {
    line(
        out,
        format_args!(
            r#"<text class="{class}" x="{x}" y="{y}">{}</text>"#,
            escaped(content)
        ),
    );
}

fn line(out: &mut String, content: Arguments) {
    writeln!(out, "{content}").expect("a string takes everything");
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(bars: &[(&str, &[Option<f64>])]) -> BarChart {
        let bars = bars.iter().map(|(label, values)| Bars {
            label: (*label).to_owned(),
            values: values.to_vec(),
        });
        BarChart {
            title: "Title".to_owned(),
            about: vec!["about it".to_owned()],
            series: vec!["one".to_owned(), "two".to_owned()],
            bars: bars.collect(),
        }
    }

    /// Widths of the bars of a series, without the square of the legend.
    fn widths(svg: &str, series: usize) -> Vec<&str> {
        let start = format!(r#"<rect class="s{series}" x="{BASELINE}""#);
        let bars = svg.lines().filter(|line| line.starts_with(&start));
        bars.filter_map(|bar| bar.split("width=\"").nth(1)?.split('"').next())
            .collect()
    }

    #[test]
    fn bars_are_proportional_to_largest_value() {
        let svg = chart(&[
            ("a", &[Some(1000.0), Some(500.0)]),
            ("b", &[Some(250.0), Some(0.001)]),
        ])
        .svg();
        assert_eq!(widths(&svg, 0), ["440", "110"]);
        // A value that is not zero stays visible.
        assert_eq!(widths(&svg, 1), ["220", "1"]);
        assert!(svg.contains(">1,000</text>"), "{svg}");
    }

    #[test]
    fn zero_and_failure_have_text_and_no_bar() {
        let svg = chart(&[("a", &[Some(0.0), None]), ("b", &[Some(10.0), Some(10.0)])]).svg();
        assert_eq!(widths(&svg, 0), ["440"]);
        assert_eq!(widths(&svg, 1), ["440"]);
        assert!(svg.contains(r#"<text class="text" x="266" y="#), "{svg}");
        assert!(svg.contains(">0</text>") && svg.contains(">failed</text>"));
        assert!(svg.contains("a: one 0, two failed; b: one 10, two 10"));
    }

    #[test]
    fn all_zero_has_no_bar() {
        let svg = chart(&[("a", &[Some(0.0), Some(0.0)])]).svg();
        assert_eq!(widths(&svg, 0), [""; 0]);
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn markup_in_text_is_escaped() {
        let mut chart = chart(&[("<a> & \"b\"", &[Some(1.0)])]);
        chart.title = "p99 < 1 & more".to_owned();
        let svg = chart.svg();
        assert!(svg.contains(">&lt;a&gt; &amp; &quot;b&quot;</text>"));
        assert!(svg.contains("<title id=\"title\">p99 &lt; 1 &amp; more</title>"));
        assert_eq!(svg.matches("& ").count(), 0, "{svg}");
    }

    #[test]
    fn light_and_dark_have_their_colors() {
        let svg = chart(&[("a", &[Some(1.0), Some(2.0)])]).svg();
        let (light, dark) = svg
            .split_once("@media (prefers-color-scheme:dark)")
            .expect("a rule for dark");
        for (on_light, on_dark) in COLORS {
            assert!(light.contains(on_light) && dark.contains(on_dark));
        }
    }
}
