//! The driver beneath every stateless operator that may refuse an item: the policy of the run decides.

use crate::batch::{Batch, Items, Outbox, Output};
use crate::data::{Data, StepError};
use crate::error::{StepFailure, excerpt};
use crate::graph::Graph;
use crate::guard::guarded;
use crate::letter::{Content, Letter};
use crate::operator::counter::Counter;
use crate::policy::OnError;
use crate::shared::Cause;
use crate::source::retried;
use crate::stash::epoch_of;
use crate::time::Time;
use highwater_store::Epoch;
use std::rc::Rc;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Concat};

const ITEMS: usize = 0;
const ROWS: usize = 1;

/// What became of one batch.
enum Ran {
    Whole,
    Failed { item: Option<String>, cause: StepError },
}

/// Applies `logic` to every item of every batch; it appends to what goes on, or refuses the item and
/// leaves it as it was. `shown`: a copy of an item for the message, worth its price or not.
pub(crate) fn fallible<'s, T: Data, U: 'static>(
    items: Items<'s, T>,
    graph: &Rc<Graph<'s>>,
    step: &str,
    mut counter: Counter,
    shown: impl Fn(&T) -> Option<T> + 'static,
    mut logic: impl FnMut(T, &mut Vec<U>) -> Result<(), StepError> + 'static,
) -> Items<'s, U> {
    let again = retried(graph, step, |letter: &Content| letter.item::<T>());
    let items = again.into_iter().fold(items, |items, again| items.concat(again));
    let step = step.to_owned();
    let mut builder = OperatorBuilder::new(step.clone(), graph.scope);
    let mut input = builder.new_input(items, Pipeline);
    let (output, stream) = builder.new_output();
    let mut output = Output::<U>::from(output);
    let (letters, rows_signal) = builder.new_output();
    let mut letters = Output::<Letter>::from(letters);
    let (shared, rows, worker) = (graph.shared.clone(), graph.rows.clone(), graph.worker);
    let policy = graph.policy(&step);
    let meter = graph.meter(&step, "checked");
    builder.build(move |_capabilities| {
        let mut held: Vec<Capability<Time>> = Vec::new();
        let mut counted: Vec<(Epoch, Capability<Time>)> = Vec::new();
        let (mut outbox, mut run) = (Outbox::default(), Vec::new());
        move |frontiers| {
            input.for_each(|capability, batch| {
                let at = *capability.least().expect("items have a time");
                let items = capability.delayed(&at, ITEMS);
                let mut runs = std::mem::take(batch).into_runs(at);
                while let Some(time) = runs.next_into(&mut run) {
                    if !held.is_empty() {
                        return;
                    }
                    let epoch = time.epoch();
                    let done = outbox.at(time, &items, 1, &mut output);
                    let came = run.len();
                    meter.came(came);
                    let mut skips = 0;
                    let (mut aside, on_error) = (Vec::new(), policy.get());
                    let ran = guarded(&shared, &step, worker, epoch, || {
                        for item in run.drain(..) {
                            let shown = if on_error == OnError::DeadLetter { Some(item.clone()) } else { shown(&item) };
                            let Err(error) = logic(item, done) else { continue };
                            let item = shown.and_then(|item| serde_json::to_string(&item).ok());
                            let said = excerpt(item.as_deref().unwrap_or_default());
                            match on_error {
                                OnError::Fail => return Ran::Failed { item, cause: error },
                                OnError::Skip => {
                                    skips += 1;
                                    if let Some(total) = shared.totals.skip() {
                                        tracing::warn!(
                                            step,
                                            epoch = epoch.0,
                                            item = said,
                                            skipped = total,
                                            "item skipped: {error}"
                                        );
                                    }
                                }
                                OnError::DeadLetter => {
                                    if let Some(total) = shared.totals.set_aside() {
                                        tracing::warn!(
                                            step,
                                            epoch = epoch.0,
                                            item = said,
                                            total,
                                            "item set aside: {error}"
                                        );
                                    }
                                    aside.push(Letter::of_item(&step, epoch, None::<&()>, item.as_deref(), error));
                                }
                            }
                        }
                        Ran::Whole
                    });
                    // Of a batch that failed in its midst nobody asks any more.
                    meter.skipped(skips);
                    meter.set_aside(aside.len());
                    meter.went(came.saturating_sub(skips + aside.len()));
                    for _ in 0..skips {
                        counter.add(epoch);
                    }
                    if !aside.is_empty() {
                        let mut aside = Batch::from(aside);
                        letters.activate().session(&capability.delayed(&time, ROWS)).give_container(&mut aside);
                    }
                    if skips > 0 && counted.iter().all(|(other, _)| *other != epoch) {
                        counted.push((epoch, capability.delayed(&time, ROWS)));
                    }
                    match ran {
                        Some(Ran::Whole) => {}
                        failed => {
                            if let Some(Ran::Failed { item, cause }) = failed {
                                let failure = StepFailure {
                                    step: step.clone(),
                                    key: None,
                                    epoch,
                                    item,
                                    ranges: Vec::new(),
                                    cause,
                                };
                                shared.fail(epoch, Cause::Step(Box::new(failure)));
                            }
                            // Holding the epoch keeps it from ever committing; the next run reads it again.
                            held = vec![capability.delayed(&time, ITEMS), capability.delayed(&time, ROWS)];
                        }
                    }
                }
            });
            outbox.flush(&mut output);
            let frontier = epoch_of(&frontiers[0]);
            counted.sort_by_key(|(epoch, _)| *epoch);
            counted.retain(|(epoch, _)| {
                let closed = frontier.is_none_or(|frontier| *epoch < frontier);
                if closed {
                    counter.close(*epoch, rows.as_ref());
                }
                !closed
            });
        }
    });
    graph.declared.borrow_mut().closings.push(rows_signal);
    stream
}
