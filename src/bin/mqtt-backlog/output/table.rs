//! Tables with aligned columns, which are written while their rows come in.

use super::lines::Output;
use crate::exit::Failure;

/// The side to which a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Number of rows that decide about the widths of the columns.
const MEASURED_ROWS: usize = 200;

/// A table. Its first rows are kept until their widths are known.
#[derive(Debug)]
pub struct Table {
    aligns: Vec<Align>,
    widths: Vec<usize>,
    /// The header and the rows that have not been written.
    rows: Vec<Vec<String>>,
    is_measured: bool,
}

impl Table {
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let header = columns.iter().map(|(name, _)| (*name).to_owned());
        Self {
            aligns: columns.iter().map(|(_, align)| *align).collect(),
            widths: vec![0; columns.len()],
            rows: vec![header.collect()],
            is_measured: false,
        }
    }

    /// Adds a row for [`into_lines`](Self::into_lines).
    pub fn add(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Returns the header and all rows that were added.
    pub fn into_lines(mut self) -> Vec<String> {
        self.lines()
    }

    /// Adds a row, whose texts have been escaped.
    pub fn row(&mut self, out: &mut Output, cells: Vec<String>) -> Result<(), Failure> {
        self.rows.push(cells);
        if self.is_measured || self.rows.len() > MEASURED_ROWS {
            self.write(out)?;
        }
        Ok(())
    }

    /// Writes the rows that are left, and the header if there are none.
    pub fn finish(mut self, out: &mut Output) -> Result<(), Failure> {
        self.write(out)
    }

    fn write(&mut self, out: &mut Output) -> Result<(), Failure> {
        for line in self.lines() {
            out.line(&line)?;
        }
        Ok(())
    }

    /// Takes the rows as lines; the first ones decide about the widths.
    fn lines(&mut self) -> Vec<String> {
        let rows = std::mem::take(&mut self.rows);
        if !self.is_measured {
            self.is_measured = true;
            for row in &rows {
                for (width, cell) in self.widths.iter_mut().zip(row) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let columns = row.iter().zip(&self.widths).zip(&self.aligns);
        let cells = columns.map(|((cell, width), align)| match align {
            Align::Left => format!("{cell}{}", padding(cell, *width)),
            Align::Right => format!("{}{cell}", padding(cell, *width)),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// The spaces that a cell lacks. A width in a format is at most 65,535.
fn padding(cell: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(cell.chars().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("T", Align::Left),
        ]);
        for (name, number, text) in [("a", "1", "x"), ("device", "100", ""), ("ä", "20", "yy")] {
            table
                .rows
                .push([name, number, text].map(str::to_owned).to_vec());
        }
        let expected = [
            "NAME      N  T",
            "a         1  x",
            "device  100",
            "ä        20  yy",
        ];
        assert_eq!(table.lines(), expected);
        // A later row that is wider does not move the others.
        table
            .rows
            .push(["another one", "1", "z"].map(str::to_owned).to_vec());
        assert_eq!(table.lines(), ["another one    1  z"]);
    }

    #[test]
    fn cell_may_be_wider_than_format_can_pad() {
        let mut table = Table::new(&[("A", Align::Left), ("B", Align::Right)]);
        let wide = "x".repeat(70_000);
        table.add(vec![wide.clone(), "1".to_owned()]);
        assert_eq!(table.into_lines()[1], format!("{wide}  1"));
    }
}
