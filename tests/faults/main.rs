//! The fault matrix: what may go wrong outside the engine, one test for each row of `docs/faults.md`.
//!
//! A test's name begins with its row. Nearly all of them start the real `cart_join`, or `faulty`
//! (`program.rs`), a small flow whose records say what shall go wrong. Each test asserts that its
//! failure did happen, before it asserts what became of it. Kills at random moments are for
//! `tests/kill_drill.rs`; here every failure has its place.
//!
//! `HIGHWATER_LONG=1` runs the bars that take minutes at their full length; without it the same tests
//! take seconds.

mod bed;
#[path = "../oracle/mod.rs"]
#[expect(dead_code, reason = "the kill drill uses all of the oracle, the matrix a part")]
mod oracle;

mod crashes;
mod files;
mod inputs;
mod letters;
mod memory;
mod outputs;
mod points;
mod records;
mod signals;
mod steps;
mod stores;
mod table;
mod times;
