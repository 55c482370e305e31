//! Metric points: what the event counts, where one histogram or summary is one, however many samples it takes.

use model::{MetricType, TypeCounts};

/// What a sample is to its family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Stands for a point of its family: a counter, a gauge, the count of a histogram or summary.
    Point,
    /// Stands for a histogram point if the family gives no counts: its `+Inf` bucket.
    InfBucket,
    /// Part of a point that another sample stands for: a bucket, a sum, a quantile, a start timestamp.
    Part,
    /// No sample of this family at all: a family of its own, of unknown type.
    Stranger,
}

/// Tells what a sample is to the family whose `# TYPE` was given last.
///
/// **Takes** the family's type and name, the series text as it stands, and its metric name ([`crate::series_name`]).
/// **Cost** some nanoseconds; the answer is the same for the same text, so that it can be kept beside a cached series.
pub fn role_of(metric_type: MetricType, family: &str, series: &str, name: &str) -> Role {
    let Some(suffix) = name.strip_prefix(family) else { return Role::Stranger };
    match (metric_type, suffix) {
        (MetricType::Counter, "" | "_total") => Role::Point,
        (MetricType::Counter | MetricType::Histogram | MetricType::Summary, "_created") => Role::Part,
        (MetricType::Histogram | MetricType::Summary, "_count") | (MetricType::GaugeHistogram, "_gcount") => {
            Role::Point
        }
        (MetricType::Histogram | MetricType::GaugeHistogram, "_bucket") if is_inf_bucket(series) => Role::InfBucket,
        (MetricType::Histogram | MetricType::GaugeHistogram, "_bucket") => Role::Part,
        (MetricType::Histogram | MetricType::Summary, "_sum") | (MetricType::GaugeHistogram, "_gsum") => Role::Part,
        (MetricType::Summary, "") => Role::Part,
        (MetricType::Info, "" | "_info") => Role::Point,
        (MetricType::Gauge | MetricType::StateSet | MetricType::Unknown, "") => Role::Point,
        _ => Role::Stranger,
    }
}

/// Looks for the bound in the raw text. Another label that ends in `le` could fool it; no exporter has such a bucket.
fn is_inf_bucket(series: &str) -> bool {
    let bound = series.rfind("le=\"").map(|at| &series[at + 4..]);
    bound.is_some_and(|rest| rest.starts_with("+Inf\"") || rest.starts_with("inf\"") || rest.starts_with("Inf\""))
}

/// Adds up the points of one body.
///
/// A summary without a count is no point; each state of a state set counts.
#[derive(Clone, Debug, Default)]
pub struct PointCounter {
    counts: TypeCounts,
    metric_type: MetricType,
    points: u64,
    inf_buckets: u64,
}

impl PointCounter {
    /// Starts the next family. Call it at each `# TYPE`.
    pub fn start_family(&mut self, metric_type: MetricType) {
        self.close_family();
        self.metric_type = metric_type;
    }

    /// Counts a sample by its role in the family started last.
    #[inline]
    pub fn add(&mut self, role: Role) {
        match role {
            Role::Point => self.points += 1,
            Role::InfBucket => self.inf_buckets += 1,
            Role::Part => {}
            Role::Stranger => self.counts.others += 1,
        }
    }

    /// Gives the sums.
    pub fn finish(mut self) -> TypeCounts {
        self.close_family();
        self.counts
    }

    fn close_family(&mut self) {
        let points = if self.points > 0 { self.points } else { self.inf_buckets };
        let sum = match self.metric_type {
            MetricType::Counter => &mut self.counts.counters,
            MetricType::Gauge => &mut self.counts.gauges,
            MetricType::Histogram | MetricType::GaugeHistogram => &mut self.counts.histograms,
            MetricType::Summary => &mut self.counts.summaries,
            MetricType::Unknown | MetricType::Info | MetricType::StateSet => &mut self.counts.others,
        };
        *sum += points;
        self.points = 0;
        self.inf_buckets = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Format, Parser, series_name};

    fn count(format: Format, body: &str) -> TypeCounts {
        let mut family = String::new();
        let mut metric_type = MetricType::Unknown;
        let mut counter = PointCounter::default();
        for entry in Parser::new(format, body.as_bytes()) {
            match entry.unwrap() {
                Entry::Type { name, metric_type: t } => {
                    (family, metric_type) = (name.to_owned(), t);
                    counter.start_family(t);
                }
                Entry::Sample { series, .. } => {
                    counter.add(role_of(metric_type, &family, series, series_name(series)));
                }
                _ => {}
            }
        }
        counter.finish()
    }

    #[test]
    fn a_histogram_is_one_point_whether_it_gives_its_count_or_not() {
        let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 2\n\
                    # TYPE c counter\nc{a=\"1\"} 1\nc{a=\"2\"} 1\n\
                    # TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 1\ns_count 1\n# TYPE g gauge\ng 1\nother 1\n";
        let counts = count(Format::Text, body);
        assert_eq!(counts, TypeCounts { counters: 2, gauges: 1, histograms: 1, summaries: 1, others: 1 });
        let body = "# TYPE h histogram\nh_bucket{le=\"1.0\",a=\"1\"} 0\nh_bucket{le=\"+Inf\",a=\"1\"} 2\n\
                    h_bucket{a=\"2\",le=\"+Inf\"} 2\nh_created{a=\"2\"} 1\n\
                    # TYPE c counter\nc_total 1\nc_created 1\n# TYPE i info\ni_info{v=\"1\"} 1\n# EOF\n";
        let counts = count(Format::OpenMetrics, body);
        assert_eq!(counts, TypeCounts { counters: 1, gauges: 0, histograms: 2, summaries: 0, others: 1 });
        assert_eq!(count(Format::Text, "a 1\nb{x=\"y\"} 2\n").others, 2);
    }
}
