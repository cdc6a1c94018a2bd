//! `verify`: is the store what it was written as? The answer is the store at a glance, and all that is wrong with it.

use super::{Output, ToolError, answer, directory, draws, options, tell_store};
use crate::error::printable;
use crate::run::config::Config;
use crate::run::log::{LogOptions, show_progress};
use crate::run::report::{store_code, thousands};
use highwater_store::{Store, StoreError, Verified};
use serde_json::{Value, json};

/// Looks the store over, answers, and fails with the code of the first fault, if there is one.
pub(super) fn verify(config: &Config, log: LogOptions, output: Output) -> Result<(), ToolError> {
    let dir = directory(config)?;
    let shown = draws(log);
    let found = Store::verify(&options(config, dir), &mut |done, of| {
        if shown {
            show_progress(Some(&format!("verifying: {done} of {of} shards")));
        }
    })?;
    show_progress(None);
    let text = if output.json { as_json(&found) } else { as_text(&found, &dir.display().to_string()) };
    answer(&text)?;
    let codes: Vec<u8> = found.faults.into_iter().map(tell_store).collect();
    codes.first().map_or(Ok(()), |code| Err(ToolError::Told(*code)))
}

fn as_json(found: &Verified) -> String {
    let mut all = json!(found);
    all["ok"] = Value::Bool(found.faults.is_empty());
    all["faults"] = found.faults.iter().map(fault).collect();
    format!("{all}\n")
}

fn fault(error: &StoreError) -> Value {
    json!({ "message": error.to_string(), "exit": store_code(error) })
}

fn as_text(found: &Verified, dir: &str) -> String {
    let Verified { flow, backend, written_by, id, key_groups, generation, execution, .. } = found;
    let mut text =
        format!("{dir}: flow {flow}, on {backend}, {key_groups} key groups, by highwater {written_by}, id {id}\n");
    let mut line = |line: String| text.push_str(&(line + "\n"));
    if let (Some(resume), Some(from)) = (found.resume, found.kept_from) {
        let kept = if from == resume {
            "no older epoch is kept".to_owned()
        } else {
            format!("epochs from {from} on are kept")
        };
        line(format!("the next run resumes after epoch {resume}; {kept}"));
    }
    let began: Vec<String> = found.lineage.iter().map(|(n, resume)| format!("{n} after epoch {resume}")).collect();
    line(format!("generation {generation}, execution {execution}; executions began: {}", began.join(", ")));
    for shard in &found.shards {
        let (rows, bytes) = (thousands(shard.rows), thousands(shard.bytes));
        let (number, first, last, epochs) = (shard.shard, shard.first_chunk, shard.last_chunk, shard.epochs);
        line(format!(
            "shard {number}: {rows} rows, {bytes} bytes in chunks {first} to {last}, {epochs} commits checked"
        ));
    }
    for step in &found.steps {
        let (rows, bytes) = (thousands(step.rows), thousands(step.bytes));
        line(format!(
            "step \"{}\" ({}): {rows} rows, {bytes} bytes, in {} key groups",
            step.step,
            step.kind,
            step.groups.len()
        ));
    }
    line(match found.faults.len() {
        0 => "good".to_owned(),
        1 => "damaged: 1 fault".to_owned(),
        faults => format!("damaged: {faults} faults"),
    });
    text.lines().map(|line| printable(line) + "\n").collect()
}
