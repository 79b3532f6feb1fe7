//! Figures of rounds: medians, ratios, and how they are printed.

use serde_json::{Value, json};

use crate::meter::Sample;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    Throughput,
    P50,
    P99,
    P999,
    Max,
    /// The server's CPU time per operation.
    ServerCpu,
    /// Operations for each second of the server's CPU time.
    PerCpuSecond,
    ClientCpu,
    /// Peak resident memory of the server.
    PeakMemory,
    /// What the load beside the measured one got done.
    Beside,
    /// CPU of the machine that went to neither server nor load.
    Others,
}

/// Metrics of a run's table, in order.
pub const ALL: [Metric; 11] = [
    Metric::Throughput,
    Metric::P50,
    Metric::P99,
    Metric::P999,
    Metric::Max,
    Metric::ServerCpu,
    Metric::PerCpuSecond,
    Metric::ClientCpu,
    Metric::PeakMemory,
    Metric::Beside,
    Metric::Others,
];

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Metric::Throughput => "operations/s",
            Metric::P50 => "p50 ms",
            Metric::P99 => "p99 ms",
            Metric::P999 => "p99.9 ms",
            Metric::Max => "max ms",
            Metric::ServerCpu => "server CPU µs/op",
            Metric::PerCpuSecond => "ops/CPU second",
            Metric::ClientCpu => "client CPU µs/op",
            Metric::PeakMemory => "peak MiB",
            Metric::Beside => "beside, ops/s",
            Metric::Others => "other CPU use %",
        }
    }

    /// None where the sample does not know it.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Metric::Throughput => Some(sample.throughput()),
            Metric::P50 => Some(sample.percentile_ms(50.0)),
            Metric::P99 => Some(sample.percentile_ms(99.0)),
            Metric::P999 => Some(sample.percentile_ms(99.9)),
            Metric::Max => Some(sample.max_ms()),
            Metric::ServerCpu => sample.server_cpu_us(),
            Metric::PerCpuSecond => sample.server_cpu_us().filter(|&us| us > 0.0).map(|us| 1e6 / us),
            Metric::ClientCpu => Some(sample.client_cpu_us()),
            Metric::PeakMemory => sample.memory.map(|m| mib(m.peak)),
            Metric::Beside => sample.beside,
            Metric::Others => sample.others_share.map(|share| share * 100.0),
        }
    }
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The middle value, or the mean of the two middle ones.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The samples of one server, round by round.
pub struct Series {
    pub name: String,
    pub samples: Vec<Sample>,
}

impl Series {
    pub fn median(&self, metric: Metric) -> Option<f64> {
        median(self.samples.iter().filter_map(|s| metric.of(s)).collect())
    }

    pub fn errors(&self) -> u64 {
        self.samples.iter().map(|s| s.errors).sum()
    }
}

/// Median over the rounds of `subject` / `baseline`, both of the same round.
pub fn ratio(subject: &Series, baseline: &Series, metric: Metric) -> Option<f64> {
    let pairs = subject.samples.iter().zip(&baseline.samples);
    median(pairs.filter_map(|(a, b)| Some(metric.of(a)? / metric.of(b).filter(|&b| b != 0.0)?)).collect())
}

/// A number with as many places as it deserves.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), number)
}

/// Columns padded to their widest cell; all but the first right-aligned.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            match c {
                0 => line += &format!("{cell:<0$}", widths[0]),
                _ => line += &format!("  {cell:>0$}", widths[c]),
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The table of one run: a column for each server, and the ratio of the first two.
pub fn run_table(series: &[Series]) -> String {
    let mut head = vec!["median of rounds".to_owned()];
    head.extend(series.iter().map(|s| s.name.clone()));
    if series.len() == 2 {
        head.push("ratio".into());
    }
    let mut rows = vec![head];
    for metric in ALL {
        let values: Vec<_> = series.iter().map(|s| s.median(metric)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![metric.name().to_owned()];
        row.extend(values.into_iter().map(cell));
        if let [subject, baseline] = series {
            row.push(cell(ratio(subject, baseline, metric)));
        }
        rows.push(row);
    }
    let mut errors = vec!["failed calls".to_owned()];
    errors.extend(series.iter().map(|s| s.errors().to_string()));
    rows.push(errors);
    let mut text = aligned(&rows);
    for one in series {
        if let Some(first) = one.samples.iter().find_map(|s| s.first_error.as_deref()) {
            text += &format!("{}: first failed call: {first}\n", one.name);
        }
    }
    text
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Everything measured, for programs.
pub fn series_json(series: &Series) -> Value {
    let figures = |of: &dyn Fn(Metric) -> Option<f64>| -> Value {
        ALL.iter()
            .filter_map(|&m| Some((m.name().to_owned(), json!(rounded(of(m)?)))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let rounds: Vec<Value> = series
        .samples
        .iter()
        .map(|s| {
            let mut round = figures(&|m| m.of(s));
            round["operations"] = json!(s.operations);
            round["seconds"] = json!(rounded(s.seconds));
            round["failed calls"] = json!(s.errors);
            round["retries"] = json!(s.retries);
            if let Some(memory) = s.memory {
                round["anonymous MiB"] = json!(rounded(mib(memory.anonymous)));
                round["mapped MiB"] = json!(rounded(mib(memory.mapped)));
            }
            round
        })
        .collect();
    json!({ "server": series.name, "median": figures(&|m| series.median(m)), "rounds": rounds })
}

/// What the figures were taken on.
pub fn machine_json() -> Value {
    let line = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':'));
        found.map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": line("/proc/cpuinfo", "model name"),
        "memory": line("/proc/meminfo", "MemTotal"),
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::histogram;

    fn series(seconds: &[f64]) -> Series {
        let samples = seconds.iter().map(|&seconds| Sample {
            operations: 100,
            seconds,
            latency: histogram().unwrap(),
            errors: 0,
            first_error: None,
            retries: 0,
            server_cpu_seconds: Some(0.01),
            memory: None,
            client_cpu_seconds: 0.0,
            beside: None,
            others_share: None,
        });
        Series { name: "x".into(), samples: samples.collect() }
    }

    #[test]
    fn ratios_pair_the_rounds_and_take_the_middle() {
        let (a, b) = (series(&[1.0, 2.0, 1.0]), series(&[2.0, 8.0, 30.0]));
        assert_eq!(ratio(&a, &b, Metric::Throughput), Some(4.0));
        assert_eq!(ratio(&a, &b, Metric::PeakMemory), None);
        assert_eq!(a.median(Metric::ServerCpu), Some(100.0));
        assert_eq!(a.median(Metric::PerCpuSecond), Some(10_000.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
