//! The way into the store and back: the only code that touches a store while a flow runs.

pub(crate) mod commit;
pub(crate) mod load;
pub(crate) mod write;
