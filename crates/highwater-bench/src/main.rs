//! Workloads, rivals and the price of recovery.
fn main() {}
