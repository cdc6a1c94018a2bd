//! What survives of a highwater flow.
pub use ids::{Epoch, Execution, Generation, KeyGroup, key_group, shard_of};
mod ids;
