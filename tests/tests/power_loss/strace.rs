//! What strace wrote, as calls: one a line, or begun in one line and ended in a later one.

use std::collections::HashMap;

/// A system call. The numbers of its lines order it among the others: strace writes the first before the call can have
/// any effect, and the second before its caller goes on.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Vec<Argument>,
    /// `None` for a call that never came back.
    pub(crate) result: Option<i64>,
    pub(crate) begun: usize,
    pub(crate) ended: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    Bytes(Vec<u8>),
    Number(i64),
    /// Flags, names of constants, what was left out.
    Word(String),
    /// `[…]`, or the values of `{name=…}`.
    List(Vec<Argument>),
}

impl Call {
    pub(crate) fn succeeded(&self) -> bool {
        self.result.is_some_and(|result| result >= 0)
    }

    pub(crate) fn number(&self, at: usize) -> i64 {
        match self.arguments.get(at) {
            Some(Argument::Number(number)) => *number,
            // AT_FDCWD and the like.
            Some(Argument::Word(_)) => -1,
            other => panic!("argument {at} of {self:?} is {other:?}"),
        }
    }

    pub(crate) fn bytes(&self, at: usize) -> &[u8] {
        match self.arguments.get(at) {
            Some(Argument::Bytes(bytes)) => bytes,
            other => panic!("argument {at} of {self:?} is {other:?}"),
        }
    }

    pub(crate) fn path(&self, at: usize) -> &str {
        std::str::from_utf8(self.bytes(at)).expect("paths of the workload are UTF-8")
    }

    pub(crate) fn has_flag(&self, at: usize, flag: &str) -> bool {
        matches!(self.arguments.get(at), Some(Argument::Word(word)) if word.split('|').any(|own| own == flag))
    }

    /// The bytes of a vector of buffers, joined.
    pub(crate) fn gathered(&self, at: usize) -> Vec<u8> {
        let Some(Argument::List(buffers)) = self.arguments.get(at) else {
            panic!("argument {at} of {self:?} is no vector")
        };
        let bytes = buffers.iter().map(|buffer| match buffer {
            Argument::List(fields) => match fields.first() {
                Some(Argument::Bytes(bytes)) => bytes.as_slice(),
                _ => panic!("a buffer of {self:?} has no bytes"),
            },
            _ => panic!("a buffer of {self:?} is none"),
        });
        bytes.collect::<Vec<_>>().concat()
    }
}

/// All calls, by the line that they ended in. Calls that never did come last.
pub(crate) fn parse(text: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(start) = rest.strip_suffix("<detached ...>").map(str::trim_end) {
            // Under way when the process ended, like those that are left below. Without arguments it had not begun.
            if !start.is_empty() && !start.ends_with('(') {
                open.insert(process, (number, start));
            }
        } else if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            let before = open.insert(process, (number, start));
            assert!(before.is_none(), "two calls at once in one thread: {line}");
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (begun, start) =
                open.remove(process).unwrap_or_else(|| panic!("resumed from nothing: {line}"));
            let (_, end) = resumed.split_once(" resumed>").expect("a resumed call says so");
            calls.push(call(&format!("{}{end}", start.trim_end()), begun, number));
        } else {
            calls.push(call(rest, number, number));
        }
    }
    // Threads that were waiting when the process ended.
    for (begun, start) in open.into_values() {
        if !start.starts_with("exit") {
            calls.push(call(&format!("{start}) = ?"), begun, usize::MAX));
        }
    }
    calls
}

fn call(text: &str, begun: usize, ended: usize) -> Call {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("no call: {text}"));
    let mut reader = Reader { text: rest.as_bytes(), at: 0 };
    let arguments = reader.list(b')');
    let rest = &rest[reader.at..];
    let (_, result) = rest.split_once("= ").unwrap_or_else(|| panic!("no result: {text}"));
    let result = result.split_whitespace().next().and_then(|word| word.parse().ok());
    Call { name: name.to_owned(), arguments, result, begun, ended }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> u8 {
        *self.text.get(self.at).unwrap_or_else(|| panic!("cut: {}", String::from_utf8_lossy(self.text)))
    }

    fn list(&mut self, end: u8) -> Vec<Argument> {
        let mut all = Vec::new();
        loop {
            match self.peek() {
                byte if byte == end => {
                    self.at += 1;
                    return all;
                }
                b',' | b' ' => self.at += 1,
                _ => all.push(self.one()),
            }
        }
    }

    fn one(&mut self) -> Argument {
        match self.peek() {
            b'"' => self.string(),
            open @ (b'[' | b'{' | b'(') => {
                self.at += 1;
                Argument::List(self.list(match open {
                    b'[' => b']',
                    b'{' => b'}',
                    _ => b')',
                }))
            }
            _ => self.word(),
        }
    }

    fn string(&mut self) -> Argument {
        self.at += 1;
        let mut bytes = Vec::new();
        while self.peek() != b'"' {
            let escape = &self.text[self.at..self.at + 4];
            assert!(escape.starts_with(b"\\x"), "strace was told to write every byte in hexadecimal");
            let digit = |digit: u8| (digit as char).to_digit(16).expect("a hexadecimal digit") as u8;
            bytes.push(digit(escape[2]) << 4 | digit(escape[3]));
            self.at += 4;
        }
        self.at += 1;
        assert!(!self.text[self.at..].starts_with(b"..."), "strace cut a string short");
        Argument::Bytes(bytes)
    }

    fn word(&mut self) -> Argument {
        let start = self.at;
        while !matches!(self.peek(), b',' | b')' | b']' | b'}' | b'=' | b' ') {
            self.at += 1;
            // Macros with arguments, as in {st_rdev=makedev(0x1, 0x3)}.
            if self.peek() == b'(' {
                self.at += 1;
                self.list(b')');
            }
        }
        if self.peek() == b'=' {
            self.at += 1;
            return self.one();
        }
        let word = std::str::from_utf8(&self.text[start..self.at]).expect("strace writes ASCII");
        let number = match word.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        };
        number.map_or_else(|| Argument::Word(word.to_owned()), Argument::Number)
    }
}

#[test]
fn lines_of_strace_are_read() {
    let text = "7 openat(AT_FDCWD, \"\\x2f\\x78\", O_RDWR|O_CREAT, 0644) = 3\n\
                7 fdatasync(3 <unfinished ...>\n\
                8 pwritev2(3, [{iov_base=\"\\x61\", iov_len=1}, {iov_base=\"\\x22\\x5c\", iov_len=2}], 2, 10, 0) = 3\n\
                7 <... fdatasync resumed>)          = 0 (DELAYED)\n\
                8 unlink(\"\\x78\") = -1 ENOENT (No such file or directory)\n\
                9 +++ exited with 0 +++\n";
    let calls = parse(text);
    assert!(calls[0].has_flag(2, "O_CREAT") && calls[0].path(1) == "/x" && calls[0].result == Some(3));
    assert_eq!((calls[1].gathered(1), calls[1].number(3)), (b"a\"\\".to_vec(), 10));
    assert_eq!((calls[2].name.as_str(), calls[2].begun, calls[2].ended), ("fdatasync", 2, 4));
    assert!(!calls[3].succeeded());
}
