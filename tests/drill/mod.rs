//! The kill drill: starts the real program, kills it, starts it again with other workers, and compares.
//!
//! From the bottom up: [`feed`] writes input, [`program`] builds and starts `cart_join`, [`journal`]
//! reads its log while it runs, [`moment`] chooses when to strike, [`report`] counts where the strikes
//! landed, [`letters`] knows what must be set aside, [`life`] is one store from its first start to the end of its input. It knows the program by
//! its command line, its log and its files; no line of the engine is in here.

pub mod feed;
pub mod journal;
pub mod letters;
pub mod life;
pub mod moment;
pub mod program;
pub mod report;

/// How many kills: `HIGHWATER_DRILL_KILLS`, or `usual`.
pub fn kills(usual: u64) -> u64 {
    number("HIGHWATER_DRILL_KILLS").unwrap_or(usual)
}

/// Whether a number of kills is asked for.
pub fn is_long() -> bool {
    number("HIGHWATER_DRILL_KILLS").is_some()
}

/// The seed of this run: `HIGHWATER_DRILL_SEED`, or another one each time.
pub fn seed() -> u64 {
    number("HIGHWATER_DRILL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}
