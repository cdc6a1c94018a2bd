//! Recoverable dataflows.
