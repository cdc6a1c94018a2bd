//! Side outputs: a [`Logic`](super::Logic) that emits items of two types, each onto a stream of its own.

use crate::data::{Data, Key};
use crate::operator::logic::Context;
use crate::operator::split::split;
use crate::operator::transform::unnamed;
use crate::stream::KeyedStream;
use serde::{Deserialize, Serialize};
use std::panic::Location;

/// An item that goes one of two ways: what a logic with a side output emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sided<A, B> {
    /// What the step is for.
    Main(A),
    /// What it has to say beside that: late, odd, or for the log.
    Side(B),
}

impl<K, A, B> Context<'_, K, Sided<A, B>> {
    /// Emits an item onto the main stream, under the same key, in the same epoch.
    pub fn emit_main(&mut self, item: A) {
        self.emit(Sided::Main(item));
    }

    /// Emits an item onto the side stream, under the same key, in the same epoch.
    pub fn emit_side(&mut self, item: B) {
        self.emit(Sided::Side(item));
    }
}

impl<'s, K: Key, A: Data, B: Data> KeyedStream<'s, K, Sided<A, B>> {
    /// Takes a stream with a side output apart: what a logic has emitted with `emit_main`, and with `emit_side`.
    ///
    /// # Shape
    /// `(K, Sided<A, B>)` in; `(K, A)` out on the first stream or `(K, B)` on the second, same epoch. Keys stay keys, on
    /// their worker. Order holds within a key, on each stream.
    ///
    /// # State
    /// None. An item that the logic refuses leaves nothing on either.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::operator::Sided;
    /// use highwater::prelude::*;
    /// /// The highest bid of an auction, and beside it every bid that came too low.
    /// struct Auction;
    /// impl Logic<char, u32> for Auction {
    ///     type State = u32;
    ///     type Out = Sided<u32, String>;
    ///     type Error = std::convert::Infallible;
    ///     fn init(&self, _lot: &char) -> u32 { 0 }
    ///     fn on_item(&mut self, highest: &mut u32, bid: u32, context: &mut Context<'_, char, Self::Out>) -> Result<Next, Self::Error> {
    ///         if bid > *highest {
    ///             *highest = bid;
    ///             context.emit_main(bid);
    ///         } else {
    ///             context.emit_side(format!("{bid} is not above {highest}"));
    ///         }
    ///         Ok(Next::Keep)
    ///     }
    /// }
    /// let low = highwater::testing::run(|flow| {
    ///     let bids = flow.source("in", list([('x', 5), ('x', 3), ('x', 8)])).into_keyed();
    ///     let (_highest, low) = bids.stateful("auction", Auction).split_side();
    ///     low.into_stream()
    /// });
    /// assert_eq!(low, [('x', "3 is not above 5".to_owned())]);
    /// ```
    ///
    /// # Source
    /// Flink's side outputs.
    #[track_caller]
    pub fn split_side(self) -> (KeyedStream<'s, K, A>, KeyedStream<'s, K, B>) {
        let name = unnamed("split_side", Location::caller());
        let KeyedStream { items, graph, routed } = self;
        let (main, side) = split(items, &graph, name, |batch, main, side| {
            for (key, item) in batch.drain(..) {
                match item {
                    Sided::Main(item) => main.push((key, item)),
                    Sided::Side(item) => side.push((key, item)),
                }
            }
        });
        (KeyedStream { items: main, graph: graph.clone(), routed }, KeyedStream { items: side, graph, routed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{Logic, Next};
    use highwater_store::Epoch;
    use std::convert::Infallible;

    struct Large;

    impl Logic<u8, u8> for Large {
        type State = u8;
        type Out = Sided<u8, String>;
        type Error = Infallible;

        fn init(&self, _key: &u8) -> u8 {
            0
        }

        fn on_item(&mut self, _: &mut u8, n: u8, context: &mut Context<'_, u8, Self::Out>) -> Result<Next, Infallible> {
            if n < 5 {
                context.emit_main(n)
            } else {
                context.emit_side(n.to_string())
            }
            Ok(Next::Keep)
        }
    }

    /// A logic with a side output is as plain a value as any other.
    #[test]
    fn it_is_tested_by_calling_it() {
        let mut out = Vec::new();
        let mut context = Context { key: &1, epoch: Epoch(1), out: &mut out };
        for n in [4, 5] {
            Large.on_item(&mut 0, n, &mut context).unwrap();
        }
        assert_eq!(out, [Sided::Main(4), Sided::Side("5".to_owned())]);
    }
}
