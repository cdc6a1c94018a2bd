//! What do more workers bring, with as many files as workers and with one?
//!
//! The cart join without recovery over one workload, split by user into one file and into as many as there are
//! workers at most. Speed-up is wall time against one worker on the same files, within a round; it counts only
//! where cpu / wall shows that the cores were ours. Every output has its digest checked.

use crate::contest::{Contender, input, machine, place, rounds, spread};
use crate::measure::Cost;
use crate::workload::Workload;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// What more workers bring
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Scaling {
    /// Orders and payments
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Users
    #[arg(long, default_value_t = 60_000)]
    users: u32,
    /// Rounds; each runs every contender once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Numbers of workers, 1 among them
    #[arg(short, long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Vec<u32>,
    /// Directory for input and output
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws speed-up over workers
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// One row of the report.
#[derive(Serialize)]
struct Point {
    files: u32,
    workers: u32,
    cpu_s: f64,
    wall_s: f64,
    speed_up: f64,
    speed_up_least: f64,
    speed_up_most: f64,
    efficiency: f64,
}

impl Scaling {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        if !self.workers.contains(&1) {
            return Err("--workers must have 1 in it: speed-up is against one worker".to_owned());
        }
        let dir = place(self.dir.as_ref())?;
        let most = self.workers.iter().copied().max().unwrap_or(1);
        let workload = |files| Workload { events: self.events, users: self.users, files, ..Workload::usual() };
        let (one, many) = (workload(1), workload(most));
        let inputs = [(1, input(&one, dir.path(), "one")?), (most, input(&many, dir.path(), "many")?)];
        let contenders: Vec<Contender> = self
            .workers
            .iter()
            .map(|workers| Contender::new(format!("-w {workers}"), "cart", &["-w", &workers.to_string()]))
            .collect();
        let paired: Vec<_> =
            inputs.iter().flat_map(|(_, input)| contenders.iter().map(move |contender| (contender, input))).collect();
        let rounds = rounds(&paired, dir.path(), self.pairs)?;
        let base = self.workers.iter().position(|workers| *workers == 1).unwrap_or(0);
        let mut points = Vec::new();
        for (row, (files, _)) in inputs.iter().enumerate() {
            for (column, workers) in self.workers.iter().enumerate() {
                let [number, base] = [column, base].map(|column| row * self.workers.len() + column);
                let of = |value: &dyn Fn(&Vec<Cost>) -> f64| spread(rounds.iter().map(value));
                let wall = |costs: &Vec<Cost>, number: usize| costs[number].wall.as_secs_f64();
                let [least, median, most] = of(&|costs| wall(costs, base) / wall(costs, number));
                points.push(Point {
                    files: *files,
                    workers: *workers,
                    cpu_s: of(&|costs| costs[number].cpu.as_secs_f64())[1],
                    wall_s: of(&|costs| wall(costs, number))[1],
                    speed_up: median,
                    speed_up_least: least,
                    speed_up_most: most,
                    efficiency: median / f64::from(*workers),
                });
            }
        }
        let text = |error: std::io::Error| error.to_string();
        if let Some(path) = &self.json {
            let json = serde_json::to_string_pretty(&points).expect("numbers always make JSON");
            fs::write(path, json + "\n").map_err(text)?;
        }
        if let Some(path) = &self.svg {
            fs::write(path, svg(&points)).map_err(text)?;
        }
        Ok(format!("{} events, {} users; {}\n\n{}", self.events, self.users, machine(), table(&points)))
    }
}

fn table(points: &[Point]) -> String {
    let mut text =
        "| files | workers | CPU s | wall s | cpu / wall | speed-up | efficiency |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for point in points {
        let Point { files, workers, cpu_s, wall_s, speed_up, speed_up_least, speed_up_most, efficiency } = point;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {files} | {workers} | {cpu_s:.2} | {wall_s:.2} | {:.2} | {speed_up:.2} ({speed_up_least:.2} to {speed_up_most:.2}) | {efficiency:.2} |",
            cpu_s / wall_s
        );
    }
    text
}

/// Bars of the speed-ups, with a mark where each would be if it were perfect.
fn svg(points: &[Point]) -> String {
    let (bar, gap, left, unit) = (28.0, 14.0, 150.0, 140.0);
    let most = points.iter().map(|point| f64::from(point.workers)).fold(1.0, f64::max);
    let (width, height) = (left + most * unit + 60.0, points.len() as f64 * (bar + gap) + gap);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    for (number, point) in points.iter().enumerate() {
        let y = gap + number as f64 * (bar + gap);
        let files = if point.files == 1 { "one file".to_owned() } else { format!("{} files", point.files) };
        let perfect = left + f64::from(point.workers) * unit;
        let (end, middle) = (point.speed_up * unit, y + bar * 0.65);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "<text x=\"8\" y=\"{middle}\" fill=\"#666\">{files}, -w {}</text>\n\
             <rect x=\"{left}\" y=\"{y}\" width=\"{end:.1}\" height=\"{bar}\" fill=\"#2a7f9e\"/>\n\
             <line x1=\"{perfect}\" x2=\"{perfect}\" y1=\"{y}\" y2=\"{}\" stroke=\"#c33\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{middle}\" fill=\"#666\">{:.2}</text>\n",
            point.workers,
            y + bar,
            left + end.max(perfect - left) + 8.0,
            point.speed_up
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_a_row_and_a_bar_for_each_point() {
        let point = |workers, speed_up: f64| Point {
            files: 1,
            workers,
            cpu_s: 1.0,
            wall_s: 0.5,
            speed_up,
            speed_up_least: 1.0,
            speed_up_most: 2.0,
            efficiency: speed_up / f64::from(workers),
        };
        let points = [point(1, 1.0), point(2, 1.6)];
        assert!(table(&points).ends_with("| 1 | 2 | 1.00 | 0.50 | 2.00 | 1.60 (1.00 to 2.00) | 0.80 |\n"));
        assert_eq!(svg(&points).matches("<rect").count(), 2);
    }
}
