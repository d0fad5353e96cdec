//! Reads a recorded workload: Mooncake's JSONL, one request a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{LineFault, Request, WorkloadError};

/// Longest line that is read, in bytes: 16 MiB, a prompt of some two million blocks. A longer one is refused before it
/// is in memory, so a file that is no trace at all (no newline for gigabytes) costs no more than this.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// Bytes asked of the file at once.
const READ_BYTES: usize = 256 << 10;

/// Reads a trace request by request, in memory of one line.
///
/// A line is a JSON object with `timestamp` (milliseconds, possibly fractional; the fraction is dropped),
/// `input_length`, `output_length` (tokens) and `hash_ids` (one id a block); other fields are ignored and blank lines
/// skipped. After the first error the reader is at its end: what follows a broken line is not to be trusted, and a
/// caller that skips errors can't loop.
///
/// Lines may repeat an id or give it another predecessor; whether a trace is made of chains is said by
/// [`summarize`](super::summarize), which sees it whole.
#[derive(Debug)]
pub struct TraceReader<R> {
    input: R,
    path: PathBuf,
    /// Lines begun so far, so the number of the current one.
    line: u64,
    ended: bool,
    /// The current line; kept for its memory.
    buffer: Vec<u8>,
}

/// The fields of a line, under the names that the traces give them.
#[derive(Deserialize)]
struct Line {
    timestamp: serde_json::Number,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

impl TraceReader<BufReader<File>> {
    /// Opens the trace at `path`.
    ///
    /// # Errors
    ///
    /// [`WorkloadError::Open`] where the system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WorkloadError> {
        let path = path.as_ref();
        match File::open(path) {
            Ok(file) => Ok(Self::new(path, BufReader::with_capacity(READ_BYTES, file))),
            Err(source) => Err(WorkloadError::Open { path: path.to_owned(), source }),
        }
    }
}

impl<R: BufRead> TraceReader<R> {
    /// Reads a trace from `input`; `path` is the name that errors give it.
    pub fn new(path: impl Into<PathBuf>, input: R) -> Self {
        Self { input, path: path.into(), line: 0, ended: false, buffer: Vec::new() }
    }

    /// Brings the next line into the buffer, without its newline. `Ok(false)` at the end of the input.
    fn next_line(&mut self) -> Result<bool, WorkloadError> {
        self.buffer.clear();
        self.line += 1;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(WorkloadError::Read { path: self.path.clone(), line: self.line, source });
                }
            };
            if available.is_empty() {
                return Ok(!self.buffer.is_empty());
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let piece = newline.unwrap_or(available.len());
            if self.buffer.len() + piece > MAX_LINE_BYTES {
                return Err(self.broken(LineFault::TooLong));
            }
            self.buffer.extend_from_slice(&available[..piece]);
            self.input.consume(piece + usize::from(newline.is_some()));
            if newline.is_some() {
                return Ok(true);
            }
        }
    }

    /// The next request, blank lines passed over.
    fn next_request(&mut self) -> Result<Option<Request>, WorkloadError> {
        while self.next_line()? {
            if !self.buffer.trim_ascii().is_empty() {
                return parse(&self.buffer).map(Some).map_err(|fault| self.broken(fault));
            }
        }
        Ok(None)
    }

    fn broken(&self, fault: LineFault) -> WorkloadError {
        WorkloadError::Line { path: self.path.clone(), line: self.line, fault }
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<Request, WorkloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_request().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<R: BufRead> std::iter::FusedIterator for TraceReader<R> {}

/// Reads one line that is not blank.
fn parse(line: &[u8]) -> Result<Request, LineFault> {
    // A derived reader would take `[0, 1, 2, []]` for the fields in their order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(LineFault::NotARequest { column: 0, reason: "not a JSON object".into() });
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // The reader's own words end in a position whose line is always 1, for it sees a line at a time.
        let words = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        let reason = words.strip_suffix(&position).unwrap_or(&words).to_owned();
        LineFault::NotARequest { column: error.column(), reason }
    })?;
    Ok(Request {
        timestamp_ms: whole_milliseconds(&line.timestamp)?,
        input_tokens: line.input_length,
        output_tokens: line.output_length,
        blocks: line.hash_ids,
    })
}

