//! The name that was probably meant.

/// The candidate nearest to `given`, if one is near. A candidate with a path (`posix_uring.depth`) is also compared
/// by its last part, so that a field in the wrong table is found.
pub(crate) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_above(0.55, given, candidates)
}

/// As [`nearest`], with a bound on how far away it may be: 1 is equal, 0 is nothing in common.
pub(crate) fn nearest_above<'a>(
    near: f64,
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let likeness = strsim::normalized_damerau_levenshtein;
    let given = plain(given);
    let (table, last) = split(&given);
    let score = |candidate: &str| {
        let candidate = plain(candidate);
        let (candidate_table, candidate_last) = split(&candidate);
        let last = likeness(last, candidate_last);
        // A table that both share says nothing about the field.
        if table == candidate_table { last } else { likeness(&given, &candidate).max(0.9 * last) }
    };
    let scored = candidates.into_iter().map(|candidate| (score(candidate), candidate));
    // Of several that are equally near, the first.
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    (best.0 >= near).then_some(best.1)
}

/// Table and last part of a path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let names = ["storage_dir", "capacity_bytes", "posix_uring.depth", "posix_uring.rings"];
        assert_eq!(nearest("storage_dirs", names), Some("storage_dir"));
        assert_eq!(nearest("capacity", names), Some("capacity_bytes"));
        assert_eq!(nearest("depth", names), Some("posix_uring.depth"));
        assert_eq!(nearest("posix-uring.dpeth", names), Some("posix_uring.depth"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("posix_uring.colour", names), None);
        assert_eq!(nearest("x", []), None);
    }
}
