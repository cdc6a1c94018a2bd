//! What do more workers and processes bring, with one file and with several?
//!
//! The cart join without recovery over one workload, split by user into as many files as are asked for. Speed-up is wall
//! time against one process of one worker on the same files, within a round; it counts only where cpu / wall shows that
//! the cores were ours. Efficiency is speed-up for each core that so many workers can have on this machine.
//! Every output has its digest checked.

use crate::contest::{Contender, input, machine, place, rounds, spread};
use crate::measure::Cost;
use crate::workload::{Generated, Workload};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// What more workers and processes bring
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
    /// Numbers of files
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    files: Vec<u32>,
    /// Numbers of processes, 1 among them
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    processes: Vec<u32>,
    /// Numbers of workers of each process, 1 among them
    #[arg(short, long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Vec<u32>,
    /// Directory for input and output
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws speed-up over files, processes and workers
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// What is compared: so many processes of so many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    processes: u32,
    workers: u32,
}

impl Shape {
    const ONE: Shape = Shape { processes: 1, workers: 1 };

    fn contender(self) -> Contender {
        let Shape { processes, workers } = self;
        let options = ["-n", &processes.to_string(), "-w", &workers.to_string()];
        Contender::new(format!("-n {processes} -w {workers}"), "cart", &options)
    }
}

/// One row of the report.
#[derive(Serialize)]
struct Point {
    files: u32,
    processes: u32,
    workers: u32,
    cpu_s: f64,
    wall_s: f64,
    speed_up: f64,
    speed_up_least: f64,
    speed_up_most: f64,
    /// Speed-up for each core that could be had.
    efficiency: f64,
}

/// All of a report, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    machine: &'a str,
    cores: usize,
    events: u64,
    users: u32,
    rounds: u32,
    points: &'a [Point],
}

impl Scaling {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        if !self.workers.contains(&1) || !self.processes.contains(&1) {
            return Err("--workers and --processes must have 1 in them: speed-up is against one worker".to_owned());
        }
        let shapes: Vec<Shape> = self
            .processes
            .iter()
            .flat_map(|processes| self.workers.iter().map(|workers| Shape { processes: *processes, workers: *workers }))
            .collect();
        let dir = place(self.dir.as_ref())?;
        let workload = |files| Workload { events: self.events, users: self.users, files, ..Workload::usual() };
        let inputs = self
            .files
            .iter()
            .map(|files| input(&workload(*files), dir.path(), &format!("in-{files}")))
            .collect::<Result<Vec<Generated>, String>>()?;
        let contenders: Vec<Contender> = shapes.iter().map(|shape| shape.contender()).collect();
        let paired: Vec<_> =
            inputs.iter().flat_map(|input| contenders.iter().map(move |contender| (contender, input))).collect();
        let rounds = rounds(&paired, dir.path(), self.pairs)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut points = Vec::new();
        for (files, row) in self.files.iter().zip(0..) {
            let of = |costs: &[Cost]| costs[row * shapes.len()..][..shapes.len()].to_vec();
            let rounds: Vec<Vec<Cost>> = rounds.iter().map(|costs| of(costs)).collect();
            points.extend(compare(*files, &shapes, &rounds, cores));
        }
        let machine = machine();
        let Scaling { events, users, pairs: rounds, .. } = *self;
        let text = |error: std::io::Error| error.to_string();
        if let Some(path) = &self.json {
            let report = Report { machine: &machine, cores, events, users, rounds, points: &points };
            let json = serde_json::to_string_pretty(&report).expect("numbers and text always make JSON");
            fs::write(path, json + "\n").map_err(text)?;
        }
        if let Some(path) = &self.svg {
            fs::write(path, svg(&points, cores)).map_err(text)?;
        }
        Ok(format!("{events} events, {users} users, {rounds} rounds; {machine}\n\n{}", table(&points)))
    }
}

