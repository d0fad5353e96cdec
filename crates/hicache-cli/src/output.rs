//! Standard output: results and nothing else.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::exit::Failure;

/// Standard output, locked and buffered. When the reader of a pipe has gone, what is written is dropped in silence.
pub(crate) struct Output {
    writer: BufWriter<StdoutLock<'static>>,
    closed: bool,
}

impl Output {
    /// Takes standard output until it is dropped.
    pub(crate) fn lock() -> Self {
        Self { writer: BufWriter::new(io::stdout().lock()), closed: false }
    }

    /// Whether nobody reads any more: a command that streams can stop.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        self.write(format_args!("{line}\n"))
    }

    /// Writes an object on one line.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(object).map_err(|error| Failure::failed(error.to_string()))?;
        self.line(text)
    }

    /// Writes what is still in memory.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let result = self.writer.flush();
        self.accept(result)
    }

    fn write(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let result = self.writer.write_fmt(text);
        self.accept(result)
    }

    fn accept(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::failed(format!("standard output: {error}"))),
        }
    }
}

/// A table with these headings.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(headings);
    table
}

/// Numbers stand at the right: the columns from `first` on.
pub(crate) fn align_numbers(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// A number with a comma every three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes with its largest binary unit and three digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let counts = [(0, "0"), (999, "999"), (1_000, "1,000"), (182_790, "182,790"), (1 << 20, "1,048,576")];
        for (number, text) in counts {
            assert_eq!(count(number), text);
        }
        let sizes = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.50 KiB"),
            (12 << 30, "12.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }
}
