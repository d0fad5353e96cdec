//! `page_hashes`: SGLang's page hashes, from a list or from an array in place.

use std::num::NonZeroUsize;

use hicache_hashing::{Digest, NegativeToken, chain_seed, hex_digits, page_hashes, parse_hex32};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::memory;

/// Hex digits of a digest.
const DIGITS: usize = 2 * size_of::<Digest>();

/// What the first page is chained to: `prior`, in which extra key and salt are already, or else those two.
fn seed(prior: Option<&str>, extra_key: Option<&str>, cache_salt: Option<&str>) -> PyResult<Option<Digest>> {
    match prior {
        None => Ok(chain_seed(extra_key, cache_salt)),
        Some(text) => parse_hex32(text).map(Some).map_err(|error| {
            PyValueError::new_err(format!(
                "prior = {text:?} must be a page hash of 64 lowercase hex digits: {error}"
            ))
        }),
    }
}

fn page_tokens(page_size: usize) -> PyResult<NonZeroUsize> {
    NonZeroUsize::new(page_size)
        .ok_or_else(|| PyValueError::new_err("page_size = 0 must be at least 1 token"))
}

fn negative(error: NegativeToken) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Hashes of the pages of a list of token ids.
#[pyfunction]
#[pyo3(signature = (tokens, page_size, prior=None, extra_key=None, cache_salt=None))]
pub(crate) fn hash_pages<'py>(
    py: Python<'py>,
    tokens: Vec<i64>,
    page_size: usize,
    prior: Option<&str>,
    extra_key: Option<&str>,
    cache_salt: Option<&str>,
) -> PyResult<Bound<'py, PyList>> {
    let (seed, page) = (seed(prior, extra_key, cache_salt)?, page_tokens(page_size)?);
    let hashed = py.detach(|| page_hashes(&tokens, page, seed).map(|digests| digits(&digests)));
    texts(py, &hashed.map_err(negative)?)
}

/// As `hash_pages`, of `count` ids in memory: `kind` is `i4`, `i8`, `u4` or `u8`. The caller keeps the memory alive
/// and unchanged until the answer.
#[pyfunction]
#[pyo3(signature = (address, count, kind, page_size, prior=None, extra_key=None, cache_salt=None))]
#[expect(
    clippy::too_many_arguments,
    reason = "they are those of the Python function, with the array taken apart"
)]
pub(crate) fn hash_pages_at<'py>(
    py: Python<'py>,
    address: usize,
    count: usize,
    kind: &str,
    page_size: usize,
    prior: Option<&str>,
    extra_key: Option<&str>,
    cache_salt: Option<&str>,
) -> PyResult<Bound<'py, PyList>> {
    let (seed, page) = (seed(prior, extra_key, cache_salt)?, page_tokens(page_size)?);
    let hashed: PyResult<String> = py.detach(|| {
        let digests = match kind {
            "u4" => page_hashes(memory::ids_at::<u32>(address, count)?, page, seed),
            "u8" => page_hashes(memory::ids_at::<u64>(address, count)?, page, seed),
            "i8" => page_hashes(memory::ids_at::<i64>(address, count)?, page, seed).map_err(negative)?,
            "i4" => {
                let ids = memory::ids_at::<i32>(address, count)?;
                let wide: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                page_hashes(&wide, page, seed).map_err(negative)?
            }
            other => {
                let text = format!("token ids of kind {other:?} can't be hashed; use int64");
                return Err(PyValueError::new_err(text));
            }
        };
        Ok(digits(&digests))
    });
    texts(py, &hashed?)
}

/// All digests as hex digits, one behind the other.
fn digits(digests: &[Digest]) -> String {
    let mut text = Vec::with_capacity(digests.len() * DIGITS);
    for digest in digests {
        text.extend_from_slice(&hex_digits(digest));
    }
    String::from_utf8(text).unwrap_or_default() // Hex digits are ASCII.
}

/// One text a page. Making the objects is all that needs the GIL.
fn texts<'py>(py: Python<'py>, digits: &str) -> PyResult<Bound<'py, PyList>> {
    let text = |page: usize| PyString::new(py, &digits[page * DIGITS..(page + 1) * DIGITS]);
    PyList::new(py, (0..digits.len() / DIGITS).map(text))
}
