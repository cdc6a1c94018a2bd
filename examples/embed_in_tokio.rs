//! A flow inside a tokio program: it runs on threads of its own, and its results come to a task over a channel.
//!
//! ```text
//! cargo run --example embed_in_tokio
//! ```
//! prints the running sums of three accounts, as a task gets them, and `9 sums, committed`. The channel is bounded: a
//! task that is slow slows the flow. Results come when they are committed, at least once: a crash between a commit
//! and its note in the store sends those of that commit again.

use highwater::prelude::*;
use highwater::sink::deliver;
use std::process::ExitCode;
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (sender, mut receiver) = mpsc::channel(2);
    let mut config = Config::new("accounts");
    config.workers = 2;
    config.epoch_interval = std::time::Duration::from_millis(5);
    let stop = config.stop.clone();
    let flow = tokio::task::spawn_blocking(move || {
        highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            let sender = sender.clone();
            flow.source("payments", list((1..=9u64).map(|n| (["ada", "bob", "eve"][n as usize % 3].to_owned(), n))))
                .into_keyed()
                .stateful_map(
                    "sum",
                    || 0,
                    |sum: &mut u64, cents| {
                        *sum += cents;
                        *sum
                    },
                )
                .into_stream()
                .sink("sums", deliver("sums", move |sum| sender.blocking_send(sum)).when_committed());
        })
    });
    let mut sums = 0;
    // The channel closes when the run is over; Ctrl-C ends it in order, with everything read committed.
    loop {
        tokio::select! {
            received = receiver.recv() => match received {
                Some((account, sum)) => {
                    println!("{account}: {sum}");
                    sums += 1;
                }
                None => break,
            },
            _ = tokio::signal::ctrl_c() => stop.stop(),
        }
    }
    match flow.await {
        Ok(Ok(_)) => {
            println!("{sums} sums, committed");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
        Err(_) => ExitCode::from(70),
    }
}
