//! What does a durable upsert cost? Keys with 200-byte states in batches of 10,000 rows, each batch synced.
//!
//! Usage: `upserts DIR [KEYS] [BATCHES] [sled|log|sqlite]`. Reports CPU and wall time a row, the size of the store beside its live rows,
//! the time to open it again, and checks that every key is back.

use highwater_store::{Epoch, OpenOptions, Rows, StartPlan, Store, key_group};
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

const ROWS: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: upserts DIR [KEYS] [BATCHES] [BACKEND]")?);
    let keys: u64 = args.next().map_or(Ok(100_000), |keys| keys.parse())?;
    let batches: u64 = args.next().map_or(Ok(100), |batches| batches.parse())?;
    let mut options = OpenOptions::new("upserts");
    options.dir = Some(dir);
    options.backend = args.next().map(|name| name.parse()).transpose()?;
    options.fresh = true;
    let plan = StartPlan { shards: 1, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() };
    let mut run = Store::open(options.clone())?.start(plan)?;
    let (step, shard) = (run.steps[0].id, &mut run.shards[0]);
    let (cpu, wall, mut worst) = (cpu_seconds()?, Instant::now(), 0.0f64);
    let mut rows = Rows::new();
    for batch in 1..=batches {
        rows.clear();
        for row in 0..ROWS {
            let key = ((batch * ROWS + row).wrapping_mul(0x9E37_79B9) % keys).to_be_bytes();
            rows.put(step, key_group(&key, 128), &key, &[batch as u8; 200]);
        }
        let start = Instant::now();
        shard.append(Epoch(batch), Epoch(batch), &rows, batch == batches)?;
        let durable = shard.sync()?;
        while shard.collect(durable)?.freed_bytes > 0 {}
        worst = worst.max(start.elapsed().as_secs_f64());
    }
    let (cpu, wall) = (cpu_seconds()? - cpu, wall.elapsed().as_secs_f64());
    let (per_row, stats) = (1e6 / (batches * ROWS) as f64, shard.stats());
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:.2} us CPU, {:.2} us wall a row; worst batch {worst:.3} s", cpu * per_row, wall * per_row)?;
    writeln!(out, "{stats:?}")?;
    drop(run);
    let (cpu, wall, mut found) = (cpu_seconds()?, Instant::now(), 0);
    options.fresh = false;
    let mut store = Store::open(options)?;
    store.rows(&mut |_| found += 1)?;
    let (cpu, wall) = (cpu_seconds()? - cpu, wall.elapsed().as_secs_f64());
    writeln!(out, "opened and read {found} rows of epoch {}: {cpu:.2} s CPU, {wall:.2} s wall", store.resume())?;
    Ok(())
}

/// CPU time of this process, all its threads.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no name")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
