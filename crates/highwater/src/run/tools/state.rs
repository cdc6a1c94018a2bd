//! `state`: what a store holds, for people; and its way into a file and back, which is the backup.
//!
//! An export goes into a file beside its place, is synced, and then gets its name: a file of that name is a whole export.

use super::{Output, ToolError, answer, directory, draws, open, options};
use crate::error::printable;
use crate::evolution::Layout;
use crate::run::config::Config;
use crate::run::log::{LogOptions, show_progress};
use crate::run::report::thousands;
use crate::run::tools::shown::{layouts, records, show};
use clap::{Args, Subcommand};
use highwater_store::{Epoch, ExportPlan, ExportTotals, Store, StoreError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What can be done with the state of a store.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub(crate) enum StateTool {
    /// List the steps of the store in DIR (-r) with their rows
    Ls(At),
    /// Print keys and states of a step, a JSON object a line
    Get(Get),
    /// Write the store in DIR (-r), or some key groups of it, into FILE: the backup
    Export(Export),
    /// Make a new store in DIR (-r) from exports, with -w shards on --store: a whole one or its parts, and increments
    Import(Import),
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// At the end of this epoch, if it is kept [the last]
    #[arg(long, value_name = "EPOCH")]
    at: Option<u64>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    /// Name of the step
    step: String,
    /// Only this key, in JSON (a bare word is a string)
    key: Option<String>,
    /// At the end of this epoch, if it is kept [the last]
    #[arg(long, value_name = "EPOCH")]
    at: Option<u64>,
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// Where the export goes; - is stdout
    file: PathBuf,
    /// Up to this epoch, if it is kept [the last]
    #[arg(long, value_name = "EPOCH")]
    at: Option<u64>,
    /// Only what changed after this epoch, which an earlier export ends with
    #[arg(long, value_name = "EPOCH", conflicts_with = "with_history")]
    since: Option<u64>,
    /// All kept epochs, and not the last one only
    #[arg(long)]
    with_history: bool,
    /// Only these key groups
    #[arg(long, value_name = "FIRST-LAST", value_parser = groups)]
    groups: Option<RangeInclusive<u16>>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// Exports that make up one store
    #[arg(required = true)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

fn groups(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err("write it as 0-63, or as one number".to_owned()),
    }
}

impl StateTool {
    pub(super) fn run(&self, config: &Config, log: LogOptions) -> Result<(), ToolError> {
        match self {
            StateTool::Ls(at) => ls(config, at),
            StateTool::Get(get) => print(config, get),
            StateTool::Export(export) => write(config, log, export),
            StateTool::Import(import) => make(config, log, import),
        }
    }
}

fn epoch(store: &Store, at: Option<u64>) -> Epoch {
    at.map_or(store.resume(), Epoch)
}

fn ls(config: &Config, at: &At) -> Result<(), ToolError> {
    let store = open(config)?;
    let epoch = epoch(&store, at.at);
    let mut rows: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    store.rows_at(epoch, &mut |row| {
        let (count, bytes) = rows.entry(row.step.to_owned()).or_default();
        *count += 1;
        *bytes += (row.key.len() + row.value.len()) as u64;
    })?;
    let of = |name: &str| rows.get(name).copied().unwrap_or_default();
    let kept = store.kept();
    if at.output.json {
        let step = |info: &highwater_store::StepInfo| {
            let (rows, bytes) = of(&info.name);
            json!({ "step": info.name, "kind": info.kind, "rows": rows, "bytes": bytes })
        };
        let steps: Vec<Value> = store.steps().iter().map(step).collect();
        let all = json!({ "epoch": epoch.0, "kept_from": kept.start().0, "resume": kept.end().0, "steps": steps });
        return answer(&format!("{all}\n"));
    }
    let mut text = format!("epoch {epoch} (epochs {} to {} are kept)\n", kept.start(), kept.end());
    for info in store.steps() {
        let (rows, bytes) = of(&info.name);
        let line = format!("{} ({}): {} rows, {} bytes", info.name, info.kind, thousands(rows), thousands(bytes));
        text.push_str(&(printable(&line) + "\n"));
    }
    answer(&text)
}

fn print(config: &Config, get: &Get) -> Result<(), ToolError> {
    let store = open(config)?;
    let epoch = epoch(&store, get.at);
    if !store.steps().iter().any(|info| info.name == get.step) {
        let names: Vec<&str> = store.steps().iter().map(|info| &*info.name).collect();
        return Err(ToolError::Usage(format!("there is no step \"{}\"; there are {}", get.step, names.join(", "))));
    }
    let wanted: Option<Value> =
        get.key.as_ref().map(|key| serde_json::from_str(key).unwrap_or_else(|_| Value::String(key.clone())));
    let layout = layouts(&store, epoch)?.get(&get.step).copied().unwrap_or(Layout::Single(Default::default()));
    let mut out = BufWriter::new(io::stdout().lock());
    let is_wanted = |key: &Value| wanted.as_ref().is_none_or(|wanted| wanted == key);
    let mut print = |key: &Value, state: &Value| writeln!(out, "{}", json!({ "key": key, "state": state }));
    let (mut written, mut packed) = (Ok(()), BTreeMap::<String, (Value, i64)>::new());
    store.rows_at(epoch, &mut |row| match layout {
        Layout::Single(codec) if row.step == get.step && written.is_ok() => {
            let key = show(Default::default(), row.key);
            if is_wanted(&key) {
                written = print(&key, &show(codec, row.value));
            }
        }
        Layout::Packed if row.step == get.step => {
            // Rows add up: a record may stand in several.
            let records = records(row.value).unwrap_or_default().into_iter();
            for (record, copies) in records.filter(|(record, _)| is_wanted(record)) {
                packed.entry(record.to_string()).or_insert((record, 0)).1 += copies;
            }
        }
        _ => {}
    })?;
    for (record, copies) in packed.into_values().filter(|(_, copies)| *copies != 0) {
        written = written.and_then(|()| print(&record, &json!(copies)));
    }
    written.and_then(|()| out.flush()).map_err(ToolError::Output)
}

fn write(config: &Config, log: LogOptions, export: &Export) -> Result<(), ToolError> {
    let store = open(config)?;
    let (at, since) = (export.at.map(Epoch), export.since.map(Epoch));
    let plan = ExportPlan { at, since, with_history: export.with_history, groups: export.groups.clone() };
    let shown = draws(log);
    let mut watch = |totals: &ExportTotals| {
        if shown {
            let line = format!("exporting: {} rows, {} epochs", thousands(totals.rows), thousands(totals.epochs));
            show_progress(Some(&line));
        }
    };
    if export.file == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        let totals = match store.export(&plan, &mut out, "stdout".as_ref(), &mut watch) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
                return Err(ToolError::Output(source));
            }
            other => other?,
        };
        show_progress(None);
        tracing::info!(rows = totals.rows, epochs = totals.epochs, "exported up to epoch {}", epoch(&store, export.at));
        return Ok(());
    }
    let totals = whole_file(&export.file, &mut |out, name| store.export(&plan, out, name, &mut watch))?;
    show_progress(None);
    let file = export.file.display().to_string();
    let at = epoch(&store, export.at);
    let ExportTotals { rows, epochs, bytes, .. } = totals;
    answer(&match export.output.json {
        true => format!("{}\n", json!({ "file": file, "at": at.0, "rows": rows, "bytes": bytes, "epochs": epochs })),
        false => {
            let epochs = if epochs == 1 { "1 epoch".to_owned() } else { format!("{} epochs", thousands(epochs)) };
            let (rows, bytes) = (thousands(rows), thousands(bytes));
            printable(&format!("{file}: {rows} rows, {bytes} bytes in {epochs} up to epoch {at}")) + "\n"
        }
    })
}

