//! Page hashes against SGLang: vectors printed by the compiled `hash_binding.cpp` of SGLang 0.5.23 (and, for
//! seeds, by its `storage_namespace_seed`), and a plain model of the definition.

use hicache_hashing::{
    Digest, NegativeToken, bigram_page_hashes, chain_seed, page_hash, page_hash_u32, page_hashes, to_hex,
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::num::NonZeroUsize;

const WIDE: u64 = 1 << 33;

fn tokens_a_page(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("a page holds tokens")
}

fn hex(digests: &[Digest]) -> Vec<String> {
    digests.iter().map(|digest| to_hex(digest)).collect()
}

/// 10,000 ids below 150,000, scattered.
fn long_prompt() -> Vec<u64> {
    (0..10_000u64).map(|i| i * 2_654_435_761 % (1 << 32) % 150_000).collect()
}

#[test]
fn first_page_and_next() {
    let first = page_hash(None, &[1u64, 2, 3, 4]);
    assert_eq!(to_hex(&first), "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72");
    let next = page_hash(Some(&first), &[5u64, 6, 7, 8]);
    assert_eq!(to_hex(&next), "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6");
}

#[test]
fn partial_last_page() {
    let tokens: Vec<u64> = (1..=10).collect();
    let digests = page_hashes(&tokens, tokens_a_page(4), None);
    assert_eq!(
        hex(&digests),
        [
            "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72",
            "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6",
            "6dc571acd2ccb712fb7a8b13854443ded3fba409ddd9aa84849d3840c1547ca3",
        ]
    );
}

#[test]
fn bigrams() {
    let whole = [
        "ede8ef26a097f0fd889f9f39f6f5af921370630b164c4a4fa28eb716b2df9269",
        "678c5307f2a02a2aaf8edbeb80ebac13663f70e14a4fc8d5d62b77e702841e4b",
    ];
    let partial = "4c012e2802591fb790adcf5095ff129ff809f31727e0824a7ea259776f8581c3";
    assert_eq!(hex(&bigram_page_hashes(&[1u64, 2, 3, 4, 5], tokens_a_page(2), None)), whole);
    let digests = bigram_page_hashes(&[1u32, 2, 3, 4, 5, 6], tokens_a_page(2), None);
    assert_eq!(hex(&digests), [whole[0], whole[1], partial]);

    // Behind page 1, whose last token is the third page's first.
    assert_eq!(bigram_page_hashes(&[5u32, 6], tokens_a_page(2), Some(digests[1])), digests[2..]);
}

#[test]
fn wide_ids() {
    let wide = page_hash(None, &[1u64, WIDE]);
    assert_eq!(to_hex(&wide), "5a70c92f9fb3c8ae74332afb9d2798ced9d2a494397f98bc237f19856758eca1");

    // Only the page with the wide id changes its encoding.
    let digests = page_hashes(&[1u64, 2, WIDE, 4, 5, 6], tokens_a_page(2), None);
    assert_eq!(
        hex(&digests),
        [
            "34fb5c825de7ca4aea6e712f19d439c1da0c92c37b423936c5f618545ca4fa1f",
            "6ffd83c13b9a44b589d346de2260b6459001f19a1266f6c1c6fee972435f2719",
            "79f5c4c934b9c305884bc6798c0311600e14616e3504cfa0c8615720e0557370",
        ]
    );

    // A bigram page shares its boundary token with the next, so both are wide.
    let digests = bigram_page_hashes(&[1u64, 2, WIDE, 4, 5, 6, 7], tokens_a_page(2), None);
    assert_eq!(
        hex(&digests),
        [
            "b4680fc542e8ff0bd7340836339e9de6b2d8722527c523cd862b293a5f58a228",
            "8f197a101897cb68cfe7e6df5d3567ba8e38b9fa9b74eac7e5f17d4b88865a03",
            "618d489b1a36faebafe3e03a825cd73ef5ae72656aa4ba325f62e756ffdca50e",
        ]
    );
}

#[test]
fn largest_ids() {
    let narrow = page_hash(None, &[u64::from(u32::MAX), 0]);
    assert_eq!(to_hex(&narrow), "72a4fa3544e43a836ffcb268ce06ccdbc55d44d5e6b1b1c19216a53ea98301fd");
    let wide = page_hash(None, &[i64::MAX]).expect("not negative");
    assert_eq!(to_hex(&wide), "dabcf736814b4d5bbc4d2ad596423df000c507308a6c57ce351f33e8d7ecf23a");
}

#[test]
fn seeds() {
    assert_eq!(chain_seed(None, None), None);
    for (extra_key, cache_salt, seed) in [
        (Some("lora-A"), None, "19091e73108efe79001c7f32d5a406346de6d857c582ce3b77311ba43e5ab43a"),
        (None, Some("lora-A"), "5339261d20284d907d532a5b3786355aa2edf38fdf8cc0e50804fd57de82faa1"),
        (Some(""), None, "fd649dd130277fa0773e23e84ddfa4ec779d9df77087968a60d7cefb9050ab1d"),
        (Some("a"), Some("b"), "c8c5acd517d9109ddf84843ef6f4603af6c4fe55b093a70ed9de8e7ee5769282"),
        (Some("ab"), Some(""), "5381adf71a8d0d76db073cf2e301b7e61dd519d0f58e7b2b226752497af60785"),
        (Some("ключ"), Some("соль"), "fb414b75696976b835fe6002d4f531e6c1b8aad72eae9c40c59936d4a30fde43"),
    ] {
        let computed = chain_seed(extra_key, cache_salt).expect("seeded");
        assert_eq!(to_hex(&computed), seed, "{extra_key:?} {cache_salt:?}");
    }
}

#[test]
fn seeded_chain() {
    let digests = page_hashes(&[1u64, 2, 3, 4], tokens_a_page(4), chain_seed(Some("lora-A"), None));
    assert_eq!(hex(&digests), ["ca5912b2b40c1105611683a8680b486156fbbcdf3b6ff5d012d0a00740966a0a"]);
}

/// Chains, and pages longer than one run of SHA-256 blocks, with a digest that depends on every page.
#[test]
fn long_prompts() {
    let tokens = long_prompt();
    let last = |digests: Vec<Digest>| (digests.len(), to_hex(digests.last().expect("pages")));

    let expected = "5bf1b63b02fe88c951b7b9777ade04b46e1741512ee20e77364ca3f73097eac2";
    assert_eq!(last(page_hashes(&tokens, tokens_a_page(64), None)), (157, expected.to_owned()));

    let seed = chain_seed(Some("a"), Some("b"));
    let expected = "bbbd96f7752a19383d9394d7206d85b5679ca6c2410d642271bc7256c0bc1899";
    assert_eq!(last(page_hashes(&tokens, tokens_a_page(1000), seed)), (10, expected.to_owned()));

    let seed = chain_seed(None, Some("s"));
    let expected = "15b3075ec6083a3816fae7ab5a3940c3083540588cbf44c2773c2f4f9cb889e0";
    assert_eq!(last(bigram_page_hashes(&tokens, tokens_a_page(96), seed)), (105, expected.to_owned()));

    let expected = "c303d9d0bb11064121a1701087843f391a53f04359ef0375d5a68522b5e03c77";
    assert_eq!(to_hex(&page_hash(None, &tokens)), expected);
}

#[test]
fn no_tokens() {
    let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(to_hex(&page_hash_u32(None, &[])), expected);
    let expected = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
    assert_eq!(to_hex(&page_hash_u32(Some(&[0; 32]), &[])), expected);
    assert!(page_hashes::<u64>(&[], tokens_a_page(4), None).is_empty());
    assert!(bigram_page_hashes::<u64>(&[], tokens_a_page(4), None).is_empty());
    assert!(bigram_page_hashes(&[1u64], tokens_a_page(4), None).is_empty());
}

#[test]
fn page_longer_than_any_prompt() {
    let endless = NonZeroUsize::MAX;
    assert_eq!(page_hashes(&[1u32, 2], endless, None), [page_hash_u32(None, &[1, 2])]);
    assert_eq!(bigram_page_hashes(&[1u32, 2], endless, None), [page_hash_u32(None, &[1, 2])]);
}

#[test]
fn negative_ids_are_refused() {
    let refused = NegativeToken { at: 2, id: -1 };
    let tokens = [1i64, 2, -1, i64::MIN];
    assert_eq!(page_hash(None, &tokens), Err(refused));
    assert_eq!(page_hashes(&tokens, tokens_a_page(1), None), Err(refused));
    assert_eq!(bigram_page_hashes(&tokens, tokens_a_page(1), None), Err(refused));
    assert_eq!(refused.to_string(), "token 2 has the id -1: ids must not be negative");
}

/// The definition, with the whole message in one `Vec`.
fn model(prior: Option<Digest>, ids: &[u64]) -> Digest {
    let mut bytes = prior.map_or(Vec::new(), Vec::from);
    match ids.iter().map(|id| u32::try_from(*id)).collect::<Result<Vec<_>, _>>() {
        Ok(narrow) => bytes.extend(narrow.iter().flat_map(|id| id.to_le_bytes())),
        Err(_) => {
            bytes.push(0xff);
            bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        }
    }
    Sha256::digest(bytes).into()
}

/// Mostly ids of a vocabulary, seldom a wide one, so that chains with both kinds of pages are usual.
fn token() -> impl Strategy<Value = u64> {
    prop_oneof![200 => 0..150_000u64, 1 => any::<u32>().prop_map(u64::from), 1 => 0..=i64::MAX as u64]
}

proptest! {
    #[test]
    fn chains_equal_the_model(
        tokens in proptest::collection::vec(token(), 0..700),
        page in 1usize..300,
        seed: Option<Digest>,
    ) {
        let mut prior = seed;
        let expected: Vec<Digest> =
            tokens.chunks(page).map(|ids| *prior.insert(model(prior, ids))).collect();
        prop_assert_eq!(&page_hashes(&tokens, tokens_a_page(page), seed), &expected);

        let signed: Vec<i64> = tokens.iter().map(|id| *id as i64).collect();
        prop_assert_eq!(page_hashes(&signed, tokens_a_page(page), seed), Ok(expected));
    }

    #[test]
    fn bigram_chains_equal_the_model(
        tokens in proptest::collection::vec(token(), 0..700),
        page in 1usize..300,
        seed: Option<Digest>,
    ) {
        let pairs: Vec<[u64; 2]> = tokens.windows(2).map(|pair| [pair[0], pair[1]]).collect();
        let mut prior = seed;
        let expected: Vec<Digest> =
            pairs.chunks(page).map(|ids| *prior.insert(model(prior, ids.as_flattened()))).collect();
        prop_assert_eq!(&bigram_page_hashes(&tokens, tokens_a_page(page), seed), &expected);

        let signed: Vec<i64> = tokens.iter().map(|id| *id as i64).collect();
        prop_assert_eq!(bigram_page_hashes(&signed, tokens_a_page(page), seed), Ok(expected));
    }

    #[test]
    fn types_of_ids_make_no_difference(tokens in proptest::collection::vec(any::<u32>(), 0..700)) {
        let long: Vec<u64> = tokens.iter().map(|id| u64::from(*id)).collect();
        let page = tokens_a_page(64);
        prop_assert_eq!(page_hashes(&tokens, page, None), page_hashes(&long, page, None));
        prop_assert_eq!(bigram_page_hashes(&tokens, page, None), bigram_page_hashes(&long, page, None));
    }
}
