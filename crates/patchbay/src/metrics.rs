//! What the programs count, and how it is read: `GET /metrics`, in the text format of OpenMetrics.
//!
//! Whoever reaches the port may read it, without a password and without encryption. So no label names a device, a serial number, a
//! machine, a namespace or a claim: the labels are nodes, places in a node (`usb2-3`, `1-1.4`), and words of lists that are
//! bounded. Without `--metrics` there is no port.
//!
//! Counters are counted where things happen. All that is a state is looked at when somebody asks ([`prometheus_client::collector::Collector`]), so that a
//! program that nobody asks does nothing for it.
//!
//! | module | has |
//! |---|---|
//! | `list` | every metric: its name, its labels, what it tells; `docs/metrics.md` is made from it |
//! | `controller`, `agent` | the metrics of each program |
//! | `process` | memory and processor time, of both |

mod agent;
mod controller;
mod list;
mod process;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use patchbay_dra::http::{self, Answer};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

pub(crate) use agent::{AgentMetrics, Ending, NodeSight};
pub(crate) use controller::{ControllerMetrics, Telling};
use list::Metric;

/// The path that is answered.
const PATH: &str = "/metrics";

/// The media type of the answer.
const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the numbers are read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Scrape {
    /// Address and port where /metrics is answered, without encryption and to everybody; none if not given
    #[arg(long, env = "PATCHBAY_METRICS", value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
}

impl Scrape {
    /// Answers for as long as the program runs, if it shall. That it cannot is told and keeps nothing else from working.
    pub(crate) async fn serve(&self, registry: Registry) {
        let Some(address) = self.metrics else { return };
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let registry = Arc::new(registry);
                drop(tokio::spawn(async move { http::serve(listener, PATH, || answer(registry.clone())).await }));
            }
            Err(error) => tracing::error!(%address, %error, "nobody can read the metrics of this program"),
        }
    }
}

/// A look may read files of the kernel, so it is taken where that holds up nobody.
async fn answer(registry: Arc<Registry>) -> Answer {
    let text = tokio::task::spawn_blocking(move || text(&registry)).await;
    match text {
        Ok(Ok(text)) => Answer::Well(MEDIA, text),
        Ok(Err(error)) => Answer::Unwell(error.to_string()),
        Err(error) => Answer::Unwell(error.to_string()),
    }
}

fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// A label and its value, where both are words of ours.
type Label = (&'static str, &'static str);

/// A registry with what every program tells. `labels` are on every metric in it.
fn registry(labels: Vec<(&'static str, String)>) -> Registry {
    let labels = labels.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut registry = Registry::with_labels(labels);
    registry.register_collector(Box::new(process::Process));
    registry
}

/// Durations from a few milliseconds to a few minutes.
fn durations() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0])
}

/// Durations of what is mere computing: from tenths of milliseconds to a second.
fn moments() -> Histogram {
    Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0])
}

/// Writes the samples of a metric, each with the values of its labels in their order.
fn samples<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    samples: impl IntoIterator<Item = (Vec<String>, M)>,
) -> fmt::Result {
    let mut samples = samples.into_iter().peekable();
    // A metric without samples would be a headline without lines.
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind.into())?;
    for (values, sample) in samples {
        if values.is_empty() {
            sample.encode(family)?;
            return Ok(());
        }
        let labels: Vec<(&str, String)> = metric.labels.iter().copied().zip(values).collect();
        sample.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// One sample without labels.
fn sample<M: EncodeMetric>(encoder: &mut DescriptorEncoder<'_>, metric: &Metric, value: M) -> fmt::Result {
    samples(encoder, metric, [(Vec::new(), value)])
}

/// Numbers with the values of their labels, as gauges.
fn gauges<N>(
    numbers: impl IntoIterator<Item = (Vec<String>, N)>,
) -> impl Iterator<Item = (Vec<String>, ConstGauge<N>)> {
    numbers.into_iter().map(|(labels, number)| (labels, ConstGauge::new(number)))
}
