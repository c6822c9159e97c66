//! Terminal of a fixed size in which a program runs, and its picture as SVG.

use std::{
    fmt::Write,
    process::{Command, Stdio},
};

use crate::bar_chart::escaped;

/// Sizes in pixels.
const FONT: usize = 12;
const LINE: usize = 18;
const MARGIN: usize = 20;

const STYLE: &str = "\
<style>
.card{fill:#ffffff;stroke:#d1d9e0}text{fill:#1f2328;white-space:pre}.prompt{fill:#0969da;font-weight:600}
@media (prefers-color-scheme:dark){
.card{fill:#0d1117;stroke:#3d444d}text{fill:#f0f6fc}.prompt{fill:#58a6ff}}
</style>";

/// The visible lines of a terminal.
#[derive(Debug)]
pub struct Terminal {
    columns: usize,
    rows: usize,
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Terminal {
    /// Creates an empty one.
    pub fn new(columns: usize, rows: usize) -> Self {
        Self {
            columns,
            rows,
            lines: vec![Vec::new()],
            row: 0,
            column: 0,
        }
    }

    /// Runs a command of the shell in it to its end.
    ///
    /// `script`, which every Linux has, makes the pseudo-terminal.
    pub fn run(&mut self, command: &str, environment: &[(&str, &str)]) {
        let sized = format!(
            "stty columns {} rows {}; {command}",
            self.columns, self.rows
        );
        let output = Command::new("script")
            .args(["--quiet", "--command", &sized, "/dev/null"])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("`script` of bsdutils");
        self.show(&String::from_utf8(output.stdout).expect("UTF-8"));
    }

    /// Shows text. Of the control sequences it knows those that the programs of this repository write.
    pub fn show(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            match letter {
                '\r' => self.column = 0,
                '\n' => self.down(),
                '\x1b' => {
                    assert_eq!(rest.next(), Some('['), "a control sequence");
                    let mut number = String::new();
                    let end = loop {
                        match rest.next().expect("its end") {
                            digit if digit.is_ascii_digit() => number.push(digit),
                            end => break end,
                        }
                    };
                    self.control(end, &number);
                }
                letter => {
                    assert!(!letter.is_control(), "{letter:?}");
                    self.put(letter);
                }
            }
        }
    }

    fn control(&mut self, end: char, number: &str) {
        match (end, number.parse::<usize>()) {
            ('F', Ok(lines)) => {
                self.row = self.row.saturating_sub(lines);
                self.column = 0;
            }
            ('J', Err(_)) => {
                self.lines.truncate(self.row + 1);
                self.lines[self.row].truncate(self.column);
            }
            _ => panic!("an unknown control sequence, {number}{end}"),
        }
    }

    fn put(&mut self, letter: char) {
        if self.column == self.columns {
            self.column = 0;
            self.down();
        }
        let line = &mut self.lines[self.row];
        line.resize(line.len().max(self.column + 1), ' ');
        line[self.column] = letter;
        self.column += 1;
    }

    fn down(&mut self) {
        self.row += 1;
        if self.row == self.rows {
            self.lines.remove(0);
            self.row -= 1;
        }
        if self.row == self.lines.len() {
            self.lines.push(Vec::new());
        }
    }

    /// The lines, without the empty ones at the end.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.iter();
        let lines = lines.map(|line| line.iter().collect::<String>().trim_end().to_owned());
        let mut lines: Vec<String> = lines.collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Draws the lines as SVG, below a prompt with the command that was typed. All pictures of one width have one scale.
    ///
    /// It sets its own background: a page may be dark while the browser asks for light pictures.
    pub fn svg(&self, typed: &str) -> String {
        let lines = self.lines();
        // In all common fixed-width fonts a letter is three fifths as wide as the font is high.
        let width = 2 * MARGIN + (self.columns * FONT * 3).div_ceil(5);
        let height = 2 * MARGIN + (lines.len() + 1) * LINE - (LINE - FONT);
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="{FONT}">"#
        );
        let typed = escaped(typed);
        write!(svg, "\n<title>{typed}</title>\n{STYLE}\n").expect("a string takes everything");
        writeln!(
            svg,
            r#"<rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="6"/>"#,
            width - 1,
            height - 1
        )
        .expect("a string takes everything");
        let mut y = MARGIN + FONT - 2;
        let prompt = format!(r#"$ <tspan class="prompt">{typed}</tspan>"#);
        for line in std::iter::once(prompt).chain(lines.iter().map(|line| escaped(line))) {
            if !line.is_empty() {
                writeln!(
                    svg,
                    r#"<text x="{MARGIN}" y="{y}" xml:space="preserve">{line}</text>"#
                )
                .expect("a string takes everything");
            }
            y += LINE;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(texts: &[&str]) -> Vec<String> {
        let mut terminal = Terminal::new(8, 4);
        for text in texts {
            terminal.show(text);
        }
        terminal.lines()
    }

    #[test]
    fn table_is_drawn_over_last_one() {
        let first = "one\r\ntwo\r\nthree\r\n";
        assert_eq!(shown(&[first]), ["one", "two", "three"]);
        assert_eq!(shown(&[first, "\x1b[3F\x1b[J1\r\n2\r\n"]), ["1", "2"]);
        assert_eq!(shown(&[first, "\x1b[1F\x1b[J3\r\n"]), ["one", "two", "3"]);
    }

    #[test]
    fn long_text_wraps_and_scrolls() {
        assert_eq!(shown(&["12345678\r\n9"]), ["12345678", "9"]);
        assert_eq!(shown(&["123456789"]), ["12345678", "9"]);
        let lines = "1\r\n2\r\n3\r\n4\r\n5\r\n";
        assert_eq!(shown(&[lines]), ["3", "4", "5"]);
    }

    #[test]
    fn program_sees_size_of_terminal() {
        let mut terminal = Terminal::new(40, 5);
        terminal.run("stty size; echo $WORD", &[("WORD", "a")]);
        assert_eq!(terminal.lines(), ["5 40", "a"]);
    }

    #[test]
    fn picture_has_each_line_as_text() {
        let mut terminal = Terminal::new(20, 5);
        terminal.show("a  <b>\r\n\r\nc\r\n");
        let svg = terminal.svg("x & y");
        for part in [
            r#"$ <tspan class="prompt">x &amp; y</tspan></text>"#,
            ">a  &lt;b&gt;</text>",
            r#"y="84" xml:space="preserve">c</text>"#,
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<text ").count(), 3);
    }
}
