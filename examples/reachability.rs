//! What can be reached from a node of a graph whose edges come and go: a loop that is kept up to date.
//!
//! ```text
//! cargo run --release --example reachability -- data/edges.txt --from 1 -r out/reached --output out/reached.json
//! ```
//! Each line of input adds an edge (`+ 1 2`) or takes it away (`- 1 2`). Each line of output is a change: a node, and `1`
//! if it can be reached from now on, `-1` if not any more.

use highwater_differential::prelude::*;

#[derive(clap::Args, Clone)]
struct Options {
    /// Files with an edge that comes or goes on each line.
    #[arg(default_value = "data/edges.txt")]
    input: Vec<PathBuf>,
    /// The node to start from.
    #[arg(long, default_value_t = 1)]
    from: u32,
    /// Where the changes go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

type Edge = (u32, u32);

/// `+ 1 2` is `((1, 2), 1)`.
fn parse(line: &str) -> Result<(Edge, Diff), StepError> {
    let [sign, from, to] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("an edge is a sign and two nodes".into());
    };
    let diff = match sign {
        "+" => 1,
        "-" => -1,
        _ => return Err("an edge comes with + and goes with -".into()),
    };
    Ok(((from.parse()?, to.parse()?), diff))
}

/// The nodes that edges lead to from `roots`, and the roots.
fn reachable<'c>(edges: Collection<'c, Edge>, roots: Collection<'c, u32>) -> Collection<'c, u32> {
    roots.clone().iterate(|inner, reached| {
        let next = edges.enter(inner).semijoin(reached).map(|(_, to)| to);
        next.concat(roots.enter(inner)).distinct()
    })
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let root = options.from;
        let lines = flow.source("lines", Lines::files(&options.input));
        let edges = lines.try_map("parse", |line: String| parse(&line));
        let changes = flow.collections(|scope| {
            let edges = scope.updates("edges", edges).threshold(|_, copies| (copies > 0).into());
            // The root is there as soon as an edge leaves it.
            let roots = edges.clone().map(|(from, _)| from).filter(move |from| *from == root).distinct();
            scope.changes(reachable(edges, roots))
        });
        changes.sink("out", JsonLines::to(&options.output));
    })
}
