//! Columns that line up, and numbers as people read them.

use std::fmt;

/// Numbers stand to the right, words to the left.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// What came from clients cannot move the cursor of a terminal.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| cell.escape_debug().to_string());
        self.rows.push(cells.collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit());
        let columns: Vec<(usize, bool)> = (0..self.head.len())
            .map(|column| {
                let cells = || self.rows.iter().map(|row| &row[column]);
                let longest = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
                let all_numbers = !self.rows.is_empty() && cells().all(is_number);
                (longest.max(self.head[column].len()), all_numbers)
            })
            .collect();
        let mut line = |cells: Vec<&str>| {
            let mut text = String::new();
            for (cell, (width, is_right)) in cells.iter().zip(&columns) {
                match is_right {
                    true => text += &format!("{cell:>width$}  "),
                    false => text += &format!("{cell:<width$}  "),
                }
            }
            writeln!(f, "{}", text.trim_end())
        };
        line(self.head.clone())?;
        for row in &self.rows {
            line(row.iter().map(String::as_str).collect())?;
        }
        Ok(())
    }
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time that has passed, in its two largest units.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_shown() {
        let mut table = Table::new(&["name", "n"]);
        table.row(["a\x1b[2J".into(), "1".into()]);
        table.row(["b".into(), "1,000".into()]);
        let lines = ["name            n", "a\\u{1b}[2J      1", "b           1,000"];
        assert_eq!(table.to_string(), lines.join("\n") + "\n");
    }

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let times = [5, 65, 3700, 90_000].map(ago);
        assert_eq!(times, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
