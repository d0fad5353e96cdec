//! Numbers of bytes as people write them.

/// What is accepted, for error messages and documentation.
pub(crate) const RULE: &str =
    "a number of bytes, as an integer or with a unit (512MiB, 64GiB, 1.5TiB, 100GB)";

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a number with or without a unit; case and spaces before the unit don't count. A fraction of a byte is cut.
/// `None` for anything else, bare `K`, `M`, `G` and `T` included: they mean two things.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let scale = match unit {
        "" => 1,
        _ => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || (number.contains('.') && (fraction.is_empty() || unit.is_empty()))
        || fraction.len() > 9
    {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(scale);
    let part = match fraction {
        "" => 0,
        _ => {
            u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale) / 10_u128.pow(fraction.len() as u32)
        }
    };
    u64::try_from(whole + part).ok()
}

/// Writes a number with the largest binary unit that divides it.
pub(crate) fn show(bytes: u64) -> String {
    let unit = UNITS[1..5].iter().rev().find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale));
    unit.map_or_else(|| bytes.to_string(), |(name, scale)| format!("{}{name}", bytes / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let right = [
            ("0", 0),
            ("4096", 4096),
            (" 64GiB ", 64 << 30),
            ("64 gib", 64 << 30),
            ("1.5TiB", 3 << 39),
            ("100GB", 100_000_000_000),
            ("7kB", 7000),
            ("0.3KiB", 307),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in right {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for wrong in [
            "",
            "GiB",
            "64G",
            "-1",
            "1.5",
            "1.GiB",
            ".5GiB",
            "1.2.3GiB",
            "1e9",
            "0x10",
            "20000000TiB",
            "٣GiB",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(show(256 << 20), "256MiB");
        for bytes in [0, 1, 1000, 1024, 1536, 1 << 40, 5 << 40, u64::MAX] {
            assert_eq!(parse(&show(bytes)), Some(bytes));
        }
    }
}
