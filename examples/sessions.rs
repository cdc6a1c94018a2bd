//! A logic of your own: sessions of users, ended by a log-out, and beside them what makes no sense.
//!
//! ```text
//! printf 'ann in\nann page\nbob page\nann page\nann out\nann out\n' > clicks.txt
//! cargo run --example sessions -- clicks.txt -r state --sessions sessions.txt --odd odd.txt
//! ```
//! writes to `sessions.txt`
//! ```text
//! ann: 2 pages
//! ```
//! and to `odd.txt`
//! ```text
//! bob: page before in
//! ann: out before in
//! ```
//! Killed anywhere and started again, with `-w 4` or not, both files are the same in the end.

use highwater::operator::Sided;
use highwater::prelude::*;
use std::convert::Infallible;

#[derive(clap::Args, Clone)]
struct Options {
    /// Lines `USER in`, `USER page`, `USER out`.
    input: Vec<PathBuf>,
    /// Where sessions go that have ended.
    #[arg(long)]
    sessions: PathBuf,
    /// Where events go that fit no session.
    #[arg(long)]
    odd: PathBuf,
}

/// Counts the pages of a session. The key's state is the open session, if there is one.
struct Sessions;

impl Logic<String, String> for Sessions {
    type State = Option<u64>;
    type Out = Sided<String, String>;
    type Error = Infallible;

    fn init(&self, _user: &String) -> Option<u64> {
        None
    }

    fn on_item(
        &mut self,
        open: &mut Option<u64>,
        event: String,
        context: &mut Context<'_, String, Self::Out>,
    ) -> Result<Next, Infallible> {
        match (&event[..], &mut *open) {
            ("in", None) => *open = Some(0),
            ("page", Some(pages)) => *pages += 1,
            ("out", Some(pages)) => {
                context.emit_main(format!("{pages} pages"));
                return Ok(Next::Discard); // nothing is kept of a user who has left
            }
            ("in", Some(_)) => context.emit_side("in again".to_owned()),
            (event, _) => {
                context.emit_side(format!("{event} before in"));
                if open.is_none() {
                    return Ok(Next::Discard);
                }
            }
        }
        Ok(Next::Keep)
    }
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let (sessions, odd) = flow
            .source("clicks", Lines::files(&options.input))
            .key_into(|line| {
                let (user, event) = line.split_once(' ').unwrap_or((&line, ""));
                (user.to_owned(), event.to_owned())
            })
            .stateful("sessions", Sessions)
            .split_side();
        sessions.map(|(user, text)| format!("{user}: {text}")).sink("ended", Lines::to(&options.sessions));
        odd.map(|(user, text)| format!("{user}: {text}")).sink("odd", Lines::to(&options.odd));
    })
}
