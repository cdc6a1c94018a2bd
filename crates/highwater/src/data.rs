//! What items, keys and states must be able to do. Blanket implementations: nobody writes `impl Data`.

use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, fmt::Debug, hash::Hash};

/// What user code may return as its error: any error type, boxed.
pub type StepError = Box<dyn Error + Send + Sync>;

/// An item that can travel between workers and processes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an item of a stream",
    label = "not `Clone + Serialize + Deserialize + Send + 'static`",
    note = "derive them: `#[derive(Clone, serde::Serialize, serde::Deserialize)]`"
)]
pub trait Data: Clone + Serialize + DeserializeOwned + Send + 'static {}
impl<T: Clone + Serialize + DeserializeOwned + Send + 'static> Data for T {}

/// An item that can be a key: it routes an item to one worker and names its state in the store.
///
/// Two keys that are equal must serialise to the same bytes: no `HashMap` inside, no NaN.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    label = "not `Data + Hash + Eq + Debug`",
    note = "derive them: `#[derive(Clone, Debug, Hash, PartialEq, Eq, serde::Serialize, serde::Deserialize)]`"
)]
pub trait Key: Data + Hash + Eq + Debug {}
impl<T: Data + Hash + Eq + Debug> Key for T {}

/// What a stateful step keeps for one key. Never leaves its worker but for the store.
///
/// It is serialised once for each epoch in which it changed; where a worker has very many keys, the first parts of it are
/// serialised once more, for nothing, so that its memory is near by then: `Serialize` should only read.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the state of a step",
    label = "not `Serialize + Deserialize + 'static`",
    note = "derive them: `#[derive(serde::Serialize, serde::Deserialize)]`"
)]
pub trait State: Serialize + DeserializeOwned + 'static {}
impl<T: Serialize + DeserializeOwned + 'static> State for T {}
