//! Collections that come back: killed anywhere, rescaled, damaged, against plain programs that start from scratch.
//!
//! One test binary, since Differential is heavy to compile.

#[expect(dead_code, reason = "the kill drill uses all of it")]
#[path = "../oracle/mod.rs"]
mod oracle;
#[path = "../storm/mod.rs"]
mod storm;

mod accumulate;
mod bounded;
mod examples;
mod killed;
mod random;
mod refused;
mod resumed;