type Fill<'f> = dyn FnMut(&mut dyn Write, &Path) -> Result<ExportTotals, StoreError> + 'f;

/// Writes a file for its owner alone, which has its name only once it is whole and durable.
fn whole_file(file: &Path, fill: &mut Fill<'_>) -> Result<ExportTotals, ToolError> {
    let failed = |source| StoreError::Io { path: file.to_owned(), doing: "writing", durable: None, source };
    let mut name = file.file_name().ok_or_else(|| ToolError::Usage("name a file to export to".to_owned()))?.to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let made = (|| -> Result<ExportTotals, StoreError> {
        let out = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
        out.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        let mut buffered = BufWriter::with_capacity(1 << 17, &out);
        let totals = fill(&mut buffered, file)?;
        drop(buffered);
        out.sync_all().and_then(|()| fs::rename(&part, file)).map_err(failed)?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(totals)
    })();
    if made.is_err() {
        // What is left of it is no export; the error says why.
        let _ = fs::remove_file(&part);
    }
    Ok(made?)
}

fn make(config: &Config, log: LogOptions, import: &Import) -> Result<(), ToolError> {
    let dir = directory(config)?;
    let shown = draws(log);
    let made = Store::import(&import.file, &options(config, dir), config.workers, &mut |rows| {
        if shown {
            show_progress(Some(&format!("importing: {} rows", thousands(rows))));
        }
    })?;
    show_progress(None);
    let (shards, backend, rows, from, resume) = (made.shards, made.backend, made.rows, made.from.0, made.resume.0);
    let dir = dir.display().to_string();
    answer(&match import.output.json {
        true => {
            let backend = backend.to_string();
            let all = json!({ "dir": dir, "backend": backend, "shards": shards, "rows": rows, "kept_from": from, "resume": resume });
            format!("{all}\n")
        }
        false => {
            let rows = thousands(rows);
            let line = format!(
                "{dir}: {rows} rows in {shards} shards on {backend}; the next run resumes after epoch {resume}"
            );
            printable(&line) + "\n"
        }
    })
}