/// The rows of one input: what each shape cost in each round.
fn compare(files: u32, shapes: &[Shape], rounds: &[Vec<Cost>], cores: usize) -> Vec<Point> {
    let base = shapes.iter().position(|shape| *shape == Shape::ONE).expect("one worker is among them");
    let wall = |costs: &Vec<Cost>, number: usize| costs[number].wall.as_secs_f64();
    let point = |(number, shape): (usize, &Shape)| {
        let of = |value: &dyn Fn(&Vec<Cost>) -> f64| spread(rounds.iter().map(value));
        let [least, median, most] = of(&|costs| wall(costs, base) / wall(costs, number));
        let Shape { processes, workers } = *shape;
        Point {
            files,
            processes,
            workers,
            cpu_s: of(&|costs| costs[number].cpu.as_secs_f64())[1],
            wall_s: of(&|costs| wall(costs, number))[1],
            speed_up: median,
            speed_up_least: least,
            speed_up_most: most,
            efficiency: median / usable(processes * workers, cores),
        }
    };
    shapes.iter().enumerate().map(point).collect()
}

/// Cores that so many workers can have.
fn usable(workers: u32, cores: usize) -> f64 {
    f64::from(workers).min(cores as f64)
}

fn table(points: &[Point]) -> String {
    let mut text = "| files | processes | workers of each | CPU s | wall s | cpu / wall | speed-up | efficiency |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for point in points {
        let Point { files, processes, workers, cpu_s, wall_s, speed_up, speed_up_least, speed_up_most, efficiency } =
            point;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {files} | {processes} | {workers} | {cpu_s:.2} | {wall_s:.2} | {:.2} | {speed_up:.2} ({speed_up_least:.2} to {speed_up_most:.2}) | {efficiency:.2} |",
            cpu_s / wall_s
        );
    }
    text
}

/// Bars of the speed-ups, with a mark where each would be if it were perfect on that many cores.
fn svg(points: &[Point], cores: usize) -> String {
    let (bar, gap, left, unit) = (22.0, 10.0, 170.0, 180.0);
    let perfect = |point: &Point| usable(point.processes * point.workers, cores);
    let most = points.iter().map(perfect).fold(1.0, f64::max);
    let (width, height) = (left + most * unit + 80.0, points.len() as f64 * (bar + gap) + gap + 20.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Speed-up against one worker, {cores} cores</title>\n"
    );
    for (number, point) in points.iter().enumerate() {
        let y = gap + number as f64 * (bar + gap);
        let files = if point.files == 1 { "one file".to_owned() } else { format!("{} files", point.files) };
        let perfect = left + perfect(point) * unit;
        let (end, middle) = (point.speed_up * unit, y + bar * 0.68);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "<text x=\"8\" y=\"{middle}\" fill=\"#666\">{files}, -n {}, -w {}</text>\n\
             <rect x=\"{left}\" y=\"{y}\" width=\"{end:.1}\" height=\"{bar}\" fill=\"#2a7f9e\"/>\n\
             <line x1=\"{perfect}\" x2=\"{perfect}\" y1=\"{y}\" y2=\"{}\" stroke=\"#c33\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{middle}\" fill=\"#666\">{:.2}</text>\n",
            point.processes,
            point.workers,
            y + bar,
            left + end.max(perfect - left) + 8.0,
            point.speed_up
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{}\" fill=\"#666\">speed-up against one worker; the mark: perfect on {cores} cores</text>",
        height - 8.0
    );
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Said;
    use std::time::Duration;

    fn cost(wall_ms: u64) -> Cost {
        let [cpu, wall] = [1_000, wall_ms].map(Duration::from_millis);
        Cost { cpu, wall, said: Said::default() }
    }

    #[test]
    fn a_report_has_a_row_and_a_bar_for_each_point() {
        let shapes = [(1, 1), (1, 2), (2, 2)].map(|(processes, workers)| Shape { processes, workers });
        let rounds = [vec![cost(1_000), cost(500), cost(400)], vec![cost(1_200), cost(1_200), cost(400)]];
        let points = compare(1, &shapes, &rounds, 2);
        assert!(
            table(&points).ends_with(
                "| 1 | 1 | 2 | 1.00 | 1.20 | 0.83 | 2.00 (1.00 to 2.00) | 1.00 |\n\
                 | 1 | 2 | 2 | 1.00 | 0.40 | 2.50 | 3.00 (2.50 to 3.00) | 1.50 |\n"
            ),
            "{}",
            table(&points)
        );
        assert_eq!(svg(&points, 2).matches("<rect").count(), 3);
    }
}
