//! Streams: what a flow is written in. Thin handles; the operators stand in `operator/`.

use crate::batch::Items;
use crate::graph::Graph;
use std::fmt;
use std::rc::Rc;

/// Items of one type, each in an epoch. Cloning a stream fans it out: every clone gets every item.
#[must_use = "a stream that nothing consumes does nothing"]
pub struct Stream<'s, T> {
    pub(crate) items: Items<'s, T>,
    pub(crate) graph: Rc<Graph<'s>>,
}

/// Items that each belong to a key: `(K, V)`.
///
/// All items of one key meet on one worker, in the order in which their partition had them.
#[must_use = "a stream that nothing consumes does nothing"]
pub struct KeyedStream<'s, K, V> {
    pub(crate) items: Items<'s, (K, V)>,
    pub(crate) graph: Rc<Graph<'s>>,
    /// Whether every item is on the worker that owns its key already.
    pub(crate) routed: bool,
}

impl<T: Clone + 'static> Clone for Stream<'_, T> {
    fn clone(&self) -> Self {
        Stream { items: self.items.clone(), graph: self.graph.clone() }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> Clone for KeyedStream<'_, K, V> {
    fn clone(&self) -> Self {
        KeyedStream { items: self.items.clone(), graph: self.graph.clone(), routed: self.routed }
    }
}

impl<T> fmt::Debug for Stream<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for KeyedStream<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStream").field("routed", &self.routed).finish_non_exhaustive()
    }
}

impl<'s, T> Stream<'s, T> {
    pub(crate) fn new(items: Items<'s, T>, graph: Rc<Graph<'s>>) -> Self {
        Stream { items, graph }
    }
}
