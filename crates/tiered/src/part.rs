//! Pages of a batch, lent to one tier.

use hicache_core::{
    Error, ErrorKind, Outcome, PageKey, PageMemory, PageRequest, Piece, Registration, Result, Storage,
    StoreOptions,
};

/// Which tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Near,
    Far,
}

/// What a registration with the tiered storage knows: those with the tiers.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) near: Registration,
    pub(crate) far: Registration,
}

/// Under which registrations memory came, so that it goes back under the same.
#[derive(Debug)]
struct Home(Vec<Registration>);

fn with_registrations(memory: PageMemory, registrations: &[Registration]) -> Result<PageMemory> {
    let pieces = memory.into_pieces().into_iter().zip(registrations);
    let pieces: Vec<Piece> =
        pieces.map(|(piece, registration)| piece.with_registration(registration)).collect::<Result<_>>()?;
    PageMemory::from_pieces(pieces)
}

fn lend(memory: PageMemory, tier: Tier) -> Result<(PageMemory, Home)> {
    let home: Vec<Registration> = memory.pieces().iter().map(|piece| piece.registration().clone()).collect();
    let of_tier = |registration: &Registration| {
        let both = registration.token::<Both>().ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "a registration of this storage does not know its tiers")
        })?;
        Ok(match tier {
            Tier::Near => both.near.clone(),
            Tier::Far => both.far.clone(),
        })
    };
    let lent: Vec<Registration> = home.iter().map(of_tier).collect::<Result<_>>()?;
    Ok((with_registrations(memory, &lent)?, Home(home)))
}

/// Pages of a batch, lent to one tier.
#[derive(Debug)]
pub(crate) struct Part {
    tier: Tier,
    places: Vec<usize>,
    homes: Vec<Home>,
    requests: Vec<PageRequest>,
}

/// What a tier answered for one page: its place in the batch, what became of it, its memory.
pub(crate) type Answered = (usize, Outcome, Option<PageMemory>);

impl Part {
    pub(crate) fn new(tier: Tier) -> Self {
        Self { tier, places: Vec::new(), homes: Vec::new(), requests: Vec::new() }
    }

    /// Places of its pages in the batch.
    pub(crate) fn places(&self) -> &[usize] {
        &self.places
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds the page at `place` of the batch.
    ///
    /// # Errors
    /// `Unexpected`, with the memory lost, for memory that is not registered with this storage.
    pub(crate) fn push(
        &mut self,
        place: usize,
        key: PageKey,
        memory: PageMemory,
        name: Option<Box<str>>,
    ) -> Result<()> {
        let (memory, home) = lend(memory, self.tier)?;
        self.places.push(place);
        self.homes.push(home);
        self.requests.push(PageRequest { key, memory, name });
        Ok(())
    }

    pub(crate) async fn load(self, storage: &dyn Storage) -> Vec<Answered> {
        if self.is_empty() {
            return Vec::new();
        }
        let batch = storage.load(self.requests).await;
        back(self.places, &self.homes, batch.outcomes, batch.memory)
    }

    pub(crate) async fn store(self, storage: &dyn Storage, options: StoreOptions) -> Vec<Answered> {
        if self.is_empty() {
            return Vec::new();
        }
        let batch = storage.store(self.requests, options).await;
        back(self.places, &self.homes, batch.outcomes, batch.memory)
    }
}

fn back(
    places: Vec<usize>,
    homes: &[Home],
    outcomes: Vec<Outcome>,
    memory: Vec<Option<PageMemory>>,
) -> Vec<Answered> {
    let pages = places.into_iter().zip(homes).zip(outcomes.into_iter().zip(memory));
    pages
        .map(|((place, home), (outcome, memory))| {
            let memory = memory.and_then(|memory| with_registrations(memory, &home.0).ok());
            (place, outcome, memory)
        })
        .collect()
}
