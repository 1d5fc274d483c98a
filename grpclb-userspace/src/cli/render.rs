//! Draws answers for people: plain text with aligned columns, coloured where the reader is a terminal.
//!
//! One file for each answer: [`agent`] (one agent's status), [`mod@fleet`] (those of a cluster), [`explain`], [`mod@adoption`], [`mod@check`]. Here is what they share;
//! [`text`] escapes whatever comes from outside.

mod adoption;
mod agent;
mod check;
mod explain;
mod fleet;
mod text;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

pub(super) use adoption::adoption;
pub(super) use agent::status;
pub(super) use check::check;
pub(super) use explain::explanation;
pub(super) use fleet::fleet;
use text::Text;
pub(super) use text::escaped_lines;

/// How it is drawn.
#[derive(Clone, Copy, Debug)]
struct Draw {
    colours: bool,
}

impl Draw {
    fn table(self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if self.colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|name| {
            let cell = cell(name.to_uppercase());
            if self.colours {
                cell.add_attribute(Attribute::Dim)
            } else {
                cell
            }
        }));
        table
    }

    fn cell(self, word: &str, colour: Color) -> Cell {
        if self.colours {
            cell(word).fg(colour)
        } else {
            cell(word)
        }
    }

    fn heading(self, text: &mut String, title: &str) {
        text.push('\n');
        line(text, self.bold(title));
    }

    fn bold(self, word: &str) -> Text {
        self.styled(word, 1)
    }

    fn paint(self, word: &str, colour: Color) -> Text {
        let code = match colour {
            Color::Red => 31,
            Color::Yellow => 33,
            _ => 32,
        };
        self.styled(word, code)
    }

    fn styled(self, word: &str, code: u8) -> Text {
        if self.colours {
            Text::styled(word, code)
        } else {
            word.into()
        }
    }
}

/// A cell of a table.
#[expect(
    clippy::needless_pass_by_value,
    reason = "as `Cell::new`: numbers and strings alike"
)]
fn cell(content: impl ToString) -> Cell {
    Cell::new(Text::from(content.to_string()).into_string())
}

fn right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn draw(text: &mut String, table: &Table) {
    for row in table.lines() {
        // Its cells are escaped.
        text.push(' ');
        text.push_str(row.trim_end());
        text.push('\n');
    }
}

fn fact(text: &mut String, name: &str, value: impl Into<Text>) {
    line(text, Text::from(format!("  {name:<8} ")) + value);
}

fn line(text: &mut String, content: impl Into<Text>) {
    text.push_str(content.into().into_string().trim_end());
    text.push('\n');
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `1 connection`, `2 connections`.
fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

fn share(part: u64, all: u64) -> String {
    if all == 0 {
        "-".to_owned()
    } else {
        format!("{:.1}%", part as f64 * 100.0 / all as f64)
    }
}

/// `3d 4h`, `4h 12m`, `12m 5s`, `5s`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes, rest) = (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `8.4 MB`: powers of 1000, as the documentation counts.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