/// A timestamp without its fraction. Integers are kept exact over all 64 bits.
fn whole_milliseconds(number: &serde_json::Number) -> Result<u64, LineFault> {
    if let Some(whole) = number.as_u64() {
        return Ok(whole);
    }
    // 2^64, the first value that does not fit, is exact as a float.
    const BEYOND: f64 = 18_446_744_073_709_551_616.0;
    match number.as_f64() {
        Some(value) if (0.0..BEYOND).contains(&value) => Ok(value as u64),
        _ => Err(LineFault::Timestamp { value: number.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Vec<Result<Request, WorkloadError>> {
        TraceReader::new("some.jsonl", text.as_ref()).collect()
    }

    fn fault_of(text: impl AsRef<[u8]>) -> (u64, LineFault) {
        match read(text).pop() {
            Some(Err(WorkloadError::Line { line, fault, .. })) => (line, fault),
            other => panic!("expected a broken line, got {other:?}"),
        }
    }

    const GOOD: &str = r#"{"timestamp": 7, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}"#;

    #[test]
    fn a_line_is_a_request() {
        let requests: Vec<_> = read(GOOD).into_iter().map(Result::unwrap).collect();
        let expected = Request { timestamp_ms: 7, input_tokens: 600, output_tokens: 5, blocks: vec![1, 2] };
        assert_eq!(requests, [expected]);
    }

    #[test]
    fn what_does_not_matter_is_passed_over() {
        let text = format!(
            "\n  \r\n{GOOD}\r\n\t\n{}\n\n",
            r#"{"type":"text","hash_ids":[],"output_length":0,"input_length":0,"timestamp":27482.999,"turn":{"a":[1]}}"#
        );
        let requests: Vec<_> = read(text).into_iter().map(Result::unwrap).collect();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[1].timestamp_ms, requests[1].blocks.len()), (27_482, 0));
        assert!(read("").is_empty());
        assert!(read("\n\n").is_empty());
    }

    #[test]
    fn a_broken_line_is_named() {
        for (broken, word) in [
            ("{", "EOF"),
            ("null", "JSON object"),
            ("[0, 1, 2, []]", "JSON object"),
            (r#"{"timestamp": 0, "input_length": 1, "output_length": 1}"#, "missing field `hash_ids`"),
            (&GOOD.replace("600", "-600"), "invalid value"),
            (&GOOD.replace("600", "6e9"), "invalid type"),
            (&GOOD.replace("600", "4294967296"), "4294967296"),
            (&GOOD.replace("[1, 2]", "[1, -2]"), "-2"),
            (&GOOD.replace("[1, 2]", "null"), "null"),
            (&GOOD.replace("7", "\"7\""), "string"),
            (&format!("{GOOD} {GOOD}"), "trailing"),
            (&GOOD.replace("\"timestamp\"", "\"timestamp\": 1, \"timestamp\""), "duplicate field"),
        ] {
            let (line, fault) = fault_of(format!("{GOOD}\n\n{broken}\n{GOOD}\n"));
            assert_eq!(line, 3, "{broken}");
            assert!(fault.to_string().contains(word), "{broken}: {fault}");
            assert!(!fault.to_string().contains("at line"), "{broken}: {fault}");
        }
        assert_eq!(fault_of(b"{\"timestamp\": \xff\n").0, 1);
    }

    #[test]
    fn the_message_names_the_file_the_line_and_the_mend() {
        let text = format!("{GOOD}\n{}\n", GOOD.replace("\"hash_ids\"", "\"hashes\""));
        let error = read(text).pop().unwrap().unwrap_err();
        assert_eq!(error.line(), Some(2));
        assert_eq!(error.path(), Some(Path::new("some.jsonl")));
        assert_eq!(
            error.to_string(),
            "trace some.jsonl, line 2: missing field `hash_ids` (column 75); a line is a JSON object with timestamp \
             (ms), input_length, output_length (tokens) and hash_ids"
        );
    }

    #[test]
    fn timestamps_out_of_range_are_refused() {
        for value in ["-1", "-0.5", "1e300", "18446744073709551616"] {
            let (_, fault) = fault_of(GOOD.replace('7', value));
            assert!(matches!(fault, LineFault::Timestamp { .. }), "{value}: {fault}");
        }
        let largest = read(GOOD.replace('7', "18446744073709551615")).pop().unwrap().unwrap();
        assert_eq!(largest.timestamp_ms, u64::MAX);
        assert_eq!(read(GOOD.replace('7', "0.9")).pop().unwrap().unwrap().timestamp_ms, 0);
    }

    #[test]
    fn nothing_follows_an_error() {
        let mut reader = TraceReader::new("some.jsonl", &b"{}\n{}\n"[..]);
        assert!(reader.next().is_some_and(|request| request.is_err()));
        assert!(reader.next().is_none());
    }

    #[test]
    fn an_endless_line_is_refused_early() {
        let mut reader = TraceReader::new("zeros", BufReader::new(io::repeat(b'0')));
        match reader.next() {
            Some(Err(WorkloadError::Line { line: 1, fault: LineFault::TooLong, .. })) => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
        assert!(reader.buffer.len() <= MAX_LINE_BYTES);

        // The longest line that is allowed, and one byte more.
        let padded = |bytes: usize| GOOD.as_bytes().chain(io::repeat(b' ').take((bytes - GOOD.len()) as u64));
        let allowed = TraceReader::new("a", BufReader::new(padded(MAX_LINE_BYTES))).next();
        assert!(matches!(allowed, Some(Ok(_))));
        let refused = TraceReader::new("a", BufReader::new(padded(MAX_LINE_BYTES + 1))).next();
        assert!(matches!(refused, Some(Err(WorkloadError::Line { fault: LineFault::TooLong, .. }))));
    }

    #[test]
    fn what_the_system_refuses_is_named() {
        let missing = TraceReader::open("/nonexistent/trace.jsonl").unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/trace.jsonl"), "{missing}");
        assert_eq!(missing.line(), None);
        let directory = TraceReader::open("/").unwrap().next();
        assert!(matches!(directory, Some(Err(WorkloadError::Read { line: 1, .. }))), "{directory:?}");
    }
}
