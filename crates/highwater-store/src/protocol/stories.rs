//! Cases that have names.
