//! The recovery protocol, executed: the real store, driven and crashed at every step, compared with a plain map.
//!
//! `bed` is what a store lies on and how power is lost there, `model` the flow that is modelled, `random` the long
//! seeded runs and the rules switched off one by one, `dirs` the same in several directories, `stories` the cases that have names.

mod bed;
mod dirs;
mod model;
mod random;
mod shadow;
mod stories;
